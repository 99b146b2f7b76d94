//! What is asked, in a test or on the command line? A request with what its caller shows, put to a port as the proxy does.

use std::net::IpAddr;

use http::HeaderMap;

use crate::inbound::PortPolicy;
use crate::path::CanonicalPath;
use crate::reason::Reason;
use crate::request::{AccessRequest, Peer, Presented, Principal, Token};

/// The certificate of every caller that holds one, as its SHA-256 thumbprint.
pub(crate) const CERTIFICATE: [u8; 32] = [7; 32];

/// A request, in order.
pub(crate) struct Asked {
    pub(crate) method: String,
    /// As received: it may be one that is refused.
    pub(crate) path: String,
    pub(crate) host: String,
    pub(crate) grpc: bool,
    pub(crate) headers: HeaderMap,
    pub(crate) source: IpAddr,
    pub(crate) shown: Shown,
    pub(crate) peer: Option<Peer>,
}

/// The token of a request, after verification.
pub(crate) enum Shown {
    Nothing,
    Rejected(Reason),
    Verified(Box<Token>),
}

// === impl Asked ===

impl Asked {
    /// What is judged of the path, where method and path are in order (semantics 5a).
    pub(crate) fn path(&self, port: &PortPolicy) -> Result<CanonicalPath<'_>, Reason> {
        if matches!(&*self.method, "CONNECT" | "TRACE") {
            return Err(Reason::MethodNotAllowed);
        }
        port.path(&self.path).ok_or(Reason::AmbiguousPath)
    }

    pub(crate) fn request<'a>(
        &'a self,
        path: &'a CanonicalPath<'a>,
        token: Presented<'a>,
    ) -> AccessRequest<'a> {
        AccessRequest {
            principal: Principal { token, peer: self.peer.as_ref() },
            method: &self.method,
            path,
            host: &self.host,
            headers: &self.headers,
            grpc: self.grpc,
            source: self.source,
        }
    }

    /// The token, as the port sees it.
    pub(crate) fn presented(&self, port: &PortPolicy) -> Presented<'_> {
        match &self.shown {
            Shown::Nothing => Presented::Nothing,
            Shown::Rejected(reason) => Presented::Rejected(*reason),
            // Such a token is not verified any further.
            Shown::Verified(token) if port.issuer(&token.issuer).is_none() => {
                Presented::Rejected(Reason::UnknownIssuer)
            }
            Shown::Verified(token) => Presented::Verified(token),
        }
    }
}
