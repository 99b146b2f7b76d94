use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Map, Value, json};

use super::*;
use crate::documents::Documents;
use crate::headers::Underscores;
use crate::snapshot::Snapshot;
use crate::source;
use crate::trial::Trials;
use crate::workload::Workload;

const TABLES: &[&[u8]] = &[
    include_bytes!("../../tests/decisions/allow.yaml"),
    include_bytes!("../../tests/decisions/as-judged.yaml"),
    include_bytes!("../../tests/decisions/audit-and-shadow.yaml"),
    include_bytes!("../../tests/decisions/binding.yaml"),
    include_bytes!("../../tests/decisions/claims-in-paths.yaml"),
    include_bytes!("../../tests/decisions/claims.yaml"),
    include_bytes!("../../tests/decisions/connections.yaml"),
    include_bytes!("../../tests/decisions/deny.yaml"),
    include_bytes!("../../tests/decisions/grpc.yaml"),
    include_bytes!("../../tests/decisions/headers.yaml"),
    include_bytes!("../../tests/decisions/opaque.yaml"),
    include_bytes!("../../tests/decisions/order.yaml"),
    include_bytes!("../../tests/decisions/peers.yaml"),
    include_bytes!("../../tests/decisions/public.yaml"),
    include_bytes!("../../tests/decisions/raw-paths.yaml"),
    include_bytes!("../../tests/decisions/several-policies.yaml"),
    include_bytes!("../../tests/decisions/underscores-pass.yaml"),
    include_bytes!("../../tests/decisions/when.yaml"),
];

/// Every request of the decision tables, put to every port of every table: what is explained is what is decided, and the
/// rules alone, as they are explained, lead to it.
#[test]
fn what_is_explained_is_what_is_decided() {
    let mut tables = Vec::new();
    let large = large_table();
    for bytes in TABLES.iter().copied().chain([large.as_bytes()]) {
        let sources = source::split("table", bytes).unwrap();
        let trials = Trials::read(&sources).unwrap();
        tables.extend(trials.asked(&Documents::parse(sources).unwrap()));
    }
    let mut seen = (0, 0, 0);
    for (snapshot, port, _) in &tables {
        let Some(port) = snapshot.inbound(*port) else { continue };
        for asked in tables.iter().flat_map(|(_, _, asked)| asked) {
            let Ok(judged) = asked.judged(port) else { continue };
            let request = judged.request(asked.presented(port));
            let explained = port.explain(&request);
            if explained.metadata {
                // No rule is asked.
                assert!(explained.passes() && explained.rule.is_none(), "{explained}");
                continue;
            }
            for group in port.enforce.iter().chain(&port.audit) {
                let decision = group.decide(&request);
                let mode = if port.enforce.as_ref().is_some_and(|e| std::ptr::eq(e, group)) {
                    "enforce"
                } else {
                    "audit"
                };
                let is_deciding = mode == "enforce" || port.enforce.is_none();
                if is_deciding {
                    assert_eq!(
                        explained.decision == Answer::Allow,
                        matches!(decision, Decision::Allow { .. })
                    );
                }
                let policies = explained.policies.iter().filter(|policy| policy.mode == mode);
                agree(&decision, policies, snapshot, &explained);
                match decision {
                    Decision::Allow { .. } => seen.0 += 1,
                    Decision::Deny { rule: Some(_), .. } => seen.1 += 1,
                    Decision::Deny { rule: None, .. } => seen.2 += 1,
                }
            }
        }
    }
    assert!(seen.0 > 300 && seen.1 > 200 && seen.2 > 1_000, "{seen:?}");
}

