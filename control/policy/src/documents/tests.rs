use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::inbound::{Decision, PortProtocol};
use crate::outbound::{Carries, Outbound, OutboundTls};
use crate::reason::Reason;
use crate::request::Peer;
use crate::snapshot::{
    AssertionType, Authentication, CertificateFiles, FileRef, Timeouts, TokenBinding, TokenRequest,
    WorkloadTokenUse,
};
use crate::source;

/// An issuer, two credentials and two outbound policies; the text of further documents follows.
const BASE: &str = r#"
apiVersion: countersign.dev/v1alpha1
kind: Issuer
metadata: { name: corp }
spec: { issuer: https://login.example.com }
---
apiVersion: countersign.dev/v1alpha1
kind: Issuer
metadata: { name: unused }
spec: { issuer: https://unused.example.com }
---
apiVersion: countersign.dev/v1alpha1
kind: Credential
metadata: { name: checkout, namespace: shop }
spec:
  issuer: corp
  clientId: "{namespace}-{serviceAccount}"
  authentication: { privateKeyJwt: { keyFile: key.pem } }
---
apiVersion: countersign.dev/v1alpha1
kind: Credential
metadata: { name: unused, namespace: shop }
spec:
  issuer: unused
  clientId: x
  authentication: { clientSecretBasic: { secretFile: secret } }
---
apiVersion: countersign.dev/v1alpha1
kind: OutboundPolicy
metadata: { name: all, namespace: shop }
spec:
  rules:
  - { name: any, to: { hosts: ["*.example"] } }
  - { name: exact, to: { hosts: [a.example] }, token: { credential: checkout, scopes: [b, a, b] } }
---
apiVersion: countersign.dev/v1alpha1
kind: OutboundPolicy
metadata: { name: checkout, namespace: shop }
spec:
  workloads: { labels: { app: checkout } }
  egress: deny
  rules:
  - name: port
    to: { hosts: [a.example], ports: [80] }
    token: { credential: checkout, scopes: [a, b] }
    tls: none
    timeouts: { connect: 250ms }
  - { name: other, to: { hosts: [a.example, b.example] }, token: { credential: checkout, scopes: [a], parameters: { z: "1", y: "2" } } }
"#;

fn documents(more: &str) -> Documents {
    parse(more).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn parse(more: &str) -> Result<Documents, Vec<Problem>> {
    Documents::parse(source::split("f", format!("{BASE}\n---\n{more}").as_bytes()).unwrap())
}

fn checkout() -> Workload {
    Workload {
        namespace: "shop".to_owned(),
        name: "checkout-1".to_owned(),
        labels: [("app", "checkout"), ("tier", "front")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        service_account: Some("checkout".to_owned()),
    }
}

fn other() -> Workload {
    Workload { labels: [("app".to_owned(), "mail".to_owned())].into(), ..checkout() }
}

fn rule_for(snapshot: &Snapshot, host: &str, port: u16) -> String {
    match snapshot.outbound(host, port) {
        Outbound::Rule(rule) => format!("{}/{}", rule.policy, rule.name),
        Outbound::Pass => "pass".to_owned(),
        Outbound::Denied => "denied".to_owned(),
    }
}

#[test]
fn the_closest_rule_wins() {
    let snapshot = documents("").compile(&checkout()).unwrap();
    assert_eq!(rule_for(&snapshot, "a.example", 80), "shop/checkout/port");
    assert_eq!(rule_for(&snapshot, "a.example", 443), "shop/checkout/other");
    assert_eq!(rule_for(&snapshot, "b.example", 443), "shop/checkout/other");
    assert_eq!(rule_for(&snapshot, "c.example", 443), "shop/all/any");
    assert_eq!(rule_for(&snapshot, "a.example", 8080), "denied");
    assert_eq!(rule_for(&snapshot, "a.b.example", 80), "denied");
    assert_eq!(rule_for(&snapshot, "example", 80), "denied");
    let snapshot = documents("").compile(&other()).unwrap();
    assert_eq!(rule_for(&snapshot, "a.example", 80), "shop/all/exact");
    assert_eq!(rule_for(&snapshot, "b.example", 80), "shop/all/any");
    assert_eq!(rule_for(&snapshot, "mail.shop", 80), "pass");
}

#[test]
fn a_wildcard_serves_the_ports_that_an_exact_host_does_not() {
    let more = "apiVersion: countersign.dev/v1alpha1\nkind: OutboundPolicy\nmetadata: { name: wide, namespace: shop }\n\
                spec: { rules: [{ name: admin, to: { hosts: ['*.example'], ports: [9000] } }] }\n";
    let snapshot = documents(more).compile(&other()).unwrap();
    assert_eq!(rule_for(&snapshot, "a.example", 9000), "shop/wide/admin");
}

#[test]
fn out_1_a_port_tells_which_hosts_rules_name_and_what_they_carry() {
    let more = "apiVersion: countersign.dev/v1alpha1\nkind: OutboundPolicy\nmetadata: { name: bytes, namespace: shop }\n\
                spec: { rules: [{ name: database, to: { hosts: [db.shop, a.example], ports: [5432] }, protocol: tcp, tls: none },\n\
                { name: own-tls, to: { hosts: [pay.shop, '*.pay.shop'] }, tls: passthrough }] }\n";
    let snapshot = documents(more).compile(&checkout()).unwrap();
    let named = |port| {
        let hosts = snapshot.outbound_hosts(port)?;
        let exact: Vec<_> = hosts.rules().map(|(host, rule)| (&**host, rule.carries())).collect();
        for (host, of_port) in hosts.rules() {
            let Outbound::Rule(rule) = snapshot.outbound(host, port) else { panic!("no rule for {host}") };
            assert!(std::ptr::eq(rule, of_port), "{host}");
            assert!(
                snapshot.exact_hosts().any(|each| Arc::ptr_eq(each, host)),
                "{host}: one name, kept once"
            );
        }
        assert_eq!(hosts.exact().len(), exact.len());
        Some((exact, hosts.wildcards().to_vec()))
    };
    use Carries::{Http, Tcp, Tls};
    assert_eq!(named(80), Some((vec![("a.example", Http), ("b.example", Http)], vec![Http])));
    let at_443 = vec![("a.example", Http), ("b.example", Http), ("pay.shop", Tls)];
    assert_eq!(named(443), Some((at_443, vec![Http, Tls])), "the application's own TLS is on 443 alone");
    assert_eq!(named(5432), Some((vec![("a.example", Tcp), ("db.shop", Tcp)], vec![])));
    assert_eq!(named(8080), None);
    assert!(snapshot.denies_egress() && !documents(more).compile(&other()).unwrap().denies_egress());
    let Outbound::Rule(rule) = snapshot.outbound("db.shop", 5432) else { panic!("no rule") };
    assert_eq!(rule.timeouts.idle, Timeouts::NEVER, "nobody knows how long it may be silent");
    assert!(rule.token.is_none() && rule.exchange.is_none());
}

#[test]
fn a_port_is_what_policy_says_and_its_connections_are_decided() {
    let more = "apiVersion: countersign.dev/v1alpha1\nkind: InboundPolicy\nmetadata: { name: db, namespace: shop }\n\
                spec: { ports: [5432], protocol: tcp, timeouts: { connect: 1s }, tls: { certFile: a, keyFile: b, clientCaFile: c },\n\
                rules: [{ name: a, from: { peers: ['spiffe://td/a'] } }] }\n";
    let snapshot = documents(more).compile(&checkout()).unwrap();
    let port = snapshot.inbound(5432).unwrap();
    assert_eq!((port.protocol, port.timeouts.idle), (PortProtocol::Tcp, Timeouts::NEVER));
    assert_eq!(port.timeouts.connect, Duration::from_secs(1));
    let deciding = port.enforce.as_ref().unwrap();
    let source = std::net::Ipv4Addr::LOCALHOST.into();
    let peer = |id: &str| Peer { id: Some(id.to_owned()), thumbprint: [0; 32] };
    let decided = |id: Option<&str>| deciding.decide_connection(id.map(peer).as_ref(), source);
    assert!(matches!(decided(Some("spiffe://td/a")), Decision::Allow { public: false, .. }));
    let denied = |id| match decided(id) {
        Decision::Deny { reason, .. } => Some(reason),
        Decision::Allow { .. } => None,
    };
    assert_eq!(denied(Some("spiffe://td/b")), Some(Reason::NoRule));
    assert_eq!(denied(None), Some(Reason::PeerRequired));
}

#[test]
fn rules_are_compiled_with_their_defaults() {
    let snapshot = documents("").compile(&checkout()).unwrap();
    let Outbound::Rule(rule) = snapshot.outbound("a.example", 80) else { panic!("no rule") };
    assert_eq!(rule.tls, OutboundTls::None);
    assert_eq!(rule.timeouts.connect, Duration::from_millis(250));
    assert_eq!(rule.timeouts.idle, Duration::from_secs(60));
    assert_eq!(rule.timeouts.total, None, "no limit unless one is written");
    let Outbound::Rule(other) = snapshot.outbound("a.example", 443) else { panic!("no rule") };
    assert_eq!(
        other.tls,
        OutboundTls::Originate { port: None, server_name: None, ca_file: None, client: None }
    );
    assert_ne!(rule.transport, other.transport);
    let Outbound::Rule(any) = snapshot.outbound("c.example", 443) else { panic!("no rule") };
    assert_eq!(any.transport, other.transport);
}

#[test]
fn equal_tokens_are_asked_for_once() {
    let snapshot = documents("").compile(&checkout()).unwrap();
    let Outbound::Rule(port) = snapshot.outbound("a.example", 80) else { panic!("no rule") };
    assert_eq!(snapshot.token_requests.len(), 2);
    let request = &snapshot.token_requests[port.token.unwrap().0];
    assert_eq!(request.scopes, ["a", "b"]);
    let credential = &snapshot.credentials[request.credential.0];
    assert_eq!((credential.name.as_str(), credential.client_id.as_str()), ("shop/checkout", "shop-checkout"));
    assert_eq!(snapshot.issuers[credential.issuer.0].name, "corp");
}

/// The issuer `corp` of the base with a credential by each method, and an outbound policy with these rules.
fn outbound(rules: &str) -> Snapshot {
    let credential = |name: &str, authentication: &str| {
        format!(
            "apiVersion: countersign.dev/v1alpha1\nkind: Credential\nmetadata: {{ name: {name}, namespace: shop }}\n\
             spec: {{ issuer: corp, clientId: c, authentication: {{ {authentication} }} }}\n---\n"
        )
    };
    let more = credential("post", "clientSecretPost: { secretFile: s }")
        + &credential("tls", "tlsClientAuth: { certFile: tls.crt, keyFile: tls.key }")
        + &credential("sa", "workloadToken: { tokenFile: t }")
        + &credential("svid", "workloadToken: { tokenFile: t, assertionType: jwtSpiffe }")
        + &credential("grant", "workloadToken: { tokenFile: t, grant: jwtBearer }")
        + "apiVersion: countersign.dev/v1alpha1\nkind: OutboundPolicy\nmetadata: { name: more, namespace: shop }\n\
           spec:\n  rules:\n"
        + rules;
    documents(&more).compile(&other()).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// The token request of the rule for this host.
fn asked<'a>(snapshot: &'a Snapshot, host: &str) -> &'a TokenRequest {
    let Outbound::Rule(rule) = snapshot.outbound(host, 443) else { panic!("no rule") };
    &snapshot.token_requests[rule.token.expect("a token").0]
}

fn pair(certificate: &str, key: &str) -> CertificateFiles {
    let file = |path: &str| FileRef { path: path.to_owned(), declared_in: "f".to_owned() };
    CertificateFiles { cert_file: file(certificate), key_file: file(key) }
}

#[test]
fn every_way_to_authenticate_is_compiled_and_a_credential_of_its_own() {
    let snapshot = outbound(
        "  - { name: post, to: { hosts: [post] }, token: { credential: post } }
  - { name: tls, to: { hosts: [tls] }, token: { credential: tls } }
  - { name: sa, to: { hosts: [sa] }, token: { credential: sa } }
  - { name: svid, to: { hosts: [svid] }, token: { credential: svid } }
  - { name: grant, to: { hosts: [grant] }, token: { credential: grant } }
",
    );
    let file = |path: &str| FileRef { path: path.to_owned(), declared_in: "f".to_owned() };
    let token = |usage| Authentication::WorkloadToken { token_file: file("t"), usage };
    let mut keys = BTreeSet::new();
    for (host, expected) in [
        ("post", Authentication::ClientSecretPost { secret_file: file("s") }),
        ("tls", Authentication::TlsClientAuth(pair("tls.crt", "tls.key"))),
        ("sa", token(WorkloadTokenUse::ClientAssertion(AssertionType::JwtBearer))),
        ("svid", token(WorkloadTokenUse::ClientAssertion(AssertionType::JwtSpiffe))),
        ("grant", token(WorkloadTokenUse::AuthorizationGrant)),
    ] {
        let request = asked(&snapshot, host);
        let credential = &snapshot.credentials[request.credential.0];
        assert_eq!(
            (&credential.authentication, &request.binding),
            (&expected, &TokenBinding::None),
            "{host}"
        );
        keys.insert(request.key);
    }
    assert_eq!(keys.len(), 5);
    let prints: BTreeSet<_> = snapshot.credentials.iter().map(|credential| credential.fingerprint).collect();
    assert_eq!(prints.len(), snapshot.credentials.len());
}

#[test]
fn the_certificate_of_a_bound_token_is_shown_to_the_destination_too() {
    let snapshot = outbound(
        "  - { name: own, to: { hosts: [own] }, token: { credential: tls }, binding: mtls }
  - { name: named, to: { hosts: [named] }, token: { credential: post }, binding: mtls, originate: { certFile: a, keyFile: b } }
  - { name: same, to: { hosts: [same] }, token: { credential: tls }, binding: mtls, originate: { certFile: tls.crt, keyFile: tls.key } }
  - { name: alone, to: { hosts: [alone] }, originate: { certFile: a, keyFile: b } }
  - { name: unbound, to: { hosts: [unbound] }, token: { credential: tls }, originate: { certFile: a, keyFile: b } }
",
    );
    let shown = |host: &str| match snapshot.outbound(host, 443) {
        Outbound::Rule(rule) => match &rule.tls {
            OutboundTls::Originate { client, .. } => client.clone(),
            OutboundTls::None | OutboundTls::Passthrough => None,
        },
        _ => panic!("no rule"),
    };
    let (own, named) = (pair("tls.crt", "tls.key"), pair("a", "b"));
    for (host, bound) in [("own", &own), ("named", &named), ("same", &own)] {
        assert_eq!(asked(&snapshot, host).binding, TokenBinding::Certificate(bound.clone()), "{host}");
        assert_eq!(shown(host).as_ref(), Some(bound), "{host}");
    }
    assert_eq!((shown("alone"), shown("unbound")), (Some(named.clone()), Some(named)));
    assert_eq!(asked(&snapshot, "unbound").binding, TokenBinding::None);
    assert_eq!(asked(&snapshot, "own").key, asked(&snapshot, "same").key);
    let transport = |host: &str| match snapshot.outbound(host, 443) {
        Outbound::Rule(rule) => rule.transport,
        _ => panic!("no rule"),
    };
    assert_eq!((transport("own"), transport("named")), (transport("same"), transport("alone")));
    assert_ne!(transport("own"), transport("named"));
}

#[test]
fn tokens_that_are_bound_otherwise_are_other_tokens() {
    let snapshot = outbound(
        "  - { name: bearer, to: { hosts: [bearer] }, token: { credential: post } }
  - { name: key, to: { hosts: [key] }, token: { credential: post }, binding: dpop, tls: none }
  - { name: a, to: { hosts: [a] }, token: { credential: post }, binding: mtls, originate: { certFile: a, keyFile: b } }
  - { name: b, to: { hosts: [b] }, token: { credential: post }, binding: mtls, originate: { certFile: b, keyFile: a } }
  - { name: again, to: { hosts: [again] }, token: { credential: post }, binding: none }
",
    );
    let key = |host: &str| asked(&snapshot, host).key;
    assert_eq!(asked(&snapshot, "key").binding, TokenBinding::Key);
    assert_eq!(key("bearer"), key("again"));
    assert_eq!(BTreeSet::from(["bearer", "key", "a", "b"].map(key)).len(), 4);
    assert_eq!(snapshot.token_requests.len(), 5, "with the one of the base");
}

#[test]
fn an_exchange_is_apart_from_tokens_and_shows_our_own_only_where_it_may() {
    let snapshot = outbound(
        "  - { name: plain, to: { hosts: [plain] }, token: { credential: post } }
  - { name: reject, to: { hosts: [reject] }, token: { credential: post, exchange: { subject: request } } }
  - { name: client, to: { hosts: [client] }, token: { credential: post, exchange: { subject: request, otherwise: client } } }
  - { name: scoped, to: { hosts: [scoped] }, token: { credential: post, scopes: [s], exchange: { subject: request, otherwise: reject } } }
",
    );
    let rule = |host: &str| match snapshot.outbound(host, 443) {
        Outbound::Rule(rule) => (rule.token, rule.exchange),
        _ => panic!("no rule"),
    };
    let (own, none) = rule("plain");
    assert!(own.is_some() && none.is_none());
    let (token, exchange) = rule("reject");
    assert!(token.is_none() && exchange.is_some());
    assert_eq!(rule("client"), (own, exchange), "the same token, the same exchange");
    let (token, scoped) = rule("scoped");
    assert!(token.is_none() && scoped.is_some() && scoped != exchange);
    assert_eq!(snapshot.exchanges.len(), 2);
    assert_ne!(snapshot.exchanges[exchange.unwrap().0].key, asked(&snapshot, "plain").key);
}

#[test]
fn a_snapshot_holds_only_what_is_referred_to() {
    let snapshot = documents("").compile(&checkout()).unwrap();
    assert_eq!(snapshot.credentials.len(), 1);
    assert_eq!(snapshot.issuers.len(), 1);
    let stranger = documents("").compile(&Workload::default()).unwrap();
    assert!(
        stranger.credentials.is_empty() && stranger.issuers.is_empty() && stranger.token_requests.is_empty()
    );
}

#[test]
fn select_shows_what_selects_and_what_that_needs() {
    let documents = documents("");
    let selected = documents.select(&checkout());
    let has = |sources: &[Source], text: &str| sources.iter().any(|source| source.text.contains(text));
    assert_eq!(selected.len(), 4);
    assert!(!has(&selected, "unused"));
    let other = documents.select(&other());
    assert_eq!(other.len(), 3);
    assert!(!has(&other, "egress: deny"));
    assert!(documents.select(&Workload::default()).is_empty());
}

#[test]
fn what_was_selected_compiles_to_the_same_snapshot() {
    let documents = documents("");
    let whole = documents.compile(&checkout()).unwrap();
    let selected = Documents::parse(documents.select(&checkout())).unwrap();
    let part = selected.compile(&checkout()).unwrap();
    assert_eq!(format!("{whole:?}").len(), format!("{part:?}").len());
    assert_eq!(whole.version, part.version);
    let account = Some("other".to_owned());
    let other = documents.compile(&Workload { service_account: account, ..checkout() }).unwrap();
    assert_ne!(whole.version, other.version);
}

#[test]
fn versions_follow_content_and_not_order() {
    let sources = source::split("f", BASE.as_bytes()).unwrap();
    let reversed = sources.iter().rev().cloned().collect();
    let version = |sources: Vec<Source>| Documents::parse(sources).unwrap().version().to_owned();
    assert_eq!(version(sources.clone()), version(reversed));
    let mut edited = sources.clone();
    edited[0].text.push_str("# a word\n");
    assert_ne!(version(sources.clone()), version(edited));
    let mut moved = sources.clone();
    moved[0].line += 10;
    assert_eq!(version(sources), version(moved));
}

#[test]
fn fingerprints_survive_an_edit_elsewhere() {
    let fingerprints = |text: &str| {
        let documents = Documents::parse(source::split("f", text.as_bytes()).unwrap()).unwrap();
        let snapshot = documents.compile(&checkout()).unwrap();
        (snapshot.issuers[0].fingerprint, snapshot.credentials[0].fingerprint, snapshot.token_requests[0].key)
    };
    let before = fingerprints(BASE);
    assert_eq!(before, fingerprints(&BASE.replace("egress: deny", "egress: pass")));
    let other_issuer = fingerprints(&BASE.replace("https://login.example.com", "https://id.example.com"));
    assert!(before.0 != other_issuer.0 && before.1 != other_issuer.1 && before.2 != other_issuer.2);
    let other_key = fingerprints(&BASE.replace("key.pem", "new.pem"));
    assert!(before.0 == other_key.0 && before.1 != other_key.1 && before.2 != other_key.2);
}

#[test]
fn a_workload_without_service_account_cannot_have_its_credential() {
    let problems = documents("").compile(&Workload { service_account: None, ..checkout() }).unwrap_err();
    let expected = "f:17: Credential/shop/checkout: spec.clientId: the workload has no service account to put for \
                    {serviceAccount}";
    assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
}

#[test]
fn rules_of_two_policies_conflict_where_both_select() {
    let more = "apiVersion: countersign.dev/v1alpha1\nkind: OutboundPolicy\nmetadata: { name: front, namespace: shop }\n\
                spec:\n  workloads: { labels: { tier: front } }\n  rules: [{ name: mine, to: { hosts: [b.example] } }]\n";
    let documents = documents(more);
    assert!(documents.compile(&other()).is_ok());
    let problems = documents.compile(&checkout()).unwrap_err();
    assert_eq!(problems.len(), 1);
    let problem = problems[0].to_string();
    assert!(problem.contains("OutboundPolicy/shop/front: spec.rules[0].to.hosts[0]"), "{problem}");
    assert!(problem.contains("rule `other` of OutboundPolicy/shop/checkout"), "{problem}");
}

#[test]
fn a_broken_document_is_no_dangling_reference() {
    let text = BASE.replace("clientId: \"{namespace}-{serviceAccount}\"", "clientID: x");
    let problems = Documents::parse(source::split("f", text.as_bytes()).unwrap()).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
}

#[test]
fn policy_tests_and_what_kubernetes_adds_are_no_trouble() {
    let more = r#"{ "apiVersion": "countersign.dev/v1alpha1", "kind": "PolicyTest", "metadata": { "name": "t" }, "spec": { "any": 1 } }
---
apiVersion: countersign.dev/v1alpha1
kind: Issuer
metadata:
  name: cluster
  uid: 1b4e
  generation: 3
  resourceVersion: "77"
  creationTimestamp: null
  labels: { a: b }
  annotations: { c: d }
  managedFields: [{ manager: kubectl, fieldsV1: { "f:spec": {} } }]
spec: { issuer: https://cluster.example.com }
status: { conditions: [] }
"#;
    let documents = documents(more);
    // A test that nobody can read is in nobody's way, counts for nothing and changes no version.
    assert_eq!(documents.len(), 7);
    let tests = source::split("f", more.as_bytes()).unwrap();
    assert_eq!(crate::Trials::read(&tests).unwrap_err().len(), 1);
    let without = self::documents(more.split_once("---\n").unwrap().1);
    assert_eq!(documents.version(), without.version());
    assert_eq!(Documents::parse(documents.sources()).unwrap().version(), documents.version());
}

#[test]
fn no_documents_are_a_policy_too() {
    let documents = Documents::parse(Vec::new()).unwrap();
    assert!(documents.is_empty());
    let snapshot = documents.compile(&checkout()).unwrap();
    assert!(snapshot.inbound(8080).is_none());
    assert_eq!(rule_for(&snapshot, "a.example", 80), "pass");
}

#[test]
fn a_port_has_the_shortest_timeouts_and_every_header() {
    let policy = |name: &str, header: &str, timeouts: &str, mode: &str| {
        format!(
            "apiVersion: countersign.dev/v1alpha1\nkind: InboundPolicy\nmetadata: {{ name: {name}, namespace: shop }}\n\
             spec:\n  mode: {mode}\n  tokens: [{{ issuer: corp, audiences: [a] }}]\n  forwardToken: strip\n  forwardClaims: {{ {header}: tenant }}\n  \
             timeouts: {timeouts}\n  rules: [{{ name: r, from: {{ scopes: [s] }} }}]\n---\n"
        )
    };
    let more = policy("a", "X_Tenant", "{ connect: 2s, idle: 90s, total: 90s }", "enforce")
        + &policy("b", "X-Other", "{ connect: 1s, total: 2m }", "enforce")
        + &policy("c", "x-third", "{ connect: 1ms, total: 1ms }", "audit");
    let snapshot = documents(&more).compile(&checkout()).unwrap();
    let port = snapshot.inbound(1).unwrap();
    assert_eq!(port.identity_headers, ["x-other", "x-tenant", "x-third"]);
    assert_eq!(port.timeouts.connect, Duration::from_secs(1));
    assert_eq!(port.timeouts.idle, Duration::from_secs(90));
    assert_eq!(port.timeouts.first_byte, Duration::from_secs(60));
    assert_eq!(port.timeouts.total, Some(Duration::from_secs(90)), "the shortest, of those that decide");
    assert_eq!(port.issuer("https://login.example.com").map(|id| id.0), Some(0));
    assert_eq!(port.issuer("https://login.example.com/"), None);
    let rule = crate::snapshot::RuleId(0);
    assert_eq!(snapshot.rules[0].policy, "shop/a");
    assert_eq!(snapshot.required_scopes(rule), ["s"]);
    assert!(snapshot.forward(rule).strip_token);
    assert_eq!(snapshot.forward(rule).claims.len(), 1);
    assert_eq!(snapshot.forward(rule).claims[0].0, "X_Tenant");
}

#[test]
fn c8_a_credential_without_a_secret_or_key_is_no_credential() {
    let credential = |authentication: &str| {
        format!(
            r#"
---
apiVersion: countersign.dev/v1alpha1
kind: Credential
metadata: {{ name: public, namespace: shop }}
spec: {{ issuer: corp, clientId: x, authentication: {authentication} }}
"#
        )
    };
    assert!(parse(&credential("{ clientSecretBasic: { secretFile: a } }")).is_ok());
    let two = "{ clientSecretBasic: { secretFile: a }, privateKeyJwt: { keyFile: b } }";
    for authentication in ["{}", "{ none: {} }", two] {
        let problems = parse(&credential(authentication)).unwrap_err();
        assert!(problems[0].to_string().contains("spec.authentication"), "{problems:?}");
    }
}

#[test]
fn v37_jwt_svids_are_signed_with_rsa_or_ecdsa_alone() {
    let issuer = |more: &str| {
        format!(
            r#"
---
apiVersion: countersign.dev/v1alpha1
kind: Issuer
metadata: {{ name: spire }}
spec: {{ issuer: https://spire.example.com, profile: jwt-svid{more} }}
---
apiVersion: countersign.dev/v1alpha1
kind: InboundPolicy
metadata: {{ name: svids, namespace: shop }}
spec:
  tokens: [{{ issuer: spire, audiences: [orders] }}]
  rules: [{{ name: all, from: {{}} }}]
"#
        )
    };
    let snapshot = documents(&issuer("")).compile(&checkout()).unwrap();
    let spire = snapshot.issuers.iter().find(|issuer| issuer.name == "spire").unwrap();
    assert_eq!(spire.algorithms.len(), crate::snapshot::Algorithm::ALL.len() - 1);
    assert!(!spire.algorithms.contains(&crate::snapshot::Algorithm::EdDSA));
    let problems = parse(&issuer(", algorithms: [ES256, EdDSA]")).unwrap_err();
    assert!(problems[0].to_string().contains("spec.algorithms: JWT-SVIDs"), "{problems:?}");
}

/// A policy with these ports and this `tls`, each as it stands or left out.
fn tls_policy(name: &str, more: &str) -> String {
    format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: InboundPolicy\nmetadata: {{ name: {name}, namespace: shop }}\n\
         spec: {{ {more} }}\n---\n"
    )
}

#[test]
fn in_25_a_port_speaks_tls_as_soon_as_one_policy_writes_it() {
    use crate::snapshot::ClientAuth;
    let more = tls_policy("a", "ports: [1, 2]")
        + &tls_policy("b", "mode: audit, ports: [2, 3], tls: { certFile: c, keyFile: k }")
        + &tls_policy("c", "ports: [4], tls: { certFile: c, keyFile: k, clientCaFile: ca }")
        + &tls_policy(
            "d",
            "ports: [5], tls: { certFile: ./c, keyFile: k, clientCaFile: ca, clientAuth: optional }",
        );
    let snapshot = documents(&more).compile(&checkout()).unwrap();
    let tls = |port: u16| snapshot.inbound(port).unwrap().tls.as_ref();
    assert!(tls(1).is_none());
    let (two, three) = (tls(2).unwrap(), tls(3).unwrap());
    assert_eq!(two.fingerprint, three.fingerprint);
    assert_eq!((two.certificate.cert_file.path.as_str(), two.certificate.key_file.path.as_str()), ("c", "k"));
    assert_eq!(two.certificate.cert_file.declared_in, "f");
    assert_eq!(two.client_auth, ClientAuth::None);
    assert!(matches!(&tls(4).unwrap().client_auth, ClientAuth::Required(ca) if ca.path == "ca"));
    assert!(matches!(&tls(5).unwrap().client_auth, ClientAuth::Optional(ca) if ca.path == "ca"));
    assert_eq!(snapshot.inbound_tls().count(), 4);
    let distinct: BTreeSet<_> = snapshot.inbound_tls().map(|tls| tls.fingerprint).collect();
    assert_eq!(distinct.len(), 3);
}

#[test]
fn policies_of_one_port_agree_on_its_tls() {
    let one = tls_policy("a", "ports: [1, 2], tls: { certFile: c, keyFile: k }");
    let conflict = |name: &str, more: &str| {
        let told = parse(&(one.clone() + &tls_policy(name, more))).err().unwrap_or_default();
        told.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    // The same files, however they are written, and ports that they do not share.
    assert_eq!(conflict("b", "ports: [2], tls: { certFile: ./c, keyFile: k }"), "");
    assert_eq!(conflict("b", "tls: { certFile: c, keyFile: k }"), "");
    assert_eq!(conflict("b", "ports: [3], tls: { certFile: d, keyFile: k }"), "");
    for tls in [
        "{ certFile: d, keyFile: k }",
        "{ certFile: c, keyFile: l }",
        "{ certFile: c, keyFile: k, clientCaFile: a }",
    ] {
        let told = conflict("b", &format!("ports: [2, 3], tls: {tls}"));
        assert!(
            told.contains("InboundPolicy/shop/b: spec.tls: InboundPolicy/shop/a selects port 2"),
            "{told}"
        );
        let told = conflict("b", &format!("tls: {tls}"));
        assert!(
            told.contains("InboundPolicy/shop/b: spec.tls: InboundPolicy/shop/a selects port 1"),
            "{told}"
        );
        let told = conflict("0-b", &format!("tls: {tls}"));
        assert!(
            told.contains("InboundPolicy/shop/a: spec.tls: InboundPolicy/shop/0-b selects every port"),
            "{told}"
        );
    }
    // By other words, so it shows only where both select.
    let other = "workloads: { labels: { app: mail } }, ports: [2], tls: { certFile: d, keyFile: k }";
    let documents = documents(&(one.clone() + &tls_policy("b", other)));
    assert!(documents.compile(&checkout()).is_ok());
    let problems = documents.compile(&self::other()).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
}

#[test]
fn documents_of_two_folders_mean_two_files() {
    let source = |file: &str, name: &str| {
        let text = tls_policy(name, "tls: { certFile: c, keyFile: k }");
        source::split(file, text.trim_end_matches("---\n").as_bytes()).unwrap()
    };
    let both = |one: &str, two: &str| Documents::parse([source(one, "a"), source(two, "b")].concat());
    assert!(both("p/a.yaml", "p/b.yaml").is_ok());
    assert!(both("p/a.yaml", "q/b.yaml").is_err());
}

/// An inbound policy with these tokens and rules, and what is wrong with it.
fn wrong_with(tokens: &str, rules: &str) -> String {
    let text = format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: Issuer\nmetadata: {{ name: corp }}\nspec: {{ issuer: https://i.test }}\n---\n\
         apiVersion: countersign.dev/v1alpha1\nkind: InboundPolicy\nmetadata: {{ name: p, namespace: shop }}\nspec:\n  \
         tokens: {tokens}\n  rules: {rules}\n"
    );
    let problems =
        Documents::parse(source::split("a.yaml", text.as_bytes()).unwrap()).err().unwrap_or_default();
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Whose tokens are accepted, and for whom, is said together or not at all.
#[test]
fn in_9_an_issuer_without_an_audience_is_refused() {
    const RULES: &str = "[{ name: r, from: {} }]";
    assert_eq!(wrong_with("[{ issuer: corp, audiences: [a] }]", RULES), "");
    for tokens in
        ["[{ issuer: corp }]", "[{ issuer: corp, audiences: [] }]", "[{ issuer: corp, audiences: [''] }]"]
    {
        let said = wrong_with(tokens, RULES);
        assert!(said.contains("a.yaml:") && said.contains("audiences"), "{tokens}: {said}");
    }
}

/// Also where the document could not be read into a type.
#[test]
fn an_error_of_shape_names_its_document() {
    let head =
        "apiVersion: countersign.dev/v1alpha1\nkind: InboundPolicy\nmetadata: { name: p, namespace: shop }\n";
    let said = |text: &str| {
        let problems =
            Documents::parse(source::split("a.yaml", text.as_bytes()).unwrap()).err().unwrap_or_default();
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    for (spec, expected) in [
        (
            "  rules:\n  - { name: a, name: b }\n",
            "a.yaml:6: InboundPolicy/shop/p: spec.rules[0].name: is written twice",
        ),
        ("  rules:\n", "a.yaml:5: InboundPolicy/shop/p: spec.rules: has no value"),
        ("  rules: !x []\n", "a.yaml:5: InboundPolicy/shop/p: spec.rules: YAML tags are not supported"),
        ("\trules: []\n", "a.yaml:5: InboundPolicy/shop/p: a tab cannot indent YAML"),
    ] {
        let said = said(&format!("{head}spec:\n{spec}"));
        assert!(said.starts_with(expected) && said.lines().count() == 1, "{said}");
    }
    // Where it has no name yet, or not one only, none is made up.
    for head in ["kind: InboundPolicy\nspec:\n  rules:\n", "{ kind: InboundPolicy, spec: }"] {
        assert!(
            said(head).starts_with("a.yaml:") && !said(head).contains("InboundPolicy/"),
            "{}",
            said(head)
        );
    }
    let twice = format!("{head}kind: Issuer\nspec: {{}}\n");
    assert!(said(&twice).starts_with("a.yaml:4: kind: is written twice"), "{}", said(&twice));
}

/// Written without a value, it is not left out.
#[test]
fn a_namespace_without_a_value_is_not_the_default() {
    let text = |namespace: &str| {
        format!(
            "apiVersion: countersign.dev/v1alpha1\nkind: InboundPolicy\nmetadata:\n  name: p\n{namespace}  creationTimestamp: null\n\
             spec: {{ rules: [{{ name: d, effect: deny }}] }}\n"
        )
    };
    let problems = |namespace: &str| {
        Documents::parse(source::split("a.yaml", text(namespace).as_bytes()).unwrap())
            .err()
            .unwrap_or_default()
    };
    assert_eq!(problems(""), []);
    for namespace in ["  namespace:\n", "  namespace: ~\n", "  namespace: null\n"] {
        let problems = problems(namespace);
        assert!(
            problems[0].to_string().contains("a.yaml:5: metadata.namespace: has no value"),
            "{problems:?}"
        );
    }
}

#[test]
fn in_27_no_rule_looks_into_a_body() {
    for word in ["body", "json", "form", "query"] {
        let said = wrong_with(
            "[{ issuer: corp, audiences: [a] }]",
            &format!("[{{ name: r, to: {{ {word}: {{ a: b }} }}, from: {{}} }}]"),
        );
        let expected =
            format!(": spec.rules[0].to.{word}: unknown field, expected one of `methods`, `paths`,");
        assert!(said.contains(&expected) && said.lines().count() == 1, "{word}: {said}");
    }
}
