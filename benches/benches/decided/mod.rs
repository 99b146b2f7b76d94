//! What do benchmarks of decisions decide? Policies, a request and its token, as the tables of the contract have them.

#![allow(clippy::expect_used, reason = "without its surroundings there is nothing to measure")]

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use countersign_policy::inbound::Policies;
use countersign_policy::path::CanonicalPath;
use countersign_policy::request::{Binding, Presented};
use countersign_policy::{AccessRequest, Documents, Principal, Snapshot, Token, Workload, source};
use http::HeaderMap;
use serde_json::{Map, Value, json};

/// A policy of this many allow rules, each for a method, a path with all below it, and a scope.
pub(crate) fn rules(rules: usize) -> Snapshot {
    let mut text = String::new();
    for rule in 0..rules {
        writeln!(
            text,
            "  - {{ name: rule-{rule}, to: {{ methods: [GET], paths: [\"/things-{rule}/*\"] }}, from: {{ scopes: [\"orders:read\"] }} }}"
        )
        .expect("a string takes what is written");
    }
    of_rules(&text)
}

/// A policy of these rules, as written.
pub(crate) fn of_rules(rules: &str) -> Snapshot {
    let head = String::from(
        "apiVersion: countersign.dev/v1alpha1\nkind: Issuer\nmetadata: { name: corp }\nspec: { issuer: https://issuer.example }\n---\n\
         apiVersion: countersign.dev/v1alpha1\nkind: InboundPolicy\nmetadata: { name: orders, namespace: shop }\nspec:\n  \
         tokens: [{ issuer: corp, audiences: [https://orders.shop] }]\n  rules:\n",
    );
    let sources = source::split("orders.yaml", (head + rules).as_bytes()).expect("documents in order");
    let workload = Workload { namespace: "shop".into(), name: "orders".into(), ..Workload::default() };
    Documents::parse(sources).and_then(|documents| documents.compile(&workload)).expect("a policy in order")
}

/// Asks for a path, with a token.
pub(crate) fn request<'a>(
    token: &'a Token,
    path: &'a CanonicalPath<'a>,
    headers: &'a HeaderMap,
) -> AccessRequest<'a> {
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

/// With a few claims.
pub(crate) fn token() -> Token {
    Token {
        introspected: false,
        issuer: Arc::from("https://issuer.example"),
        audiences: vec!["https://orders.shop".into()],
        subject: Some("checkout".into()),
        client: Some("checkout".into()),
        scopes: vec!["orders:read".into(), "orders:write".into()],
        roles: vec![],
        claims: claims(),
        issued_at: None,
        not_before: None,
        expires_at: i64::MAX,
        binding: Binding::None,
    }
}

fn claims() -> Map<String, Value> {
    let claims = json!({
        "iss": "https://issuer.example", "sub": "checkout", "aud": "https://orders.shop", "exp": 4_102_444_800_i64,
        "iat": 1_700_000_000, "jti": "6f1c9a", "client_id": "checkout", "scope": "orders:read orders:write",
        "tenant": "acme", "tier": "gold",
    });
    claims.as_object().cloned().unwrap_or_default()
}

/// Those of the one port.
pub(crate) fn policies(snapshot: &Snapshot) -> &Policies {
    let port = snapshot.inbound(8080).expect("the policy selects every port");
    port.enforce.as_ref().expect("the policy is enforced")
}
