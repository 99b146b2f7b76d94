use super::*;
use crate::init::args::Exempt;
use crate::init::plan::Redirect;

fn plan(ports: &str, networks: &str) -> Plan {
    Plan::new(&Redirect {
        inbound_port: "16006".parse().unwrap(),
        outbound_port: "16001".parse().unwrap(),
        health_port: "16021".parse().unwrap(),
        exempt: Exempt::default(),
        include_inbound_ports: ports.parse().unwrap(),
        exclude_inbound_ports: ports.parse().unwrap(),
        exclude_outbound_ports: ports.parse().unwrap(),
        include_outbound_cidrs: networks.parse().unwrap(),
        exclude_outbound_cidrs: networks.parse().unwrap(),
    })
}

fn plain(script: &str) -> Vec<String> {
    let rules = script.lines().filter_map(|line| line.strip_prefix("add rule inet countersign "));
    let without = rules.map(|rule| rule.replace(" counter", ""));
    without.map(|rule| rule.split_once(" comment").unwrap().0.to_owned()).collect()
}

#[test]
fn the_usual_rules() {
    assert_eq!(
        plain(&script(&plan("", ""))),
        [
            "outbound meta skuid 16016 accept",
            "outbound meta skgid 16016 accept",
            "outbound meta mark 0x3e90 accept",
            "outbound oifname \"lo\" ip daddr 127.0.0.0-127.255.255.255 accept",
            "outbound oifname \"lo\" ip6 daddr ::1 accept",
            "outbound oifname \"lo\" tcp dport 16021 accept",
            "outbound oifname \"lo\" meta l4proto tcp redirect to :16006",
            "outbound meta l4proto tcp redirect to :16001",
            "inbound fib daddr type != local accept",
            "inbound ip daddr 127.0.0.0-127.255.255.255 accept",
            "inbound ip6 daddr ::1 accept",
            "inbound tcp dport 16021 accept",
            "inbound meta l4proto tcp redirect to :16006",
        ]
    );
    assert_eq!(script(&plan("", "")).matches("delete table inet countersign\n").count(), 1);
}

#[test]
fn what_is_included_and_excluded() {
    let rules = plain(&script(&plan("22,80-81", "10.0.0.0/8,fd00::/8")));
    for rule in [
        "outbound oifname \"lo\" tcp dport { 22, 80-81, 16021 } accept",
        "outbound oifname \"lo\" tcp dport { 22, 80-81 } redirect to :16006",
        "outbound oifname \"lo\" accept",
        "outbound tcp dport { 22, 80-81 } accept",
        "outbound ip daddr 10.0.0.0-10.255.255.255 accept",
        "outbound ip daddr 10.0.0.0-10.255.255.255 meta l4proto tcp redirect to :16001",
        "outbound ip6 daddr fd00::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff meta l4proto tcp redirect to :16001",
        "inbound tcp dport { 22, 80-81 } redirect to :16006",
    ] {
        assert_eq!(rules.iter().filter(|found| *found == rule).count(), 1, "{rule}: {rules:#?}");
    }
    assert!(!rules.iter().any(|rule| rule == "outbound meta l4proto tcp redirect to :16001"));
    assert!(!rules.iter().any(|rule| rule == "inbound meta l4proto tcp redirect to :16006"));
}

#[test]
fn what_is_not_ours_in_our_table_is_shown_as_it_is() {
    let listed = r#"{"nftables": [{"metainfo": {}}, {"table": {"name": "countersign"}},
        {"set": {"name": "s"}},
        {"chain": {"name": "c", "type": "nat", "hook": "output", "prio": -100, "policy": "accept"}},
        {"rule": {"chain": "c", "expr": [{"match": {"op": "!=", "left": {"meta": {"key": "skuid"}}, "right": 1}},
                                         {"accept": null}]}},
        {"rule": {"chain": "c", "expr": [{"counter": {"packets": 7, "bytes": 8}}, {"drop": null}]}},
        {"rule": {"chain": "c", "expr": [{"match": {"op": "==", "left": {"payload": {"protocol": "tcp",
            "field": "dport"}}, "right": {"set": [22, {"range": [80, 81]}]}}}, {"redirect": {"port": 5}}]}}]}"#;
    let lines = listed::lines(listed).unwrap();
    assert_eq!(lines[0], "c: type nat hook output priority -100; policy accept;");
    assert!(lines[1].contains("\"!=\"") && lines[2].contains("drop"), "{lines:?}");
    assert_eq!(lines[3], "c: tcp dport { 22, 80-81 } redirect to :5");
    assert_eq!(lines[4], "{\"set\":{\"name\":\"s\"}}");
    assert!(listed::lines("[]").is_err() && listed::lines("").is_err());
}
