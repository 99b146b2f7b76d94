//! Which token do we show? The cache of outbound tokens: always warm, never stale, one request to the issuer at a time.

mod client_auth;
mod endpoint;
mod failure;
mod grant;
mod http_date;
mod lifetime;
mod metrics;
mod secret;
mod shown;
mod slot;
mod source;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_policy::Snapshot;
use countersign_policy::snapshot::{Credential, Issuer, TokenRequest};

use crate::auth::issuers::Services;
use crate::auth::tokens::endpoint::TokenEndpoint;
use crate::auth::tokens::metrics::TokenMetrics;
pub use crate::auth::tokens::shown::{Possession, Shown};
pub use crate::auth::tokens::slot::{TokenSlot, Unavailable};
use crate::auth::tokens::source::TokenSource;

/// Every token slot, across reloads: a token request whose key is unchanged keeps its slot.
#[derive(Debug)]
pub struct Tokens {
    services: Services,
    metrics: Arc<TokenMetrics>,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    by_key: HashMap<[u8; 32], Arc<TokenSlot>>,
    /// By the issuer's fingerprint.
    endpoints: HashMap<[u8; 32], Arc<TokenEndpoint>>,
}

/// What `/tokens` shows of a slot. Never the token.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TokenReport {
    /// `namespace/name`.
    pub credential: String,
    pub scopes: Vec<String>,
    /// What was granted, where that is less.
    pub granted_scopes: Option<Vec<String>>,
    pub audience: Option<String>,
    pub resource: Option<String>,
    /// `fresh`, `refresh_due` (good, and another is fetched), `pending` (the first is fetched), `unavailable`, or `idle`
    /// (unused for a lifetime).
    pub state: &'static str,
    pub age_seconds: Option<i64>,
    pub expires_in_seconds: Option<i64>,
    pub refresh_in_seconds: Option<i64>,
    pub last_error: Option<String>,
    /// When the next request may go out after a failure.
    pub retry_in_seconds: Option<i64>,
    pub in_flight: bool,
    /// Callers that shared another's request, so far.
    pub coalesced: u64,
}

// === impl Tokens ===

impl Tokens {
    pub fn new(services: Services) -> Self {
        let metrics = Arc::new(TokenMetrics::new(services.metrics.clone()));
        Self { services, metrics, slots: Mutex::default() }
    }

    /// The slots for the snapshot's token requests, in their order. Tokens are fetched at once, before a request needs
    /// them; slots that are not named any more are dropped with their series of metrics.
    pub fn arm(&self, snapshot: &Snapshot) -> Vec<Arc<TokenSlot>> {
        self.arm_with(&snapshot.issuers, &snapshot.credentials, &snapshot.token_requests)
    }

    fn arm_with(
        &self,
        issuers: &[Issuer],
        credentials: &[Credential],
        requests: &[TokenRequest],
    ) -> Vec<Arc<TokenSlot>> {
        let mut slots = self.lock();
        let mut before = std::mem::take(&mut slots.by_key);
        let mut armed = Vec::with_capacity(requests.len());
        for request in requests {
            // An index that leads nowhere ends the list: no slot may stand in the place of another.
            let Some(credential) = credentials.get(request.credential.0) else { break };
            let Some(issuer) = issuers.get(credential.issuer.0) else { break };
            let known = slots.by_key.get(&request.key).cloned().or_else(|| before.remove(&request.key));
            let slot = known.unwrap_or_else(|| self.slot(&mut slots, issuer, credential, request));
            slots.by_key.insert(request.key, slot.clone());
            armed.push(slot);
        }
        for (key, slot) in before {
            self.metrics.forget(&slot.source().credential.name, &key);
        }
        slots.endpoints.retain(|_, endpoint| Arc::strong_count(endpoint) > 1);
        armed
    }

    fn slot(
        &self,
        slots: &mut Slots,
        issuer: &Issuer,
        credential: &Credential,
        request: &TokenRequest,
    ) -> Arc<TokenSlot> {
        self.metrics.mention(&credential.name, request.key);
        let endpoint =
            slots.endpoints.entry(issuer.fingerprint).or_insert_with(|| Arc::new(TokenEndpoint::new()));
        TokenSlot::new(TokenSource {
            services: self.services.clone(),
            issuer: issuer.clone(),
            credential: credential.clone(),
            request: request.clone(),
            endpoint: endpoint.clone(),
            metrics: self.metrics.clone(),
        })
    }

    /// What there is to know of every slot, by credential.
    pub fn report(&self) -> Vec<TokenReport> {
        let slots: Vec<_> = self.lock().by_key.values().cloned().collect();
        let mut reports: Vec<_> = slots.iter().map(|slot| self.report_of(slot)).collect();
        reports.sort_by(|a, b| {
            (&a.credential, &a.scopes, &a.audience).cmp(&(&b.credential, &b.scopes, &b.audience))
        });
        reports
    }

    fn report_of(&self, slot: &TokenSlot) -> TokenReport {
        let TokenSource { credential, request, .. } = slot.source();
        let status = slot.status();
        let held = status.held.as_deref();
        let age = held.map(|held| seconds(held.sent.elapsed(&self.services.clock)));
        let until = |limit: Option<Duration>| Some(seconds(limit?).saturating_sub(age?));
        TokenReport {
            credential: credential.name.clone(),
            scopes: request.scopes.clone(),
            granted_scopes: held.and_then(|held| held.narrowed.clone()),
            audience: request.audience.clone(),
            resource: request.resource.clone(),
            state: status.state,
            age_seconds: age,
            expires_in_seconds: until(held.map(|held| held.lifetime.life)),
            refresh_in_seconds: until(held.map(|held| held.lifetime.soft)),
            last_error: status.last_error,
            retry_in_seconds: status.retry_in.map(seconds),
            in_flight: status.in_flight,
            coalesced: status.coalesced,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
pub(crate) mod authority;
#[cfg(test)]
pub(crate) mod server;
#[cfg(test)]
mod tests;
