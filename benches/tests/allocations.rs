//! How often does the hot path allocate? Counted, not timed. In a binary of its own, since it counts by replacing the
//! allocator.

#![expect(clippy::expect_used, clippy::panic, reason = "a test may fail so")]

#[path = "../benches/decided/mod.rs"]
mod decided;
#[path = "../benches/warm/mod.rs"]
mod warm;

use std::net::{IpAddr, Ipv4Addr};

use allocation_counter::measure;
use countersign_policy::path::CanonicalPath;
use countersign_policy::request::{Peer, Presented};
use countersign_policy::{AccessRequest, Decision, Documents, Principal, Workload, source};
use countersign_proxy::auth::attach::{Attached, attach};
use futures_util::FutureExt;
use http::HeaderMap;

#[test]
fn a_token_at_hand_is_shown_without_an_allocation() {
    // It does count.
    assert_eq!(measure(|| drop(std::hint::black_box(Box::new([0; 64])))).count_total, 1);

    let warm = warm::Warm::new();
    let hit = measure(|| assert!(warm.slot().ready().is_some()));
    assert_eq!(hit.count_total, 0, "a hit: {hit:?}");

    let (rule, mut headers) = (warm.rule(), HeaderMap::with_capacity(8));
    let attached = measure(|| {
        let attached = attach(&mut headers, None, rule, warm.active()).now_or_never().expect("no wait");
        assert!(matches!(attached, Ok(Attached::Token(_))));
    });
    assert_eq!(attached.count_total, 0, "the door around it: {attached:?}");
}

/// Each word that a rule has, on its way to a rule that matches and to none.
#[test]
fn a_request_is_decided_without_an_allocation() {
    let text = r#"
apiVersion: countersign.dev/v1alpha1
kind: InboundPolicy
metadata: { name: orders }
spec:
  tls: { certFile: a, keyFile: b, clientCaFile: c, clientAuth: optional }
  rules:
  - { name: far, effect: deny, from: { sources: [192.0.2.0/24, "fd00::/8"] } }
  - { name: banned, effect: deny, from: { serviceAccounts: [shop/banned] } }
  - { name: debug, effect: deny, to: { headers: { X-Debug: ["on"] } } }
  - { name: files, rawPaths: true, to: { paths: ["/files/{name}/*"], headers: { Tier: [gold] } }, from: { peers: ["spiffe://td/*"] } }
"#;
    let sources = source::split("orders.yaml", text.as_bytes()).expect("documents in order");
    let workload = Workload { namespace: "default".into(), ..Workload::default() };
    let snapshot = Documents::parse(sources)
        .and_then(|documents| documents.compile(&workload))
        .expect("a policy in order");
    let port = snapshot.inbound(8080).expect("it selects every port");
    let policies = port.enforce.as_ref().expect("it is enforced");
    let path = port.path("/files/a/b%2Fc").expect("a rule admits it");
    let mut headers = HeaderMap::new();
    for (name, value) in [("tier", "gold"), ("x_debug", "off, no"), ("accept", "*/*")] {
        headers.append(name, http::HeaderValue::from_static(value));
    }
    let peer = |id: &str| Peer { id: Some(id.to_owned()), thumbprint: [7; 32] };
    for (peer, is_allowed) in [(peer("spiffe://td/a"), true), (peer("spiffe://x/a"), false)] {
        let request = AccessRequest {
            principal: Principal { token: Presented::Nothing, peer: Some(&peer) },
            method: "GET",
            path: &path,
            host: "orders.shop",
            headers: &headers,
            grpc: false,
            source: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let decided = measure(|| {
            let decision = policies.decide(&request);
            assert_eq!(matches!(decision, countersign_policy::Decision::Allow { .. }), is_allowed);
        });
        assert_eq!(decided.count_total, 0, "{decided:?}");
    }
}

#[test]
fn a_decision_takes_no_allocation() {
    let (token, headers) = (decided::token(), HeaderMap::new());
    let snapshot = decided::rules(100);
    let policies = decided::policies(&snapshot);
    for (raw, allowed) in [("/things-50/17", true), ("/elsewhere/17", false)] {
        let path = CanonicalPath::parse(raw).expect("a path in order");
        let request = decided::request(&token, &path, &headers);
        let decision = measure(|| {
            assert_eq!(policies.screen(&request), None);
            assert_eq!(matches!(policies.decide(&request), Decision::Allow { .. }), allowed);
        });
        assert_eq!(decision.count_total, 0, "{raw}: {decision:?}");
    }
}

#[test]
fn a_condition_takes_no_allocation() {
    let when = r#"claims.tier in ["gold", "silver"] && path.tenant == claims.tenant && request.path.startsWith("/tenants/")
        && !(request.headers["x-tenant"] != claims.tenant) && has(claims.jti) && size(claims.scope) > 3 && claims.iat + 1 > 0"#;
    let rule =
        "  - name: one\n    to: { paths: [\"/tenants/{tenant}/*\"] }\n    from: {}\n    when: >-\n      ";
    let snapshot = decided::of_rules(&format!("{rule}{}\n", when.replace('\n', "")));
    let (token, policies) = (decided::token(), decided::policies(&snapshot));
    let mut headers = HeaderMap::new();
    headers.insert("x-tenant", http::HeaderValue::from_static("acme"));
    for (raw, allowed) in [("/tenants/acme/17", true), ("/tenants/evil/17", false)] {
        let path = CanonicalPath::parse(raw).expect("a path in order");
        let request = decided::request(&token, &path, &headers);
        let decision = measure(|| {
            assert_eq!(matches!(policies.decide(&request), Decision::Allow { .. }), allowed);
        });
        assert_eq!(decision.count_total, 0, "{raw}: {decision:?}");
    }
}
