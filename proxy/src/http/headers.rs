//! Which header fields pass? Hop-by-hop fields and spoofed identity are removed, identity is set.

use countersign_policy::Reason;
use countersign_policy::inbound::ClaimSource;
use countersign_policy::request::{Binding, Peer, Token};
use http::header::{AUTHORIZATION, CONNECTION, HeaderMap, HeaderName, HeaderValue, TE};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::Value;

use crate::auth::credentials::{self, DPOP};

/// Removes what belongs to one connection (RFC 9110 §7.6.1). A `Connection` that names a field with a meaning of its own
/// is an attempt to have it removed: `bad_request` (security IN-17).
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) -> Result<(), Reason> {
    let mut named = Vec::new();
    for value in headers.get_all(CONNECTION) {
        for name in value.to_str().map_err(|_| Reason::BadRequest)?.split(',') {
            let name = name.trim();
            if name.is_empty()
                || name.eq_ignore_ascii_case("close")
                || name.eq_ignore_ascii_case("keep-alive")
            {
                continue;
            }
            let name: HeaderName = name.parse().map_err(|_| Reason::BadRequest)?;
            if is_protected(&name) {
                return Err(Reason::BadRequest);
            }
            named.push(name);
        }
    }
    let keeps_trailers = headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    named.extend(headers.keys().filter(|name| is_hop_by_hop(name)).cloned());
    for name in named {
        headers.remove(name);
    }
    if keeps_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    Ok(())
}

/// Of one connection only (RFC 9110 §7.6.1), whether or not `Connection` says so.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "transfer-encoding"
            | "upgrade"
            | "te"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "http2-settings"
    )
}

/// May a `Connection` header not nominate this field?
fn is_protected(name: &HeaderName) -> bool {
    // In every spelling that an application could take for it, as in `strip_identity`.
    let name = name.as_str().replace('_', "-");
    let name = name.as_str();
    const PROTECTED: [&str; 10] = [
        "authorization",
        "host",
        "cookie",
        "forwarded",
        "traceparent",
        "tracestate",
        "via",
        "origin",
        "dpop",
        "expect",
    ];
    PROTECTED.contains(&name) || ["x-", "content-", "sec-"].iter().any(|prefix| name.starts_with(prefix))
}

/// Removes every spelling of these identity headers: any case, `_` for `-` (semantics 1).
pub(crate) fn strip_identity(headers: &mut HeaderMap, names: &[String]) {
    if names.is_empty() {
        return;
    }
    // Two cheap passes: nearly no request has a name to remove that is not spelled with `-`.
    for name in names {
        headers.remove(name.as_str());
    }
    if headers.keys().any(|name| name.as_str().contains('_')) {
        let spoofed: Vec<HeaderName> =
            headers.keys().filter(|name| names.iter().any(|own| same(own, name.as_str()))).cloned().collect();
        for name in spoofed {
            headers.remove(name);
        }
    }
}

/// Removes every field with `_` in its name, and says how many lines that were (security IN-18).
pub(crate) fn strip_underscored(headers: &mut HeaderMap) -> u64 {
    let is_underscored = |name: &HeaderName| name.as_str().contains('_');
    if !headers.keys().any(is_underscored) {
        return 0;
    }
    let before = headers.len();
    let names: Vec<HeaderName> = headers.keys().filter(|name| is_underscored(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
    u64::try_from(before - headers.len()).unwrap_or(u64::MAX)
}

/// What is removed from a caller's fields, its trailers too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stripped<'a> {
    /// The identity headers of the port.
    pub(crate) identity: &'a [String],
    /// Every name with `_`.
    pub(crate) underscored: bool,
}

fn same(own: &str, name: &str) -> bool {
    own.len() == name.len() && own.bytes().zip(name.bytes()).all(|(a, b)| a == b || (a == b'-' && b == b'_'))
}

/// Removes the credential, with the proof that came with it.
pub(crate) fn strip_credential(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    headers.remove(DPOP);
}

/// Removes a proof that nobody looked at, since the token beside it is not bound to a key.
pub(crate) fn strip_stray_proof(headers: &mut HeaderMap, binding: &Binding) {
    if !matches!(binding, Binding::Key(_)) {
        headers.remove(DPOP);
    }
}

/// Removes a Bearer or DPoP credential that nobody verified; other schemes are the application's own (semantics 5c), and so is
/// a proof without such a credential: an authorization server asks for one (RFC 9449 §5).
pub(crate) fn strip_unverified(headers: &mut HeaderMap) {
    let ours = |value: &HeaderValue| credentials::names_ours(value.as_bytes());
    if headers.get_all(AUTHORIZATION).iter().any(ours) {
        strip_credential(headers);
    }
}

/// Sets the identity headers from what was verified. What the token does not have is not set.
pub(crate) fn set_identity(
    headers: &mut HeaderMap,
    forward: &[(String, ClaimSource)],
    token: Option<&Token>,
    peer: Option<&Peer>,
) {
    for (name, source) in forward {
        let value = match source {
            ClaimSource::Peer => peer.and_then(|peer| peer.id.as_deref()).map(encode),
            source => token.and_then(|token| claim(token, source)),
        };
        let Some(value) = value else { continue };
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
}

fn claim(token: &Token, source: &ClaimSource) -> Option<String> {
    match source {
        ClaimSource::Client => token.client.as_deref().map(encode),
        ClaimSource::Subject => token.subject.as_deref().map(encode),
        ClaimSource::Scopes => list(token.scopes.iter().map(String::as_str), " "),
        ClaimSource::Roles => list(token.roles.iter().map(String::as_str), ","),
        ClaimSource::Claim(name) => plain(token.claims.get(name)?),
        ClaimSource::Peer => None,
    }
}

/// Strings, numbers, booleans and lists of strings have a plain form; anything else is not forwarded.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(encode(text)),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Array(values) => {
            let texts = values.iter().map(Value::as_str).collect::<Option<Vec<_>>>()?;
            list(texts.into_iter(), ",")
        }
        Value::Null | Value::Object(_) => None,
    }
}

