//! Is any text safe to read as a condition? One call that reads, checks and evaluates it on a fixed request, for fuzzing and
//! for tools that have no policy around it.

use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use crate::inbound::PortProtocol;
use crate::path::{CanonicalPath, PathPattern};
use crate::request::{AccessRequest, Peer, Presented, Principal};

use super::{Condition, Known, Subject};

/// Reads and checks the text as the condition of a rule with the pattern `/orders/{id}/*`, and evaluates it on a request with
/// and on one without claims. Fails with the first problem.
pub fn check(text: &str) -> Result<(), String> {
    let patterns: Vec<_> = PathPattern::parse("/orders/{id}/*").into_iter().collect();
    let known = Known { no_claims: None, protocol: PortProtocol::Http, patterns: &patterns, set: &[] };
    let condition =
        Condition::parse(text, &known).map_err(|problems| problems.into_iter().next().unwrap_or_default())?;
    let path = CanonicalPath::parse("/orders/a%40b/items").ok_or("no path")?;
    let peer = Peer { id: Some("spiffe://cluster.local/ns/shop/sa/checkout".into()), thumbprint: [0; 32] };
    let mut headers = HeaderMap::new();
    headers.insert("x-tenant", HeaderValue::from_static("acme"));
    for value in ["1", "2"] {
        headers.append(HeaderName::from_static("x-twice"), HeaderValue::from_static(value));
    }
    let request = AccessRequest {
        principal: Principal { token: Presented::Nothing, peer: Some(&peer) },
        method: "GET",
        path: &path,
        host: "orders.shop",
        headers: &headers,
        grpc: false,
        source: IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let claims = claims();
    for claims in [Some(&claims), None] {
        let subject = Subject { request: &request, claims, patterns: &patterns };
        let _ = condition.holds(&subject);
    }
    Ok(())
}

/// One of each kind, and the largest and smallest of some.
fn claims() -> Map<String, Value> {
    let claims = json!({
        "sub": "ü", "tier": "gold", "n": 1, "big": u64::MAX, "least": i64::MIN, "most": i64::MAX, "x": 1.5, "huge": 1e308,
        "yes": true, "none": null, "list": ["a", 1, null, ["b"]], "empty": [], "map": { "a": { "b": "c" } }, "text": "12",
    });
    match claims {
        Value::Object(claims) => claims,
        _ => Map::new(),
    }
}