/// A policy of more rules, and a port of more policies, than are shown; and what decides stands last.
fn large_table() -> String {
    use std::fmt::Write;
    let head = "---\napiVersion: countersign.dev/v1alpha1\nkind: ";
    let mut text = String::new();
    for (name, host) in [("corp", "corp.test"), ("last", "last.test")] {
        writeln!(text, "{head}Issuer\nmetadata: {{ name: {name} }}\nspec: {{ issuer: https://{host}, profile: keycloak }}")
            .unwrap();
    }
    let policy = |name: &str, port: u16, issuer: &str, rules: &str| {
        format!(
            "{head}InboundPolicy\nmetadata: {{ name: {name} }}\nspec:\n  ports: [{port}]\n  \
             tokens: [{{ issuer: {issuer}, audiences: [a] }}]\n  rules:\n{rules}"
        )
    };
    // All near: about the path that is asked for.
    let near: String = (0..200)
        .map(|n| format!("  - {{ name: near-{n}, to: {{ paths: [/x] }}, from: {{ clients: [c{n}] }} }}\n"))
        .collect();
    let shadows: String =
        (0..100).map(|n| format!("  - {{ name: shadow-{n}, shadow: true, from: {{}} }}\n")).collect();
    let ends = "  - { name: scoped, to: { paths: [/x] }, from: { scopes: [s] } }\n  \
                - { name: open, public: true, to: { paths: [/x/open] } }\n  \
                - { name: closed, effect: deny, to: { paths: [/x], methods: [PUT] }, from: { scopes: [b] } }\n";
    text += &policy("many-rules", 1, "corp", &format!("{near}{shadows}{ends}"));
    for n in 10..30 {
        let issuer = if n == 29 { "last" } else { "corp" };
        let rules: String = (0..20)
            .map(|n| {
                format!("  - {{ name: near-{n}, to: {{ paths: [/x] }}, from: {{ clients: [c{n}] }} }}\n")
            })
            .collect();
        text +=
            &policy(&format!("many-{n}"), 2, issuer, &format!("{rules}{}", if n == 29 { ends } else { "" }));
    }
    for (name, port, issuer) in [("rules", 1, "corp"), ("policies", 2, "last")] {
        writeln!(
            text,
            "{head}PolicyTest\nmetadata: {{ name: {name} }}\nspec:\n  to: {{ port: {port} }}\n  \
             token: {{ issuer: {issuer}, audience: a, scopes: [s] }}\n  cases:\n  \
             - {{ name: allow, request: GET /x, expect: allow }}\n  \
             - {{ name: deny, request: PUT /x, token: {{ scopes: [b, s] }}, expect: deny }}\n  \
             - {{ name: poor, request: GET /x, token: {{ scopes: [] }}, expect: deny }}\n  \
             - {{ name: open, request: GET /x/open, token: none, expect: allow }}\n  \
             - {{ name: nothing, request: GET /y, expect: deny }}"
        )
        .unwrap();
    }
    text
}

/// What decided is shown however much else there is, and what is said of the rest is true.
#[test]
fn what_decided_is_never_left_out() {
    let sources = source::split("large", large_table().as_bytes()).unwrap();
    let documents = Documents::parse(sources).unwrap();
    let asked = |port: u16, method: &str, iss: &str, scope: &str| {
        let claims = json!({ "iss": iss, "aud": "a", "exp": 1, "sub": "s", "azp": "c", "scope": scope });
        let question = Question {
            workload: Workload { namespace: "default".to_owned(), ..question().workload },
            port,
            method: method.parse().unwrap(),
            path: "/x".to_owned(),
            claims: claims.as_object().cloned(),
            ..question()
        };
        documents.explain(&question).unwrap()
    };
    for (port, iss, policy, more) in [
        (1, "https://corp.test", "many-rules", "and 239 more rules\n"),
        (2, "https://last.test", "many-29", "and 4 more policies\n"),
    ] {
        for (method, scope, said) in [
            ("GET", "s", "allow scoped (line LINE): matches, and decides"),
            ("GET", "", "allow scoped (line LINE): does not match, for want of scopes alone"),
            ("PUT", "b s", "deny closed (line LINE): matches, and decides"),
        ] {
            let explanation = asked(port, method, iss, scope);
            let text = explanation.to_string();
            let rules = &explanation.policies.iter().find(|p| p.policy.ends_with(policy)).unwrap().rules;
            let rule =
                rules.iter().find(|rule| explanation.rule.as_ref().unwrap().ends_with(&rule.rule)).unwrap();
            let said = said.replace("LINE", &rule.line.to_string());
            assert!(text.contains(&said) && text.contains(more), "{text}");
            assert!(!text.contains("refused before rules") && !text.contains("that do not match"), "{text}");
            assert!(explanation.policies.len() <= room::MAX_POLICIES, "{text}");
            assert!(explanation.policies.iter().map(|p| p.rules.len()).sum::<usize>() <= room::MAX_RULES);
        }
    }
    let other = asked(2, "GET", "https://else.test", "s").to_string();
    assert!(other.contains("deny unknown_issuer") && other.contains("refused before rules"), "{other}");
}

