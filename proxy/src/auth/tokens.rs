//! Which token do we show? The cache of outbound tokens: always warm, never stale, one request to the issuer at a time.

use std::sync::Arc;
use std::time::Duration;

use countersign_policy::Snapshot;
use http::HeaderValue;

use crate::auth::issuers::Services;

/// Every token slot, across reloads: a token request whose key is unchanged keeps its slot.
#[derive(Debug)]
pub struct Tokens {}

/// One token request's token.
#[derive(Debug)]
pub struct TokenSlot {}

/// No token can be had now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// When to try again, for `Retry-After`.
    pub retry_after: Duration,
}

/// What `/tokens` shows of a slot. Never the token.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TokenReport {
    /// `namespace/name`.
    pub credential: String,
    pub scopes: Vec<String>,
    pub audience: Option<String>,
    pub resource: Option<String>,
    pub state: &'static str,
    pub age_seconds: Option<i64>,
    pub expires_in_seconds: Option<i64>,
    pub refresh_in_seconds: Option<i64>,
    pub last_error: Option<String>,
}

impl Tokens {
    pub fn new(_services: Services) -> Self {
        todo!()
    }

    /// The slots for the snapshot's token requests, in their order. Tokens are fetched at once, before a request needs
    /// them; slots that are not named any more are dropped with their series of metrics.
    pub fn arm(&self, _snapshot: &Snapshot) -> Vec<Arc<TokenSlot>> {
        todo!()
    }

    pub fn report(&self) -> Vec<TokenReport> {
        todo!()
    }
}

impl TokenSlot {
    /// The value of `Authorization`, if a token is at hand that may be sent: no wait, no allocation.
    pub fn ready(&self) -> Option<HeaderValue> {
        todo!()
    }

    /// The value of `Authorization`, waiting for the one flight if there must be one.
    pub async fn token(&self) -> Result<HeaderValue, Unavailable> {
        todo!()
    }
}
