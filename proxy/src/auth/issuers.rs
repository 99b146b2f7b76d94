//! Which keys does an issuer publish? Discovery and key sets, fetched in the background and kept through outages.

pub(crate) mod discovery;
pub(crate) mod jwks;
mod keeper;
pub(crate) mod metrics;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use countersign_policy::Reason;
use countersign_policy::snapshot::{Algorithm, Issuer, KeySource};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::auth::issuers::jwks::{Key, KeySet, Lookup};
use crate::auth::issuers::keeper::Keeper;
use crate::auth::issuers::metrics::{IssuerMetrics, Names};
use crate::clock::Clock;
use crate::fetch::Fetcher;
use crate::metrics::Metrics;
use crate::state::dir::StateDir;
use crate::state::files::PolicyFiles;

/// What the keeper of key sets works with.
#[derive(Clone, Debug)]
pub struct Services {
    pub fetcher: Fetcher,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub files: PolicyFiles,
    pub state_dir: Option<StateDir>,
    /// The runtime of the background thread: fetches run there, never on a worker.
    pub background: Handle,
}

/// Every issuer's keys, across reloads: an issuer whose fingerprint is unchanged keeps its keys.
#[derive(Debug)]
pub struct Issuers {
    services: Services,
    pace: Pace,
    names: Names,
    armed: Mutex<HashMap<[u8; 32], Weak<IssuerKeys>>>,
}

/// The keys of one issuer, kept fresh in the background for as long as a snapshot holds it.
#[derive(Debug)]
pub struct IssuerKeys {
    clock: Clock,
    pace: Pace,
    shared: Arc<Shared>,
    demand: Mutex<Demand>,
    /// None where keys stand in policy itself.
    keeper: Option<AbortHandle>,
    _metrics: IssuerMetrics,
}

/// How long things take. Constants of the product; tests are in more of a hurry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Between two fetches for an unknown key id.
    pub(crate) cooldown: Duration,
    /// How long a request waits for keys.
    pub(crate) patience: Duration,
    /// The first pause after a failure is below this; it doubles up to 60 times.
    pub(crate) backoff: Duration,
    /// Between two looks at a file.
    pub(crate) poll: Duration,
}

/// What keeper and requests share.
#[derive(Debug)]
pub(crate) struct Shared {
    held: ArcSwapOption<Held>,
    pub(crate) flights: watch::Sender<Flights>,
    pub(crate) wake: Notify,
}

/// A key set and how long it may be used, in seconds since the epoch.
#[derive(Debug)]
struct Held {
    set: Arc<KeySet>,
    good_until: AtomicI64,
}

/// Fetches so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flights {
    pub(crate) running: bool,
    pub(crate) finished: u64,
    /// Did the last one bring keys?
    pub(crate) succeeded: bool,
}

/// The last fetch that was asked for because of an unknown key id.
#[derive(Debug, Default)]
struct Demand {
    at: Option<Instant>,
    /// The number of the flight that answers it.
    flight: u64,
}

// === impl Issuers ===

impl Issuers {
    pub fn new(services: Services) -> Self {
        Self::with_pace(services, Pace::STANDARD)
    }

    pub(crate) fn with_pace(services: Services, pace: Pace) -> Self {
        Self { services, pace, names: Names::default(), armed: Mutex::default() }
    }

    /// The keepers for these issuers, in their order. Issuers that are not named any more stop being fetched when the last
    /// snapshot that holds them is gone; what the state directory kept of them is removed.
    pub fn arm(&self, issuers: &[Issuer]) -> Vec<Arc<IssuerKeys>> {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *armed);
        let mut keys = Vec::with_capacity(issuers.len());
        for issuer in issuers {
            let known = armed.get(&issuer.fingerprint).or_else(|| before.get(&issuer.fingerprint));
            let runtime = known.and_then(Weak::upgrade).unwrap_or_else(|| self.start(issuer));
            before.remove(&issuer.fingerprint);
            armed.insert(issuer.fingerprint, Arc::downgrade(&runtime));
            keys.push(runtime);
        }
        for gone in before.keys() {
            keeper::forget(&self.services, gone);
        }
        keys
    }

    fn start(&self, issuer: &Issuer) -> Arc<IssuerKeys> {
        let metrics = IssuerMetrics::new(&self.services.metrics, &self.names, &issuer.name);
        let shared = Arc::new(Shared {
            held: ArcSwapOption::empty(),
            flights: watch::Sender::new(Flights::default()),
            wake: Notify::new(),
        });
        let keeper = if let KeySource::Inline(document) = &issuer.jwks {
            keeper::hold_inline(&shared, document, issuer);
            None
        } else {
            let keeper =
                Keeper::new(self.services.clone(), issuer.clone(), self.pace, &metrics, shared.clone());
            Some(self.services.background.spawn(keeper.run()).abort_handle())
        };
        Arc::new(IssuerKeys {
            clock: self.services.clock.clone(),
            pace: self.pace,
            shared,
            demand: Mutex::default(),
            keeper,
            _metrics: metrics,
        })
    }
}

