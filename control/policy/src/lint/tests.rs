use super::*;
use crate::headers::Underscores;
use crate::{Trials, source};

const HEAD: &str = "apiVersion: countersign.dev/v1alpha1\nkind: ";
const BASE: &str = "apiVersion: countersign.dev/v1alpha1
kind: Issuer
metadata: { name: corp }
spec: { issuer: https://login.example.com }
---
apiVersion: countersign.dev/v1alpha1
kind: InboundPolicy
metadata: { name: orders }
spec:
  workloads: { labels: { app: orders } }
  ports: [80]
  tokens: [{ issuer: corp, audiences: [https://orders.shop] }]
  rules:
";

fn all(text: &str) -> Vec<String> {
    let sources = source::split("f", text.as_bytes()).unwrap();
    let trials = Trials::read(&sources).unwrap();
    let documents = Documents::parse(sources).unwrap_or_else(|problems| panic!("{text}\n{problems:?}"));
    let outcome = trials.run(&documents, Underscores::Drop).unwrap();
    warnings(&documents, &outcome).iter().map(ToString::to_string).collect()
}

/// Rules of one policy, one a line, and what is said of them: `None` is nothing.
fn rules(rules: &str, told: Option<&str>) {
    let text = rules.lines().fold(BASE.to_owned(), |text, rule| text + "  - { " + rule.trim() + " }\n");
    expect(&text, told);
}

fn expect(text: &str, told: Option<&str>) {
    let found = all(text);
    match told {
        None => assert!(found.is_empty(), "{text}\n{found:?}"),
        Some(told) => assert!(found.len() == 1 && found[0].contains(told), "{text}\n{found:?}"),
    }
}

#[test]
fn an_allow_that_a_deny_hits_whole() {
    let told = "f:14: InboundPolicy/default/orders: spec.rules[0]: can never allow: deny rule `d` hits all that it matches";
    let allow =
        "name: a, to: { methods: [GET], paths: [/x/a, '/x/{id}/b'] }, from: { scopes: [s], clients: [c] }\n";
    rules(&format!("{allow}name: d, effect: deny, to: {{ paths: ['/x/*'] }}"), Some(told));
    rules(&format!("{allow}name: d, effect: deny"), Some(told));
    rules(&format!("{allow}name: d, effect: deny, from: {{ clients: [c, e] }}"), Some(told));
    rules(&format!("{allow}name: d, effect: deny, from: {{ clients: [e] }}"), None);
    rules(&format!("{allow}name: d, effect: deny, unless: {{ clients: [e] }}"), None);
    rules(&format!("{allow}name: d, effect: deny, to: {{ paths: [/x/a] }}"), None);
    rules(&format!("{allow}name: d, effect: deny, to: {{ methods: [GET, POST], hosts: [a.b] }}"), None);
    rules(&format!("{allow}name: d, effect: deny, shadow: true"), None);
}

#[test]
fn a_header_that_another_policy_may_set() {
    let told = "f:14: InboundPolicy/default/orders: spec.rules[0].to.headers: `x-a` is set by `forwardClaims` of \
                InboundPolicy/default/sets: where both policies select a port";
    let with = |rule: &str, selects: &str| {
        format!(
            "{BASE}  - {{ name: a, from: {{}}, {rule} }}\n---\n{HEAD}InboundPolicy\nmetadata: {{ name: sets }}\nspec:\n  \
             {selects}\n  tokens: [{{ issuer: corp, audiences: [https://orders.shop] }}]\n  forwardClaims: {{ X-A: a }}\n  \
             rules: [{{ name: b, to: {{ paths: [/b] }}, from: {{}} }}]\n"
        )
    };
    let tests = "to: { paths: [/a], headers: { x-a: [b] } }";
    expect(&with(tests, "workloads: { labels: { tier: a } }"), Some(told));
    expect(
        &with(
            "to: { paths: [/a] }, when: 'request.headers[\"x-a\"] == \"b\"'",
            "workloads: { labels: { tier: a } }",
        ),
        Some("spec.rules[0].when: `x-a`"),
    );
    expect(&with(tests, "workloads: { labels: { app: other } }"), None);
    expect(&with(tests, "ports: [81]"), None);
    expect(&with("to: { paths: [/a], headers: { x-b: [b] } }", "workloads: { labels: { tier: a } }"), None);
}

#[test]
fn a_deny_of_another_policy_of_the_same_workloads() {
    let base =
        format!("{BASE}  - {{ name: a, to: {{ paths: [/x] }}, from: {{ scopes: [s] }} }}\n---\n{HEAD}");
    let other = |workloads: &str, ports: &str, from: &str| {
        format!(
            "{base}InboundPolicy\nmetadata: {{ name: no }}\nspec:\n  default: none\n  {workloads}\n  {ports}\n  \
             tokens: [{{ issuer: corp, audiences: [x] }}]\n  rules: [{{ name: d, effect: deny, {from} to: {{ paths: [/x] }} }}]\n"
        )
    };
    let told = Some("deny rule `d` of InboundPolicy/default/no hits all");
    expect(&other("", "", ""), told);
    expect(&other("workloads: { labels: { app: orders } }", "ports: [80, 81]", ""), told);
    expect(&other("workloads: { labels: { app: orders, tier: a } }", "", ""), None);
    expect(&other("", "ports: [81]", ""), None);
    expect(&other("mode: audit", "", ""), None);
    // It sees other tokens.
    expect(&other("", "", "from: { scopes: [s] },"), None);
}

#[test]
fn what_a_public_rule_takes_first() {
    let public = "name: p, public: true, to: { paths: ['/docs/*'] }\n";
    rules(
        &format!("{public}name: a, to: {{ paths: [/docs/a] }}, from: {{ scopes: [s] }}"),
        Some("spec.rules[1]: is never asked: rule `p` is public"),
    );
    rules(&format!("{public}name: a, to: {{ paths: [/doc] }}, from: {{ scopes: [s] }}"), None);
    let told = Some("spec.rules[1].from: hits nobody where rule `p` is public");
    rules(
        &format!("{public}name: d, effect: deny, to: {{ paths: [/docs/a] }}, from: {{ clients: [c] }}"),
        told,
    );
    rules(&format!("{public}name: d, effect: deny, to: {{ paths: ['/*'] }}, from: {{ clients: [c] }}"), told);
    // About a caller, not a path.
    rules(&format!("{public}name: d, effect: deny, from: {{ clients: [c] }}"), None);
    rules(&format!("{public}name: d, effect: deny, to: {{ paths: [/docs/a] }}"), None);
    rules(
        &format!("{public}name: d, effect: deny, to: {{ paths: ['/docs/*'] }}, unless: {{ clients: [c] }}"),
        Some("spec.rules[0]: can never allow: deny rule `d` hits all that it matches"),
    );
}

#[test]
fn a_deny_that_spares_whom_it_hits() {
    let told = Some("spec.rules[0].unless: spares everybody whom `from` names");
    rules("name: d, effect: deny, from: { roles: [a], clients: [c] }, unless: { roles: [a, b] }", told);
    rules("name: d, effect: deny, from: { roles: [a] }, unless: { roles: [a], clients: [c] }", None);
    rules("name: d, effect: deny, unless: { roles: [a] }", None);
}

#[test]
fn a_rule_twice() {
    let one = "to: { paths: [/x] }, from: { scopes: [a, b], claims: { tenant: [x, y] } }";
    let two = "to: { paths: [/x] }, from: { scopes: [b, a], claims: { tenant: [y, x] } }";
    rules(&format!("name: a, {one}\nname: b, {two}"), Some("spec.rules[1]: says the same as rule `a`"));
    rules(&format!("name: a, {one}\nname: b, {}", two.replace("[y, x]", "[y]")), None);
}

#[test]
fn methods_that_grpc_never_has() {
    let told = Some("spec.rules[0].to.methods: gRPC calls are POST");
    rules("name: a, to: { methods: [GET], grpc: [a.B/C] }, from: { scopes: [s] }", told);
    rules("name: a, to: { methods: [GET, POST], grpc: [a.B/C] }, from: { scopes: [s] }", None);
}

#[test]
fn rules_that_are_too_wide() {
    let told = Some("spec.rules[0].from: everybody with a token may do everything");
    rules("name: a, from: {}", told);
    rules("name: a, to: { paths: ['/*'] }, from: {}", told);
    rules("name: a, to: { paths: ['/*'] }, from: { scopes: [s] }", None);
    rules("name: a, to: { methods: [GET] }, from: {}", None);
    rules("name: a, to: { paths: ['/a/*'] }, from: {}", None);
    let told = Some("spec.rules[0].to.paths: makes every path public");
    rules("name: a, public: true, to: { methods: [GET], paths: [/a, '/*'] }", told);
    rules("name: a, public: true, to: { paths: ['/a/*'] }", None);
    for path in ["/{a}/*", "/{a}", "/{a}/{b}", "/{a}/"] {
        rules(&format!("name: a, public: true, to: {{ paths: ['{path}'] }}"), told);
        let told = Some("spec.rules[0].from: everybody with a token may do everything, or nearly");
        rules(&format!("name: a, to: {{ paths: ['{path}'] }}, from: {{}}"), told);
    }
    for path in ["/", "/{a}/b", "/a/{b}/*"] {
        rules(&format!("name: a, public: true, to: {{ paths: ['{path}'] }}"), None);
    }
    rules("name: a, to: { paths: ['/{claims.tenant}/*'] }, from: {}", None);
}

/// Such rules compile, and mean nothing that anybody means.
#[test]
fn a_star_that_is_a_letter() {
    for (part, place) in [
        ("clients: ['*']", "clients[0]"),
        ("subjects: [a, '*']", "subjects[1]"),
        ("roles: ['*']", "roles[0]"),
        ("scopes: ['*']", "scopes[0]"),
        ("claims: { tenant: '*' }", "claims.tenant"),
        ("claims: { org: { tenant: [a, '*'] } }", "claims.org.tenant"),
    ] {
        for (effect, word) in [("deny", "from"), ("deny", "unless"), ("allow", "from")] {
            let rule = format!("name: a, effect: {effect}, to: {{ paths: [/x] }}, {word}: {{ {part} }}");
            let told = format!("spec.rules[0].{word}.{place}: is the letter `*`, not everything");
            rules(&rule, Some(&told));
            rules(&format!("{rule}, shadow: true"), Some(&told));
            rules(&rule.replace('*', "b*"), None);
        }
    }
    let header = |name: &str| format!("name: a, effect: deny, to: {{ headers: {{ {name}: ['*'] }} }}");
    rules(
        &header("X-Debug"),
        Some("spec.rules[0].to.headers: the value of `x-debug` is the letter `*`, not everything"),
    );
    rules(&header("If-None-Match"), None);
}

#[test]
fn a_deny_that_spares_whoever_comes() {
    let told = Some("spec.rules[0].unless: spares everybody with a token");
    rules("name: d, effect: deny, to: { paths: [/x] }, unless: {}", told);
    rules("name: d, effect: deny, to: { paths: [/x] }, unless: { issuers: [corp] }", None);
    rules("name: d, effect: deny, to: { paths: [/x] }, unless: { sources: [10.0.0.0/8] }", None);
}

/// Rules that are found by what they are about are those that would be found by looking at all.
#[test]
fn what_is_nearby_misses_nothing() {
    let paths = [
        "",
        "[/a]",
        "[/a/b]",
        "['/a/*']",
        "['/a/{x}']",
        "['/{x}/b']",
        "['/*']",
        "['/{x}/*']",
        "[/a/]",
        "[/]",
        "[/b, '/a/b/*']",
        "['/a/b/c', /b]",
        "['/a/{claims.tenant}']",
        "['/{x}', /b]",
        "[/ab]",
    ];
    let calls = ["", "[s.A/M]", "[s.A/*]", "[s.B/M, s.A/M]"];
    let mut text = BASE.to_owned();
    for (number, path) in paths.iter().enumerate() {
        for (other, call) in calls.iter().enumerate() {
            let path = if path.is_empty() { String::new() } else { format!("paths: {path},") };
            let call = if call.is_empty() { String::new() } else { format!("grpc: {call}") };
            text += &format!(
                "  - {{ name: r{number}-{other}, to: {{ {path} {call} }}, from: {{ scopes: [s] }} }}\n"
            );
        }
    }
    let documents = Documents::parse(source::split("f", text.as_bytes()).unwrap()).unwrap();
    let all = || documents.inbound[0].value.rules.iter().map(|rule| &**rule).enumerate();
    let nearby = nearby::Nearby::of(all());
    let mut covered = 0;
    for (_, rule) in all() {
        let above: Vec<_> = nearby.above(&rule.to).map(|(place, _)| place).collect();
        let below: Vec<_> = nearby.below(&rule.to).map(|(place, _)| place).collect();
        assert!(above.is_sorted() && below.is_sorted());
        for (place, other) in all() {
            assert!(
                !other.to.covers(&rule.to) || above.contains(&place),
                "{} above {}",
                other.name,
                rule.name
            );
            // The way back is asked of rules that name what they are about.
            let names = !rule.to.paths.is_empty() || !rule.to.grpc.is_empty();
            assert!(
                !names || !rule.to.covers(&other.to) || below.contains(&place),
                "{} below {}",
                other.name,
                rule.name
            );
            covered += usize::from(other.to.covers(&rule.to));
        }
    }
    assert!(covered > 200, "{covered}");
}

/// Of ordinary policy a rule is compared with few others, however many there are.
#[test]
fn a_rule_is_compared_with_few_others() {
    let policy = |policy: usize| {
        let rule = |rule: usize| {
            let path = format!("/api/{policy}/{rule}");
            match rule % 3 {
                0 => format!(
                    "  - {{ name: r{rule}, effect: deny, to: {{ paths: [{path}] }}, from: {{ roles: [a] }} }}\n"
                ),
                1 => format!("  - {{ name: r{rule}, public: true, to: {{ paths: [{path}] }} }}\n"),
                _ => format!(
                    "  - {{ name: r{rule}, to: {{ paths: ['{path}/*'] }}, from: {{ scopes: [s] }} }}\n"
                ),
            }
        };
        let rules: String = (0..300).map(rule).collect();
        format!(
            "---\n{HEAD}InboundPolicy\nmetadata: {{ name: p{policy} }}\nspec:\n  \
             tokens: [{{ issuer: corp, audiences: [https://a] }}]\n  rules:\n{rules}"
        )
    };
    let compared = |policies: usize| {
        let issuer = BASE.split("---").next().unwrap().to_owned();
        let text = (0..policies).fold(issuer, |text, number| text + &policy(number));
        let documents = Documents::parse(source::split("f", text.as_bytes()).unwrap()).unwrap();
        let outcome = Trials::default().run(&documents, Underscores::Drop).unwrap();
        assert_eq!(warnings(&documents, &outcome), []);
        let decisive = reach::Decisive::of(&documents);
        let rules = documents.inbound.iter().flat_map(|policy| &policy.value.rules);
        rules
            .map(|rule| decisive.0.above(&rule.to).count() + decisive.0.below(&rule.to).count())
            .sum::<usize>()
    };
    let (few, many) = (compared(2), compared(20));
    assert!(few > 0 && many == few * 10, "{few}, then {many}");
}

#[test]
fn rules_that_begin_alike_are_compared_with_a_bounded_number_of_others() {
    let rule = |rule: usize| {
        format!("  - {{ name: r{rule}, public: true, to: {{ paths: [/api/{rule}], hosts: [h{rule}] }} }}\n")
    };
    let rules: String = (0..600).map(rule).collect();
    let text = format!(
        "{BASE}  - {{ name: all, effect: deny, from: {{ roles: [a] }}, to: {{ paths: [/*] }} }}\n{rules}"
    );
    let documents = Documents::parse(source::split("f", text.as_bytes()).unwrap()).unwrap();
    let decisive = reach::Decisive::of(&documents);
    let all = documents.inbound.iter().flat_map(|policy| &policy.value.rules).next().unwrap();
    assert_eq!(decisive.0.below(&all.to).count(), nearby::MAX_COMPARED);
}

#[test]
fn a_token_for_everybodys_hosts() {
    let outbound = |host: &str, token: &str| {
        format!(
            "{BASE}  - {{ name: a, from: {{ scopes: [s] }} }}\n---\n{HEAD}Credential\nmetadata: {{ name: c }}\n\
             spec: {{ issuer: corp, clientId: c, authentication: {{ clientSecretBasic: {{ secretFile: s }} }} }}\n\
             ---\n{HEAD}OutboundPolicy\nmetadata: {{ name: o }}\nspec:\n  rules:\n  - {{ name: used, to: {{ hosts: [a.b] }}, token: {{ credential: c }} }}\n  \
             - {{ name: r, to: {{ hosts: ['{host}'] }}{token} }}\n"
        )
    };
    let token = ", token: { credential: c }";
    for host in ["*.com", "*.co.uk", "*.github.io"] {
        expect(&outbound(host, token), Some("spec.rules[1].to.hosts[0]: anybody can have a host under"));
        expect(&outbound(host, ""), None);
    }
    for host in ["*.example.com", "*.internal", "example.com"] {
        expect(&outbound(host, token), None);
    }
}

#[test]
fn audiences_that_id_tokens_have() {
    let with = |profile: &str, audience: &str| {
        BASE.replace("example.com }", &format!("example.com, profile: {profile} }}"))
            .replace("https://orders.shop", audience)
            + "  - { name: a, to: { paths: [/a] }, from: { clients: [checkout] } }\n"
    };
    let told =
        "f:12: InboundPolicy/default/orders: spec.tokens[0].audiences[0]: `checkout` is the id of a client";
    expect(&with("keycloak", "checkout"), Some(told));
    expect(&with("generic", "orders"), Some("`orders` looks like the id of a client"));
    expect(&with("keycloak", "orders"), None);
    expect(&with("generic", "https://orders.shop"), None);
    expect(&with("rfc9068", "checkout"), None);
    expect(&with("cognito", "checkout"), None);
}

#[test]
fn names_that_two_issuers_give() {
    let two = BASE.replace(
        "corp, audiences: [https://orders.shop] }",
        "corp, audiences: [a] }, { issuer: partner, audiences: [a] }",
    ) + "  - { name: a, to: { paths: [/a] }, from: { FROM } }\n---\n"
        + HEAD
        + "Issuer\nmetadata: { name: partner }\nspec: { issuer: https://partner.example }\n";
    expect(&two.replace("FROM", "clients: [c]"), Some("spec.rules[0].from.clients: may be somebody else's"));
    expect(&two.replace("FROM", "clients: [c], issuers: [corp]"), None);
    expect(&two.replace("FROM", "scopes: [s]"), None);
    expect(&two.replace("FROM", "claims: { sub: [c] }"), Some("spec.rules[0].from.claims: may be somebody"));
    expect(&two.replace("FROM", "claims: { tenant: [c] }"), None);
    let own = two.replace("[/a]", "['/of/{claims.sub}/*']");
    expect(&own.replace("FROM", "scopes: [s]"), Some("spec.rules[0].to.paths: may be somebody else's"));
    expect(&own.replace("FROM", "issuers: [corp]"), None);
}

#[test]
fn documents_that_nobody_uses() {
    let base = format!("{BASE}  - {{ name: a, from: {{ scopes: [s] }} }}\n");
    let issuer = format!(
        "{base}---\n{HEAD}Issuer\nmetadata: {{ name: old }}\nspec: {{ issuer: https://old.example }}\n"
    );
    expect(&issuer, Some("f:18: Issuer/old: metadata.name: is used by nobody"));
    let credential = format!(
        "{base}---\n{HEAD}Credential\nmetadata: {{ name: c }}\nspec: {{ issuer: corp, clientId: c, authentication: {{ clientSecretBasic: {{ secretFile: s }} }} }}\n"
    );
    expect(&credential, Some("Credential/default/c: metadata.name: is used by nobody"));
    let test = |port: u16| {
        format!(
            "{base}---\n{HEAD}PolicyTest\nmetadata: {{ name: t }}\nspec:\n  to: {{ labels: {{ app: orders }}, port: {port} }}\n  \
             cases: [{{ name: a, request: GET /, expect: deny }}]\n"
        )
    };
    expect(&test(80), None);
    let found = all(&test(81));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].contains("InboundPolicy/default/orders: metadata.name: no PolicyTest selects it"),
        "{found:?}"
    );
    assert!(found[1].contains("PolicyTest/default/t: spec.to: no policy selects"), "{found:?}");
}

#[test]
fn a_deny_on_claims_that_a_public_rule_meets() {
    let public = "name: p, public: true, to: { paths: [/health] }\n";
    let told = Some("spec.rules[0]: may never allow: `when` of deny rule `d` reads claims");
    rules(&format!("{public}name: d, effect: deny, when: 'claims.banned == true'"), told);
    rules(
        &format!("{public}name: d, effect: deny, when: 'request.method == \"POST\" && has(claims.x)'"),
        told,
    );
    rules(&format!("{public}name: d, effect: deny, when: 'request.method == \"POST\"'"), None);
    rules(
        &format!("{public}name: d, effect: deny, to: {{ paths: [/x] }}, when: 'claims.banned == true'"),
        None,
    );
    rules(
        &format!("{public}name: d, effect: deny, from: {{ clients: [c] }}, when: 'claims.banned == true'"),
        None,
    );
}

#[test]
fn a_certificate_that_nobody_asks_for() {
    let rule = "  - { name: a, from: { peers: ['spiffe://x/y'] }, to: { paths: [/x] } }\n";
    let told = Some("spec.rules[0].from: nobody meets it: no policy of this port asks for a certificate");
    let other = |workloads: &str, ports: &str, tls: &str| {
        format!(
            "{BASE}{rule}---\n{HEAD}InboundPolicy\nmetadata: {{ name: tls }}\nspec:\n  default: none\n  {workloads}\n  \
             ports: [{ports}]\n  tls: {{ certFile: a.pem, keyFile: a.key, {tls} }}\n"
        )
    };
    expect(&format!("{BASE}{rule}"), told);
    expect(&other("", "80", "clientCaFile: ca.pem"), None);
    expect(&other("workloads: { labels: { tier: web } }", "80, 81", "clientCaFile: ca.pem"), None);
    expect(&other("workloads: { labels: { app: other } }", "80", "clientCaFile: ca.pem"), told);
    expect(&other("", "81", "clientCaFile: ca.pem"), told);
    expect(&other("", "80", ""), told);
    rules(
        "name: d, effect: deny, to: { paths: [/x] }, unless: { serviceAccounts: [shop/checkout] }",
        Some("spec.rules[0].unless: nobody meets it"),
    );
}
