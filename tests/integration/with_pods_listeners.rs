//! Are listeners of `--inbound ADDR=TARGET` ways in beside a redirect? As far as they are open, and to their targets alone.

use std::net::SocketAddr;

use serde_json::json;

use crate::support::meshed::{Meshed, Recorder, curl};
use crate::support::pods::{As, Net};
use crate::support::policy::{Folder, document};

#[test]
fn a_connection_to_an_inbound_listener_is_led_to_its_target_and_judged_by_its_port() {
    let net = Net::with_pods(2);
    let [a, b] = &net.pods[..] else { panic!() };
    let of = |spec: serde_json::Value| {
        let mut spec = spec;
        spec["workloads"] = json!({"labels": {"app": "orders"}});
        spec
    };
    let http =
        json!({"ports": [9090], "rules": [{"name": "open", "public": true, "to": {"paths": ["/open"]}}]});
    let tcp = json!({"ports": [7000], "protocol": "tcp", "rules": [
        {"name": "v4", "effect": "deny", "from": {"sources": ["10.16.0.0/16"]}}, {"name": "all", "public": true},
    ]});
    let policy = document("InboundPolicy", "http", &of(http)) + &document("InboundPolicy", "tcp", &of(tcp));
    let folder = Folder::with(&[("policy.yaml", &policy)]);
    let more = ["[::]:8081=127.0.0.1:9090", "[::]:7001=127.0.0.1:7000", "127.0.0.1:8083=127.0.0.1:9090"];
    let more: Vec<_> = more.iter().flat_map(|listener| ["--inbound", listener]).collect();
    let orders = Meshed::start(b, folder.path(), "orders", &more);
    let private = |port| [SocketAddr::from(([127, 0, 0, 1], port))];
    let server = Recorder::start(b, &private(9090));
    let _witness = b.witness(As::Root, &private(7000));

    // From another pod, and from its own.
    for from in [a, b] {
        for at in b.at(8081) {
            let (status, output) = curl(from, &[&format!("http://{at}/open")]);
            assert_eq!(status, 200, "{at}: {output}\n{}", orders.log());
            let (status, output) = curl(from, &[&format!("http://{at}/other")]);
            assert_eq!(status, 403, "{at}: {output}");
        }
    }
    assert_eq!(server.seen().len(), 4);
    // What is declared `tcp` passes as bytes, judged by who is at the other end.
    let [v4, v6] = &a.ask(As::Application, &b.at(7001))[..] else { panic!() };
    assert!(v4.contains("error"), "{v4}");
    assert!(v6.starts_with("127.0.0.1:7000 "), "{v6}\n{}", orders.log());
    // The targets themselves stay closed, and so does a listener that is open on loopback alone.
    for at in b.at(9090) {
        let (status, output) = curl(a, &[&format!("http://{at}/open")]);
        assert_eq!(status, 502, "{at}: {output}");
    }
    for at in b.at(8083) {
        let (status, output) = curl(a, &[&format!("http://{at}/open")]);
        assert_eq!(status, 0, "{at}: {output}");
    }
    assert!(a.ask(As::Application, &b.at(7000)).iter().all(|answer| answer.contains("error")));
    let scrape = orders.scrape();
    let sum = |labels: &[(&str, &str)]| scrape.sum("countersign_requests_total", labels);
    let tcp = [("direction", "inbound"), ("protocol", "tcp")];
    assert_eq!(sum(&[&tcp[..], &[("decision", "deny"), ("reason", "denied_by_rule")]].concat()), 2.0);
    assert_eq!(sum(&[&tcp[..], &[("decision", "deny"), ("reason", "ambiguous_destination")]].concat()), 2.0);
}
