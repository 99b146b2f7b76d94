use countersign_policy::{Documents, Workload, source};

use super::*;

/// Outbound rules by name: what they name, and how.
fn snapshot(rules: &[&str], egress: &str) -> Snapshot {
    let rules: Vec<_> = rules.iter().map(|rule| format!("{{ {rule} }}")).collect();
    let rules = rules.join(", ");
    let text = format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: OutboundPolicy\nmetadata: {{ name: a }}\nspec:\n  egress: {egress}\n  rules: [{rules}]\n"
    );
    let sources = source::split("policy.yaml", text.as_bytes()).unwrap();
    let workload = Workload { namespace: "default".into(), ..Workload::default() };
    Documents::parse(sources).and_then(|documents| documents.compile(&workload)).unwrap()
}

fn to(name: &str, host: &str, more: &str) -> String {
    format!("name: {name}, to: {{ hosts: [\"{host}\"], ports: [7] }}, {more}")
}

fn said(bytes: &[u8]) -> Said {
    Said { bytes: bytes.to_vec(), is_all: false }
}

fn silence() -> Said {
    Said { bytes: Vec::new(), is_all: true }
}

/// A ClientHello for this name, by the book.
fn hello(name: &str) -> Vec<u8> {
    let entry = [&[0][..], &u16_of(name.len()), name.as_bytes()].concat();
    let list = [&u16_of(entry.len())[..], &entry].concat();
    let names = [&[0, 0][..], &u16_of(list.len()), &list].concat();
    let (versions, algorithms) = ([0, 43, 0, 3, 2, 3, 4], [0, 13, 0, 4, 0, 2, 4, 3]);
    let extensions = [&names[..], &versions, &algorithms].concat();
    let body =
        [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], &u16_of(extensions.len()), &extensions]
            .concat();
    let message = [&[1, 0][..], &u16_of(body.len()), &body].concat();
    [&[0x16, 3, 1][..], &u16_of(message.len()), &message].concat()
}

fn u16_of(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap().to_be_bytes()
}

/// Without a search path.
fn complete(name: &str) -> Vec<String> {
    vec![name.to_owned()]
}

fn passes(verdict: &Verdict) -> Option<&'static str> {
    match verdict {
        Verdict::Pass(passing) => Some(passing.reason),
        _ => None,
    }
}

