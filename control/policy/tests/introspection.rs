//! What does a workload get of an issuer that is asked about opaque tokens (RFC 7662), and what does its port say of itself
//! (RFC 9728)? From the text of documents to the snapshot.

#![allow(clippy::unwrap_used, reason = "a test may fail so")]

use countersign_policy::snapshot::Introspection;
use countersign_policy::{Documents, Snapshot, Workload, source};

const DOCUMENTS: &str = r#"
apiVersion: countersign.dev/v1alpha1
kind: Issuer
metadata: { name: corp }
spec: { issuer: https://login.example.com, introspectionEndpoint: "https://login.example.com/introspect?tenant=acme" }
---
apiVersion: countersign.dev/v1alpha1
kind: Issuer
metadata: { name: partner }
spec: { issuer: https://partner.example.com }
---
apiVersion: countersign.dev/v1alpha1
kind: Credential
metadata: { name: orders, namespace: shop }
spec:
  issuer: corp
  clientId: "{namespace}-orders"
  authentication: { clientSecretBasic: { secretFile: secret } }
---
apiVersion: countersign.dev/v1alpha1
kind: Credential
metadata: { name: unused, namespace: shop }
spec: { issuer: partner, clientId: x, authentication: { clientSecretBasic: { secretFile: secret } } }
---
apiVersion: countersign.dev/v1alpha1
kind: InboundPolicy
metadata: { name: orders, namespace: shop }
spec:
  ports: [8080]
  resourceMetadata: true
  tls: { certFile: tls.crt, keyFile: tls.key, clientCaFile: ca.crt, clientAuth: optional }
  tokens:
  - { issuer: corp, audiences: ["https://orders.shop/v1", orders], introspect: { credential: orders } }
  - { issuer: partner, audiences: [orders] }
  rules:
  - { name: read, to: { methods: [GET] }, from: { scopes: [orders:read] } }
  - { name: write, to: { methods: [PUT] }, from: { scopes: [orders:write, orders:read] } }
  - { name: next, shadow: true, to: { methods: [POST] }, from: { scopes: [orders:soon] } }
  - { name: not-these, effect: deny, from: { scopes: [orders:banned] } }
---
apiVersion: countersign.dev/v1alpha1
kind: InboundPolicy
metadata: { name: elsewhere, namespace: shop }
spec:
  ports: [9090]
  tokens: [{ issuer: corp, audiences: ["https://else.shop"], binding: required, introspect: { credential: orders } }]
  rules: [{ name: all, from: {} }]
---
apiVersion: countersign.dev/v1alpha1
kind: InboundPolicy
metadata: { name: bound, namespace: shop }
spec:
  ports: [7070]
  resourceMetadata: true
  tokens: [{ issuer: corp, audiences: ["https://bound.shop"], binding: required }]
  rules: [{ name: all, from: {} }]
"#;

fn documents(text: &str) -> Documents {
    Documents::parse(source::split("policy.yaml", text.as_bytes()).unwrap()).unwrap()
}

fn workload() -> Workload {
    Workload { namespace: "shop".to_owned(), name: "orders".to_owned(), ..Workload::default() }
}

fn snapshot(text: &str) -> Snapshot {
    documents(text).compile(&workload()).unwrap()
}

fn introspections(text: &str) -> Vec<Introspection> {
    snapshot(text).introspections
}

#[test]
fn in_2_a_port_has_one_issuer_of_opaque_tokens_and_ports_share_it() {
    let snapshot = snapshot(DOCUMENTS);
    let [introspection] = snapshot.introspections.as_slice() else { panic!("{:?}", snapshot.introspections) };
    let issuer = &snapshot.issuers[introspection.issuer.0];
    let endpoint = issuer.introspection_endpoint.as_deref();
    assert_eq!((&*issuer.name, endpoint), ("corp", Some("https://login.example.com/introspect?tenant=acme")));
    assert_eq!(snapshot.credentials[introspection.credential.0].client_id, "shop-orders");
    assert!(
        snapshot.accepted_issuers().len() > introspection.issuer.0,
        "its keys may be needed for JWT answers"
    );
    for (port, asks) in [(8080, true), (9090, true), (7070, false)] {
        let port = snapshot.inbound(port).unwrap();
        assert_eq!(port.introspection.map(|id| id.0), asks.then_some(0));
    }
}

/// A credential that only an inbound policy names is among what a control plane shows to the workload, and others are not.
#[test]
fn the_credential_travels_with_the_policy() {
    let sources = documents(DOCUMENTS).select(&workload());
    let has = |name: &str| {
        sources.iter().any(|source| source.text.contains(&format!("name: {name}, namespace: shop")))
    };
    assert!(has("orders") && !has("unused"));
    let again = Documents::parse(sources).unwrap().compile(&workload()).unwrap();
    assert_eq!(again.introspections.len(), 1);
}

#[test]
fn what_the_issuer_said_is_kept_as_long_as_endpoint_and_credential_are_the_same() {
    let key = |text: &str| introspections(text)[0].key;
    let base = key(DOCUMENTS);
    assert_eq!(key(&DOCUMENTS.replace("orders:read", "orders:other")), base, "an edit elsewhere");
    for (from, to) in [
        ("introspect?tenant=acme", "introspect?tenant=other"),
        ("clientId: \"{namespace}-orders\"", "clientId: another"),
        (
            "clientSecretBasic: { secretFile: secret } }\n---",
            "clientSecretPost: { secretFile: secret } }\n---",
        ),
        ("introspect?tenant=acme\" }", "introspect?tenant=acme\", leeway: 5s }"),
    ] {
        let changed = DOCUMENTS.replacen(from, to, 1);
        assert_ne!(changed, DOCUMENTS, "{from}");
        assert_ne!(key(&changed), base, "{to}");
    }
}

#[test]
fn v36_metadata_says_what_policy_says() {
    let snapshot = snapshot(DOCUMENTS);
    let of = |port: u16| snapshot.inbound(port).unwrap().resource.clone();
    let orders = of(8080).unwrap();
    assert_eq!(orders.resource, "https://orders.shop/v1");
    assert_eq!(orders.metadata_url, "https://orders.shop/.well-known/oauth-protected-resource/v1");
    assert_eq!(orders.metadata_path, "/.well-known/oauth-protected-resource/v1");
    // The partner's tokens are for another audience, which no metadata can name.
    assert_eq!(
        orders.authorization_servers.iter().map(|iss| &**iss).collect::<Vec<_>>(),
        ["https://login.example.com"]
    );
    assert_eq!(orders.scopes, ["orders:read", "orders:write"]);
    assert!(orders.certificates && !orders.demands_dpop);

    assert_eq!(of(9090), None);
    assert!(snapshot.inbound(9090).unwrap().wants_bound && !snapshot.inbound(8080).unwrap().wants_bound);
    let bound = of(7070).unwrap();
    assert!(!bound.certificates && bound.demands_dpop && bound.scopes.is_empty());
}