/// The rules, as explained, lead to the decision.
fn agree<'e>(
    decision: &Decision,
    policies: impl Iterator<Item = &'e PolicyExplained> + Clone,
    snapshot: &Snapshot,
    explained: &Explanation,
) {
    let rules = || {
        let rules = policies.clone().flat_map(|p| p.rules.iter().map(move |rule| (&*p.policy, rule)));
        rules.filter(|(_, rule)| !rule.shadow)
    };
    let name = |id: &RuleId| {
        let name = &snapshot.rules[id.0];
        (&*name.policy, &*name.rule)
    };
    let is = |id: &RuleId, (policy, rule): (&str, &RuleExplained)| name(id) == (policy, &*rule.rule);
    let mut hit = rules().filter(|(_, rule)| rule.effect == "deny" && rule.matched);
    let mut open = rules().filter(|(_, rule)| rule.effect == "allow" && rule.matched);
    let text = explained.to_string();
    for (_, rule) in rules() {
        assert!(rule.matched || rule.condition.is_some(), "{text}");
        assert!(!rule.matched || rule.effect == "deny" || rule.condition.is_none(), "{text}");
    }
    match decision {
        Decision::Allow { rule, public } => {
            assert!(hit.next().is_none(), "{text}");
            let first = open.find(|(_, rule)| rule.public == *public).unwrap();
            assert!(is(rule, first), "{text}");
        }
        Decision::Deny { reason: Reason::DeniedByRule, rule: Some(rule) } => {
            assert!(hit.any(|hit| is(rule, hit)), "{text}");
        }
        Decision::Deny { reason, rule: Some(rule) } => {
            assert!(hit.next().is_none() && open.next().is_none(), "{text}");
            let (_, near) = rules().find(|one| is(rule, *one)).unwrap();
            let lacks = near.condition.as_ref().unwrap();
            match reason {
                Reason::InsufficientScope => assert_eq!(lacks.field, "from.scopes", "{text}"),
                Reason::PeerRequired => assert_eq!(lacks.expected, "a client certificate", "{text}"),
                _ => panic!("{reason} names a rule"),
            }
        }
        Decision::Deny { reason: Reason::NoRule, rule: None } => {
            assert!(hit.next().is_none() && open.next().is_none(), "{text}");
        }
        Decision::Deny { reason: Reason::MissingToken, rule: None } => {
            assert!(open.next().is_none(), "{text}")
        }
        // The token was refused before the rules were asked.
        Decision::Deny { reason, rule: None } => assert!([401, 503].contains(&reason.status()), "{text}"),
    }
}

const POLICY: &str = r#"
apiVersion: countersign.dev/v1alpha1
kind: Issuer
metadata: { name: corp }
spec: { issuer: "https://login.example.com", profile: keycloak }
---
apiVersion: countersign.dev/v1alpha1
kind: InboundPolicy
metadata: { name: orders, namespace: shop }
spec:
  workloads: { labels: { app: orders } }
  ports: [8080]
  tokens: [{ issuer: corp, audiences: ["https://orders.shop"] }]
  rules:
  - RULE
"#;

fn documents(rule: &str) -> Documents {
    let text = POLICY.replace("RULE", rule);
    Documents::parse(source::split("orders.yaml", text.as_bytes()).unwrap()).unwrap()
}

fn claims(more: &Value) -> Map<String, Value> {
    let mut claims = json!({ "iss": "https://login.example.com", "aud": "https://orders.shop", "exp": 1, "sub": "alice",
        "azp": "checkout", "scope": "orders:read", "realm_access": { "roles": ["clerk"] }, "tenant": "acme" });
    let claims = claims.as_object_mut().unwrap();
    claims.extend(more.as_object().unwrap().clone());
    claims.clone()
}

