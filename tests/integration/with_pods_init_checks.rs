//! Are the rules of `init` what was asked for, and what if they cannot be? Repeated, checked, removed and refused, in
//! simulated pods.

use crate::support::init::{FLAGS, LIMIT, Programs, rules, shell};
use crate::support::pods::{As, Net, Pod};
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

/// What else is there, in whose place or before which our rules would not be heard.
#[test]
fn check_tells_what_may_be_in_the_way() {
    let net = Net::with_pods(1);
    let pod = &net.pods[0];
    let (nft, legacy) = (["--backend=nft"], ["--backend=iptables"]);
    let clean = "nft flush ruleset
        for tables in iptables-legacy ip6tables-legacy; do for table in nat raw; do
            $tables -t $table -F; $tables -t $table -X
        done; done";
    let early = "nft -f - <<E
        add table inet others
        add chain inet others output { type nat hook output priority -101; }
        add rule inet others output tcp dport 1 redirect to :2
E";
    let notrack = "nft -f - <<E
        add table ip others
        add chain ip others output { type filter hook output priority raw; }
        add rule ip others output tcp dport 1 notrack
E";
    let legacy_notrack = "ip6tables-legacy -t raw -A OUTPUT -p tcp -j CT --notrack";
    let dormant = "nft add table inet countersign '{ flags dormant; }'";
    let by_legacy = "iptables-legacy -t nat -N COUNTERSIGN_INBOUND";
    let by_nft = "iptables-nft -t nat -N COUNTERSIGN_INBOUND";
    let ours_by_nft = "nft add table inet countersign";
    // Which program, what is done beside it, what is said.
    for (kind, flags, change, expected) in [
        ("legacy", &nft, dormant, "unexpected: table inet countersign: flags dormant"),
        ("legacy", &nft, by_legacy, "unexpected: iptables-legacy -t nat: rules of ours by the other program"),
        (
            "legacy",
            &nft,
            by_nft,
            "unexpected: table ip nat, chain COUNTERSIGN_INBOUND: rules of ours by the other",
        ),
        (
            "legacy",
            &legacy,
            ours_by_nft,
            "unexpected: table inet countersign: rules of ours by the other program",
        ),
        ("nft", &legacy, by_legacy, "unexpected: iptables-legacy -t nat: rules of ours by the other program"),
        ("legacy", &legacy, by_nft, "unexpected: table ip nat, chain COUNTERSIGN_INBOUND: rules of ours"),
        (
            "legacy",
            &nft,
            early,
            "warning: table inet others, chain output: sees connections before our rules",
        ),
        (
            "nft",
            &legacy,
            early,
            "warning: table inet others, chain output: sees connections before our rules",
        ),
        ("legacy", &nft, notrack, "warning: table ip others, chain output: connections that are not tracked"),
        (
            "legacy",
            &legacy,
            legacy_notrack,
            "warning: ip6tables-legacy -t raw: connections that are not tracked",
        ),
    ] {
        let programs = Programs::any(kind);
        let check = || programs.init(pod, &[FLAGS, flags, &["--check"]].concat());
        shell(pod, clean);
        programs.install(pod, &[FLAGS, flags].concat());
        let before = check();
        assert_eq!(
            (before.code, &*before.stdout),
            (Some(0), "the rules are installed as asked\n"),
            "{before:?}"
        );
        shell(pod, change);
        let done = check();
        assert_eq!(done.code, Some(i32::from(expected.starts_with("unexpected"))), "{change}: {done:?}");
        assert!(done.stdout.lines().any(|line| line.starts_with(expected)), "{change}: {done:?}");
    }
    shell(pod, clean);
    // Who cannot look says so.
    let alone = Programs::iptables("legacy");
    alone.install(pod, FLAGS);
    let done = alone.init(pod, &[FLAGS, &["--check"]].concat());
    assert!(done.code == Some(0) && done.stdout.contains("warning: rules of others in nftables"), "{done:?}");
}

#[test]
fn addresses_are_the_same_however_the_program_spells_them() {
    let net = Net::with_pods(1);
    let flags = ["--exclude-outbound-cidrs=::1.2.3.4,::5.6.0.0/112,10.0.0.0/8"];
    for (name, programs) in Programs::all() {
        programs.install(&net.pods[0], &flags);
        let done = programs.init(&net.pods[0], &[&flags[..], &["--check"]].concat());
        assert_eq!(done.code, Some(0), "{name}: {done:?}");
        programs.install(&net.pods[0], &["--remove"]);
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
