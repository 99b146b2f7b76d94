//! A policy file. It is refused with problems that say where and what, or compiled; what a sidecar is then sent of it means
//! the same, and decides every request without a panic.

use std::collections::BTreeMap;

use countersign_policy::path::CanonicalPath;
use countersign_policy::request::{AccessRequest, Presented, Principal};
use countersign_policy::{Documents, Problem, Snapshot, Workload, source};
use http::HeaderMap;

/// The bytes are the one file of the folder.
pub fn check(data: &[u8]) {
    let sources = match source::split("fuzz.yaml", data) {
        Ok(sources) => sources,
        Err(problem) => return clear(&[problem]),
    };
    let documents = match Documents::parse(sources) {
        Ok(documents) => documents,
        Err(problems) => return clear(&problems),
    };
    let workload = Workload {
        namespace: "shop".into(),
        name: "orders".into(),
        labels: BTreeMap::from([("app".to_owned(), "orders".to_owned())]),
        ..Workload::default()
    };
    let snapshot = match documents.compile(&workload) {
        Ok(snapshot) => snapshot,
        Err(problems) => return clear(&problems),
    };
    let selected = Documents::parse(documents.select(&workload)).expect("what is sent can be read");
    let sent = selected.compile(&workload).expect("what is sent can be compiled");
    assert_eq!(sent.version, snapshot.version, "what is sent is what was written");
    decide(&snapshot);
}

fn clear(problems: &[Problem]) {
    assert!(!problems.is_empty(), "refused, and nobody knows why");
    for problem in problems {
        assert!(problem.file == "fuzz.yaml" && !problem.message.is_empty(), "{problem:?}");
        assert!(!problem.to_string().contains('\n'), "one line: {problem}");
    }
}

fn decide(snapshot: &Snapshot) {
    let headers = HeaderMap::new();
    for port in [80, 8080] {
        let Some(port) = snapshot.inbound(port) else { continue };
        for policies in port.enforce.iter().chain(&port.audit) {
            for path in ["/", "/orders", "/orders/7/lines", "/admin/"] {
                let path = CanonicalPath::parse(path).expect("it is canonical");
                let request = AccessRequest {
                    principal: Principal { token: Presented::Nothing, peer: None },
                    method: "GET",
                    path: &path,
                    host: "orders.shop",
                    headers: &headers,
                    grpc: false,
                    source: [127, 0, 0, 1].into(),
                };
                let screened = policies.screen(&request);
                let decided = policies.decide(&request);
                assert!(screened.is_none_or(|screened| screened == decided), "{path:?}");
            }
        }
    }
    let _ = snapshot.outbound("orders.shop", 80);
}
