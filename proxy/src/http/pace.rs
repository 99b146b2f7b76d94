//! How long may a connection take? For a request's head, for silence, for a caller who does not read: one timer for each connection,
//! which is moved when it rings and not with every request.

mod streams;
mod under_way;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use countersign_policy::Reason;
use tokio::time::{Instant, Sleep, sleep};

use crate::metrics::Metrics;
use crate::record::Direction;

pub(super) use streams::{Onward, Stream, Streams};
pub(super) use under_way::{Busy, Exchange, Kept, Standing};

/// What a connection of a caller is doing, as far as its timers have to know. Belongs to one worker, so its lock is never contended.
#[derive(Debug)]
pub(super) struct Pace {
    counts: Counts,
    state: Mutex<State>,
}

/// Where it is counted that something took too long.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    pub(super) metrics: Arc<Metrics>,
    pub(super) direction: Direction,
    /// What is under way on all connections of the worker, and does not rest: requests, their bodies, answers and pieces of them.
    pub(super) held: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct State {
    /// Of the preface of HTTP/2: bytes that have not come. Without it there is no connection (RFC 9113 §3.4).
    preface: usize,
    is_h2: bool,
    /// Something has come of the next head, or of the preface.
    is_begun: bool,
    /// What keeps the connection from being idle: requests that have not been read, or answers that have not been said to their end.
    busy: usize,
    /// Of them pieces of answers that lie in h2, and from when on none was taken.
    lying: usize,
    lying_since: Option<Instant>,
    /// Of HTTP/1, which has one at a time. Has its request been passed on?
    exchange: Exchange,
    is_out: bool,
    /// Who waits until the end of the caller is to be heard.
    listener: Option<Waker>,
    /// It is to end as soon as nothing is under way.
    is_parting: bool,
    /// Nothing has been under way for a while, and nobody has to hold a buffer for it.
    is_resting: bool,
    /// From when on what is the case now is. Asked for only once it has been the case for a whole turn, since a head mostly comes in
    /// one piece.
    since: Option<Instant>,
    /// The caller sends too many frames that ask for nothing.
    is_flooded: bool,
    /// A write waits for the caller, and from when on.
    is_blocked: bool,
    blocked_since: Option<Instant>,
    /// Of HTTP/2: bytes that the caller was sent, and how many of answers it takes on the whole connection.
    written: u64,
    window: i64,
    /// Of HTTP/2, too: what the caller has begun to say.
    begun: Option<Begun>,
    /// What came last was no request, and hyper has said so.
    unread: Option<Reason>,
}

/// A frame of HTTP/2 of which the rest is waited for, or all frames of one head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    /// Which one it is.
    pub(super) number: u64,
    /// Else its kind has not come, and it may be one.
    pub(super) is_head: bool,
    pub(super) since: Option<Instant>,
}

/// What it is time for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// A connection of HTTP/1 rests, which is said once each time.
    Rest,
    End(Overdue),
}

/// Why a connection is ended though the caller has not ended it: a value of the label `cause`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// A request's head, or a preface, that does not come to its end.
    Head,
    /// No request for a while.
    Idle,
    /// The caller does not take what it is sent.
    Write,
    /// It does not take one of the answers of HTTP/2, whose stream is reset: the connection goes on.
    Stream,
    /// Too many frames of HTTP/2 that ask for nothing.
    Frames,
}

// === impl Pace ===

impl Pace {
    /// Of a connection whose first byte was seen at this time, if it was seen.
    pub(super) fn new(is_h2: bool, first: Option<Instant>, counts: Counts) -> Arc<Self> {
        let state = Mutex::new(State {
            preface: if is_h2 { PREFACE } else { 0 },
            is_h2,
            is_begun: first.is_some(),
            busy: 0,
            lying: 0,
            lying_since: None,
            exchange: Exchange::None,
            is_out: false,
            listener: None,
            is_parting: false,
            is_resting: false,
            since: first,
            is_flooded: false,
            is_blocked: false,
            blocked_since: None,
            written: 0,
            window: FIRST_WINDOW,
            begun: None,
            unread: None,
        });
        Arc::new(Self { counts, state })
    }

    /// Resolves when it is time for something. To be polled after the connection, so that what it has just done counts.
    pub(super) async fn due(&self) -> Due {
        let mut timer = pin!(sleep(IDLE));
        poll_fn(|context| self.poll_due(timer.as_mut(), context)).await
    }

