//! May an application get this request? Judged once more, by what policy means and not by how it is enforced.

use serde_json::json;

use super::{HOST, Request};
use crate::sidecar::{SIDECAR, document, ed25519_jwk, issuer};

/// What the good token says.
pub(super) const CLIENT: &str = "fuzz";
pub(super) const TENANT: &str = "acme";
/// Where everybody may go.
pub(super) const PUBLIC: [&str; 5] = ["/", "/a", "/x", "/behind", "/public/*"];

/// What [`admitted`] holds requests to.
pub(super) fn policy(port: u16) -> String {
    let tokens = json!([{"issuer": "corp", "audiences": ["https://orders.shop"]}]);
    let rules = json!([
        {"name": "public", "public": true, "to": {"paths": PUBLIC}},
        {"name": "read", "to": {"paths": ["/orders", "/orders/*"]}, "from": {"scopes": ["orders:read"]}},
        {"name": "admin", "to": {"paths": ["/admin/*"]}, "from": {"roles": ["admin"]}},
        {"name": "closed", "effect": "deny", "to": {"paths": ["/orders/secret", "/orders/secret/*"]}},
    ]);
    let kept = json!([{"name": "read", "to": {"paths": ["/kept/*"]}, "from": {"scopes": ["orders:read"]}}]);
    let rule = json!({
        "name": "all", "to": {"hosts": [HOST], "ports": [port]}, "tls": "none", "protocol": "http1",
    });
    let keys = json!({"keys": [ed25519_jwk(&SIDECAR.ed25519)]});
    [
        document("Issuer", "corp", &json!({"issuer": issuer("rfc9068"), "jwks": {"inline": keys}})),
        document(
            "InboundPolicy",
            "orders",
            &json!({
                "ports": [port], "tokens": tokens, "rules": rules, "forwardToken": "strip",
                "forwardClaims": {"X-Client-Id": "@client", "X-Tenant": "tenant"},
            }),
        ),
        document(
            "InboundPolicy",
            "kept",
            &json!({
                "ports": [port], "tokens": tokens, "rules": kept, "forwardToken": "keep",
            }),
        ),
        document("OutboundPolicy", "orders", &json!({"rules": [rule]})),
    ]
    .concat()
}

/// Whom a path is for.
#[derive(Debug, PartialEq, Eq)]
enum Door {
    Everybody,
    /// Callers with a good token, which does not go on.
    Verified,
    /// The same, and it does.
    Kept,
}

/// Panics where it is not what policy allows, or not what the sidecar makes of it.
pub(super) fn admitted(request: &Request, token: &str) {
    let path = request.target.split('?').next().unwrap_or_default();
    let door = door(path);
    assert!(door.is_some(), "nobody may ask for this: {request:?}");
    let all = |wanted: &str| values(&request.fields, wanted);
    let ours = if door == Some(Door::Verified) { (vec![CLIENT], vec![TENANT]) } else { (vec![], vec![]) };
    assert_eq!((all("x-client-id"), all("x-tenant")), ours, "identity: {request:?}");
    let shown = all("authorization");
    match door {
        None | Some(Door::Everybody) => {
            let is_ours = |value: &&str| {
                let scheme = value.trim_start().split([' ', '\t', ',']).next().unwrap_or_default();
                ["bearer", "dpop"].iter().any(|ours| scheme.eq_ignore_ascii_case(ours))
            };
            assert!(!shown.iter().any(is_ours), "a credential that nobody verified: {request:?}");
        }
        Some(Door::Verified) => {
            assert!(shown.is_empty() && all("dpop").is_empty(), "a credential: {request:?}")
        }
        Some(Door::Kept) => {
            let is_it = |value: &&str| value.split_once(' ').is_some_and(|(_, shown)| shown.trim() == token);
            assert!(shown.len() == 1 && shown.iter().all(is_it), "the credential: {request:?}");
        }
    }
    form(request);
}

/// What holds in every version of HTTP; of HTTP/1.1 a parser has said it before.
fn form(request: &Request) {
    let Request { method, fields, trailers, .. } = request;
    assert!(!matches!(method.as_str(), "CONNECT" | "TRACE" | ""), "the method: {request:?}");
    assert_eq!(named(fields, "host"), 1, "one host: {request:?}");
    let is_host = |host: &&str| {
        !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._~:[]".contains(c))
    };
    assert!(values(fields, "host").iter().all(is_host), "the host: {request:?}");
    let is_upgrade = values(fields, "upgrade") == ["websocket"];
    for (name, value) in fields {
        let may_pass = match name.as_str() {
            "connection" => is_upgrade && value == "Upgrade",
            "upgrade" => is_upgrade,
            "te" => value == "trailers",
            name => !HOP.contains(&name) && !name.contains('_'),
        };
        assert!(may_pass, "the field {name}: {request:?}");
        assert!(
            !value.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0)),
            "the value of {name}: {request:?}"
        );
    }
    for name in
        ["x-client-id", "x-tenant", "authorization", "dpop", "host", "content-length", "transfer-encoding"]
    {
        assert_eq!(named(trailers, name), 0, "the trailer {name}: {request:?}");
    }
    assert!(
        named(fields, "content-length") + named(fields, "transfer-encoding") <= 1,
        "one framing: {request:?}"
    );
}

