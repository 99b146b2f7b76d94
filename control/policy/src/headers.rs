//! Which header fields are judged? Those that go on: without what belongs to one connection, what many applications would take
//! for another field, and what we set ourselves. The same for a request on the wire and for one that a test describes.

use std::str::FromStr;

use http::HeaderMap;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, TE, UPGRADE};

use crate::reason::Reason;

/// What becomes of inbound header fields with `_` in their names (security IN-18).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    /// They are removed, and counted.
    #[default]
    Drop,
    /// They are judged and forwarded, as gRPC metadata may need.
    Pass,
}

// === impl Underscores ===

impl FromStr for Underscores {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "drop" => Ok(Self::Drop),
            "pass" => Ok(Self::Pass),
            _ => Err("write drop or pass"),
        }
    }
}

/// Leaves the fields that are judged and forwarded on a port that sets these identity headers. Says how many lines went for
/// the `_` in their names.
pub fn as_judged(
    headers: &mut HeaderMap,
    underscores: Underscores,
    identity: &[String],
) -> Result<u64, Reason> {
    strip_hop_by_hop(headers)?;
    let dropped = match underscores {
        Underscores::Drop => strip_underscored(headers),
        Underscores::Pass => 0,
    };
    strip_identity(headers, identity);
    Ok(dropped)
}

/// Removes what belongs to one connection (RFC 9110 §7.6.1). A `Connection` that names a field with a meaning of its own
/// is an attempt to have it removed: `bad_request` (security IN-17).
pub fn strip_hop_by_hop(headers: &mut HeaderMap) -> Result<(), Reason> {
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
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
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
pub fn strip_identity(headers: &mut HeaderMap, names: &[String]) {
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
pub fn strip_underscored(headers: &mut HeaderMap) -> u64 {
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

fn same(own: &str, name: &str) -> bool {
    own.len() == name.len() && own.bytes().zip(name.bytes()).all(|(a, b)| a == b || (a == b'-' && b == b'_'))
}

/// `application/grpc`, alone or with a `+subtype` or `;parameter`, in any case (RFC 9110 §8.3.1). Several content types
/// are none.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(content_type), None) = (types.next(), types.next()) else { return false };
    let Some((front, rest)) = content_type.as_bytes().split_at_checked(GRPC.len()) else { return false };
    front.eq_ignore_ascii_case(GRPC) && rest.first().is_none_or(|byte| b"+; ".contains(byte))
}

/// Is WebSocket the one protocol that `Upgrade` names (RFC 6455 §4.2.1)?
pub fn is_websocket(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(UPGRADE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return false };
    line.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket")
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
    fn grpc_is_told_by_its_one_content_type() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_TYPE, HeaderValue::from_static(value));
            }
            is_grpc(&headers)
        };
        for yes in ["application/grpc", "Application/gRPC", "application/grpc+proto", "application/grpc; a=b"]
        {
            assert!(of(&[yes]), "{yes}");
        }
        for no in
            ["application/grpc-web+proto", "application/grpcs", "application/json", "application/grp", ""]
        {
            assert!(!of(&[no]), "{no}");
        }
        assert!(!of(&[]) && !of(&["application/grpc", "text/plain"]));
    }

    #[test]
    fn what_is_judged_is_what_goes_on() {
        let sent = || {
            headers(&[
                ("connection", "close, other"),
                ("other", "1"),
                ("upgrade", "foo"),
                ("x_a", "2"),
                ("x-a", "1"),
                ("x-tenant", "acme"),
                ("x_tenant", "acme"),
            ])
        };
        let identity = ["x-tenant".to_owned()];
        let mut map = sent();
        assert_eq!(as_judged(&mut map, Underscores::Drop, &identity), Ok(2));
        assert_eq!(map, headers(&[("x-a", "1")]));
        let mut map = sent();
        assert_eq!(as_judged(&mut map, Underscores::Pass, &identity), Ok(0));
        assert_eq!(map, headers(&[("x-a", "1"), ("x_a", "2")]));
        let mut map = headers(&[("connection", "x-a")]);
        assert_eq!(as_judged(&mut map, Underscores::Drop, &identity), Err(Reason::BadRequest));
    }

    #[test]
    fn websocket_is_one_protocol() {
        for (lines, is_one) in [
            (&["websocket"][..], true),
            (&["WebSocket "], true),
            (&["foo"], false),
            (&["websocket, foo"], false),
            (&["websocket", "websocket"], false),
            (&[], false),
        ] {
            let mut map = HeaderMap::new();
            for line in lines {
                map.append(UPGRADE, HeaderValue::from_static(line));
            }
            assert_eq!(is_websocket(&map), is_one, "{lines:?}");
        }
    }
}