#[test]
fn what_rules_and_first_bytes_make_of_a_connection() {
    let get = said(b"G");
    let tls = said(&[0x16]);
    let http = to("http", "http.test", "tls: none");
    let http2 = to("http2", "http2.test", "tls: originate");
    let tcp = to("tcp", "tcp.test", "protocol: tcp, tls: none");
    let through = to("through", "tls.test", "tls: passthrough");
    let wild = to("wild", "*.wild.test", "tls: none");
    let wild_through = to("wildthrough", "*.through.test", "tls: passthrough");
    let all = [http.as_str(), &http2, &tcp, &through];

    // Rules, hosts that have the address, what was said; with and without egress.
    type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a Said, &'a str, &'a str);
    let cases: &[Case<'_>] = &[
        // Nobody's: no wait.
        (&all, &[], &said(b""), "no_rule", "egress_denied"),
        (&all, &[], &get, "no_rule", "egress_denied"),
        // HTTP.
        (&all, &["http.test"], &said(b""), "listen", "listen"),
        (&all, &["http.test"], &get, "http", "http"),
        (&all, &["http.test", "http2.test"], &get, "http", "http"),
        (&all, &["http.test"], &tls, "tls", "listen"),
        (&all, &["http.test"], &said(&hello("http.test")), "tls", "egress_denied"),
        (&all, &["http.test"], &silence(), "silent", "silent"),
        // A rule whose bytes pass, whatever they are.
        (&all, &["tcp.test"], &said(b""), "tcp", "tcp"),
        (&all, &["tcp.test"], &tls, "tcp", "tcp"),
        (&all, &["tcp.test", "tls.test"], &said(b""), "tcp", "tcp"),
        (&all, &["tcp.test", "http.test"], &said(b""), "ambiguous_destination", "ambiguous_destination"),
        // The application's own TLS: whom it is for matters where not everything passes.
        (&all, &["tls.test"], &said(b""), "passthrough", "listen"),
        (&all, &["tls.test"], &tls, "passthrough", "listen"),
        (&all, &["tls.test"], &get, "passthrough", "egress_denied"),
        (&all, &["tls.test"], &silence(), "passthrough", "egress_denied"),
        (&all, &["tls.test"], &said(&hello("tls.test")), "passthrough", "tls.test"),
        (&all, &["tls.test"], &said(&hello("other.test")), "passthrough", "egress_denied"),
        (&all, &["tls.test"], &said(&hello("http.test")), "passthrough", "egress_denied"),
        // HTTP beside it on one address: by the first byte.
        (&all, &["http.test", "tls.test"], &said(b""), "listen", "listen"),
        (&all, &["http.test", "tls.test"], &get, "http", "http"),
        (&all, &["http.test", "tls.test"], &said(&hello("TLS.test")), "tls", "tls.test"),
        // Wildcards go by port.
        (&[&wild], &[], &said(b""), "listen", "listen"),
        (&[&wild], &[], &get, "http", "http"),
        (&[&wild], &[], &tls, "tls", "listen"),
        (&[&wild_through], &[], &said(b""), "no_rule", "listen"),
        (&[&wild_through], &[], &said(&hello("a.through.test")), "no_rule", "a.through.test"),
        (&[&wild_through], &[], &said(&hello("a.b.through.test")), "no_rule", "egress_denied"),
        (&[&wild, &wild_through], &[], &said(&hello("a.through.test")), "tls", "a.through.test"),
        (&[&wild, &tcp], &["tcp.test"], &said(b""), "tcp", "tcp"),
    ];
    for (rules, at, said, passing, denied) in cases {
        let at: Vec<Arc<str>> = at.iter().map(|&host| host.into()).collect();
        for (egress, expected) in [("pass", passing), ("deny", denied)] {
            let verdict = verdict(&snapshot(rules, egress), 7, &at, said, &complete);
            let told = match &verdict {
                Verdict::Listen => "listen",
                Verdict::Http => "http",
                Verdict::Silent => "silent",
                Verdict::Refuse(reason) => reason.as_str(),
                Verdict::PassAs(name, _) => name,
                Verdict::Pass(_) => passes(&verdict).unwrap(),
            };
            assert_eq!(told, *expected, "egress: {egress}, {rules:?} at {at:?}, {said:?}");
        }
    }
    // Rules are those of the port.
    let at: [Arc<str>; 1] = ["http.test".into()];
    assert_eq!(passes(&verdict(&snapshot(&all, "pass"), 8, &at, &get, &complete)), Some("no_rule"));
}

#[test]
fn a_short_server_name_is_the_first_of_its_names_that_a_rule_knows() {
    let searched = |name: &str| ["", ".shop.test", ".test"].map(|domain| format!("{name}{domain}")).to_vec();
    let rules = [
        to("orders", "orders.shop.test", "tls: passthrough"),
        to("later", "orders.test", "tls: passthrough"),
        to("http", "http.shop.test", "tls: none"),
    ];
    let rules: Vec<_> = rules.iter().map(String::as_str).collect();
    let at: [Arc<str>; 1] = ["orders.shop.test".into()];
    let by = |name: &str| verdict(&snapshot(&rules, "deny"), 7, &at, &said(&hello(name)), &searched);
    let Verdict::PassAs(name, _) = by("orders") else { panic!() };
    assert_eq!(name, "orders.shop.test");
    assert!(matches!(by("orders.shop.test"), Verdict::PassAs(name, _) if name == "orders.shop.test"));
    assert_eq!(by("http"), Verdict::Refuse(Reason::EgressDenied));
    assert_eq!(by("other"), Verdict::Refuse(Reason::EgressDenied));
}

#[test]
fn silence_has_no_end_but_where_a_rule_says_so() {
    let rule = to("tcp", "tcp.test", "protocol: tcp, tls: none, timeouts: { connect: 3s, idle: 9s }");
    let at: [Arc<str>; 1] = ["tcp.test".into()];
    let Verdict::Pass(passing) = verdict(&snapshot(&[&rule], "pass"), 7, &at, &said(b""), &complete) else {
        panic!()
    };
    assert_eq!((passing.timeouts.connect.as_secs(), passing.timeouts.idle.as_secs()), (3, 9));
    let Verdict::Pass(passing) = verdict(&snapshot(&[&rule], "pass"), 7, &[], &said(b""), &complete) else {
        panic!()
    };
    assert_eq!(passing.timeouts.idle, crate::tcp::NEVER);
}
