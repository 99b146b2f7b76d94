//! What is asked for? The request's framing, host and path, in order before anything is judged (semantics 5a).

use std::borrow::Cow;

use countersign_policy::Reason;
use countersign_policy::host;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderMap, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{Authority, Scheme, Uri};
use http::{Method, Version};
use hyper::ext::Protocol;

/// The authority of a request: the one host that it names.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) authority: Authority,
    /// Lower case, without port and trailing dot.
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
}

/// Checks the head of a request, whatever policy says: method, sizes, framing, host. `scheme` is what it came by.
pub(crate) fn inspect(head: &Parts, scheme: &Scheme) -> Result<Target, Reason> {
    // PRI is what HTTP/2 begins with, and reserved for that (RFC 9113 §11.6): an upstream might take it so.
    if matches!(head.method, Method::CONNECT | Method::TRACE) || head.method.as_str() == "PRI" {
        return Err(no_such(head));
    }
    sizes(head)?;
    framing(&head.headers)?;
    if head.version == Version::HTTP_2 {
        values(&head.headers)?;
    }
    target(head, scheme)
}

/// Checks the head of a request for a tunnel (RFC 9110 §9.3.6): the host and port that it names, once or alike. What is asked for
/// in another way is a method that we do not have.
pub(crate) fn tunnel(head: &Parts) -> Result<(String, u16), Reason> {
    let Some(authority) = head.uri.authority().filter(|_| head.version == Version::HTTP_11) else {
        return Err(no_such(head));
    };
    if head.uri.scheme().is_some() || head.uri.path_and_query().is_some() {
        return Err(Reason::BadRequest);
    }
    sizes(head)?;
    framing(&head.headers)?;
    // What followed would be taken for the tunnel's.
    if head.headers.contains_key(CONTENT_LENGTH) || head.headers.contains_key(TRANSFER_ENCODING) {
        return Err(Reason::BadRequest);
    }
    let mut fields = head.headers.get_all(HOST).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else { return Err(Reason::BadRequest) };
    if !agree(authority, &parse(field.as_bytes())?, &Scheme::HTTPS) {
        return Err(Reason::AmbiguousDestination);
    }
    match host::normalize(authority.as_str()) {
        Some((host, Some(port))) => Ok((host.into_owned(), port)),
        _ => Err(Reason::BadRequest),
    }
}

/// What comes in plain text and says `https` is meant for another port, and for TLS that nobody speaks here: it is not taken
/// for what a rule calls plain text (security OUT-3).
pub(crate) fn plain(head: &Parts) -> Result<(), Reason> {
    if head.uri.scheme() == Some(&Scheme::HTTPS) { Err(Reason::BadRequest) } else { Ok(()) }
}

/// What an extended CONNECT asks for is a protocol (RFC 8441 §4), and never a tunnel. WebSocket, which is a GET by now, is the one
/// that there is; for others RFC 9220 §3 has a status.
fn no_such(head: &Parts) -> Reason {
    match head.extensions.get::<Protocol>() {
        Some(_) => Reason::UnsupportedProtocol,
        None => Reason::MethodNotAllowed,
    }
}

fn sizes(head: &Parts) -> Result<(), Reason> {
    let uri = &head.uri;
    let length = uri.path().len()
        + uri.query().map_or(0, |query| query.len() + 1)
        + uri.authority().map_or(0, |authority| authority.as_str().len());
    if length > MAX_URI {
        return Err(Reason::UriTooLong);
    }
    let bytes: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if head.headers.len() > MAX_FIELDS || bytes + head.method.as_str().len() + length > MAX_HEAD {
        return Err(Reason::HeadTooLarge);
    }
    Ok(())
}

/// What hyper lets through and should not (security IN-2, IN-15).
fn framing(headers: &HeaderMap) -> Result<(), Reason> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => {}
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            if headers.contains_key(CONTENT_LENGTH) {
                return Err(Reason::BadRequest);
            }
        }
        _ => return Err(Reason::BadRequest),
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => {}
        (Some(length), None) if !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit) => {}
        _ => return Err(Reason::BadRequest),
    }
    if headers.get_all(AUTHORIZATION).iter().nth(1).is_some() {
        return Err(Reason::MultipleTokens);
    }
    Ok(())
}

