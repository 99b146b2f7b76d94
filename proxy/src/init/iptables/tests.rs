use super::*;
use crate::init::values::{Networks, Ports};

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn small() -> [(&'static str, Vec<String>); 2] {
    [(OUTBOUND, lines("-A COUNTERSIGN_OUTBOUND -j RETURN")), (INBOUND, Vec::new())]
}

#[test]
fn ranges_of_addresses_are_the_fewest_networks() {
    let networks: Networks = "10.0.0.0/8,11.0.0.0/16,192.0.2.1,192.0.2.2,fd00::/8,::/1".parse().unwrap();
    assert_eq!(
        prefixes(&networks.v4, Family::V4),
        [" -d 10.0.0.0/8", " -d 11.0.0.0/16", " -d 192.0.2.1/32", " -d 192.0.2.2/32"]
    );
    assert_eq!(prefixes(&networks.v6, Family::V6), [" -d ::/1", " -d fd00::/8"]);
    let last: Networks = "255.255.255.255,ffff::/16".parse().unwrap();
    assert_eq!(prefixes(&last.v4, Family::V4), [" -d 255.255.255.255/32"]);
    assert_eq!(prefixes(&last.v6, Family::V6), [" -d ffff::/16"]);
}

#[test]
fn a_rule_becomes_one_for_each_range_of_its_family() {
    let ports: Ports = "22,80-81".parse().unwrap();
    let rule = |matches| Rule { matches, verdict: Verdict::Redirect(5), why: "" };
    let rules = alternatives(&rule(vec![Match::ToSelf, Match::Port(ports.0)]), Family::V4);
    assert_eq!(
        rules,
        [
            " -o lo -p tcp -m tcp --dport 22 -j REDIRECT --to-ports 5",
            " -o lo -p tcp -m tcp --dport 80:81 -j REDIRECT --to-ports 5"
        ]
    );
    let other = rule(vec![Match::To(Family::V6, Ranges::one(1_u32)), Match::Tcp]);
    assert!(alternatives(&other, Family::V4).is_empty());
    assert_eq!(alternatives(&other, Family::V6), [" -d ::1/128 -p tcp -j REDIRECT --to-ports 5"]);
}

#[test]
fn what_leads_to_us_is_replaced_wherever_it_stands_and_nothing_else() {
    let before = lines(
        "-P OUTPUT ACCEPT\n-N COUNTERSIGN_OUTBOUND\n-N OTHERS\n-A OUTPUT -d 10.0.0.1/32 -j OTHERS\n\
         -A OUTPUT -p tcp -j COUNTERSIGN_OUTBOUND\n-A OTHERS -j COUNTERSIGN_OUTBOUND\n-A OTHERS -j RETURN",
    );
    assert_eq!(
        script(&small(), &before),
        "*nat\n:COUNTERSIGN_OUTBOUND - [0:0]\n:COUNTERSIGN_INBOUND - [0:0]\n-A COUNTERSIGN_OUTBOUND -j RETURN\n\
         -D OUTPUT -p tcp -j COUNTERSIGN_OUTBOUND\n-D OTHERS -j COUNTERSIGN_OUTBOUND\n\
         -I OUTPUT 1 -p tcp -j COUNTERSIGN_OUTBOUND\n-I PREROUTING 1 -p tcp -j COUNTERSIGN_INBOUND\nCOMMIT\n"
    );
    assert_eq!(
        removal(&before),
        "*nat\n-D OUTPUT -p tcp -j COUNTERSIGN_OUTBOUND\n-D OTHERS -j COUNTERSIGN_OUTBOUND\n\
         -F COUNTERSIGN_OUTBOUND\n-X COUNTERSIGN_OUTBOUND\nCOMMIT\n"
    );
    assert_eq!(removal(&lines("-P OUTPUT ACCEPT")), "");
    assert_eq!(back(&lines("-P OUTPUT ACCEPT"), &before), removal(&before));
}

#[test]
fn an_address_has_one_spelling_where_rules_are_compared() {
    let said = "-A COUNTERSIGN_OUTBOUND -d ::1.2.3.4/128 -m comment --comment \"a/b\" -j RETURN";
    assert_eq!(canonical(said), said.replace("::1.2.3.4", "::102:304"));
    let ours: Networks = "::1.2.3.4,10.0.0.0/8".parse().unwrap();
    for line in [prefixes(&ours.v6, Family::V6), prefixes(&ours.v4, Family::V4)].concat() {
        assert_eq!(canonical(&line), line);
    }
}

#[test]
fn a_rule_of_others_before_ours_is_a_difference() {
    let mut now = installed(&small());
    assert_eq!(between(&installed(&small()), &in_order(&now)), []);
    now.insert(0, "-A OUTPUT -j ACCEPT".to_owned());
    let found = between(&installed(&small()), &in_order(&now));
    assert_eq!(found, [Difference::Unexpected("-A OUTPUT -j ACCEPT".to_owned())]);
    // After ours it is nobody's business.
    now.remove(0);
    now.push("-A OUTPUT -j ACCEPT".to_owned());
    assert_eq!(between(&installed(&small()), &in_order(&now)), []);
}

#[test]
fn the_rules_of_others_are_theirs_whatever_their_comments_say() {
    let lines = [
        r#"-A OUTPUT -p tcp --dport 9 -m comment --comment "x -j COUNTERSIGN_OUTBOUND -j y" -j ACCEPT"#,
        r#"-A OUTPUT -m comment --comment "a \" -j COUNTERSIGN_OUTBOUND" -j ACCEPT"#,
        r#"-A OTHERS -m comment --comment "a -j b" -j COUNTERSIGN_OUTBOUND"#,
        "-A OUTPUT -p tcp -g COUNTERSIGN_INBOUND",
        "-N COUNTERSIGN_INBOUND",
    ]
    .map(str::to_owned);
    assert!(jumps(&lines).eq(&lines[2..4]));
}