fn list<'a>(values: impl Iterator<Item = &'a str>, separator: &str) -> Option<String> {
    let encoded: Vec<String> = values.map(encode).collect();
    (!encoded.is_empty()).then(|| encoded.join(separator))
}

/// Percent-encodes everything that could end a value, a list item or a line (security IN-18).
fn encode(text: &str) -> String {
    const UNSAFE: &AsciiSet = &CONTROLS.add(b' ').add(b',').add(b';').add(b'"').add(b'\\').add(b'%');
    utf8_percent_encode(text, UNSAFE).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        fields.iter().map(field).collect()
    }

    #[test]
    fn in_17_connection_names_no_field_with_a_meaning() {
        for name in [
            "authorization",
            "Host",
            "x-client-id",
            "x_client_id",
            "TraceParent",
            "a b",
            "content-length, close",
            "Content-Encoding",
        ] {
            let mut map = HeaderMap::new();
            map.insert(CONNECTION, HeaderValue::from_str(name).unwrap());
            assert_eq!(strip_hop_by_hop(&mut map), Err(Reason::BadRequest), "{name}");
        }
    }

    #[test]
    fn in_16_hop_by_hop_fields_go_and_te_trailers_stays() {
        let mut map = headers(&[
            ("connection", "close, te, other"),
            ("te", "trailers"),
            ("other", "1"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "Basic eDp5"),
            ("keep-alive", "timeout=5"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut map).unwrap();
        assert_eq!(map, headers(&[("te", "trailers"), ("accept", "*/*")]));
    }

    #[test]
    fn v34_in_18_spoofed_identity_goes_however_it_is_spelled() {
        let mut map = headers(&[
            ("x-client-id", "a"),
            ("x_client_id", "b"),
            ("x-client_id", "c"),
            ("x-client-idx", "d"),
        ]);
        strip_identity(&mut map, &["x-client-id".to_owned()]);
        assert_eq!(map, headers(&[("x-client-idx", "d")]));
    }

    #[test]
    fn in_18_fields_with_an_underscore_go_and_are_counted() {
        let mut map =
            headers(&[("x_a", "1"), ("content_length", "7"), ("x-a", "2"), ("_", "3"), ("accept", "*/*")]);
        map.append("x_a", HeaderValue::from_static("4"));
        assert_eq!(strip_underscored(&mut map), 4, "every line counts");
        assert_eq!(map, headers(&[("x-a", "2"), ("accept", "*/*")]));
        assert_eq!(strip_underscored(&mut map), 0);
    }

    #[test]
    fn a_credential_that_was_not_verified_is_not_forwarded() {
        for (value, stays) in [
            ("Bearer x", false),
            ("bearer x", false),
            ("DPoP x", false),
            ("Bearer", false),
            ("Bearer\tx", false),
            ("Basic x, Bearer y", false),
            ("Basic x,bearer y", false),
            ("Basic x, bearer", false),
            ("Basic x", true),
            ("Bearerish x", true),
        ] {
            let mut map = headers(&[("authorization", value), ("dpop", "a.b.c")]);
            strip_unverified(&mut map);
            assert_eq!(map.contains_key(AUTHORIZATION), stays, "{value}");
            assert_eq!(map.contains_key("dpop"), stays, "{value}");
        }
        let mut map = headers(&[("dpop", "a.b.c")]);
        strip_unverified(&mut map);
        assert!(map.contains_key("dpop"), "without a token it is no credential for us");
    }

    #[test]
    fn a_proof_goes_on_with_the_token_that_it_was_for() {
        let after = |binding: Binding| {
            let mut map = headers(&[("authorization", "DPoP x"), ("dpop", "a.b.c")]);
            strip_stray_proof(&mut map, &binding);
            assert!(map.contains_key(AUTHORIZATION));
            map.contains_key("dpop")
        };
        assert!(after(Binding::Key("k".to_owned())));
        assert!(!after(Binding::None) && !after(Binding::Certificate([7; 32])));
    }

    #[test]
    fn claims_cannot_inject() {
        assert_eq!(encode("a\r\nb: c,d%\"é"), "a%0D%0Ab:%20c%2Cd%25%22%C3%A9");
        assert_eq!(plain(&serde_json::json!(["a,b", "c"])).unwrap(), "a%2Cb,c");
        assert_eq!(plain(&serde_json::json!({"a": 1})), None);
        assert_eq!(plain(&serde_json::json!(7)).unwrap(), "7");
    }
}
