//! What does a request show? The value of `Authorization`, and what proves that the token is ours.

use std::sync::Arc;

use http::HeaderValue;

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
}

// === impl Shown ===

impl Shown {
    /// The certificate that the connection has to present.
    pub fn certificate(&self) -> Option<&Arc<Certificate>> {
        match &self.possession {
            Possession::Certificate(certificate) => Some(certificate),
            Possession::None => None,
        }
    }
}