    /// Resolves when the connection has taken too long, rest or not.
    pub(super) async fn overdue(&self) -> Overdue {
        loop {
            if let Due::End(overdue) = self.due().await {
                return overdue;
            }
        }
    }

    /// From now on a connection without a request has little time.
    pub(super) fn part(&self) {
        let mut state = self.lock();
        (state.is_parting, state.since) = (true, None);
    }

    /// It ends since its caller sends too many frames that ask for nothing.
    pub(super) fn flood(&self) {
        self.lock().is_flooded = true;
    }

    /// Why it has ended, if that was said.
    pub(super) fn flooded(&self) -> Option<Overdue> {
        self.lock().is_flooded.then_some(Overdue::Frames)
    }

    /// It ends since what came cannot be read as a request.
    pub(super) fn misread(&self, reason: Reason) {
        self.lock().unread = Some(reason);
    }

    /// Why it cannot, if that was said.
    pub(super) fn unread(&self) -> Option<Reason> {
        self.lock().unread
    }

    fn poll_due(&self, mut timer: Pin<&mut Sleep>, context: &mut Context<'_>) -> Poll<Due> {
        let mut state = self.lock();
        let due = state.due();
        if let Some((at, _)) = due.filter(|(at, _)| *at < timer.deadline()) {
            timer.as_mut().reset(at);
        }
        while timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            match due {
                Some((at, due)) if at <= now => {
                    state.is_resting |= due == Due::Rest;
                    return Poll::Ready(due);
                }
                Some((at, _)) => timer.as_mut().reset(at),
                None => timer.as_mut().reset(now + IDLE),
            }
        }
        Poll::Pending
    }

    /// Bytes came from the caller.
    pub(super) fn heard(&self, bytes: usize) {
        let mut state = self.lock();
        state.is_resting = false;
        if state.preface > 0 {
            state.preface = state.preface.saturating_sub(bytes);
            if state.preface == 0 {
                state.rest();
            } else {
                state.begin();
            }
        } else if !state.is_h2 && state.busy == 0 {
            state.begin();
        }
    }

    /// The caller of HTTP/2 has said nothing more, and its last word was whole, or is this.
    pub(super) fn waits_for(&self, begun: Option<Begun>) {
        let mut state = self.lock();
        let same = state.begun.filter(|before| begun.is_some_and(|begun| begun.number == before.number));
        let since = same.and_then(|before| before.since);
        state.begun = begun.map(|begun| Begun { since, ..begun });
    }

    /// So many bytes were taken by the caller; or, for `None`, it has to be waited for.
    pub(super) fn wrote(&self, taken: Option<usize>) {
        let mut state = self.lock();
        state.written += taken.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default();
        if state.is_blocked == taken.is_none() {
            return;
        }
        (state.is_blocked, state.blocked_since) = (taken.is_none(), None);
        if !state.is_begun {
            // What has just been taken was the end of an answer, or a part of it.
            state.since = None;
        }
        let listener = state.listener.take_if(|_| taken.is_some());
        drop(state);
        listener.inspect(Waker::wake_by_ref);
    }

    /// Of HTTP/1. Who asks is woken when that changes, but for a request that is passed on, which only gives more time.
    pub(super) fn standing(&self, context: &mut Context<'_>) -> Standing {
        let mut state = self.lock();
        state.listener = Some(context.waker().clone());
        Standing { exchange: state.exchange, is_out: state.is_out, is_blocked: state.is_blocked }
    }

    /// The request of HTTP/1 is passed on.
    pub(super) fn goes_out(&self) {
        self.lock().is_out = true;
    }

    /// The caller takes so many bytes of answers more, or has been sent so many.
    pub(super) fn window(&self, change: i64) {
        self.lock().window += change;
    }

    fn written(&self) -> u64 {
        self.lock().written
    }

    /// Would each stream have been sent some of what it has, since so much was written? If neither the road nor the window of the
    /// connection is full; or in its turn, since h2 takes a frame of each.
    fn had_turns(&self, written: u64) -> bool {
        let state = self.lock();
        let is_free = !state.is_blocked && state.window > 0;
        is_free || state.written.saturating_sub(written) > ROUND
    }

    /// Something more is under way, which is given back with [`Pace::less_busy`]. One that rests is nothing to shed others for.
    fn more_busy(&self, rests: bool) -> MutexGuard<'_, State> {
        self.counts.held.fetch_add(usize::from(!rests), Ordering::Relaxed);
        let mut state = self.lock();
        state.busy += 1;
        state
    }

    fn less_busy(&self, rests: bool) -> MutexGuard<'_, State> {
        self.counts.held.fetch_sub(usize::from(!rests), Ordering::Relaxed);
        let mut state = self.lock();
        state.busy = state.busy.saturating_sub(1);
        if state.busy == 0 {
            state.rest();
        }
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// When it is too late for what, as things are.
    fn due(&mut self) -> Option<(Instant, Due)> {
        if self.is_blocked {
            // An answer is on its way, though hyper may have let go of it.
            return Some((now(&mut self.blocked_since) + STALL, Due::End(Overdue::Write)));
        }
        // Whatever else is under way. What is no head, or not known to be one, may be of a body, which has more time.
        let begun = self.begun.as_mut().map(|begun| (now(&mut begun.since) + HEAD, begun.is_head));
        let head = begun.filter(|(_, is_head)| *is_head).map(|(at, _)| (at, Due::End(Overdue::Head)));
        head.into_iter().chain(self.otherwise_due()).min_by_key(|(at, _)| *at)
    }

    fn otherwise_due(&mut self) -> Option<(Instant, Due)> {
        if self.busy > 0 {
            // A stream whose task is there is reset before that.
            let is_stuck = self.lying > 0;
            return is_stuck.then(|| (now(&mut self.lying_since) + STALL * 2, Due::End(Overdue::Write)));
        }
        let (limit, overdue) = match (self.is_begun, self.is_parting) {
            (_, true) if self.preface > 0 => (super::LAST_WORD, Overdue::Head),
            (true, true) => (PARTING, Overdue::Head),
            (false, true) => (PARTING, Overdue::Idle),
            (true, false) => (HEAD, Overdue::Head),
            (false, false) if !self.is_h2 && !self.is_resting => {
                return Some((now(&mut self.since) + REST, Due::Rest));
            }
            (false, false) => (IDLE, Overdue::Idle),
        };
        Some((now(&mut self.since) + limit, Due::End(overdue)))
    }

    fn begin(&mut self) {
        if !self.is_begun {
            (self.is_begun, self.since) = (true, None);
        }
    }

    /// Nothing is under way, and nothing has come of what is next.
    fn rest(&mut self) {
        (self.is_begun, self.since) = (false, None);
    }
}