fn question() -> Question {
    let labels = [("app".to_owned(), "orders".to_owned())].into();
    Question {
        workload: Workload {
            namespace: "shop".to_owned(),
            name: "w".to_owned(),
            labels,
            service_account: None,
        },
        port: 8080,
        method: Method::POST,
        path: "/orders".to_owned(),
        host: "orders.shop".to_owned(),
        grpc: false,
        headers: HeaderMap::new(),
        underscores: Underscores::Drop,
        source: [10, 1, 2, 3].into(),
        claims: Some(claims(&json!({}))),
        peer: None,
    }
}

/// What is said of the one rule.
fn told(rule: &str, question: &Question) -> String {
    let explanation = documents(rule).explain(question).unwrap();
    let text = explanation.to_string();
    let lines: Vec<_> =
        text.lines().skip_while(|line| !line.starts_with("policy")).skip(1).map(str::trim).collect();
    lines.join(" | ")
}

#[test]
fn every_condition_says_what_was_expected_and_what_was_found() {
    let near = r#"{ name: a, from: { clients: [checkout] }, "#;
    for (rule, expected) in [
        (&*format!("{near} to: {{ methods: [GET, PUT] }} }}"), "to.methods: expected GET, PUT, found POST"),
        (&format!("{near} to: {{ paths: [/a, '/b/*'] }} }}"), "to.paths: expected /a, /b/*, found /orders"),
        (
            &format!("{near} to: {{ paths: ['/{{claims.other}}'] }} }}"),
            "to.paths: expected /{claims.other}, found /orders (which cannot be told)",
        ),
        (&format!("{near} to: {{ hosts: [a.shop] }} }}"), "to.hosts: expected a.shop, found orders.shop"),
        (
            &format!("{near} to: {{ headers: {{ X-Env: [prod] }} }} }}"),
            "to.headers.x-env: expected prod, found absent",
        ),
        (
            &format!("{near} to: {{ headers: {{ X-Canary: [prod] }} }} }}"),
            "to.headers.x-canary: expected prod, found another value, or one beside it",
        ),
        (
            &format!("{near} to: {{ grpc: [pkg.Svc/*] }} }}"),
            "to.grpc: expected pkg.Svc/*, found /orders (by its content type not a gRPC request)",
        ),
        (
            &format!("{near} when: 'claims.tenant == \"other\"' }}"),
            "when: expected claims.tenant == \"other\", found false",
        ),
        (
            &format!("{near} when: 'claims.nothing == \"other\"' }}"),
            "when: expected claims.nothing == \"other\", found what cannot be evaluated (which cannot be told)",
        ),
        (
            "{ name: a, from: { peers: ['spiffe://td/a', 'spiffe://td/b/*'] } }",
            "from: expected a client certificate, found none",
        ),
        ("{ name: a, from: { clients: [a, b] } }", "from.clients: expected a, b, found checkout"),
        ("{ name: a, from: { subjects: [bob] } }", "from.subjects: expected bob, found alice"),
        (
            "{ name: a, from: { scopes: [orders:write, orders:read] } }",
            "from.scopes: expected orders:write, orders:read, found orders:read",
        ),
        ("{ name: a, from: { roles: [admin] } }", "from.roles: expected admin, found clerk"),
        (
            "{ name: a, from: { claims: { tenant: [umbrella, 1] } } }",
            "from.claims.tenant: expected umbrella, 1, found acme",
        ),
        ("{ name: a, from: { claims: { level: 1 } } }", "from.claims.level: expected 1, found absent"),
        (
            "{ name: a, from: { claims: { realm_access: { level: 1 } } } }",
            "from.claims.realm_access: expected {level: [1]}, found {}",
        ),
        (
            "{ name: a, from: { claims: { realm_access: 1 } } }",
            "from.claims.realm_access: expected 1, found an object (which cannot be told)",
        ),
        (
            "{ name: a, from: { binding: required } }",
            "from.binding: expected required, found a token that is bound to nothing",
        ),
        (
            "{ name: a, from: { clients: [checkout], sources: [10.2.0.0/16] } }",
            "from.sources: expected 10.2.0.0/16, found 10.1.2.3",
        ),
        (
            "{ name: a, effect: deny, unless: { roles: [clerk], binding: required }, to: { paths: [/orders] } }",
            "deny a (line 15): matches, and decides | unless.binding: expected required, found a token that is bound to nothing",
        ),
        (
            "{ name: a, effect: deny, unless: { roles: [clerk] }, to: { paths: [/orders] } }",
            "deny a (line 15): does not match | unless: expected {not: {roles: [clerk]}}, found a caller who has it, and is spared",
        ),
        (
            "{ name: a, effect: deny, from: { claims: { realm_access: 1 } } }",
            "deny a (line 15): matches, and decides | from.claims.realm_access: expected 1, found an object (which cannot be told)",
        ),
        (
            "{ name: a, public: true, to: { paths: [/orders] } }",
            "allow a, public (line 15): matches, and decides",
        ),
        ("{ name: a, shadow: true, from: {} }", "allow a, shadow (line 15): matches"),
        ("{ name: a, from: { scopes: [orders:write] } }", "does not match, for want of scopes alone"),
        (
            "{ name: a, from: { clients: [checkout], peers: ['spiffe://td/a'] } }",
            "does not match, for want of a certificate alone",
        ),
    ] {
        let mut question = question();
        question.headers.insert("x-canary", HeaderValue::from_static("canary"));
        let told = told(rule, &question);
        assert!(told.contains(expected), "{rule}\n{told}");
        assert!(!told.contains("canary ") && !told.contains("found canary"), "{told}");
    }
}

