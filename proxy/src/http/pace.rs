//! How long may a connection take? For a request's head, for silence, for a caller who does not read: one timer for each connection,
//! which is moved when it rings and not with every request.

mod stream;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

pub(super) use stream::Paced;

/// What a connection is doing, as far as its timer has to know. Belongs to one worker, so its lock is never contended.
#[derive(Debug)]
pub(super) struct Pace(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Of the preface of HTTP/2: bytes that have not come. Without it there is no connection (RFC 9113 §3.4).
    preface: usize,
    is_h2: bool,
    /// Something has come of the next head, or of the preface.
    is_begun: bool,
    /// What keeps the connection from being idle: requests that have not been read, or answers that have not been said to their end.
    busy: usize,
    /// Answers of which a part was handed over, and nobody has asked for the next one: over HTTP/2 a window is closed.
    unasked: usize,
    /// From when on nobody has asked any answer.
    asked: Option<Instant>,
    /// It is to end as soon as nothing is under way.
    is_parting: bool,
    /// From when on what is the case now is. Asked for only once it has been the case for a whole turn, since a head mostly comes in
    /// one piece.
    since: Option<Instant>,
    /// The caller sends too many frames that ask for nothing.
    is_flooded: bool,
    /// A write waits for the caller, and from when on.
    is_blocked: bool,
    blocked_since: Option<Instant>,
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
    /// Too many frames of HTTP/2 that ask for nothing.
    Frames,
}

/// Something is under way on a connection, until this is dropped.
#[derive(Debug)]
pub(super) struct Busy(Arc<Pace>);

/// An answer's body, which keeps its connection busy.
#[derive(Debug)]
pub(super) struct Kept<B> {
    body: B,
    busy: Busy,
    is_unasked: bool,
}

// === impl Pace ===

impl Pace {
    /// Of a connection whose first byte was seen at this time, if it was seen.
    pub(super) fn new(is_h2: bool, first: Option<Instant>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            preface: if is_h2 { PREFACE } else { 0 },
            is_h2,
            is_begun: first.is_some(),
            busy: 0,
            unasked: 0,
            asked: None,
            is_parting: false,
            since: first,
            is_flooded: false,
            is_blocked: false,
            blocked_since: None,
        })))
    }

    /// Resolves when the connection has taken too long. To be polled after the connection, so that what it has just done counts.
    pub(super) async fn overdue(&self) -> Overdue {
        let mut timer = pin!(sleep(IDLE));
        poll_fn(|context| self.poll_overdue(timer.as_mut(), context)).await
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

    fn poll_overdue(&self, mut timer: Pin<&mut Sleep>, context: &mut Context<'_>) -> Poll<Overdue> {
        let due = self.lock().due();
        if let Some((at, _)) = due.filter(|(at, _)| *at < timer.deadline()) {
            timer.as_mut().reset(at);
        }
        while timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            match due {
                Some((at, overdue)) if at <= now => return Poll::Ready(overdue),
                Some((at, _)) => timer.as_mut().reset(at),
                None => timer.as_mut().reset(now + IDLE),
            }
        }
        Poll::Pending
    }

    fn heard(&self, bytes: usize) {
        let mut state = self.lock();
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

    /// Does a write wait for the caller?
    fn block(&self, is_blocked: bool) {
        let mut state = self.lock();
        (state.is_blocked, state.blocked_since) = (is_blocked, None);
        if !state.is_begun {
            // What has just been taken was the end of an answer, or a part of it.
            state.since = None;
        }
    }

    /// An answer was asked for its next part: was it unasked before, and is it from now on?
    fn ask(&self, was_unasked: bool, is_unasked: bool) {
        let mut state = self.lock();
        state.unasked = (state.unasked + usize::from(is_unasked)).saturating_sub(usize::from(was_unasked));
        state.asked = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// When it is too late for what, as things are.
    fn due(&mut self) -> Option<(Instant, Overdue)> {
        if self.is_blocked {
            // An answer is on its way, though hyper may have let go of it.
            return Some((now(&mut self.blocked_since) + STALL, Overdue::Write));
        }
        if self.busy > 0 {
            // An answer that waits for the application is asked for, and so is none of these.
            let is_stalled = self.unasked == self.busy;
            return is_stalled.then(|| (now(&mut self.asked) + STALL, Overdue::Write));
        }
        let (limit, overdue) = match (self.is_begun, self.is_parting) {
            (_, true) if self.preface > 0 => (super::LAST_WORD, Overdue::Head),
            (true, true) => (PARTING, Overdue::Head),
            (false, true) => (PARTING, Overdue::Idle),
            (true, false) => (HEAD, Overdue::Head),
            (false, false) => (IDLE, Overdue::Idle),
        };
        Some((now(&mut self.since) + limit, overdue))
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
            Self::Frames => "frames",
        }
    }
}

// === impl Busy ===

impl Busy {
    pub(super) fn on(pace: &Arc<Pace>) -> Self {
        pace.lock().busy += 1;
        Self(pace.clone())
    }
}

impl Clone for Busy {
    fn clone(&self) -> Self {
        Self::on(&self.0)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.busy = state.busy.saturating_sub(1);
        if state.busy == 0 {
            state.rest();
        }
    }
}

// === impl Kept ===

impl<B> Kept<B> {
    pub(super) fn new(body: B, busy: Busy) -> Self {
        Self { body, busy, is_unasked: false }
    }

    fn ask(&mut self, is_unasked: bool) {
        if self.is_unasked || is_unasked {
            self.busy.0.ask(self.is_unasked, is_unasked);
            self.is_unasked = is_unasked;
        }
    }
}

impl<B> Drop for Kept<B> {
    fn drop(&mut self) {
        self.ask(false);
    }
}

impl<B: HttpBody + Unpin> HttpBody for Kept<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.ask(matches!(frame, Poll::Ready(Some(Ok(_)))));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
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
/// How long a connection that is to end may take to do so, or to complete a head.
pub(super) const PARTING: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