fn now(since: &mut Option<Instant>) -> Instant {
    *since.get_or_insert_with(Instant::now)
}

// === impl Overdue ===

impl Overdue {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Idle => "idle",
            Self::Write => "write",
            Self::Stream => "stream",
            Self::Frames => "frames",
        }
    }
}

// === impl Counts ===

impl Counts {
    #[cfg(test)]
    pub(super) fn for_tests() -> Self {
        Self { metrics: Metrics::new().unwrap(), direction: Direction::Inbound, held: Arc::default() }
    }

    pub(super) fn timed_out(&self, overdue: Option<Overdue>) {
        self.metrics.timed_out(self.direction.as_str(), overdue.map(Overdue::as_str));
    }
}

/// In bytes.
const PREFACE: usize = 24;
/// A request's head is complete so long after its first byte (security IN-24).
pub(super) const HEAD: Duration = Duration::from_secs(10);
/// A connection without a request is closed after so long; those to the application and to destinations are closed before.
pub(super) const IDLE: Duration = Duration::from_secs(60);
/// A caller takes something in this time.
pub(super) const STALL: Duration = Duration::from_secs(30);
/// How long without a request until a connection of HTTP/1 rests: those that are in use do not, and a crowd of others soon does.
pub(super) const REST: Duration = Duration::from_millis(100);
/// Of a connection of HTTP/2, in bytes (RFC 9113 §6.9.2).
const FIRST_WINDOW: i64 = 65_535;
/// A frame of each of so many streams, twice, in bytes: of 16 KiB, since we keep to that where a peer would take larger ones.
const ROUND: u64 = 2 * super::MAX_STREAMS as u64 * 16 * 1024;
/// How long a connection that is to end may take to do so, or to complete a head.
pub(super) const PARTING: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