#[test]
fn what_a_certificate_says_is_shown() {
    let with = |peer: &str| Question { claims: None, peer: Some(peer.to_owned()), ..question() };
    let rule = "{ name: a, from: { peers: ['spiffe://td/a', 'spiffe://td/b/*'] } }";
    assert!(
        told(rule, &with("spiffe://td/c"))
            .contains("from.peers: expected spiffe://td/a, spiffe://td/b/*, found spiffe://td/c")
    );
    assert!(told(rule, &with("spiffe://td/b/c")).contains("matches, and decides"));
    let rule = "{ name: a, from: { serviceAccounts: [shop/a] } }";
    let expected = "from.serviceAccounts: expected spiffe://cluster.local/ns/shop/sa/a, found spiffe://td/c";
    assert!(told(rule, &with("spiffe://td/c")).contains(expected));
}

#[test]
fn what_is_wrong_with_a_token_is_shown() {
    for (more, lines) in [
        (
            json!({ "aud": "a" }),
            ["deny wrong_audience: ", "    tokens.audiences: expected https://orders.shop, found a"],
        ),
        (
            json!({ "iss": "https://other" }),
            ["deny unknown_issuer: ", "iss: expected https://login.example.com, found https://other"],
        ),
        (
            json!({ "exp": "soon" }),
            [
                "deny missing_claim: ",
                "exp: expected as tokens of profile keycloak have it, found a string that it cannot be",
            ],
        ),
        (json!({ "typ": "ID" }), ["deny wrong_type: ", "typ: expected Bearer, DPoP, found ID"]),
        (
            json!({ "cnf": {} }),
            [
                "deny binding_mismatch: ",
                "cnf: expected one of x5t#S256 and jkt, found both, or another method",
            ],
        ),
    ] {
        let question = Question { claims: Some(claims(&more)), ..question() };
        let text = documents("{ name: a, from: {} }").explain(&question).unwrap().to_string();
        for line in lines {
            assert!(text.contains(line), "{text}");
        }
    }
    let missing = Question { claims: Some(Map::new()), ..question() };
    let text = documents("{ name: a, from: {} }").explain(&missing).unwrap().to_string();
    assert!(text.contains("iss: expected https://login.example.com, found absent"), "{text}");
    let number = Question { claims: Some(claims(&json!({ "iss": 1 }))), ..question() };
    let text = documents("{ name: a, from: {} }").explain(&number).unwrap().to_string();
    assert!(text.starts_with("deny missing_claim: ") && text.contains("found no string"), "{text}");
    let none = Question { claims: None, ..question() };
    let text = documents("{ name: a, from: {} }").explain(&none).unwrap().to_string();
    assert!(
        text.contains("deny missing_token")
            && text.contains("from: expected a token that the policy accepts, found none"),
        "{text}"
    );
}

