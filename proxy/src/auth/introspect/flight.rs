//! Who asks about a token when many want to know at once? One flight, a task of its own, so that a caller who goes away
//! cannot end it; all who board it hear what it brings.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_policy::{Reason, Token};
use tokio::sync::watch;

use crate::auth::introspect::Introspector;
use crate::auth::introspect::metrics::Result as Counted;
use crate::auth::tokens::failure::{Cause, Failure};
use crate::auth::tokens::secret::Secret;
use crate::auth::verify::verdicts::{TokenHash, Verdict};

/// Flights at once, with those that wait for their turn: each holds a token of at most 16 KiB.
const MAX_FLIGHTS: usize = 512;

/// The flights under way, by the hash of the token.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<TokenHash, Landing>>);

type Outcome = Result<Arc<Token>, Reason>;
/// What a flight brings; none before that.
type Landing = watch::Receiver<Option<Outcome>>;

/// What there is for who wants to board a flight.
pub(super) enum Boarded {
    /// It has landed since the caller looked.
    Landed(Arc<Verdict>),
    Flying(Landing),
}

/// One question under way.
struct Flight {
    introspector: Arc<Introspector>,
    hash: TokenHash,
    token: Secret,
    /// The issuer has called it active before.
    is_familiar: bool,
    landing: watch::Sender<Option<Outcome>>,
}

// === impl Flights ===

impl Flights {
    fn lock(&self) -> MutexGuard<'_, HashMap<TokenHash, Landing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }
}

// === impl Introspector ===

impl Introspector {
    /// The flight that asks about a token: the one under way, or a new one unless the issuer is not to be asked now.
    pub(super) fn board(
        self: &Arc<Self>,
        hash: TokenHash,
        token: &str,
        is_familiar: bool,
    ) -> Result<Boarded, Reason> {
        let mut flights = self.flights.lock();
        if let Some(landing) = flights.get(&hash) {
            return Ok(Boarded::Flying(landing.clone()));
        }
        let now = self.services.clock.now();
        if let Some(verdict) = self.landed(&hash) {
            return Ok(Boarded::Landed(verdict));
        }
        if self.retry_after().is_some() {
            return Err(Reason::KeysUnavailable);
        }
        if flights.len() >= MAX_FLIGHTS || !is_familiar && self.budget.is_spent(now) {
            self.metrics.count(Counted::Shed);
            return Err(Reason::Overloaded);
        }
        let (sender, landing) = watch::channel(None);
        flights.insert(hash, landing.clone());
        drop(flights);
        let token = token.to_owned().into();
        let flight = Flight { introspector: self.clone(), hash, token, is_familiar, landing: sender };
        self.services.background.spawn(flight.fly());
        Ok(Boarded::Flying(landing))
    }

    /// What the last flight brought, if it has just landed: with the door closed behind the caller who looked.
    fn landed(&self, hash: &TokenHash) -> Option<Arc<Verdict>> {
        let now = self.services.clock.unix();
        let fresh = |verdict: &Arc<Verdict>| self.holds(verdict, now) && !super::is_due(verdict, now);
        let found = self.kept.active.find(hash).filter(fresh);
        found.or_else(|| self.kept.refused.find(hash).filter(fresh))
    }
}

// === impl Flight ===

impl Flight {
    async fn fly(self) {
        let outcome = self.ask().await;
        self.land(outcome);
    }

    async fn ask(&self) -> Outcome {
        let Introspector { turns, services, budget, question, metrics, .. } = &*self.introspector;
        // Held to the end: of the answer, not only of the request.
        let Some(_turn) = turns.take(self.is_familiar).await else { return Err(Reason::Internal) };
        if self.introspector.retry_after().is_some() {
            return Err(Reason::KeysUnavailable);
        }
        if !self.is_familiar && budget.is_spent(services.clock.now()) {
            metrics.count(Counted::Shed);
            return Err(Reason::Overloaded);
        }
        let asked = services.clock.unix();
        let (said, file) = question.put(self.token.expose(), metrics).await;
        match said {
            Ok(said) => {
                self.introspector.is_served();
                let outcome = said.map(Arc::new);
                metrics.count(match &outcome {
                    Ok(_) => Counted::Active,
                    Err(Reason::Inactive) => Counted::Inactive,
                    Err(_) => Counted::Refused,
                });
                if outcome.is_err() {
                    budget.spend(services.clock.now());
                }
                self.introspector.keep(self.hash, asked, &outcome);
                outcome
            }
            Err(failure) => {
                metrics.count(Counted::Failed);
                self.introspector.is_in_trouble(failure, file);
                Err(Reason::KeysUnavailable)
            }
        }
    }

    /// Off the list first: who comes now finds what was kept, or departs anew.
    fn land(&self, outcome: Outcome) {
        self.introspector.flights.lock().remove(&self.hash);
        self.landing.send_replace(Some(outcome));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if self.landing.borrow().is_none() {
            // It broke off, which is a defect of ours: the issuer is spared for a moment, and nobody boards a wreck.
            self.introspector.flights.lock().remove(&self.hash);
            let failure = Failure::new(Cause::Internal, "the question broke off");
            self.introspector.is_in_trouble(failure, None);
            self.landing.send_replace(Some(Err(Reason::Internal)));
        }
    }
}
