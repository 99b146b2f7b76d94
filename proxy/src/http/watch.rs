//! Who ends an exchange that may not go on? A task of its own, for both directions and whether anybody moves in them or not: a
//! caller who reads nothing holds nothing of the application's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::body::Relay;
use super::grant::{Admitted, Ending, Grant};
use super::sidecar::Worker;

/// The one watch over an exchange.
#[derive(Debug, Default)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is moved once, into a relay or an exchange; a box would be paid for by every request"
)]
pub(crate) enum Watch {
    /// There is none (outbound), or it is with the exchange.
    #[default]
    Nothing,
    /// It may be short, and costs nothing yet.
    Young {
        grant: Grant,
        is_answered: bool,
    },
    Open(Arc<Open>),
}

/// An exchange that has been open for a while. Its task ends when nobody holds it any more.
#[derive(Debug)]
pub(crate) struct Open {
    state: Mutex<State>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct State {
    /// Does the answer stand? Before that an end is a refusal, and recorded as one.
    is_answered: bool,
    ending: Option<Ending>,
    /// What flows.
    relays: Vec<Weak<Mutex<Relay>>>,
    /// Who waits for the answer.
    waiting: Option<Waker>,
}

/// The relays of one worker that may turn out to be short. Belongs to one worker, so its lock is never contended.
#[derive(Debug, Default)]
pub(super) struct Nursery(Mutex<Young>);

#[derive(Debug, Default)]
struct Young {
    /// By place: from when on it is to be watched.
    relays: Vec<Option<(Instant, Weak<Mutex<Relay>>)>>,
    free: Vec<usize>,
}

/// The place of one of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    worker: Arc<Worker>,
    index: usize,
}

// === impl Watch ===

impl Watch {
    pub(crate) fn over(admitted: Option<&Admitted<'_>>, is_answered: bool) -> Self {
        admitted.map_or(Self::Nothing, |admitted| Self::Young { grant: admitted.grant(), is_answered })
    }

    /// It has been open for a while: from now on there is a task.
    pub(crate) fn open(&mut self) -> Option<Arc<Open>> {
        *self = match std::mem::take(self) {
            Self::Young { grant, is_answered } => Self::Open(Open::begin(grant, is_answered)),
            other => other,
        };
        match self {
            Self::Open(open) => Some(open.clone()),
            Self::Nothing | Self::Young { .. } => None,
        }
    }

    /// The answer stands from now on, unless it came too late.
    pub(crate) fn stand(&mut self) -> Result<(), Ending> {
        match self {
            Self::Nothing => {}
            Self::Young { is_answered, .. } => *is_answered = true,
            Self::Open(open) => open.stand()?,
        }
        Ok(())
    }

    /// Why it may not go on, if so.
    pub(crate) fn ending(&self) -> Option<Ending> {
        match self {
            Self::Open(open) => open.lock().ending.clone(),
            Self::Nothing | Self::Young { .. } => None,
        }
    }
}

// === impl Open ===

impl Open {
    fn begin(grant: Grant, is_answered: bool) -> Arc<Self> {
        Arc::new_cyclic(|open| Self {
            state: Mutex::new(State { is_answered, ..State::default() }),
            task: tokio::spawn(watch(grant, open.clone())).abort_handle(),
        })
    }

    /// Ready when it may not go on. For the one who waits for the answer.
    pub(crate) fn poll_ended(&self, context: &mut Context<'_>) -> Poll<Ending> {
        let mut state = self.lock();
        if let Some(ending) = &state.ending {
            return Poll::Ready(ending.clone());
        }
        state.waiting = Some(context.waker().clone());
        Poll::Pending
    }

    /// The relay goes no further than the exchange.
    pub(super) fn hold(&self, relay: Weak<Mutex<Relay>>) -> Result<(), Ending> {
        let mut state = self.lock();
        match &state.ending {
            Some(ending) => Err(ending.clone()),
            None => {
                state.relays.push(relay);
                Ok(())
            }
        }
    }

    fn stand(&self) -> Result<(), Ending> {
        let mut state = self.lock();
        match &state.ending {
            Some(ending) => Err(ending.clone()),
            None => {
                state.is_answered = true;
                Ok(())
            }
        }
    }

    /// `true`: an answer was under way.
    fn end(&self, ending: &Ending) -> bool {
        let mut state = self.lock();
        state.ending = Some(ending.clone());
        let (relays, waiting) = (std::mem::take(&mut state.relays), state.waiting.take());
        let is_answered = state.is_answered;
        // A relay looks here while it is locked, so none is locked from here.
        drop(state);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
        relays.iter().filter_map(Weak::upgrade).for_each(|relay| Relay::end_early(&relay, ending));
        is_answered
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(grant: Grant, open: Weak<Open>) {
    let ending = grant.fallen().await;
    if open.upgrade().is_some_and(|open| open.end(&ending)) {
        grant.record(&ending);
    }
}

// === impl Nursery ===

impl Nursery {
    pub(super) fn enter(worker: &Arc<Worker>, due: Instant, relay: Weak<Mutex<Relay>>) -> Place {
        let mut young = worker.nursery.lock();
        let index = young.free.pop().unwrap_or(young.relays.len());
        match young.relays.get_mut(index) {
            Some(place) => *place = Some((due, relay)),
            None => young.relays.push(Some((due, relay))),
        }
        Place { worker: worker.clone(), index }
    }

    /// Has those watched that have been open for a while.
    pub(super) fn settle(&self) {
        let now = Instant::now();
        let is_due = |(due, _): &&(Instant, Weak<Mutex<Relay>>)| *due <= now;
        let due: Vec<_> = self
            .lock()
            .relays
            .iter()
            .flatten()
            .filter(is_due)
            .filter_map(|(_, relay)| relay.upgrade())
            .collect();
        due.iter().for_each(Relay::settle);
    }

    fn lock(&self) -> MutexGuard<'_, Young> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        let mut young = self.worker.nursery.lock();
        if let Some(place) = young.relays.get_mut(self.index) {
            *place = None;
            young.free.push(self.index);
        }
    }
}

#[cfg(test)]
mod tests;
