//! What is the life of one token? Served while it is good, refreshed ahead by one keeper, dropped at its hard limit.
//!
//! Each slot has one keeper, a task on the background runtime, and only the keeper fetches: so there is one flight at a
//! time, and callers that go away cannot end it. Callers only read the token, board the flight, and wake the keeper.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use countersign_policy::Reason;
use tokio::sync::{Notify, watch};

use crate::auth::tokens::failure::{Cause, Failure};
use crate::auth::tokens::metrics::Replay;
use crate::auth::tokens::shown::Shown;
use crate::auth::tokens::source::{Fingerprint, Held, Moment, TokenSource};
use crate::state::certificate::Certificate;

mod keeper;

/// How long a caller waits for a token.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two tokens that are fetched because a destination refused one.
const BETWEEN_REFUSALS: Duration = Duration::from_secs(5);

/// One token request's token.
#[derive(Debug)]
pub struct TokenSlot {
    source: Arc<TokenSource>,
    /// Filled by the keeper alone; emptied when the token is at its end, or refused.
    held: ArcSwapOption<Held>,
    /// What was held before, where that is bound to another certificate: for requests on their way over a connection that
    /// presents that one.
    former: ArcSwapOption<Held>,
    /// When a caller last asked, in seconds since the epoch.
    last_used: AtomicU64,
    /// The keeper knows that the soft limit has passed.
    nudged: AtomicBool,
    state: Mutex<State>,
    landed: watch::Sender<Landing>,
    wake: Arc<Notify>,
}

/// No token can be had now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// When to try again, for `Retry-After`.
    pub retry_after: Duration,
    /// What was to be exchanged is refused or at its end: the fault of who sent it.
    pub subject_refused: bool,
}

#[derive(Debug, Default)]
struct State {
    /// A flight is under way, or the keeper has been told to begin one.
    flying: bool,
    /// Flights that have landed.
    flights: u64,
    /// Failures in a row.
    failures: u32,
    setback: Option<Setback>,
    /// Flights that brought no token.
    failed: u64,
    /// The last of these, kept for those who ask why.
    last_error: Option<LastError>,
    /// Callers that boarded a flight that was already under way.
    coalesced: u64,
    /// When a token was dropped because a destination refused it.
    dropped: Option<Moment>,
}

/// The last flight failed.
#[derive(Clone, Debug)]
struct Setback {
    at: Moment,
    pause: Duration,
    failure: Failure,
    /// The content of the credential's file that did not do.
    file: Fingerprint,
}

/// Why and when a flight brought no token.
#[derive(Clone, Debug)]
pub(crate) struct LastError {
    pub at: Moment,
    pub failure: Failure,
}

/// The outcome of the last flight. The token itself is in the slot, so that it is wiped in time.
#[derive(Clone, Copy, Debug, Default)]
struct Landing {
    flight: u64,
    failed: Option<Unavailable>,
}

/// What a slot tells of itself.
#[derive(Debug)]
pub(crate) struct Status {
    pub state: &'static str,
    pub held: Option<Arc<Held>>,
    pub last_error: Option<LastError>,
    pub retry_in: Option<Duration>,
    pub in_flight: bool,
    pub fetched: u64,
    pub failed: u64,
    pub coalesced: u64,
    pub waiting: usize,
}

// === impl TokenSlot ===

impl TokenSlot {
    /// A slot with a keeper, which fetches the first token at once.
    pub(crate) fn new(source: TokenSource) -> Arc<Self> {
        let background = source.services.background.clone();
        let wake = Arc::new(Notify::new());
        let slot = Arc::new(Self {
            last_used: AtomicU64::new(source.services.clock.now().as_secs()),
            source: Arc::new(source),
            held: ArcSwapOption::empty(),
            former: ArcSwapOption::empty(),
            nudged: AtomicBool::new(false),
            state: Mutex::default(),
            landed: watch::Sender::new(Landing::default()),
            wake: wake.clone(),
        });
        background.spawn(keeper::keep(Arc::downgrade(&slot), wake));
        slot
    }

