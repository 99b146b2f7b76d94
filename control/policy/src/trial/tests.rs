use super::*;
use crate::source;

/// The policy and the test of the documentation.
const POLICY: &str = r#"apiVersion: countersign.dev/v1alpha1
kind: Issuer
metadata: { name: corp }
spec: { issuer: https://login.example.com/realms/shop }
---
apiVersion: countersign.dev/v1alpha1
kind: InboundPolicy
metadata: { name: orders, namespace: shop }
spec:
  workloads: { labels: { app: orders } }
  ports: [8080]
  tokens: [{ issuer: corp, audiences: [https://orders.shop] }]
  rules:
  - { name: write, to: { methods: [POST], paths: [/orders] }, from: { scopes: [orders:write] } }
  - { name: health, public: true, to: { methods: [GET], paths: [/healthz] } }
"#;
const TEST: &str = r#"---
apiVersion: countersign.dev/v1alpha1
kind: PolicyTest
metadata: { name: orders, namespace: shop }
spec:
  to: { labels: { app: orders }, port: 8080 }
  token: { issuer: corp, audience: https://orders.shop, client: checkout, scopes: [orders:write], claims: { tenant: acme } }   # base of every case
  cases:
  - { name: writes, request: POST /orders, expect: allow, rule: orders/write }
  - { name: other scope, request: POST /orders, token: { scopes: [orders:read] }, expect: deny, reason: insufficient_scope }
  - { name: nobody, request: POST /orders, token: none, expect: deny, reason: missing_token }
"#;

fn run(text: &str) -> Result<Outcome, Vec<Problem>> {
    let sources = source::split("f", text.as_bytes()).unwrap();
    let trials = Trials::read(&sources)?;
    trials.run(&Documents::parse(sources).unwrap(), Underscores::Drop)
}

/// The outcome with this for a case of the documentation's test.
fn with(case: &str) -> Result<Outcome, Vec<Problem>> {
    run(&format!("{POLICY}{TEST}  - {{ name: x, {case} }}\n"))
}

fn difference(case: &str) -> String {
    let outcome = with(case).unwrap_or_else(|problems| panic!("{case}: {problems:?}"));
    outcome.failures().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn problem(case: &str) -> String {
    let problems = with(case).expect_err(case);
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_documented_test_passes_and_covers_what_it_hits() {
    let outcome = run(&format!("{POLICY}{TEST}")).unwrap();
    assert_eq!((outcome.passed(), outcome.failed()), (3, 0));
    let [orders] = outcome.coverage.as_slice() else { panic!("{:?}", outcome.coverage) };
    assert_eq!(
        (orders.policy.as_str(), orders.rules, orders.is_tested),
        ("InboundPolicy/shop/orders", 2, true)
    );
    let missed: Vec<_> = orders.missed.iter().map(ToString::to_string).collect();
    assert_eq!(missed, ["f:15: InboundPolicy/shop/orders: spec.rules[1]: rule `health` is hit by no case"]);
}

#[test]
fn a_difference_is_told_with_its_place() {
    assert_eq!(
        difference("request: POST /orders, expect: deny, reason: no_rule"),
        "f:27: PolicyTest/shop/orders: spec.cases[3]: `x`: expected deny no_rule, found allow orders/write"
    );
    for (case, told) in [
        ("request: POST /orders, expect: allow, rule: orders/health", "found allow orders/write"),
        ("request: POST /orders, token: none, expect: deny, reason: expired", "found deny missing_token"),
        (
            "request: POST /orders, token: { scopes: [] }, expect: allow",
            "found deny insufficient_scope orders/write",
        ),
        ("request: POST /orders, expect: allow, audit: allow", "found no audit policy"),
        (
            "request: POST /orders, expect: allow, shadows: { orders/write: deny }",
            "shadows: expected orders/write: deny, found none",
        ),
    ] {
        assert!(difference(case).contains(told), "{case}: {}", difference(case));
    }
}

#[test]
fn what_is_not_written_is_not_compared() {
    for case in [
        "request: POST /orders, expect: allow",
        "request: POST /orders, expect: allow, rule: shop/orders/write",
        "request: POST /orders?a=b orders.shop:8080, expect: allow",
        "request: PUT /orders, expect: deny",
        "request: GET /healthz, token: none, expect: allow, rule: orders/health",
    ] {
        assert_eq!(difference(case), "", "{case}");
    }
}

#[test]
fn it_refuses_as_the_proxy_does() {
    for (request, rest, reason) in [
        ("POST /orders/%2e%2e", "", "ambiguous_path"),
        ("GET //healthz", "", "ambiguous_path"),
        ("TRACE /orders", "", "method_not_allowed"),
        ("PRI /orders", "", "method_not_allowed"),
        ("POST /orders", "token: keys_unavailable,", "keys_unavailable"),
        ("POST /orders", "token: { audience: https://other },", "wrong_audience"),
        ("POST /orders", "token: { audiences: [https://a, https://b] },", "wrong_audience"),
        ("POST /orders", "token: { claims: { nbf: soon } },", "missing_claim"),
        ("POST /orders", "token: { binding: certificate, scopes: [] },", "insufficient_scope"),
    ] {
        let case = format!("request: {request}, {rest} expect: deny, reason: {reason}");
        assert_eq!(difference(&case), "", "{case}");
    }
    // Who is bound to a certificate shows it; where there is none, the token is somebody else's.
    let bound = format!("{POLICY}{TEST}").replace("  cases:", "  peer: spiffe://shop.example/a\n  cases:")
        + "  - { name: x, request: POST /orders, token: { binding: certificate }, peer: none, expect: deny, reason: binding_mismatch }\n";
    assert_eq!(run(&bound).unwrap().failed(), 0);
}

#[test]
fn a_stranger_among_the_issuers_is_unknown_on_the_port() {
    let more = "---\napiVersion: countersign.dev/v1alpha1\nkind: Issuer\nmetadata: { name: other }\nspec: { issuer: https://other.example }\n";
    let case = "  - { name: x, request: POST /orders, token: { issuer: other }, expect: deny, reason: unknown_issuer }\n";
    assert_eq!(run(&format!("{POLICY}{more}{TEST}{case}")).unwrap().failed(), 0);
}

#[test]
fn a_test_that_selects_nothing_is_a_failure() {
    for (from, to) in
        [("port: 8080", "port: 8081"), ("labels: { app: orders }, port", "labels: { app: order }, port")]
    {
        let outcome = run(&format!("{POLICY}{TEST}").replace(from, to)).unwrap();
        assert_eq!((outcome.passed(), outcome.failed()), (0, 1));
        let told: Vec<_> = outcome.failures().map(ToString::to_string).collect();
        assert!(told[0].starts_with("f:21: PolicyTest/shop/orders: spec.to: no policy selects"), "{told:?}");
        assert!(!outcome.coverage[0].is_tested);
    }
}

#[test]
fn a_port_in_audit_mode_says_so() {
    let text = format!("{POLICY}{TEST}").replace("  ports: [8080]", "  ports: [8080]\n  mode: audit")
        + "  - { name: x, request: PUT /orders, expect: allow }\n";
    let told: Vec<_> = run(&text).unwrap().failures().map(ToString::to_string).collect();
    assert_eq!(told.len(), 1);
    assert!(told[0].ends_with("expected allow, found deny no_rule (in audit mode: it passes)"), "{told:?}");
}

#[test]
fn what_cannot_be_tried_is_an_error_with_its_place() {
    for (case, told) in [
        ("request: /orders, expect: allow", "spec.cases[3].request: `/orders` is no request"),
        ("request: POST orders, expect: allow", "is no request"),
        ("request: POST /orders a b, expect: allow", "is no request"),
        ("request: POST /orders a_b@c, expect: allow", "`a_b@c` is no host"),
        (
            "request: POST /, token: nope, expect: deny",
            "spec.cases[3].token: `nope` is nothing that a token is refused for",
        ),
        ("request: POST /, token: no_rule, expect: deny", "is nothing that a token is refused for"),
        (
            "request: POST /, token: { issuer: corp2 }, expect: deny",
            "token.issuer: there is no Issuer `corp2`",
        ),
        ("request: POST /, token: { scopes: [a b] }, expect: deny", "token.scopes[0]: `a b` is no scope"),
        ("request: POST /, token: { claims: { scope: a } }, expect: deny", "token.claims: the claim `scope`"),
        ("request: POST /, token: { audience: a, audiences: [b] }, expect: deny", "stands beside `audience`"),
        ("request: POST /, peer: orders, expect: deny", "spec.cases[3].peer: `orders` is no SPIFFE ID"),
        (
            "request: POST /, source: localhost, expect: deny",
            "spec.cases[3].source: `localhost` is no IP address",
        ),
        ("request: POST /, headers: { 'a b': c }, expect: deny", "headers.a b: `a b` is no header name"),
        (
            "request: POST /, headers: { Authorization: [a, b] }, expect: deny",
            "spec.cases[3].headers.Authorization: is not judged as a header: say what the token says",
        ),
        ("request: POST /, headers: { DPoP: a }, expect: deny", "headers.DPoP: is not judged as a header"),
        ("request: POST /, headers: { Host: a }, expect: deny", "headers.Host: is not judged as a header"),
        ("request: POST /, headers: { Transfer-Encoding: gzip }, expect: deny", "is of one connection"),
        (
            "request: POST /, grpc: true, headers: { content-type: text/plain }, expect: deny",
            "spec.cases[3].grpc: contradicts the content type",
        ),
        ("request: POST /, expect: allow, reason: no_rule", "spec.cases[3].reason: is for `expect: deny`"),
        ("request: POST /, expect: deny, reason: nope", "spec.cases[3].reason: `nope` is no reason"),
        ("request: POST /, expect: deny, rule: write", "spec.cases[3].rule: `write` is no rule"),
        ("request: POST /, expect: deny, rule: other/orders/write", "is of namespace `other`"),
        ("request: POST /, expect: deny, audit: maybe", "spec.cases[3].audit: `maybe` is no decision"),
        ("request: POST /, expect: deny, shadows: { orders/x: allow no_rule }", "`no_rule` is too much"),
    ] {
        let problem = problem(case);
        assert!(
            problem.starts_with("f:27: PolicyTest/shop/orders: ") && problem.contains(told),
            "{case}: {problem}"
        );
    }
    let twice = run(&format!("{POLICY}{TEST}{TEST}")).unwrap_err();
    assert!(twice[0].to_string().contains("metadata.name: another test has the same name"), "{twice:?}");
    let nobody = format!("{POLICY}{TEST}").replace("issuer: corp, audience:", "audience:");
    assert!(run(&nobody).unwrap_err()[0].message.contains("write `issuer`"));
}

#[test]
fn a_word_without_source_in_the_profile_is_an_error() {
    let cluster = POLICY
        .replace("realms/shop }", "realms/shop, profile: kubernetes }")
        .replace("scopes: [orders:write]", "clients: [a]");
    let problems = run(&format!("{cluster}{TEST}")).unwrap_err();
    assert_eq!(
        problems[0].to_string(),
        "f:22: PolicyTest/shop/orders: spec.token.scopes: tokens of profile kubernetes have no scopes"
    );
}

/// Of a connection no more is known than its other end.
#[test]
fn what_is_not_seen_on_a_port_is_no_part_of_a_case() {
    let policy = |name: &str, port: u16, protocol: &str, to: &str| {
        format!(
            "apiVersion: countersign.dev/v1alpha1\nkind: InboundPolicy\nmetadata: {{ name: {name} }}\nspec:\n  ports: [{port}]\n  \
             protocol: {protocol}\n  rules: [{{ name: all, public: true{to} }}]\n---\n"
        )
    };
    let policies = policy("a", 1, "tcp", "")
        + &policy("b", 2, "tls", "")
        + &policy("c", 3, "http", ", to: { paths: [/a] }");
    let tried = |port: u16, case: &str| {
        let test = format!(
            "apiVersion: countersign.dev/v1alpha1\nkind: PolicyTest\nmetadata: {{ name: t }}\nspec:\n  to: {{ port: {port} }}\n  \
             cases: [{{ name: x, expect: allow{case} }}]\n"
        );
        run(&(policies.clone() + &test))
    };
    for (port, case, field) in [
        (1, ", request: GET /", "spec.cases[0].request"),
        (1, ", grpc: true", "spec.cases[0].grpc"),
        (1, ", headers: { x-a: b }", "spec.cases[0].headers"),
        (1, ", token: expired", "spec.cases[0].token"),
        (2, ", peer: \"spiffe://td/a\"", "spec.cases[0].peer"),
    ] {
        let problems = tried(port, case).expect_err(case);
        let protocol = if port == 1 { "tcp" } else { "tls" };
        let told = format!("{field}: is not seen on this port, which is `protocol: {protocol}`: remove it");
        assert!(problems.len() == 1 && problems[0].to_string().ends_with(&told), "{case}: {problems:?}");
    }
    let nothing = tried(3, "").expect_err("nothing is asked");
    assert!(nothing[0].to_string().ends_with("spec.cases[0]: says nothing that is asked: write `request`"));
    for (port, case) in [(1, ""), (1, ", peer: \"spiffe://td/a\", token: none"), (2, ", source: 10.0.0.1")] {
        assert_eq!(tried(port, case).unwrap().passed(), 1, "{port} {case}");
    }
}