/// Read as a lenient application would: decoded, and with what leads elsewhere followed there.
fn door(path: &str) -> Option<Door> {
    let decoded = decoded(path);
    let mut segments = Vec::new();
    for segment in decoded.split(['/', '\\']) {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment.split(';').next().unwrap_or_default()),
        }
    }
    match segments[..] {
        [] | ["a" | "x" | "behind"] | ["public", ..] => Some(Door::Everybody),
        ["orders", "secret", ..] => None,
        ["orders", ..] => Some(Door::Verified),
        ["kept", ..] => Some(Door::Kept),
        _ => None,
    }
}

/// Each byte a character.
pub(crate) fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match digits {
            Some(byte) => {
                plain.push(char::from(byte));
                plain += part.get(2..).unwrap_or_default();
            }
            None => {
                plain.push('%');
                plain += part;
            }
        }
    }
    plain
}

/// Does the token open the door that this path is behind?
pub(crate) fn needs_token(request: &Request) -> bool {
    let path = request.target.split('?').next().unwrap_or_default();
    matches!(door(path), Some(Door::Verified | Door::Kept))
}

/// Every value of a field, in every spelling that an application may take for it.
fn values<'a>(fields: &'a [(String, String)], wanted: &str) -> Vec<&'a str> {
    let is_wanted = |name: &str| name.to_ascii_lowercase().replace('_', "-") == wanted;
    fields.iter().filter(|(name, _)| is_wanted(name)).map(|(_, value)| value.as_str()).collect()
}

fn named(fields: &[(String, String)], wanted: &str) -> usize {
    values(fields, wanted).len()
}

/// Of one connection only (RFC 9110 §7.6.1), and what a body of HTTP/2 does not have. `transfer-encoding` is counted elsewhere.
const HOP: [&str; 5] =
    ["keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "http2-settings"];

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, fields: &[(&str, &str)], trailers: &[(&str, &str)]) -> Request {
        let owned = |fields: &[(&str, &str)]| {
            fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let mut request =
            Request { method: "GET".to_owned(), target: target.to_owned(), ..Request::default() };
        (request.fields, request.trailers) = (owned(fields), owned(trailers));
        request
    }

    const HOST: (&str, &str) = ("host", crate::road::HOST);
    const OURS: [(&str, &str); 3] = [HOST, ("x-client-id", CLIENT), ("x-tenant", TENANT)];

    #[test]
    fn what_policy_allows_is_in_order() {
        for (target, fields) in [
            ("/public/a?b", &[HOST, ("authorization", "Basic x"), ("te", "trailers")][..]),
            ("/", &[HOST, ("connection", "Upgrade"), ("upgrade", "websocket")]),
            ("/orders/1", &OURS),
            ("/kept/1", &[HOST, ("authorization", "Bearer good")]),
        ] {
            admitted(&request(target, fields, &[("x-sum", "1")]), "good");
        }
    }

    #[test]
    fn what_policy_does_not_allow_is_found() {
        let with = |field| [&OURS[..], &[field]].concat();
        for (target, fields) in [
            ("/hidden", vec![HOST]),
            ("/admin/1", OURS.to_vec()),
            ("/orders/secret/1", OURS.to_vec()),
            ("/orders/%73ecret", OURS.to_vec()),
            ("/orders", vec![HOST]),
            ("/orders", with(("x_client_id", "admin"))),
            ("/orders", with(("x-tenant", TENANT))),
            ("/orders", with(("authorization", "Bearer good"))),
            ("/orders", with(("dpop", "a.b.c"))),
            ("/orders", with(HOST)),
            ("/orders", with(("te", "gzip"))),
            ("/orders", with(("keep-alive", "5"))),
            ("/orders", with(("connection", "close"))),
            ("/orders", with(("upgrade", "h2c"))),
            ("/orders", with(("a_b", "c"))),
            ("/orders", with(("a", "b\r\nc: d"))),
            ("/orders", [with(("content-length", "1")), vec![("transfer-encoding", "chunked")]].concat()),
            ("/public/a", vec![]),
            ("/public/a", OURS.to_vec()),
            ("/public/a", vec![HOST, ("authorization", "bearer x")]),
            ("/kept/1", vec![HOST]),
            ("/kept/1", vec![HOST, ("authorization", "Bearer other")]),
        ] {
            found(&request(target, &fields, &[]));
        }
        for trailer in [("x-client-id", "admin"), ("Authorization", "Bearer good"), ("content_length", "1")] {
            found(&request("/orders", &OURS, &[trailer]));
        }
    }

    fn found(request: &Request) {
        let judged = std::panic::catch_unwind(|| admitted(request, "good"));
        assert!(judged.is_err(), "{request:?}");
    }

    #[test]
    fn a_path_is_read_as_a_lenient_application_would() {
        for (path, expected) in [
            ("/", Some(Door::Everybody)),
            ("/public/x", Some(Door::Everybody)),
            ("/public/../orders", Some(Door::Verified)),
            ("//orders", Some(Door::Verified)),
            ("/orders/%73ecret", None),
            ("/public/%2e%2e%2forders/secret", None),
            ("/public\\..\\kept/1", Some(Door::Kept)),
            ("/admin/x", None),
            ("/orders;a=b", Some(Door::Verified)),
        ] {
            assert_eq!(door(path), expected, "{path}");
        }
    }
}