    /// What to show, if a token is at hand that may be sent: no wait, no allocation.
    pub fn ready(&self) -> Option<Shown> {
        let held = self.held.load();
        let held = held.as_ref()?;
        let now = self.source.services.clock.now();
        let age = now.saturating_sub(held.sent.wall);
        if age >= held.lifetime.hard {
            return None;
        }
        self.touch(now);
        if age < held.lifetime.soft {
            self.source.metrics.hit.inc();
        } else {
            self.source.metrics.refresh.inc();
            self.nudge();
        }
        Some(held.shown.clone())
    }

    /// What to show, waiting for the one flight if there must be one.
    pub async fn token(&self) -> Result<Shown, Unavailable> {
        if let Some(value) = self.ready() {
            return Ok(value);
        }
        let mut landed = self.landed.subscribe();
        let (flight, result) = self.board().inspect_err(|_| self.source.metrics.failed.inc())?;
        let landing =
            tokio::time::timeout(PATIENCE, landed.wait_for(|landing| landing.flight >= flight)).await;
        let failed = match landing {
            Ok(Ok(landing)) => landing.failed,
            // It is late, or the background runtime is gone.
            Err(_) | Ok(Err(_)) => Some(Unavailable::default()),
        };
        // A token may have come and gone meanwhile, or one may have come although the flight that we waited for failed.
        match self.sendable() {
            Some(value) => {
                result.inc();
                Ok(value)
            }
            None => {
                self.source.metrics.failed.inc();
                Err(failed.unwrap_or_default())
            }
        }
    }

    /// The flight that brings a token, and the counter of those who board it so. None departs before the pause after a
    /// failure is over.
    fn board(&self) -> Result<(u64, &prometheus::IntCounter), Unavailable> {
        self.touch(self.source.services.clock.now());
        if self.source.subject_has_ended() {
            // So that what was had for it is wiped, too.
            self.nudge();
            return Err(Unavailable::ended());
        }
        let mut state = self.lock();
        let flight = state.flights + 1;
        if state.flying {
            state.coalesced += 1;
            return Ok((flight, &self.source.metrics.coalesced));
        }
        if self.sendable().is_some() {
            // It has landed since the caller looked.
            return Ok((state.flights, &self.source.metrics.coalesced));
        }
        if let Some(unavailable) = self.unavailable(&state) {
            drop(state);
            // The keeper may have stopped watching the credential's file, while nobody asked for the token.
            self.nudge();
            return Err(unavailable);
        }
        state.flying = true;
        drop(state);
        self.wake.notify_one();
        Ok((flight, &self.source.metrics.miss))
    }

    /// A destination refused this token as invalid (RFC 6750 §3.1). It is dropped if it is still the one that is held, and
    /// another is fetched: not more often than every 5 s, since a destination that refuses every token must not have us ask
    /// the issuer again and again, and not while the issuer cannot be asked, since others may accept the token. Is another
    /// one there, or on its way?
    pub(crate) fn refused(&self, shown: &Shown) -> bool {
        let TokenSource { services, metrics, .. } = &*self.source;
        let mut state = self.lock();
        let held = self.held.load_full();
        if held.as_ref().is_none_or(|held| held.shown.authorization != shown.authorization) {
            metrics.superseded.inc();
            return true;
        }
        let just_now = |at: Moment| at.elapsed(&services.clock) < BETWEEN_REFUSALS;
        if state.dropped.is_some_and(just_now) || self.pause_left(&state).is_some() {
            metrics.kept.inc();
            return false;
        }
        // The keeper may be storing a fresh one just now, which survives.
        self.held.compare_and_swap(&held, None);
        state.dropped = Some(Moment::now(&services.clock));
        metrics.dropped.inc();
        if !state.flying {
            state.flying = true;
            self.wake.notify_one();
        }
        true
    }

    /// Counts a request that was refused for its token.
    pub(crate) fn replayed(&self, replay: Replay) {
        self.source.metrics.replayed(replay);
    }

