//! Does policy hold for what nobody looks into? Connections to a port that is declared `protocol: tcp`, in simulated pods.

use std::time::Duration;

use serde_json::json;

use crate::support::meshed::Meshed;
use crate::support::pods::{As, Net, open_to_all};
use crate::support::policy::{Folder, document};
use crate::support::process::Process;
use crate::support::wait_until;

#[test]
fn a_port_that_is_declared_tcp_is_judged_by_connection_for_as_long_as_it_lasts() {
    let policy = |denied: &str| {
        let spec = json!({
            "workloads": {"labels": {"app": "orders"}}, "ports": [7000], "protocol": "tcp",
            "rules": [
                {"name": "some", "effect": "deny", "from": {"sources": [denied]}},
                {"name": "all", "public": true},
            ],
        });
        document("InboundPolicy", "bytes", &spec)
    };
    let net = Net::with_pods(2);
    let [a, b] = &net.pods[..] else { panic!() };
    let folder = Folder::with(&[("policy.yaml", &policy("192.0.2.0/24"))]);
    let orders = Meshed::start(b, folder.path(), "orders", &[]);
    let _server = b.witness(As::Root, &b.at(7000));
    // The server begins, and sees a connection from its own pod.
    for (answer, own) in
        a.ask(As::Application, &b.at(7000)).iter().zip([format!("{}:", b.v4), format!("[{}]:", b.v6)])
    {
        assert!(answer.contains(&format!(" {own}")), "{answer}\n{}", orders.log());
    }

    let witness = a.own(As::Application, "countersign-witness");
    let path = witness.get_args().last().expect("the program").to_string_lossy().into_owned();
    let says = format!("(sleep 1; echo; sleep 6; echo) | {path} hold {}", b.at(7000)[0]);
    let mut command = a.command(As::Application, "sh");
    let held = Process::spawn("countersign-witness", command.args(["-c", &says]));
    wait_until("an answer", Duration::from_secs(5), || held.stdout().lines().count() == 2);
    folder.write("policy.yaml", &policy("10.16.0.1/32"));
    open_to_all(folder.path());
    wait_until("its end", Duration::from_secs(10), || held.stdout().contains("error"));
    let answers = a.ask(As::Application, &b.at(7000));
    assert!(answers[0].contains("error") && !answers[1].contains("error"), "{answers:?}");

    let scrape = orders.scrape();
    let ended = [("decision", "deny"), ("reason", "denied_by_rule")];
    assert_eq!(scrape.sum("countersign_streams_ended_total", &ended), 1.0);
    let denied = [("protocol", "tcp"), ("direction", "inbound"), ("reason", "denied_by_rule")];
    assert_eq!(scrape.sum("countersign_requests_total", &denied), 1.0);
    let line = orders.access_log().pop().expect("a line");
    assert_eq!(
        (line["policy"].as_str(), line["rule"].as_str()),
        (Some("shop/bytes"), Some("some")),
        "{line}"
    );
}
