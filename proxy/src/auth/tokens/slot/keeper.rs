//! Who fetches? The keeper of a slot: ahead of time while the token is used, after a pause when it failed, and at once when a
//! caller waits or a refused credential's file is another.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Landing, LastError, Setback, State, TokenSlot, Unavailable};
use crate::auth::tokens::exchange::Trouble;
use crate::auth::tokens::failure::{Cause, Failure};
use crate::auth::tokens::lifetime::{self, DEFAULT_LIFE, FETCH_LIMIT};
use crate::auth::tokens::source::{Fingerprint, Held, Moment, TokenSource};
use crate::state::backoff;

/// How long a flight may take, with its wait for the issuer's other flights.
const LONGEST_FLIGHT: Duration = Duration::from_secs(30);
/// How often a refused credential's file is looked at.
pub(super) const FILE_CHECK: Duration = Duration::from_millis(500);
/// How often a certificate is looked at that the token is bound to.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(2);

/// What the keeper does next.
enum Next {
    Fetch,
    Rest(Option<Duration>),
}

/// Keeps a slot for as long as a snapshot holds it.
pub(super) async fn keep(slot: Weak<TokenSlot>, wake: Arc<Notify>) {
    loop {
        let Some(kept) = slot.upgrade() else { return };
        kept.look_at_file();
        let rest = match kept.next(kept.is_outdated()) {
            Next::Fetch => {
                kept.fly().await;
                continue;
            }
            Next::Rest(rest) => rest,
        };
        drop(kept);
        match rest {
            Some(rest) => drop(tokio::time::timeout(rest, wake.notified()).await),
            None => wake.notified().await,
        }
    }
}

// === impl TokenSlot ===

impl TokenSlot {
    /// `outdated`: the certificate that the token is bound to has been replaced, so the token ends with it.
    fn next(&self, outdated: bool) -> Next {
        let mut state = self.lock();
        if state.flying {
            return Next::Fetch;
        }
        let held = self.held.load_full();
        let age =
            held.as_ref().map(|held| held.sent.elapsed(&self.source.services.clock)).unwrap_or_default();
        let left = |limit: Duration| Some(limit.saturating_sub(age)).filter(|left| !left.is_zero());
        let to_soft = held.as_ref().and_then(|held| left(held.lifetime.soft)).filter(|_| !outdated);
        let to_hard = held.as_ref().and_then(|held| left(held.lifetime.hard));
        if to_hard.is_none() {
            self.held.store(None);
        }
        if !self.former.load().as_ref().is_some_and(|former| self.is_good(former)) {
            self.former.store(None);
        }
        let to_look = held.as_ref().and_then(|held| held.shown.certificate()).map(|_| CERTIFICATE_CHECK);
        if to_soft.is_some() || self.is_idle(held.as_deref()) {
            self.nudged.store(false, Ordering::Relaxed);
            let to_limit = to_soft.or(to_hard);
            return Next::Rest(to_limit.map(|limit| to_look.map_or(limit, |look| look.min(limit))));
        }
        if self.source.subject.is_some() && to_hard.is_none() {
            // The subjects are many: without a token in hand, one is fetched only for a caller who waits for it.
            self.nudged.store(false, Ordering::Relaxed);
            return Next::Rest(None);
        }
        if let Some(pause) = self.pause_left(&state) {
            let rest = to_hard.map_or(pause, |to_hard| to_hard.min(pause));
            let permanent =
                state.setback.as_ref().is_some_and(|setback| setback.failure.cause.is_permanent());
            let watches_file = permanent && self.source.subject.is_none();
            return Next::Rest(Some(if watches_file { rest.min(FILE_CHECK) } else { rest }));
        }
        state.flying = true;
        Next::Fetch
    }

    /// Can nothing more be had of it, or does nobody want it any more?
    pub(crate) fn is_spent(&self) -> bool {
        self.source.subject_has_ended() || self.is_idle(self.held.load_full().as_deref())
    }

    /// Has nobody asked for one lifetime?
    fn is_idle(&self, held: Option<&Held>) -> bool {
        let unused =
            self.source.services.clock.now().as_secs().saturating_sub(self.last_used.load(Ordering::Relaxed));
        Duration::from_secs(unused) >= held.map_or(DEFAULT_LIFE, |held| held.lifetime.life)
    }

    /// Is the token bound to a certificate that has been replaced?
    fn is_outdated(&self) -> bool {
        self.held.load_full().is_some_and(|held| self.source.is_outdated(&held))
    }