/// A value with space around it is malformed in HTTP/2 (RFC 9113 §8.2.1), and would lose it in HTTP/1.1: rules would have judged
/// another one than the application reads (security IN-22).
fn values(headers: &HeaderMap) -> Result<(), Reason> {
    let is_space = |byte: Option<&u8>| byte.is_some_and(|byte| matches!(byte, b' ' | b'\t'));
    let ends_in_space = |value: &[u8]| is_space(value.first()) || is_space(value.last());
    if headers.values().any(|value| ends_in_space(value.as_bytes())) {
        Err(Reason::BadRequest)
    } else {
        Ok(())
    }
}

/// Exactly one host, however it is spelled (security IN-15, IN-20, IN-22).
fn target(head: &Parts, scheme: &Scheme) -> Result<Target, Reason> {
    let mut fields = head.headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() || !head.uri.path().starts_with('/') {
        return Err(Reason::BadRequest);
    }
    if head.uri.path() == "/" && lacks_path(&head.uri) {
        return Err(Reason::BadRequest);
    }
    let field = match field {
        Some(value) => Some(parse(value.as_bytes())?),
        None if head.version < Version::HTTP_2 => return Err(Reason::BadRequest),
        None => None,
    };
    // Of HTTP/2, what says `https` in plain text may have been TLS before it came to us. Neither word is anything else: `HTTPS`
    // is a scheme of its own to `Scheme`, and would not be what `plain` looks for.
    let is_fine = |named: &Scheme| match head.version {
        Version::HTTP_2 => *named == Scheme::HTTP || *named == Scheme::HTTPS,
        _ => named == scheme,
    };
    if !head.uri.scheme().is_none_or(is_fine) {
        return Err(Reason::BadRequest);
    }
    let authority = match (head.uri.authority(), field) {
        (None, None) => return Err(Reason::BadRequest),
        (None, Some(field)) => field,
        (Some(authority), None) => authority.clone(),
        (Some(authority), Some(field)) if agree(authority, &field, scheme) => authority.clone(),
        (Some(_), Some(_)) => return Err(Reason::AmbiguousDestination),
    };
    let (host, port) = host::normalize(authority.as_str()).ok_or(Reason::BadRequest)?;
    Ok(Target { host: host.into_owned(), port, authority })
}

/// `http://host#...`: `Uri` has cut everything off, says `/` of what is left, and would write nothing into a request line.
fn lacks_path(uri: &Uri) -> bool {
    uri.path_and_query().is_some_and(|target| Uri::from(target.clone()).path().is_empty())
}

fn parse(value: &[u8]) -> Result<Authority, Reason> {
    Authority::try_from(value).map_err(|_| Reason::BadRequest)
}

/// Do two spellings name the same host and port, the scheme's own where none is written?
fn agree(one: &Authority, other: &Authority, scheme: &Scheme) -> bool {
    let default = if *scheme == Scheme::HTTPS { 443 } else { 80 };
    let normal = |authority: &'_ Authority| -> Option<(String, u16)> {
        let (host, port) = host::normalize(authority.as_str())?;
        Some((Cow::into_owned(host), port.unwrap_or(default)))
    };
    match (normal(one), normal(other)) {
        (Some(one), Some(other)) => one == other,
        _ => false,
    }
}

