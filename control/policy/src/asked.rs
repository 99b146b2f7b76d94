//! What is asked, in a test or on the command line? A request, or a connection to a port that is not HTTP, with what its caller
//! shows, put to a port as the proxy does.

use std::net::IpAddr;

use http::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, UPGRADE};

use crate::headers::{self, Underscores};
use crate::inbound::{PortPolicy, PortProtocol};
use crate::path::CanonicalPath;
use crate::reason::Reason;
use crate::request::{AccessRequest, Binding, Peer, Presented, Principal, Token};
use crate::untrusted::{self, Untrusted};

/// The certificate of every caller that holds one, as its SHA-256 thumbprint.
pub(crate) const CERTIFICATE: [u8; 32] = [7; 32];

/// A request, in order.
pub(crate) struct Asked {
    pub(crate) method: String,
    /// As received: it may be one that is refused.
    pub(crate) path: String,
    pub(crate) host: String,
    pub(crate) grpc: bool,
    /// As received.
    pub(crate) headers: HeaderMap,
    pub(crate) underscores: Underscores,
    pub(crate) source: IpAddr,
    pub(crate) shown: Shown,
    pub(crate) peer: Option<Peer>,
}

/// What is judged of a request, beside who asks.
pub(crate) struct AsJudged<'a> {
    asked: &'a Asked,
    /// The port is not HTTP: nothing is known but who is at the other end.
    is_connection: bool,
    path: CanonicalPath<'a>,
    headers: HeaderMap,
}

/// The token of a request, after verification.
pub(crate) enum Shown {
    Nothing,
    Rejected(Reason),
    Verified(Box<Token>),
}

// === impl Asked ===

impl Asked {
    /// What is judged of it on this port, where it is in order (semantics 5a).
    pub(crate) fn judged<'a>(&'a self, port: &PortPolicy) -> Result<AsJudged<'a>, Reason> {
        if port.protocol != PortProtocol::Http {
            let (path, headers) = (CanonicalPath::root(), HeaderMap::new());
            return Ok(AsJudged { asked: self, is_connection: true, path, headers });
        }
        if matches!(&*self.method, "CONNECT" | "TRACE" | "PRI") {
            return Err(Reason::MethodNotAllowed);
        }
        let headers = self.headers(&port.identity_headers)?;
        let path = port.path(&self.path).ok_or(Reason::AmbiguousPath)?;
        Ok(AsJudged { asked: self, is_connection: false, path, headers })
    }

    /// `upgrade: websocket` stands for the opening handshake, with all that belongs to it: so much of it stays.
    fn headers(&self, identity: &[String]) -> Result<HeaderMap, Reason> {
        let mut judged = self.headers.clone();
        let is_websocket = headers::is_websocket(&judged) && !self.grpc;
        if is_websocket && self.method != "GET" {
            return Err(Reason::BadRequest);
        }
        headers::as_judged(&mut judged, self.underscores, identity)?;
        if is_websocket {
            judged.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            judged.insert(UPGRADE, HeaderValue::from_static("websocket"));
        }
        Ok(judged)
    }

    /// The token, as the port sees it.
    pub(crate) fn presented(&self, port: &PortPolicy) -> Presented<'_> {
        match &self.shown {
            _ if port.protocol != PortProtocol::Http => Presented::Nothing,
            Shown::Nothing => Presented::Nothing,
            Shown::Rejected(reason) => Presented::Rejected(*reason),
            Shown::Verified(token) => match refusal(token, port) {
                Some(reason) => Presented::Rejected(reason),
                None => Presented::Verified(token),
            },
        }
    }
}

/// Why a token is not looked at any further on this port, whatever it says.
fn refusal(token: &Token, port: &PortPolicy) -> Option<Reason> {
    match port.introspecting() {
        // Nobody is asked: it is taken for a JWT, and is none.
        None if token.introspected => Some(Reason::MalformedToken),
        // Another issuer is asked, which does not know it.
        Some(issuer) if token.introspected && *issuer != *token.issuer => Some(Reason::Inactive),
        _ if port.issuer(&token.issuer).is_none() => Some(Reason::UnknownIssuer),
        // Its proof is not looked at.
        _ if matches!(token.binding, Binding::Key(_)) && !port.accepts(token) => Some(Reason::WrongAudience),
        _ => None,
    }
}

// === impl AsJudged ===

impl AsJudged<'_> {
    pub(crate) fn request<'a>(&'a self, token: Presented<'a>) -> AccessRequest<'a> {
        let asked = self.asked;
        let (method, host) = if self.is_connection { ("", "") } else { (&*asked.method, &*asked.host) };
        AccessRequest {
            principal: Principal { token, peer: asked.peer.as_ref() },
            method,
            path: &self.path,
            host,
            headers: &self.headers,
            grpc: asked.grpc && !self.is_connection,
            source: asked.source,
        }
    }
}

/// Adds a field of a request that somebody describes. What would not be judged as it is written is an error.
pub fn add_field(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) -> Result<(), &'static str> {
    // With `_` it is another field to us, and dropped or passed as such.
    let untrusted = untrusted::why_not(name.as_str()).filter(|_| !name.as_str().contains('_'));
    match untrusted {
        Some(Untrusted::Host) => Err("is not judged as a header: write the host of the request"),
        Some(Untrusted::Credential) if name != http::header::COOKIE => {
            Err("is not judged as a header: say what the token says")
        }
        Some(Untrusted::OfTheConnection) => Err("is of one connection, and not judged: leave it out"),
        Some(Untrusted::Credential | Untrusted::Hearsay) | None => {
            headers.append(name, value);
            Ok(())
        }
    }
}

/// Is a request that somebody describes gRPC? By its content type, as on the wire; where that is not written, it is if they
/// say so, and then has it.
pub fn is_grpc(headers: &mut HeaderMap, said: bool) -> Result<bool, &'static str> {
    if said && !headers.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    }
    match headers::is_grpc(headers) {
        false if said => Err("contradicts the content type: write application/grpc, or leave it out"),
        is_grpc => Ok(is_grpc),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_judged_as_a_header_is_an_error() {
        for (name, is_taken) in [
            ("authorization", false),
            ("dpop", false),
            ("host", false),
            ("transfer-encoding", false),
            ("connection", false),
            ("te", false),
            ("cookie", true),
            ("upgrade", true),
            ("x-forwarded-for", true),
            ("x-a", true),
            ("content_length", true),
        ] {
            let (mut headers, value) = (HeaderMap::new(), HeaderValue::from_static("a"));
            let added = add_field(&mut headers, HeaderName::from_static(name), value);
            assert_eq!((added.is_ok(), headers.len()), (is_taken, usize::from(is_taken)), "{name}");
        }
    }

    #[test]
    fn a_content_type_makes_it_grpc() {
        for (written, said, expected) in [
            (None, false, Ok(false)),
            (None, true, Ok(true)),
            (Some("application/grpc+proto"), false, Ok(true)),
            (Some("application/grpc"), true, Ok(true)),
            (Some("application/json"), false, Ok(false)),
            (Some("application/json"), true, Err(())),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(written.map(|written| (CONTENT_TYPE, HeaderValue::from_static(written))));
            assert_eq!(is_grpc(&mut headers, said).map_err(|_| ()), expected, "{written:?} {said}");
            assert!(!said || headers.contains_key(CONTENT_TYPE));
        }
    }
}
