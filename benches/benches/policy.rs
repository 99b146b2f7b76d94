//! What does a decision cost as policies grow? One allowed and one refused request over 20, 100 and 500 rules, and the
//! canonical form of a path.

#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has no figure to give")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use countersign_policy::path::CanonicalPath;
use countersign_policy::request::{Binding, Presented};
use countersign_policy::{AccessRequest, Decision, Documents, Principal, Snapshot, Token, Workload, source};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::HeaderMap;

const PORT: u16 = 8080;

criterion_group!(benches, decide, canonical_path);
criterion_main!(benches);

fn decide(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    for rules in [20, 100, 500] {
        let snapshot = snapshot(rules);
        let policies = snapshot
            .inbound(PORT)
            .and_then(|port| port.enforce.as_ref())
            .expect("the policy selects the port");
        let (token, headers) = (token(), HeaderMap::new());
        let raw = format!("/things-{}/17", rules / 2);
        let allowed = CanonicalPath::parse(&raw).expect("a path in order");
        let refused = CanonicalPath::parse("/elsewhere/17").expect("a path in order");

        for (name, path) in [("allow", &allowed), ("deny", &refused)] {
            let request = request(&token, path, &headers);
            let decided = policies.decide(&request);
            assert_eq!(matches!(decided, Decision::Allow { .. }), name == "allow", "{decided:?}");
            // As the proxy asks: what needs no token first, then the whole.
            group.bench_with_input(BenchmarkId::new(name, rules), &request, |bencher, request| {
                bencher.iter(|| (policies.screen(black_box(request)), policies.decide(black_box(request))));
            });
        }
    }
    group.finish();
}

fn canonical_path(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("canonical_path");
    for (name, raw) in [
        ("plain", "/orders/17/items/4711"),
        ("escaped", "/orders/%61%62%c3%a4/items/a%20b"),
        ("ambiguous", "/orders/17/items/%2e%2e/admin"),
    ] {
        group.bench_function(name, |bencher| bencher.iter(|| CanonicalPath::parse(black_box(raw))));
    }
    group.finish();
}

/// A policy of this many allow rules, each for a method, a path with all below it, and a scope.
fn snapshot(rules: usize) -> Snapshot {
    let mut text = String::from(
        "apiVersion: countersign.dev/v1alpha1\nkind: Issuer\nmetadata: { name: corp }\nspec: { issuer: https://issuer.example }\n---\n\
         apiVersion: countersign.dev/v1alpha1\nkind: InboundPolicy\nmetadata: { name: orders, namespace: shop }\nspec:\n  \
         tokens: [{ issuer: corp, audiences: [https://orders.shop] }]\n  rules:\n",
    );
    for rule in 0..rules {
        writeln!(
            text,
            "  - {{ name: rule-{rule}, to: {{ methods: [GET], paths: [\"/things-{rule}/*\"] }}, from: {{ scopes: [\"orders:read\"] }} }}"
        )
        .expect("a string takes what is written");
    }
    let sources = source::split("orders.yaml", text.as_bytes()).expect("documents in order");
    let workload = Workload { namespace: "shop".into(), name: "orders".into(), ..Workload::default() };
    Documents::parse(sources).and_then(|documents| documents.compile(&workload)).expect("a policy in order")
}

fn request<'a>(token: &'a Token, path: &'a CanonicalPath<'a>, headers: &'a HeaderMap) -> AccessRequest<'a> {
    AccessRequest {
        principal: Principal { token: Presented::Verified(token), peer: None },
        method: "GET",
        path,
        host: "orders.shop",
        headers,
        grpc: false,
        source: IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

fn token() -> Token {
    Token {
        introspected: false,
        issuer: Arc::from("https://issuer.example"),
        audiences: vec!["https://orders.shop".into()],
        subject: Some("checkout".into()),
        client: Some("checkout".into()),
        scopes: vec!["orders:read".into(), "orders:write".into()],
        roles: vec![],
        claims: serde_json::Map::new(),
        issued_at: None,
        not_before: None,
        expires_at: i64::MAX,
        binding: Binding::None,
    }
}
