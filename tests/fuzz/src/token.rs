//! A credential. What nobody signed is never accepted; what was signed is accepted only if it says, read by another parser,
//! what the sidecar understood.

use std::time::{SystemTime, UNIX_EPOCH};

use countersign_policy::path::CanonicalPath;
use countersign_policy::request::{AccessRequest, Presented, Principal};
use countersign_policy::{Profile, Token};
use countersign_proxy::auth::credentials::{self, Shown};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use serde_json::Value;

use crate::sidecar::{PORT, PROFILES, SIDECAR, issuer};

/// The first byte says what follows: `r` (or anything else) the value of an `Authorization` field as it is, `e` and `p` a
/// header and claims, a line each, that are signed with Ed25519 and P-256.
pub fn check(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind {
        b'e' | b'p' => signed(rest, *kind == b'p'),
        _ => raw(rest),
    }
}

/// Nobody knows the private key, so no value is a token.
fn raw(value: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(value) else { return };
    let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
    let Ok(Shown::Bearer(token) | Shown::Dpop { token, .. }) = credentials::read(&headers, Some("a=b"))
    else {
        return;
    };
    assert!(SIDECAR.verify(token).is_err(), "forged: {token}");
}

fn signed(data: &[u8], with_p256: bool) {
    let (header, claims) = data.split_at(data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len()));
    let claims = claims.get(1..).unwrap_or_default();
    let text = SIDECAR.sign(header, claims, with_p256);
    let first = SIDECAR.verify(&text);
    assert_eq!(first, SIDECAR.verify(&text), "the caches say what the verifier says");
    let Ok(token) = first else { return };
    let header: Value = serde_json::from_slice(header).expect("the header is JSON");
    let read: Value = serde_json::from_slice(claims).expect("claims are JSON");
    assert!(header.get("crit").is_none() && header.get("b64").is_none() && header.get("zip").is_none());
    assert_eq!(Value::Object(token.claims.clone()), read, "policy sees what was signed");
    understood(&token, &header);
    decided(&token);
}

/// Issuer, type, audience and times, judged once more.
fn understood(token: &Token, header: &Value) {
    let claims = &token.claims;
    let profile = Profile::ALL.iter().find(|profile| issuer(profile.as_str()) == *token.issuer);
    let profile = *profile.expect("the issuer is one of ours");
    assert!(PROFILES.contains(&profile.as_str()));
    match claims.get("iss") {
        None => assert_eq!(profile, Profile::JwtSvid, "only JWT-SVIDs do without"),
        Some(iss) => assert_eq!(iss.as_str(), Some(&*token.issuer)),
    }
    assert!(profile.accepts_type(header.get("typ").map(|typ| typ.as_str().expect("typ is a string"))));
    assert!(!token.audiences.is_empty());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock past 1970").as_secs_f64();
    let seconds = |name: &str| claims.get(name).map(|date| date.as_f64().expect("a date is a number"));
    // The clock may have moved on since; the leeway is 30 s.
    assert!(seconds("exp").expect("exp is demanded") > now - 31.0);
    assert!(
        seconds("nbf").is_none_or(|nbf| nbf <= now + 31.0)
            && seconds("iat").is_none_or(|iat| iat < now + 31.0)
    );
}

/// Policy takes it, whatever is in it, and says no where the audience is another.
fn decided(token: &Token) {
    let port = SIDECAR.snapshot.inbound(PORT).expect("the policy selects the port");
    let policies = port.enforce.as_ref().expect("it is enforced");
    let (headers, path) = (HeaderMap::new(), CanonicalPath::parse("/orders").expect("it is canonical"));
    let decision = policies.decide(&AccessRequest {
        principal: Principal { token: Presented::Verified(token), peer: None },
        method: "GET",
        path: &path,
        host: "orders.shop",
        headers: &headers,
        grpc: false,
        source: [127, 0, 0, 1].into(),
    });
    let ours = token.audiences.iter().any(|audience| audience == "https://orders.shop");
    assert_eq!(matches!(decision, countersign_policy::Decision::Allow { .. }), ours);
}
