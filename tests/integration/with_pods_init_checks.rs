//! Are the rules of `init` what was asked for, and what if they cannot be? Repeated, checked, removed and refused, in
//! simulated pods.

use std::time::Duration;

use crate::support::init::{FLAGS, LIMIT, Programs, rules, shell};
use crate::support::pods::{As, Net, Pod, open_to_all};
use crate::support::policy::Folder;
use crate::support::process::{Finished, run};

#[test]
fn twice_is_the_same_and_another_is_replaced_and_removed_without_a_trace() {
    let net = Net::with_pods(1);
    let pod = &net.pods[0];
    // What others have in the same places.
    shell(
        pod,
        "nft -f - <<E
           add table inet others
           add chain inet others output { type nat hook output priority -100; }
           add rule inet others output tcp dport 1 redirect to :2
           add table ip countersign
E
         for tables in iptables-legacy ip6tables-legacy; do
           $tables -t nat -N OTHERS; $tables -t nat -A OUTPUT -p tcp --dport 1 -j OTHERS
         done",
    );
    let untouched = rules(pod);
    for (name, programs) in &Programs::all()[..2] {
        programs.install(pod, FLAGS);
        let once = rules(pod);
        programs.install(pod, FLAGS);
        assert_eq!(rules(pod), once, "{name}");
        programs.install(pod, &[]);
        assert_ne!(rules(pod), once, "{name}");
        programs.install(pod, FLAGS);
        assert_eq!(rules(pod), once, "{name}");
        programs.install(pod, &["--remove"]);
        assert_eq!(rules(pod), untouched, "{name}");
        programs.install(pod, &["--remove"]);
        assert_eq!(rules(pod), untouched, "{name}");
    }
}

// === checking ===

/// `--check` with these rules asked for: what it says is different.
fn differences(programs: &Programs, pod: &Pod) -> String {
    let done = programs.init(pod, &[FLAGS, &["--check"]].concat());
    match done.code {
        Some(0) => String::new(),
        Some(1) => {
            assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
            assert!(!done.stdout.is_empty());
            done.stdout
        }
        _ => panic!("{done:?}"),
    }
}

#[test]
fn check_finds_what_was_deleted_added_or_changed() {
    let net = Net::with_pods(1);
    let pod = &net.pods[0];
    let handle = "$(nft -a list chain inet countersign outbound | sed -n 's/.*skgid.*# handle //p')";
    let (out, into) = ("nft add rule inet countersign outbound", "COUNTERSIGN_INBOUND");
    let nft = [
        (
            format!("nft delete rule inet countersign outbound handle {handle}"),
            "missing: outbound: meta skgid 16016 accept",
        ),
        (format!("{out} tcp dport 25 accept"), "unexpected: outbound: tcp dport 25 accept"),
        (
            "nft insert rule inet countersign outbound drop".to_owned(),
            "unexpected: outbound: [{\"drop\":null}]",
        ),
        (
            format!("nft replace rule inet countersign outbound handle {handle} meta skgid 0 accept"),
            "unexpected: outbound: meta skgid 0 accept",
        ),
        (
            "nft flush chain inet countersign inbound".to_owned(),
            "missing: inbound: fib daddr type != local accept",
        ),
        ("nft delete table inet countersign".to_owned(), "missing: outbound: type nat hook output"),
        ("nft add chain inet countersign more".to_owned(), "unexpected: more: "),
        ("nft add set inet countersign s '{ type inet_service; }'".to_owned(), "unexpected: {\"set\""),
    ];
    let iptables = |tables: &str| {
        [
            (format!("{tables} -t nat -D {into} 1"), "missing: TABLES: -A COUNTERSIGN_INBOUND -m addrtype"),
            (
                format!("{tables} -t nat -I {into} -j RETURN"),
                "unexpected: TABLES: -A COUNTERSIGN_INBOUND -j RETURN",
            ),
            (
                format!("{tables} -t nat -F OUTPUT"),
                "missing: TABLES: -A OUTPUT -p tcp -j COUNTERSIGN_OUTBOUND",
            ),
            (format!("{tables} -t nat -I OUTPUT -j ACCEPT"), "unexpected: TABLES: -A OUTPUT -j ACCEPT"),
            (
                format!("{tables} -t nat -R COUNTERSIGN_OUTBOUND 1 -m owner --uid-owner 0 -j RETURN"),
                "unexpected: TABLES: -A COUNTERSIGN_OUTBOUND -m owner --uid-owner 0 -j RETURN",
            ),
        ]
    };
    let mut cases: Vec<(usize, String, String)> = Vec::new();
    cases.extend(nft.map(|(change, found)| (0, change, found.to_owned())));
    for (kind, suffix) in [(1, "legacy"), (2, "nft")] {
        for tables in ["iptables", "ip6tables"] {
            let named = iptables(&format!("{tables}-{suffix}"));
            cases.extend(named.map(|(change, found)| (kind, change, found.replace("TABLES", tables))));
        }
    }
    let all = Programs::all();
    for (kind, change, expected) in cases {
        let (name, programs) = &all[kind];
        programs.install(pod, FLAGS);
        assert_eq!(differences(programs, pod), "", "{name}");
        shell(pod, &change);
        let found = differences(programs, pod);
        assert!(found.lines().any(|line| line.starts_with(&expected)), "{name}: {change}: {found}");
        // Whatever it was, init puts it right; a rule of others stays, behind ours.
        programs.install(pod, FLAGS);
        assert_eq!(differences(programs, pod), "", "{name} after {change}");
        programs.install(pod, &["--remove"]);
        assert!(differences(programs, pod).contains("missing: "), "{name}");
    }
}

