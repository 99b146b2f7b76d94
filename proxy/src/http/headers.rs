//! Which header fields pass? Those that are judged, without what is a credential, and with identity as we know it.

pub(crate) use countersign_policy::headers::{
    Underscores, as_judged, is_grpc, is_hop_by_hop, is_websocket, strip_hop_by_hop, strip_identity,
    strip_underscored,
};
use countersign_policy::inbound::ClaimSource;
use countersign_policy::request::{Binding, Peer, Token};
use http::StatusCode;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use http::response;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::Value;

use crate::auth::credentials::{self, DPOP};
use crate::rejection::Cause;

/// What is removed from a caller's fields, its trailers too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stripped<'a> {
    /// The identity headers of the port.
    pub(crate) identity: &'a [String],
    pub(crate) underscores: Underscores,
}

/// Puts together what HTTP/2 may send in pieces, so that it is judged as applications read it (RFC 9113 §8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, cookie);
    }
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

/// Leaves the fields of an answer that go on, if its body can be read in one way only. Has it one? Without one its coding is that of
/// another answer (RFC 9112 §6.1), and nobody undoes it.
pub(super) fn answered(head: &mut response::Parts, is_head: bool) -> Result<bool, Cause> {
    let headers = &mut head.headers;
    let is_coded = headers.contains_key(TRANSFER_ENCODING);
    let has_body = !is_head && !matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if is_coded && has_body && !is_chunked(headers) {
        return Err(Cause::HttpProtocolError);
    }
    // It says where a body ends, and there is one without (RFC 9110 §8.6).
    if is_coded || head.status == StatusCode::NO_CONTENT {
        headers.remove(CONTENT_LENGTH);
    }
    one_length(headers)?;
    strip_hop_by_hop_of_answer(headers);
    Ok(has_body)
}

/// Is nothing behind the head of an answer that has no body (RFC 9112 §6.3)? If it says otherwise, what comes would answer the next
/// request on its connection. A 304 has the length of another answer.
pub(super) fn is_bare(head: &response::Parts) -> bool {
    let lengths = || head.headers.get_all(CONTENT_LENGTH).iter();
    match head.status {
        StatusCode::NO_CONTENT => {
            !head.headers.contains_key(TRANSFER_ENCODING) && lengths().all(|length| length.as_bytes() == b"0")
        }
        StatusCode::NOT_MODIFIED => !head.headers.contains_key(TRANSFER_ENCODING),
        _ => true,
    }
}

/// hyper undoes `chunked` where that is the last element of the last line, and nobody any other coding (RFC 9112 §6.1). Empty elements
/// before it mean nothing (RFC 9110 §5.6.1.2); behind it they would have hyper read until the connection ends.
fn is_chunked(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(TRANSFER_ENCODING).iter();
    let mut codings =
        lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    codings.find(|coding| !coding.is_empty()).is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked"))
        && codings.next().is_none()
}

/// Equal lengths become one (RFC 9110 §8.6).
fn one_length(headers: &mut HeaderMap) -> Result<(), Cause> {
    let is_number = |length: &[u8]| !length.is_empty() && length.iter().all(u8::is_ascii_digit);
    let lines = headers.get_all(CONTENT_LENGTH);
    let mut lengths =
        lines.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let Some(length) = lengths.next() else { return Ok(()) };
    let Some(second) = lengths.next() else {
        return if is_number(length) { Ok(()) } else { Err(Cause::HttpProtocolError) };
    };
    if !is_number(length) || second != length || lengths.any(|other| other != length) {
        return Err(Cause::HttpProtocolError);
    }
    let length = HeaderValue::from_bytes(length).map_err(|_| Cause::HttpProtocolError)?;
    headers.insert(CONTENT_LENGTH, length);
    Ok(())
}

/// Removes what belongs to the upstream's connection (RFC 9110 §7.6.1). The request has been carried out: nothing here is a reason
/// to say that it failed.
fn strip_hop_by_hop_of_answer(headers: &mut HeaderMap) {
    let names =
        headers.get_all(CONNECTION).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let mut named: Vec<HeaderName> = names
        .map(<[u8]>::trim_ascii)
        .filter(|name| !name.eq_ignore_ascii_case(b"close") && !name.eq_ignore_ascii_case(b"keep-alive"))
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .filter(|name| !is_for_all(name))
        .collect();
    named.extend(headers.keys().filter(|name| is_hop_by_hop(name)).cloned());
    for name in named {
        headers.remove(name);
    }
}

/// What is for all recipients may not be named by `Connection` (RFC 9110 §7.6.1), and stays: without it content would be read as something
/// else or be given to others, a session would be lost, or a browser would be told less of what it must not do.
fn is_for_all(name: &HeaderName) -> bool {
    let name = name.as_str();
    FOR_ALL.contains(&name) || FOR_ALL_BEGIN.iter().any(|begin| name.starts_with(begin))
}

const FOR_ALL_BEGIN: [&str; 3] = ["access-control-", "content-", "cross-origin-"];
/// Response fields of RFC 9110, 9111, 6265, 6797, 7034 and 8288, of Fetch and its neighbours.
const FOR_ALL: [&str; 25] = [
    "accept-ranges",
    "age",
    "allow",
    "authentication-info",
    "cache-control",
    "clear-site-data",
    "date",
    "dpop-nonce",
    "etag",
    "expires",
    "last-modified",
    "link",
    "location",
    "origin-agent-cluster",
    "permissions-policy",
    "proxy-status",
    "referrer-policy",
    "retry-after",
    "set-cookie",
    "strict-transport-security",
    "timing-allow-origin",
    "vary",
    "www-authenticate",
    "x-content-type-options",
    "x-frame-options",
];

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
    fn in_22_cookies_in_pieces_are_one() {
        let mut map = HeaderMap::new();
        for crumb in ["a=b", "c=d", "e"] {
            map.append(COOKIE, HeaderValue::from_static(crumb));
        }
        join_cookies(&mut map);
        assert_eq!(map, headers(&[("cookie", "a=b; c=d; e")]));
        join_cookies(&mut map);
        assert_eq!(map, headers(&[("cookie", "a=b; c=d; e")]));
    }

    #[test]
    fn claims_cannot_inject() {
        assert_eq!(encode("a\r\nb: c,d%\"é"), "a%0D%0Ab:%20c%2Cd%25%22%C3%A9");
        assert_eq!(plain(&serde_json::json!(["a,b", "c"])).unwrap(), "a%2Cb,c");
        assert_eq!(plain(&serde_json::json!({"a": 1})), None);
        assert_eq!(plain(&serde_json::json!(7)).unwrap(), "7");
    }
}