/// A JWT-SVID need not name its issuer, where there is one that it can be of.
#[test]
fn a_token_without_issuer_is_of_the_one_issuer_of_such() {
    let claims = json!({ "sub": "spiffe://example.org/a", "aud": "https://orders.shop", "exp": 1 });
    let asked = |text: &str| {
        let sources = source::split("orders.yaml", text.as_bytes()).unwrap();
        let question = Question { claims: claims.as_object().cloned(), ..question() };
        Documents::parse(sources).unwrap().explain(&question).unwrap().to_string()
    };
    let one = POLICY.replace("RULE", "{ name: a, from: {} }").replace("keycloak", "jwt-svid");
    assert!(asked(&one).starts_with("allow (rule shop/orders/a)"), "{}", asked(&one));
    assert!(asked(&one.replace("jwt-svid", "generic")).starts_with("deny missing_claim: "));
    let two = "kind: Issuer\nmetadata: { name: more }\nspec: { issuer: 'https://more.example.com', profile: jwt-svid }\n---\napiVersion: countersign.dev/v1alpha1\nkind: InboundPolicy";
    let two = one.replace("kind: InboundPolicy", two);
    assert!(asked(&two).starts_with("allow "), "one that is not accepted does not count");
    let accepted =
        "[{ issuer: corp, audiences: [\"https://orders.shop\"] }, { issuer: more, audiences: [a] }]";
    let two = two.replace("[{ issuer: corp, audiences: [\"https://orders.shop\"] }]", accepted);
    assert!(asked(&two).starts_with("deny unknown_issuer: "), "{}", asked(&two));
}

#[test]
fn the_metadata_of_the_resource_is_for_everybody() {
    let text = POLICY
        .replace("RULE", "{ name: a, from: {} }")
        .replace("  ports:", "  resourceMetadata: true\n  ports:");
    let documents = Documents::parse(source::split("orders.yaml", text.as_bytes()).unwrap()).unwrap();
    let path = "/.well-known/oauth-protected-resource".to_owned();
    let question = Question { method: Method::GET, path, claims: None, ..question() };
    let explanation = documents.explain(&question).unwrap();
    assert!(explanation.passes());
    let text = explanation.to_string();
    assert!(
        text.starts_with("allow: the resource's own metadata\n") && text.contains("not looked at"),
        "{text}"
    );
    let question = Question { method: Method::POST, ..question };
    assert!(documents.explain(&question).unwrap().to_string().starts_with("deny missing_token"));
}

#[test]
fn policies_that_do_not_select_say_why() {
    let asked = |change: fn(&mut Question)| {
        let mut question = question();
        change(&mut question);
        documents("{ name: a, from: {} }").explain(&question).unwrap()
    };
    for (explanation, expected) in [
        (asked(|q| q.port = 1), "spec.ports: expected 8080, found 1"),
        (asked(|q| q.workload.namespace = "a".to_owned()), "metadata.namespace: expected shop, found a"),
        (asked(|q| q.workload.labels.clear()), "spec.workloads.labels.app: expected orders, found absent"),
    ] {
        let text = explanation.to_string();
        assert!(text.starts_with("deny no_rule: ") && text.contains(expected), "{text}");
        assert!(text.contains("No policy selects"), "{text}");
        assert!(
            text.contains("policy shop/orders in orders.yaml: does not select the workload and port"),
            "{text}"
        );
    }
    assert!(asked(|_| {}).unselected.is_empty());
    let odd = asked(|q| q.path = "/a/../b".to_owned());
    assert_eq!(odd.reason, Some("ambiguous_path"));
}

