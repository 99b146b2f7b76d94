//! What is being asked, and by whom? The access request that policy decides, and the principal behind it.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use serde_json::{Map, Value};

use crate::path::CanonicalPath;
use crate::reason::Reason;

/// One request for access: who, how, to what, from where. Borrowed from the request as it was received.
#[derive(Clone, Copy, Debug)]
pub struct AccessRequest<'a> {
    /// What the caller showed.
    pub principal: Principal<'a>,
    /// The method, as received (methods are case-sensitive, RFC 9110 §9.1).
    pub method: &'a str,
    /// The path, in the one form that is judged and forwarded.
    pub path: &'a CanonicalPath<'a>,
    /// The host in normal form: lower case, without port and trailing dot.
    pub host: &'a str,
    /// The header fields, as they are forwarded: without those of the hop and those that we set.
    pub headers: &'a HeaderMap,
    /// Is this a gRPC request (content type `application/grpc`)? Its path then names service and method.
    pub grpc: bool,
    /// The direct peer. Never taken from a header.
    pub source: IpAddr,
}

/// Whom the request is from: a token, a certificate, both or neither.
#[derive(Clone, Copy, Debug)]
pub struct Principal<'a> {
    /// The token, if any, and what verification said of it.
    pub token: Presented<'a>,
    /// The client certificate of a mutually authenticated connection.
    pub peer: Option<&'a Peer>,
}

/// The token that a caller presented, after verification.
#[derive(Clone, Copy, Debug)]
pub enum Presented<'a> {
    /// No token came with the request.
    Nothing,
    /// A token came and did not verify, or could not be verified.
    Rejected(Reason),
    /// A token came and everything but its audience was verified, and so was that the caller holds what it is bound to, if
    /// anything. The audience is each policy's to judge.
    Verified(&'a Token),
}

/// The peer of a mutually authenticated TLS connection: a client certificate that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// SPIFFE ID, e.g. `spiffe://cluster.local/ns/shop/sa/orders`: the one URI in the certificate's subject alternative names
    /// (SPIFFE X.509-SVID §2). `None`: there is none, or it is no SPIFFE ID.
    pub id: Option<String>,
    /// SHA-256 of the certificate in DER (RFC 8705 §3.1).
    pub thumbprint: [u8; 32],
}

/// A verified token: what its issuer vouches for. Holds no token text.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// The exact `iss`.
    pub issuer: Arc<str>,
    /// `aud`, as a list.
    pub audiences: Vec<String>,
    /// `sub`, where present.
    pub subject: Option<String>,
    /// The client, from the claim that the issuer's profile names.
    pub client: Option<String>,
    /// The scopes, from the claim that the issuer's profile names.
    pub scopes: Vec<String>,
    /// The roles, from the claim that the issuer's profile names.
    pub roles: Vec<String>,
    /// Every claim, as signed.
    pub claims: Map<String, Value>,
    /// `exp`, seconds since the epoch, a fraction cut off.
    pub expires_at: i64,
    /// `nbf`, seconds since the epoch, a fraction rounded up, where present.
    pub not_before: Option<i64>,
    /// `iat`, seconds since the epoch, a fraction cut off, where present.
    pub issued_at: Option<i64>,
    /// Is it bound to a key of the caller (`cnf`, RFC 7800)?
    pub binding: Binding,
    /// Opaque: its issuer was asked (RFC 7662). Only policies that ask it too accept it.
    pub introspected: bool,
}

/// What a token is bound to (`cnf`, RFC 7800 §3). A `cnf` that fits none of these is no token at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Nothing: a bearer token.
    None,
    /// A client certificate: `x5t#S256` (RFC 8705 §3.1).
    Certificate([u8; 32]),
    /// A key, by its JWK thumbprint: `jkt` (RFC 9449 §6.1).
    Key(String),
}

// === impl AccessRequest ===

impl AccessRequest<'_> {
    /// Asks for a connection, of which nothing is known but who is at its other end: no token, and nothing of HTTP.
    pub fn of_connection<T>(
        peer: Option<&Peer>,
        source: IpAddr,
        ask: impl FnOnce(&AccessRequest<'_>) -> T,
    ) -> T {
        let (path, headers) = (CanonicalPath::root(), HeaderMap::new());
        let principal = Principal { token: Presented::Nothing, peer };
        ask(&AccessRequest {
            principal,
            method: "",
            path: &path,
            host: "",
            headers: &headers,
            grpc: false,
            source,
        })
    }
}

// === impl Token ===

impl Token {
    /// Is it worth nothing without a certificate or key of the caller?
    pub fn is_bound(&self) -> bool {
        self.binding != Binding::None
    }
}
