//! What is not for the sidecar, with a sidecar that refuses all that is? Excluded ports and networks, and UDP, beside
//! `egress: deny` and `--inbound-default deny`.

use std::net::SocketAddr;

use serde_json::json;

use crate::support::init::{FLAGS, LIMIT};
use crate::support::meshed::Meshed;
use crate::support::pods::{As, Net, Pod};
use crate::support::policy::{Folder, document};
use crate::support::process::run;

/// Which of these answer, asked by an application of the pod.
fn answering(pod: &Pod, to: &[SocketAddr]) -> Vec<SocketAddr> {
    let answers = pod.ask(As::Application, to);
    to.iter().zip(answers).filter(|(_, answer)| !answer.starts_with("error")).map(|(to, _)| *to).collect()
}

#[test]
fn what_is_excluded_passes_by_a_sidecar_that_refuses_everything() {
    let net = Net::with_pods(2);
    let [a, b] = &net.pods[..] else { panic!() };
    let spec = json!({"workloads": {"labels": {"app": "checkout"}}, "egress": "deny", "rules": []});
    let folder = Folder::with(&[("policy.yaml", &document("OutboundPolicy", "checkout", &spec))]);
    let sidecar = Meshed::start(a, folder.path(), "checkout", &[]);
    let any = |port: u16| SocketAddr::from(([0; 16], port));
    let at = |text: &str| text.parse::<SocketAddr>().unwrap();
    let _servers = [
        a.witness(As::Application, &[any(8080), any(9090)]),
        b.witness(As::Root, &[any(8080), any(22)]),
        net.world.witness(As::Root, &[any(80)]),
    ];
    let out = [
        &b.at(8080)[..],
        &b.at(22),
        &[at("203.0.113.7:80"), at("[2001:db8::7]:80"), at("203.0.113.129:80"), at("[2001:db8:1::7]:80")],
    ]
    .concat();
    let inward = [a.at(8080), a.at(9090)].concat();
    let udp = |from: &Pod, to: &Pod| {
        let answers = from.ask_udp(As::Application, &to.at(8080));
        answers.iter().filter(|answer| answer.contains(" - ")).count()
    };
    let refused = |direction, reason| {
        let labels = [("direction", direction), ("protocol", "tcp"), ("reason", reason)];
        sidecar.scrape().sum("countersign_requests_total", &labels)
    };

    // Nothing is excluded: no connection goes out or comes in, and each is counted. UDP is not asked.
    assert_eq!(answering(a, &out), []);
    assert_eq!(answering(b, &inward), []);
    assert_eq!((refused("outbound", "egress_denied"), refused("inbound", "no_rule")), (8.0, 4.0));
    assert_eq!((udp(a, b), udp(b, a)), (2, 2));

    let done = run(a.own(As::Root, "countersign-proxy").arg("init").args(FLAGS), LIMIT);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    // Port 22, 203.0.113.128/25 and 2001:db8:1::/48 outbound, 9090 inbound.
    let excluded = [&b.at(22)[..], &[at("203.0.113.129:80"), at("[2001:db8:1::7]:80")]].concat();
    assert_eq!(answering(a, &out), excluded);
    assert_eq!(answering(b, &inward), a.at(9090));
    // An application of this pod that calls itself comes in by the same doors.
    assert_eq!(answering(a, &inward), a.at(9090));
    assert_eq!((refused("outbound", "egress_denied"), refused("inbound", "no_rule")), (12.0, 8.0));
    assert_eq!((udp(a, b), udp(b, a)), (2, 2));

    // The sidecar's own doors are no way in, from outside or from inside, by any family.
    let own: Vec<_> = [16001, 16006, 16020].iter().flat_map(|port| a.at(*port)).collect();
    assert_eq!(answering(b, &own), []);
    assert_eq!(answering(a, &own), []);
    assert_eq!(refused("inbound", "ambiguous_destination"), 12.0);
}