/// However long what was asked, and however much policy there is.
#[test]
fn an_explanation_is_bounded() {
    let far = |n: usize| format!("{{ name: far-{n}, from: {{}}, to: {{ paths: [/far] }} }}");
    let mut rules: Vec<_> = (0..300).map(far).collect();
    rules.push(format!("{{ name: near, from: {{ scopes: [{}] }} }}", vec!["s".repeat(500); 50].join(", ")));
    let documents = documents(&rules.join("\n  - "));
    let long = "x".repeat(5_000);
    let many: Vec<_> = (0..1_000).map(|n| format!("{n}{long}")).collect();
    let question = Question {
        path: format!("/{long}"),
        claims: Some(claims(&json!({ "scope": many.join(" "), "sub": long }))),
        ..question()
    };
    let explanation = documents.explain(&question).unwrap();
    let policy = &explanation.policies[0];
    assert_eq!(
        (policy.rules.len(), policy.more_rules),
        (room::MAX_RULES_OF_POLICY, 301 - room::MAX_RULES_OF_POLICY)
    );
    assert!(policy.rules.iter().any(|rule| rule.rule == "near"), "what is near is shown");
    let text = explanation.to_string();
    assert!(
        text.len() < 40_000 && serde_json::to_string(&explanation).unwrap().len() < 60_000,
        "{}",
        text.len()
    );
    assert!(text.contains("  and 237 more rules\n"), "{text}");
}

/// Of a claim that has parts no more is told than what is asked for.
#[test]
fn what_no_rule_names_of_a_claim_is_not_told() {
    for (test, claim, expected) in [
        (
            "[admin]",
            json!([{ "ssn": "078-05-1120" }, { "pin": [1, 2] }, ["078-05-1120"], "clerk", 7]),
            "found an object, an object, a list, clerk, 7",
        ),
        ("{ a: [1] }", json!([{ "ssn": "078-05-1120" }]), "found a list"),
        ("{ a: [1] }", json!({ "a": [{ "pin": 2 }], "ssn": "078-05-1120" }), "found {a: [an object]}"),
    ] {
        let question = Question { claims: Some(claims(&json!({ "groups": claim }))), ..question() };
        let rule = format!("{{ name: a, from: {{ claims: {{ groups: {test} }} }} }}");
        let explanation = documents(&rule).explain(&question).unwrap();
        let (text, json) = (explanation.to_string(), serde_json::to_string(&explanation).unwrap());
        assert!(text.contains(expected), "{text}");
        for text in [text, json] {
            assert!(!text.contains("ssn") && !text.contains("pin") && !text.contains("078"), "{text}");
        }
    }
}

/// Nothing in a token can write to a terminal.
#[test]
fn control_characters_are_escaped() {
    let claims = claims(&json!({ "sub": "a\u{1b}[2Jb\nc", "tenant": "\u{7}" }));
    let question = Question { claims: Some(claims), ..question() };
    let text =
        documents("{ name: a, from: { claims: { tenant: a } } }").explain(&question).unwrap().to_string();
    assert!(
        !text.contains('\u{1b}') && !text.contains('\u{7}') && text.contains("a\\u{1b}[2Jb\\nc"),
        "{text}"
    );
    let claims =
        self::claims(&json!({ "sub": "a\u{9b}2J\u{202e}b\u{2066}c", "tenant": ["\u{202a}\u{2069}"] }));
    let question = Question { claims: Some(claims), path: "/\u{85}\u{2067}".to_owned(), ..question };
    let text =
        documents("{ name: a, from: { claims: { tenant: a } } }").explain(&question).unwrap().to_string();
    let is_plain = |text: &str| !text.chars().any(|c| c != '\n' && crate::problem::is_unseen(c));
    assert!(is_plain(&text), "{text:?}");
    let explanation = documents("{ name: a, from: { claims: { tenant: a } } }").explain(&question).unwrap();
    let json = serde_json::to_string_pretty(&explanation).unwrap();
    let plain = plain_json(&json);
    assert!(!is_plain(&json) && is_plain(&plain), "{plain:?}");
    let read = |json: &str| serde_json::from_str::<Value>(json).unwrap();
    assert_eq!(read(&plain), read(&json));
}
