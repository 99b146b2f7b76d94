//! What does a decision cost as policies grow? One allowed and one refused request over 20, 100 and 500 rules, and the
//! canonical form of a path. What does a condition (`when`) add?

#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has no figure to give")]

mod decided;

use std::hint::black_box;

use countersign_policy::Decision;
use countersign_policy::path::CanonicalPath;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::HeaderMap;

use decided::{of_rules, policies, request, rules, token};

criterion_group!(benches, decide, explain, when, canonical_path);
criterion_main!(benches);

fn decide(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    for rules in [20, 100, 500] {
        let snapshot = self::rules(rules);
        let policies = policies(&snapshot);
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

/// What a refusal costs beside its decision, where it is explained.
fn explain(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("explain");
    for rules in [20, 100, 500] {
        let snapshot = self::rules(rules);
        let port = snapshot.inbound(8080).expect("the policy selects the port");
        let (token, headers) = (token(), HeaderMap::new());
        let path = CanonicalPath::parse("/elsewhere/17").expect("a path in order");
        let request = request(&token, &path, &headers);
        assert_eq!(port.explain(&request).reason, Some("no_rule"));
        group.bench_with_input(BenchmarkId::new("deny", rules), &request, |bencher, request| {
            bencher.iter(|| port.explain(black_box(request)));
        });
    }
    group.finish();
}

/// One rule with a typical condition, against the same rule without.
fn when(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("when");
    let typical = r#"claims.tier in ["gold", "silver"] && path.tenant == claims.tenant && request.path.startsWith("/tenants/")"#;
    for (name, condition) in [
        ("none", ""),
        ("one_claim", r#"claims.tier == "gold""#),
        ("typical", typical),
        ("a_header", r#"request.headers["x-tenant"] == claims.tenant"#),
    ] {
        let when = if condition.is_empty() { String::new() } else { format!(", when: '{condition}'") };
        let snapshot = of_rules(&format!(
            "  - {{ name: one, to: {{ paths: [\"/tenants/{{tenant}}/*\"] }}, from: {{}}{when} }}\n"
        ));
        let policies = policies(&snapshot);
        let mut headers = HeaderMap::new();
        for name in
            ["host", "accept", "user-agent", "traceparent", "authorization", "x-tenant", "x-request-id"]
        {
            headers.insert(name, http::HeaderValue::from_static("acme"));
        }
        let (token, path) = (token(), CanonicalPath::parse("/tenants/acme/17").expect("a path in order"));
        let request = request(&token, &path, &headers);
        assert!(matches!(policies.decide(&request), Decision::Allow { .. }), "{name}");
        group.bench_with_input(BenchmarkId::from_parameter(name), &request, |bencher, request| {
            bencher.iter(|| policies.decide(black_box(request)));
        });
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
