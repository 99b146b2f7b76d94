//! Which token do we show? The cache of outbound tokens: always warm, never stale, one request to the issuer at a time.

pub(crate) mod client;
mod client_auth;
pub(crate) mod directory;
mod dpop;
mod endpoint;
mod exchange;
pub(crate) mod failure;
pub(crate) mod form;
pub(crate) mod grant;
mod http_date;
pub(crate) mod lifetime;
mod metrics;
mod report;
pub(crate) mod secret;
mod shown;
mod skew;
mod slot;
pub(crate) mod source;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_policy::Snapshot;
use countersign_policy::snapshot::{Credential, Issuer, TokenBinding, TokenRequest};

use crate::auth::issuers::Services;
use crate::auth::tokens::dpop::ProofKey;
pub use crate::auth::tokens::dpop::{DPOP_NONCE, NewestNonce, Unprovable, target_uri};
use crate::auth::tokens::endpoint::TokenEndpoint;
pub use crate::auth::tokens::exchange::{Exchange, ExchangeReport};
pub(crate) use crate::auth::tokens::grant::LONGEST_TOKEN;
pub use crate::auth::tokens::metrics::Replay;
use crate::auth::tokens::metrics::TokenMetrics;
pub use crate::auth::tokens::report::TokenReport;
pub use crate::auth::tokens::shown::{BoundToken, Possession, Shown};
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
    by_key: ByKey<TokenSlot>,
    exchanges: ByKey<Exchange>,
    /// By the issuer's fingerprint.
    endpoints: HashMap<[u8; 32], Arc<TokenEndpoint>>,
    /// By the credential's fingerprint: what its tokens are bound to, where a rule says so.
    keys: HashMap<[u8; 32], Arc<ProofKey>>,
}

/// By the key of what policy asks for.
type ByKey<T> = HashMap<[u8; 32], Arc<T>>;

/// What a snapshot names: requests, with the credentials and issuers that they refer to.
struct Named<'a> {
    issuers: &'a [Issuer],
    credentials: &'a [Credential],
    requests: &'a [TokenRequest],
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
        self.metrics.mention_issuers(issuers);
        let before = std::mem::take(&mut slots.by_key);
        let named = Named { issuers, credentials, requests };
        let (armed, by_key) = self.arm_each(&mut slots, before, &named, TokenSlot::new, TokenSlot::source);
        slots.by_key = by_key;
        slots.endpoints.retain(|_, endpoint| Arc::strong_count(endpoint) > 1);
        slots.keys.retain(|_, key| Arc::strong_count(key) > 1);
        armed
    }

    /// The exchanges of the snapshot, in their order; with those that it shares with the last one go their subjects.
    pub fn arm_exchanges(&self, snapshot: &Snapshot) -> Vec<Arc<Exchange>> {
        self.arm_exchanges_with(&snapshot.issuers, &snapshot.credentials, &snapshot.exchanges)
    }

    fn arm_exchanges_with(
        &self,
        issuers: &[Issuer],
        credentials: &[Credential],
        requests: &[TokenRequest],
    ) -> Vec<Arc<Exchange>> {
        let mut slots = self.lock();
        let before = std::mem::take(&mut slots.exchanges);
        let named = Named { issuers, credentials, requests };
        let make = |source| Arc::new(Exchange::new(source));
        let (armed, exchanges) = self.arm_each(&mut slots, before, &named, make, Exchange::source);
        slots.exchanges = exchanges;
        armed
    }

    /// What runs for each request, in their order and by key: what ran before goes on, the rest is made, and what is not
    /// named any more goes with its series of metrics.
    fn arm_each<T>(
        &self,
        slots: &mut Slots,
        mut before: ByKey<T>,
        named: &Named<'_>,
        make: fn(TokenSource) -> Arc<T>,
        source: fn(&T) -> &TokenSource,
    ) -> (Vec<Arc<T>>, ByKey<T>) {
        let mut by_key: ByKey<T> = HashMap::new();
        let mut armed = Vec::with_capacity(named.requests.len());
        for request in named.requests {
            // An index that leads nowhere ends the list: nothing may stand in the place of another.
            let Some(credential) = named.credentials.get(request.credential.0) else { break };
            let Some(issuer) = named.issuers.get(credential.issuer.0) else { break };
            let known = by_key.get(&request.key).cloned().or_else(|| before.remove(&request.key));
            let runs = known.unwrap_or_else(|| make(self.source(slots, issuer, credential, request)));
            by_key.insert(request.key, runs.clone());
            armed.push(runs);
        }
        for (key, gone) in before {
            self.metrics.forget(&source(&gone).credential.name, &key);
        }
        (armed, by_key)
    }

    fn source(
        &self,
        slots: &mut Slots,
        issuer: &Issuer,
        credential: &Credential,
        request: &TokenRequest,
    ) -> TokenSource {
        self.metrics.mention(&credential.name, request.key);
        let endpoint =
            slots.endpoints.entry(issuer.fingerprint).or_insert_with(|| Arc::new(TokenEndpoint::new()));
        TokenSource {
            services: self.services.clone(),
            issuer: issuer.clone(),
            credential: credential.clone(),
            request: request.clone(),
            endpoint: endpoint.clone(),
            key: slots.key(credential, request),
            subject: None,
            metrics: self.metrics.clone(),
        }
    }

    /// What there is to know of every slot, by credential.
    pub fn report(&self) -> Vec<TokenReport> {
        let slots: Vec<_> = self.lock().by_key.values().cloned().collect();
        let mut reports: Vec<_> = slots.iter().map(|slot| TokenReport::of(slot)).collect();
        reports.sort_by(|a, b| {
            (&a.credential, &a.scopes, &a.audience).cmp(&(&b.credential, &b.scopes, &b.audience))
        });
        reports
    }

    /// What there is to know of every exchange, by credential.
    pub fn exchange_report(&self) -> Vec<ExchangeReport> {
        let exchanges: Vec<_> = self.lock().exchanges.values().cloned().collect();
        let mut reports: Vec<_> = exchanges.iter().map(|exchange| exchange.report()).collect();
        reports.sort_by(|a, b| {
            (&a.credential, &a.scopes, &a.audience).cmp(&(&b.credential, &b.scopes, &b.audience))
        });
        reports
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Slots ===

impl Slots {
    /// The key of a token that is bound to one: of its credential, so that another workload's tokens tell nothing of it. None
    /// too where none can be made, and then no such token is asked for.
    fn key(&mut self, credential: &Credential, request: &TokenRequest) -> Option<Arc<ProofKey>> {
        if request.binding != TokenBinding::Key {
            return None;
        }
        if let Some(key) = self.keys.get(&credential.fingerprint) {
            return Some(key.clone());
        }
        let key = Arc::new(ProofKey::generate().ok()?);
        self.keys.insert(credential.fingerprint, key.clone());
        Some(key)
    }
}

#[cfg(test)]
pub(crate) mod authority;
#[cfg(test)]
pub(crate) mod server;
#[cfg(test)]
mod tests;