// === what goes wrong ===

/// Exit code 2 and one line that says these words; the rules are as they were.
fn assert_fails(done: &Finished, words: &[&str]) {
    assert_eq!(done.code, Some(2), "{done:?}");
    assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
    for word in words {
        assert!(done.stderr.contains(word), "does not say {word}: {}", done.stderr);
    }
}

#[test]
fn without_the_right_or_the_programs_it_says_what_to_do() {
    let net = Net::with_pods(1);
    let pod = &net.pods[0];
    let untouched = rules(pod);
    for who in [As::Application, As::Sidecar] {
        for flags in [&[][..], &["--check"], &["--remove"]] {
            let done = run(&mut Programs::nft().command(pod, who, flags), LIMIT);
            assert_fails(&done, &["NET_ADMIN", "init container"]);
        }
        // What changes nothing needs no right.
        let done = run(&mut Programs::nft().command(pod, who, &["--dry-run"]), LIMIT);
        assert_eq!(done.code, Some(0), "{done:?}");
    }
    let none = Programs::of(&[]);
    assert_fails(&none.init(pod, &[]), &["neither nft nor iptables", "install nftables"]);
    assert_fails(&none.init(pod, &["--backend=nft"]), &["nft is not installed"]);
    assert_fails(&none.init(pod, &["--backend=iptables"]), &["iptables"]);
    let broken = Programs::nft().with_script("nft", "echo 'Error: Operation not supported' >&2; exit 1");
    assert_fails(&broken.init(pod, &[]), &["Operation not supported", "--backend iptables"]);
    assert_eq!(rules(pod), untouched);
}

#[test]
fn inj_7_iptables_installs_both_families_or_neither() {
    let net = Net::with_pods(1);
    let pod = &net.pods[0];
    let (working, one) = (Programs::iptables("legacy"), "--exclude-outbound-ports=1");
    for before in [None, Some(one)] {
        if let Some(flag) = before {
            working.install(pod, &[flag]);
        }
        let untouched = rules(pod);
        for broken in ["iptables-restore", "ip6tables-restore", "iptables", "ip6tables"] {
            let programs = Programs::iptables("legacy").with_script(broken, "echo no such luck >&2; exit 4");
            assert_fails(&programs.init(pod, FLAGS), &[broken, "no such luck"]);
            assert_eq!(rules(pod), untouched, "{broken}");
        }
        for missing in ["ip6tables-restore", "ip6tables"] {
            let programs = Programs::iptables("legacy").without(missing);
            assert_fails(&programs.init(pod, FLAGS), &["ip6tables is not installed", "IPv6"]);
            assert_eq!(rules(pod), untouched, "{missing}");
        }
    }
}

#[test]
fn a_pod_without_ipv6_addresses_gets_the_same_rules() {
    let net = Net::with_pods(1);
    let pod = &net.pods[0];
    shell(pod, "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6");
    for (name, programs) in Programs::all() {
        programs.install(pod, FLAGS);
        assert_eq!(differences(&programs, pod), "", "{name}");
        programs.install(pod, &["--remove"]);
    }
}

/// Whom the rules exempt and as whom the sidecar runs are two things. Where they differ, every connection of its own would come
/// back to it.
#[test]
fn a_sidecar_that_the_rules_do_not_know_does_not_start() {
    let net = Net::with_pods(1);
    let pod = &net.pods[0];
    let folder = tempfile::tempdir().unwrap();
    open_to_all(folder.path());
    Programs::nft().install(pod, &["--uid=2000", "--gid=2000"]);
    let mut command = pod.own(As::Sidecar, "countersign-proxy");
    command.args(["run", "--transparent", "--policies"]).arg(folder.path());
    let done = run(&mut command, LIMIT);
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.stderr.contains("as `init` was told"), "{done:?}");
}

/// Every address would be taken for the pod's own, and what goes out for what comes in.
#[test]
fn out_12_a_sidecar_does_not_start_where_any_address_can_be_bound() {
    let net = Net::with_pods(1);
    let pod = &net.pods[0];
    let folder = Folder::with(&[("policy.yaml", "")]);
    open_to_all(folder.path());
    for family in ["ipv4", "ipv6"] {
        let allow = |value: u8| {
            let script = format!("echo {value} > /proc/sys/net/{family}/ip_nonlocal_bind");
            assert_eq!(pod.run(As::Root, "sh", &["-c", &script]).code, Some(0));
        };
        allow(1);
        let mut command = pod.own(As::Sidecar, "countersign-proxy");
        command.args(["run", "--transparent", "--policies"]).arg(folder.path());
        let done = run(&mut command, Duration::from_secs(10));
        assert_eq!(done.code, Some(2), "{family}: {}", done.stderr);
        assert!(done.stderr.contains(&format!("net.{family}.ip_nonlocal_bind")), "{}", done.stderr);
        allow(0);
    }
}