/// The largest request target, in bytes (security IN-24).
pub(crate) const MAX_URI: usize = 16 * 1024;
/// The largest request head, in bytes.
pub(crate) const MAX_HEAD: usize = 64 * 1024;
/// The most header fields in a request.
pub(crate) const MAX_FIELDS: usize = 100;

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn inspect(head: &Parts) -> Result<Target, Reason> {
        super::inspect(head, &Scheme::HTTP)
    }

    fn head(build: impl FnOnce(http::request::Builder) -> http::request::Builder) -> Parts {
        build(Request::builder()).body(()).unwrap().into_parts().0
    }

    #[test]
    fn in_15_one_host_or_none_at_all() {
        for hosts in [&[][..], &["a", "a"], &["a b"], &["u@a"], &["a:b"], &[""]] {
            let head = head(|b| hosts.iter().fold(b.uri("/"), |b, host| b.header(HOST, *host)));
            assert_eq!(inspect(&head).unwrap_err(), Reason::BadRequest, "{hosts:?}");
        }
        let target = inspect(&head(|b| b.uri("/").header(HOST, "Orders.Shop.:8080"))).unwrap();
        assert_eq!((target.host.as_str(), target.port), ("orders.shop", Some(8080)));
    }

    #[test]
    fn in_20_absolute_form_agrees_with_host() {
        let absolute = |host| head(|b| b.uri("http://a/x").header(HOST, host));
        assert!(inspect(&absolute("A:80")).is_ok());
        assert_eq!(inspect(&absolute("b")).unwrap_err(), Reason::AmbiguousDestination);
        assert_eq!(
            inspect(&head(|b| b.uri("https://a/x").header(HOST, "a"))).unwrap_err(),
            Reason::BadRequest
        );
        for uri in ["*", "http://a#/x"] {
            let head = head(|b| b.method("OPTIONS").uri(uri).header(HOST, "a"));
            assert_eq!(inspect(&head).unwrap_err(), Reason::BadRequest, "{uri}");
        }
        assert!(inspect(&head(|b| b.uri("http://a").header(HOST, "a"))).is_ok());

        let over_tls = |uri: &str, host: &str| {
            super::inspect(&head(|b| b.uri(uri).header(HOST, host)), &Scheme::HTTPS).map(|target| target.host)
        };
        assert_eq!(over_tls("https://a/x", "A:443"), Ok("a".to_owned()));
        assert_eq!(over_tls("https://a/x", "a:80"), Err(Reason::AmbiguousDestination));
        assert_eq!(over_tls("http://a/x", "a"), Err(Reason::BadRequest));
    }

    #[test]
    fn in_22_authority_agrees_with_host_in_http2() {
        let h2 = |host| head(|b| b.version(Version::HTTP_2).uri("http://a/x").header(HOST, host));
        assert!(inspect(&h2("a")).is_ok());
        assert_eq!(inspect(&h2("b")).unwrap_err(), Reason::AmbiguousDestination);
    }

    #[test]
    fn in_22_values_and_schemes_of_http2_have_one_spelling() {
        let h2 = |uri: &str, value: &str| {
            inspect(&head(|b| b.version(Version::HTTP_2).uri(uri).header("x-a", value))).map(drop)
        };
        for uri in ["http://a/x", "https://a/x"] {
            assert_eq!(h2(uri, "b c\td"), Ok(()));
            assert_eq!(h2(uri, ""), Ok(()));
        }
        for value in [" b", "b ", "\tb", "b\t", " "] {
            assert_eq!(h2("http://a/x", value), Err(Reason::BadRequest), "{value:?}");
        }
        for uri in ["ftp://a/x", "httpss://a/x"] {
            assert_eq!(h2(uri, "b"), Err(Reason::BadRequest), "{uri}");
        }
    }

    #[test]
    fn out_3_https_is_not_taken_for_plain_text() {
        let h2 = |uri| head(|b| b.version(Version::HTTP_2).uri(uri));
        assert_eq!(plain(&h2("https://a/x")), Err(Reason::BadRequest));
        assert_eq!(plain(&h2("http://a/x")), Ok(()));
        assert_eq!(plain(&head(|b| b.uri("/x").header(HOST, "a"))), Ok(()));
    }

    #[test]
    fn in_15_framing_that_can_be_read_twice_is_refused() {
        for (name, values) in [
            ("transfer-encoding", &["gzip, chunked"][..]),
            ("transfer-encoding", &["chunked", "chunked"]),
            ("transfer-encoding", &["identity"]),
            ("content-length", &["1", "1"]),
            ("content-length", &["+1"]),
            ("content-length", &["1, 1"]),
        ] {
            let head =
                head(|b| values.iter().fold(b.uri("/").header(HOST, "a"), |b, value| b.header(name, *value)));
            assert_eq!(inspect(&head).unwrap_err(), Reason::BadRequest, "{name} {values:?}");
        }
    }

    #[test]
    fn in_24_sizes_are_bounded() {
        let long = format!("/{}", "a".repeat(MAX_URI));
        assert_eq!(inspect(&head(|b| b.uri(long).header(HOST, "a"))).unwrap_err(), Reason::UriTooLong);
        let many = head(|b| {
            (0..=MAX_FIELDS).fold(b.uri("/").header(HOST, "a"), |b, i| b.header(format!("x{i}"), "1"))
        });
        assert_eq!(inspect(&many).unwrap_err(), Reason::HeadTooLarge);
        let large = head(|b| b.uri("/").header(HOST, "a").header("x", "a".repeat(MAX_HEAD)));
        assert_eq!(inspect(&large).unwrap_err(), Reason::HeadTooLarge);
        let method = "M".repeat(MAX_HEAD);
        let large = head(|b| b.method(method.as_str()).uri("/").header(HOST, "a"));
        assert_eq!(inspect(&large).unwrap_err(), Reason::HeadTooLarge);
    }

    #[test]
    fn out_12_a_tunnel_names_host_and_port_once_or_alike() {
        let asked = |target: &str, hosts: &[&str]| {
            let head = head(|b| {
                let b = b.method("CONNECT").uri(target);
                hosts.iter().fold(b, |b, host| b.header(HOST, *host))
            });
            tunnel(&head)
        };
        let found = |host: &str, port| Ok((host.to_owned(), port));
        assert_eq!(asked("A.Example.:443", &["a.example:443"]), found("a.example", 443));
        assert_eq!(asked("a.example:443", &["a.example"]), found("a.example", 443));
        assert_eq!(asked("[::1]:443", &["[::1]:443"]), found("[::1]", 443));
        for (target, hosts, reason) in [
            ("a.example", &["a.example"][..], Reason::BadRequest),
            ("a.example:443", &[], Reason::BadRequest),
            ("a.example:443", &["a.example", "a.example"], Reason::BadRequest),
            ("u@a.example:443", &["a.example:443"], Reason::AmbiguousDestination),
            ("a.example:443", &["b.example:443"], Reason::AmbiguousDestination),
            ("a.example:8443", &["a.example:443"], Reason::AmbiguousDestination),
            ("a.example:8443", &["a.example"], Reason::AmbiguousDestination),
            ("http://a.example:443/", &["a.example:443"], Reason::BadRequest),
            ("/", &["a.example:443"], Reason::MethodNotAllowed),
        ] {
            assert_eq!(asked(target, hosts), Err(reason), "{target} {hosts:?}");
        }
        for (name, value) in
            [("content-length", "3"), ("content-length", "0"), ("transfer-encoding", "chunked")]
        {
            let head = head(|b| {
                b.method("CONNECT").uri("a.example:443").header(HOST, "a.example:443").header(name, value)
            });
            assert_eq!(tunnel(&head), Err(Reason::BadRequest), "{name}");
        }
        let h2 = head(|b| b.method("CONNECT").uri("a.example:443").version(Version::HTTP_2));
        assert_eq!(tunnel(&h2), Err(Reason::MethodNotAllowed));
    }

    #[test]
    fn in_21_a_protocol_is_never_taken_for_a_tunnel() {
        for protocol in ["connect-udp", "webtransport", "WebSocket", ""] {
            let h2 = head(|b| {
                let b = b.method("CONNECT").uri("http://a.example:443/").version(Version::HTTP_2);
                b.extension(Protocol::from_static(protocol))
            });
            assert_eq!(inspect(&h2).unwrap_err(), Reason::UnsupportedProtocol, "{protocol}");
            assert_eq!(tunnel(&h2), Err(Reason::UnsupportedProtocol), "{protocol}");
        }
    }

    #[test]
    fn methods_that_are_not_ours_are_refused() {
        for method in ["CONNECT", "TRACE", "PRI"] {
            let head = head(|b| b.method(method).uri("/").header(HOST, "a"));
            assert_eq!(inspect(&head).unwrap_err(), Reason::MethodNotAllowed);
        }
    }
}
