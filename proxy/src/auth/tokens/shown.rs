//! What does a request show? The value of `Authorization`, and what proves that the token is ours.

use std::fmt;
use std::sync::Arc;

use http::{HeaderValue, Method};

use crate::auth::tokens::dpop::{Claims, ProofKey, Unprovable, token_hash};
use crate::clock::Clock;
use crate::state::certificate::Certificate;

/// What goes along with one request. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The value of `Authorization`; marked sensitive, wiped with its last clone.
    pub authorization: HeaderValue,
    pub possession: Possession,
}

/// How we prove that a token is ours.
#[derive(Clone, Debug)]
pub enum Possession {
    /// Not at all: a bearer token.
    None,
    /// By the certificate of the connection, and no other (RFC 8705 §3).
    Certificate(Arc<Certificate>),
    /// By a proof in each request (RFC 9449 §7.1).
    Key(Arc<BoundToken>),
}

/// A token that is bound to a key of ours.
pub struct BoundToken {
    key: Arc<ProofKey>,
    /// Hash of the token.
    hash: String,
    clock: Clock,
}

// === impl Shown ===

impl Shown {
    /// The certificate that the connection has to present.
    pub fn certificate(&self) -> Option<&Arc<Certificate>> {
        match &self.possession {
            Possession::Certificate(certificate) => Some(certificate),
            Possession::None | Possession::Key(_) => None,
        }
    }

    /// What signs the proof that each request has to carry.
    pub fn bound(&self) -> Option<&Arc<BoundToken>> {
        match &self.possession {
            Possession::Key(bound) => Some(bound),
            Possession::None | Possession::Certificate(_) => None,
        }
    }
}

// === impl BoundToken ===

impl BoundToken {
    pub(crate) fn new(token: &str, key: Arc<ProofKey>, clock: Clock) -> Self {
        Self { key, hash: token_hash(token), clock }
    }

    /// The value of `DPoP` for one request to this URI, with the newest nonce of its server.
    pub fn prove(&self, method: &Method, uri: &str, nonce: Option<&str>) -> Result<HeaderValue, Unprovable> {
        self.key.prove(&Claims { method, uri, token_hash: Some(&self.hash), nonce, now: self.clock.unix() })
    }
}

impl fmt::Debug for BoundToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