    /// When a caller last asked, in seconds since the epoch.
    pub(crate) fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }

    pub(crate) fn source(&self) -> &TokenSource {
        &self.source
    }

    pub(crate) fn status(&self) -> Status {
        let held = self.held.load_full();
        let state = self.lock();
        let age = held.as_ref().map(|held| (held.sent.elapsed(&self.source.services.clock), held.lifetime));
        Status {
            state: match age {
                Some((age, lifetime)) if age < lifetime.soft => "fresh",
                Some((age, lifetime)) if age < lifetime.hard => "refresh_due",
                _ if state.setback.is_some() => "unavailable",
                _ if state.flying => "pending",
                _ => "idle",
            },
            last_error: state.last_error.clone(),
            retry_in: self.pause_left(&state),
            in_flight: state.flying,
            fetched: state.flights.saturating_sub(state.failed),
            failed: state.failed,
            coalesced: state.coalesced,
            // Only who waits for a flight is subscribed.
            waiting: self.landed.receiver_count(),
            held,
        }
    }

    /// What to show for a request that has been on its way: not counted, and judged by both clocks.
    pub(crate) fn sendable(&self) -> Option<Shown> {
        self.held.load().as_ref().filter(|held| self.is_good(held)).map(|held| held.shown.clone())
    }

    /// The same, over a connection that presents this certificate.
    pub(crate) fn sendable_over(&self, certificate: Option<&Arc<Certificate>>) -> Option<Shown> {
        let fits = |held: &Arc<Held>| held.shown.certificate() == certificate && self.is_good(held);
        let (held, former) = (self.held.load(), self.former.load());
        let held = [held.as_ref(), former.as_ref()].into_iter().flatten().find(|held| fits(held));
        held.map(|held| held.shown.clone())
    }

    fn is_good(&self, held: &Held) -> bool {
        held.sent.elapsed(&self.source.services.clock) < held.lifetime.hard
    }

    /// Stores only what is new: workers share the line.
    fn touch(&self, now: Duration) {
        if self.last_used.load(Ordering::Relaxed) != now.as_secs() {
            self.last_used.store(now.as_secs(), Ordering::Relaxed);
        }
    }

    /// Tells the keeper, once, that there is something to do: it may sleep by a clock that stood still.
    fn nudge(&self) {
        if !self.nudged.load(Ordering::Relaxed) && !self.nudged.swap(true, Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }

    /// Lets the keeper look, as if its clock had rung.
    #[cfg(test)]
    pub(crate) fn ring(&self) {
        self.wake.notify_one();
    }

    fn pause_left(&self, state: &State) -> Option<Duration> {
        let setback = state.setback.as_ref()?;
        let left = setback.pause.saturating_sub(setback.at.elapsed(&self.source.services.clock));
        (!left.is_zero()).then_some(left)
    }

    /// During the pause after a failure.
    fn unavailable(&self, state: &State) -> Option<Unavailable> {
        let cause = state.setback.as_ref()?.failure.cause;
        Some(Unavailable::after(self.pause_left(state)?, cause))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TokenSlot {
    fn drop(&mut self) {
        // So that the keeper sees it, and ends.
        self.wake.notify_one();
    }
}

// === impl Unavailable ===

impl Unavailable {
    /// Why a request that needs the token is refused.
    pub fn reason(self) -> Reason {
        if self.subject_refused { Reason::Inactive } else { Reason::TokenUnavailable }
    }

    /// The application's token is at its end.
    pub(crate) fn ended() -> Self {
        Self { subject_refused: true, ..Self::default() }
    }

    fn after(pause: Duration, cause: Cause) -> Self {
        Self { retry_after: pause, subject_refused: cause == Cause::Subject }
    }
}

impl Default for Unavailable {
    fn default() -> Self {
        Self { retry_after: Duration::from_secs(1), subject_refused: false }
    }
}

#[cfg(test)]
mod tests;