// === impl IssuerKeys ===

impl IssuerKeys {
    /// Has a key set been had (from the issuer, a file or disk) that may still be used?
    pub fn is_ready(&self) -> bool {
        self.shared.current(self.clock.unix()).is_some()
    }

    /// Is this the fingerprint of the key set that may be used now? Neither waits nor allocates.
    pub(crate) fn has_tag(&self, tag: &[u8; 32], now: i64) -> bool {
        let held = self.shared.held.load();
        held.as_ref().is_some_and(|held| held.is_good(now) && held.set.fingerprint() == tag)
    }

    /// The key that a token was signed with, and the fingerprint of the set that it is in. Waits where there is no set yet,
    /// and for one fetch where the set does not know the key id: `unknown_key` once it is known not to be the issuer's,
    /// `keys_unavailable` as long as that is not known.
    pub(crate) async fn key(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<(Arc<Key>, [u8; 32]), Reason> {
        let set = match self.shared.current(self.clock.unix()) {
            Some(set) => set,
            None => self.first_set().await?,
        };
        match set.find(kid, algorithm) {
            Lookup::Key(key) => return Ok((key.clone(), *set.fingerprint())),
            Lookup::Unfit => return Err(Reason::UnknownKey),
            Lookup::UnknownId => {}
        }
        let flight = self.demand();
        if !self.flown(flight).await {
            return Err(Reason::KeysUnavailable);
        }
        let set = self.shared.current(self.clock.unix()).ok_or(Reason::KeysUnavailable)?;
        match set.find(kid, algorithm) {
            Lookup::Key(key) => Ok((key.clone(), *set.fingerprint())),
            Lookup::Unfit | Lookup::UnknownId => Err(Reason::UnknownKey),
        }
    }

    /// The set that the very first flight brings. Later on nobody waits: the keeper tries again by itself.
    async fn first_set(&self) -> Result<Arc<KeySet>, Reason> {
        self.flown(1).await;
        self.shared.current(self.clock.unix()).ok_or(Reason::KeysUnavailable)
    }

    /// Asks for a fetch, at most one per cooldown whoever asks. Returns the number of the flight that answers.
    fn demand(&self) -> u64 {
        let mut demand = self.demand.lock().unwrap_or_else(PoisonError::into_inner);
        if demand.at.is_none_or(|at| at.elapsed() >= self.pace.cooldown) {
            let flights = *self.shared.flights.borrow();
            *demand = Demand { at: Some(Instant::now()), flight: flights.finished.saturating_add(1) };
            if !flights.running {
                self.shared.wake.notify_one();
            }
        }
        demand.flight
    }

    /// Waits until this flight has ended, within our patience. Did it bring keys?
    async fn flown(&self, flight: u64) -> bool {
        let mut flights = self.shared.flights.subscribe();
        let ended = flights.wait_for(|flights| flights.finished >= flight);
        match tokio::time::timeout(self.pace.patience, ended).await {
            Ok(Ok(flights)) => flights.succeeded,
            _ => false,
        }
    }
}

impl Drop for IssuerKeys {
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.abort();
        }
    }
}

// === impl Shared ===

impl Shared {
    /// The set that may be used now.
    pub(crate) fn current(&self, now: i64) -> Option<Arc<KeySet>> {
        let held = self.held.load();
        held.as_ref().filter(|held| held.is_good(now)).map(|held| held.set.clone())
    }

    /// Holds this set until then. Says whether its keys are other ones than before.
    pub(crate) fn hold(&self, set: KeySet, good_until: i64) -> bool {
        if let Some(held) = self.held.load().as_ref().filter(|h| h.set.fingerprint() == set.fingerprint()) {
            held.good_until.store(good_until, Ordering::Relaxed);
            return false;
        }
        let good_until = AtomicI64::new(good_until);
        self.held.store(Some(Arc::new(Held { set: Arc::new(set), good_until })));
        true
    }

    /// The set that is held may be used until then.
    pub(crate) fn prolong(&self, good_until: i64) {
        if let Some(held) = self.held.load().as_ref() {
            held.good_until.store(good_until, Ordering::Relaxed);
        }
    }
}

// === impl Held ===

impl Held {
    fn is_good(&self, now: i64) -> bool {
        now < self.good_until.load(Ordering::Relaxed)
    }
}

// === impl Pace ===

impl Pace {
    const STANDARD: Self = Self {
        cooldown: Duration::from_secs(30),
        patience: Duration::from_secs(2),
        backoff: Duration::from_secs(1),
        poll: Duration::from_secs(1),
    };
}

#[cfg(test)]
mod tests;