    /// A credential that was refused is tried again as soon as its file is another.
    fn look_at_file(&self) {
        let refused = {
            let state = self.lock();
            let Some(setback) = &state.setback else { return };
            let cause = setback.failure.cause;
            if state.flying || !cause.is_permanent() || cause == Cause::Subject {
                return;
            }
            setback.file
        };
        if Some(self.source.fingerprint()) != refused {
            let mut state = self.lock();
            state.setback = None;
            state.failures = 0;
        }
    }

    /// How long the token that is held may still be sent, if one is.
    fn left_to_hard(&self) -> Option<Duration> {
        let held = self.held.load_full()?;
        Some(held.lifetime.hard.saturating_sub(held.sent.elapsed(&self.source.services.clock)))
    }

    async fn fly(&self) {
        let (source, left) = (self.source.clone(), self.left_to_hard());
        let limit = left.map_or(FETCH_LIMIT, lifetime::fetch_limit);
        // A task of its own: a panic in it is one failure, not the keeper's end.
        let mut flight =
            tokio::spawn(async move { tokio::time::timeout(LONGEST_FLIGHT, source.fetch(limit)).await });
        let landed = match tokio::time::timeout(left.unwrap_or(2 * LONGEST_FLIGHT), &mut flight).await {
            Ok(landed) => landed,
            Err(_) => {
                // What is held ends on its way too, whatever the wall clock says meanwhile.
                self.held.store(None);
                flight.await
            }
        };
        let (result, file) = match landed {
            Ok(Ok(landed)) => landed,
            Ok(Err(_)) => (Err(Failure::new(Cause::Timeout, "no token came within 30 s")), None),
            Err(_) => (Err(Failure::new(Cause::Internal, "the fetch broke off")), None),
        };
        match result {
            Ok(held) => self.land(held),
            Err(failure) => self.fail(failure, file),
        }
    }

    fn land(&self, held: Held) {
        let TokenSource { credential, request, metrics, .. } = &*self.source;
        if self.source.subject.is_none() {
            // That of a subject ends when nobody needs it any more, which is nothing to be warned of.
            metrics.obtained(
                &credential.name,
                request.key,
                held.sent.wall.saturating_add(held.lifetime.life),
            );
        }
        if let Some(granted) = &held.narrowed {
            metrics.narrowed(&credential.name, &request.key);
            tracing::warn!(credential = %credential.name, asked = ?request.scopes, ?granted, "fewer scopes were granted");
        }
        let held = Arc::new(held);
        let before = self.held.swap(Some(held.clone()));
        let is_other = |before: &Arc<Held>| before.shown.certificate() != held.shown.certificate();
        self.former.store(before.filter(is_other));
        self.nudged.store(false, Ordering::Relaxed);
        let mut state = self.lock();
        if state.failures > 0 {
            tracing::info!(credential = %credential.name, failures = state.failures, "tokens come again");
        }
        state.failures = 0;
        state.setback = None;
        if let Some(subject) = &self.source.subject {
            subject.is_served();
        }
        self.announce(&mut state, None);
    }

    fn fail(&self, failure: Failure, file: Fingerprint) {
        let TokenSource { credential, request, metrics, services, .. } = &*self.source;
        metrics.failed_fetch(&credential.name, &request.key, failure.cause);
        let mut state = self.lock();
        state.failures = state.failures.saturating_add(1);
        state.failed += 1;
        let (cause, name) = (failure.cause, &credential.name);
        let at = Moment::now(&services.clock);
        // What is wrong with the issuer, rather than with one subject, is found once for all of them.
        let subject = self.source.subject.as_ref().filter(|_| cause != Cause::Subject && !failure.is_known);
        let failures = subject.map_or(state.failures, |subject| subject.count_failure());
        let pause = lifetime::pause(failures, cause.is_permanent(), failure.retry_after, backoff::random());
        // What the subjects share waits for all of them, whichever token is about to end.
        let pause = match self.left_to_hard() {
            Some(left) if subject.is_none() => lifetime::pause_within(pause, failure.retry_after, left),
            _ => pause,
        };
        if let Some(subject) = subject {
            subject.is_in_trouble(Trouble { at, pause, failure: failure.clone(), file });
        }
        if cause == Cause::Subject || failure.is_known {
            // Whoever can send us a token could fill the log.
            tracing::debug!(credential = %name, cause = cause.as_str(), "no token: {failure}");
        } else {
            tracing::warn!(credential = %name, cause = cause.as_str(), retry_in = ?pause, "no token: {failure}");
        }
        state.last_error = Some(LastError { at, failure: failure.clone() });
        state.setback = Some(Setback { at, pause, failure, file });
        self.announce(&mut state, Some(Unavailable::after(pause, cause)));
    }

    fn announce(&self, state: &mut State, failed: Option<Unavailable>) {
        state.flying = false;
        state.flights += 1;
        self.landed.send_replace(Landing { flight: state.flights, failed });
    }
}
