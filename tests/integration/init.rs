//! What does `init` refuse, and what does it print without doing it? Needs no rights and changes nothing.

use std::process::Command;
use std::time::Duration;

use crate::support::binary;
use crate::support::process::{Finished, run};

/// Always dry: what is wrongly accepted is not installed on the machine that runs the tests.
fn dry(flags: &[&str]) -> Finished {
    let mut command = Command::new(binary("countersign-proxy"));
    run(command.args(["init", "--dry-run"]).args(flags), Duration::from_secs(20))
}

const PORTS: &str = "80;reboot|80 accept|80}\n|$(id)|`id`|-1|+80|080|0x50|80,|,80|80,,90| 80|80-|-80|90-80|80-90-100|65536|\
    99999999999999999999|0|0-65535|ssh|80\u{0660}|*|80\\n";
const NETWORKS: &str = "10.0.0.0/8;drop|10.0.0.1/8|10.0.0.0/33|10.0.0.0/-1|10.0.0.0/08|10.0.0.0/|/8|10.0.0/8|010.0.0.0/8|\
    0.0.0.0/0|::/0|0.0.0.0/1,128.0.0.0/1|fe80::1%eth0|fd00::/129|::ffff:10.0.0.0/104|example.com|10.0.0.0/8 10.1.0.0/16|\
    @set|{ 10.0.0.0/8 }|10.0.0.0-10.0.0.9";
const IDS: &str = "0|-1|4294967295|4294967296|root|16016 accept|0x10|1-2|";
const MARKS: &str = "0|0x0|0x|0x100000000|-1|0x3e90/0xff|0X1|mark|";
const PORT: &str = "0|65536|16001,16002|1-2||http|+1|16001\n";

#[test]
fn inj_4_hostile_values_are_refused() {
    let mut tried = 0;
    for (flags, values) in [
        (&["--include-inbound-ports", "--exclude-inbound-ports", "--exclude-outbound-ports"][..], PORTS),
        (&["--include-outbound-cidrs", "--exclude-outbound-cidrs"], NETWORKS),
        (&["--uid", "--gid"], IDS),
        (&["--mark"], MARKS),
        (&["--inbound-port", "--outbound-port", "--health-port"], PORT),
        (&["--backend"], "sh|nft;id|NFT|"),
    ] {
        for flag in flags {
            for value in values.split('|') {
                let done = dry(&[&format!("{flag}={value}")]);
                assert_eq!(done.code, Some(2), "{flag}={value:?}: {done:?}");
                assert!(done.stdout.is_empty() && done.stderr.contains(flag), "{flag}={value:?}: {done:?}");
                assert!(!done.stderr.contains("panicked"), "{done:?}");
                tried += 1;
            }
        }
    }
    assert!(tried > 150, "{tried}");
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    for (flags, word) in [
        (&["--inbound-port=16001"][..], "--outbound-port"),
        (&["--health-port=16006"], "--inbound-port"),
        (&["--check"], "--check"),
        (&["--uid=1", "--uid=2"], "--uid"),
        (&["--port=1"], "--port"),
    ] {
        let done = dry(flags);
        assert_eq!(done.code, Some(2), "{flags:?}: {done:?}");
        assert!(done.stderr.contains(word), "{flags:?}: {}", done.stderr);
    }
}

/// Kubernetes tells a pod of each Service by variables that may have the names of ours.
#[test]
fn inj_4_what_kubernetes_sets_for_a_service_is_not_taken_for_a_flag() {
    let dry_with = |variables: &[(&str, &str)]| {
        let mut command = Command::new(binary("countersign-proxy"));
        command.args(["init", "--dry-run", "--backend=nft"]).envs(variables.iter().copied());
        run(&mut command, Duration::from_secs(20))
    };
    let usual = dry_with(&[]);
    let services = [
        ("COUNTERSIGN_INBOUND_PORT", "tcp://10.0.0.1:80"),
        ("COUNTERSIGN_INBOUND_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("COUNTERSIGN_INBOUND_SERVICE_HOST", "10.0.0.1"),
        ("COUNTERSIGN_INBOUND_SERVICE_PORT", "80"),
        ("COUNTERSIGN_OUTBOUND_PORT", "udp://[fd00::1]:53"),
        ("COUNTERSIGN_HEALTH_PORT", "sctp://10.0.0.1:80"),
    ];
    let done = dry_with(&services);
    assert_eq!((done.code, &done.stdout, &done.stderr), (Some(0), &usual.stdout, &usual.stderr));
    let done = dry_with(&[("COUNTERSIGN_INBOUND_PORT", "15006")]);
    assert!(done.stdout.contains("redirect to :15006"), "{done:?}");
    for wrong in ["http://10.0.0.1:80", "10.0.0.1:80", "tcp"] {
        assert_eq!(dry_with(&[("COUNTERSIGN_INBOUND_PORT", wrong)]).code, Some(2), "{wrong}");
    }
}

#[test]
fn a_dry_run_prints_one_transaction() {
    let done =
        dry(&["--backend=nft", "--exclude-outbound-cidrs=10.0.0.0/8,fd00::/8", "--exclude-inbound-ports="]);
    assert_eq!((done.code, &*done.stderr), (Some(0), ""));
    // Nothing but our own table is named.
    assert!(done.stdout.lines().all(|line| line.contains(" inet countersign")), "{}", done.stdout);
    assert!(done.stdout.contains("ip daddr 10.0.0.0-10.255.255.255 counter accept"), "{}", done.stdout);
    let removal = dry(&["--backend=nft", "--remove"]).stdout;
    assert!(done.stdout.starts_with(&removal) && removal.contains("delete table inet countersign\n"));
    let iptables = dry(&["--backend=iptables"]).stdout;
    assert!(iptables.contains("# iptables-restore\n*nat\n") && iptables.ends_with("COMMIT\n"), "{iptables}");
    let mut by_environment = Command::new(binary("countersign-proxy"));
    by_environment.args(["init", "--dry-run", "--backend=nft"]).env("COUNTERSIGN_UID", "1234");
    by_environment.env("COUNTERSIGN_EXCLUDE_OUTBOUND_PORTS", "25");
    let printed = run(&mut by_environment, Duration::from_secs(20)).stdout;
    assert!(printed.contains("meta skuid 1234 ") && printed.contains("tcp dport 25 "), "{printed}");
}
