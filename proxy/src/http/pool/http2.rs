//! Which HTTP/2 connection carries the request? The first that has room, so that those beyond it fall idle and end.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Request;
use hyper::client::conn::http2::SendRequest;
use tokio::time::Instant;

use super::{MAX_IDLE, Place};
use crate::http::body::Body;
use crate::http::sent::Sent;
use crate::record::Direction;

/// The open HTTP/2 connections to one upstream, oldest first. Belongs to one worker, so its lock is never contended.
#[derive(Default)]
pub(super) struct Shared {
    open: Mutex<Vec<Connection>>,
    /// When the server took no other connection, if that was the last that was heard of it.
    shut: Mutex<Option<Instant>>,
    /// Has anybody had a narrow one for want of a wide one?
    lacked_wide: AtomicBool,
}

struct Connection {
    sender: SendRequest<Body>,
    width: Width,
    place: Arc<Place>,
    load: Arc<Load>,
    /// How many the server allows at once, as it says by now (`SETTINGS_MAX_CONCURRENT_STREAMS`).
    allowed: Arc<AtomicUsize>,
}

/// How much a server may send of an answer that nobody takes: what lies here of all answers has to be little, and a wide window is for
/// who takes much at a time. So the first connection has wide ones for few streams, and those beyond it narrow ones for many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Wide,
    Narrow,
}

/// What a connection and its streams know of each other.
struct Load {
    /// Streams under way.
    streams: AtomicUsize,
    /// When the last of them ended.
    rests_since: Mutex<Instant>,
    /// The server takes no others (GOAWAY).
    is_leaving: AtomicBool,
    /// It says nothing, and others go elsewhere: until it does, or carries none any more.
    is_silent: AtomicBool,
    /// Answers that have come.
    answers: AtomicUsize,
    /// For heads of requests. As of the connections, its lock is never contended.
    rooms: Mutex<Vec<Sent>>,
}

/// A stream under way, from before its request until its answer's body has ended: hyper does not tell how many there are.
pub(crate) struct Stream {
    load: Arc<Load>,
    /// Its request, until an answer comes.
    sent: Sent,
    /// Had others been answered on its connection when that went out?
    is_kept: bool,
}

/// A request that waits for its answer, on a connection on which so many have come, since then.
pub(crate) struct Silence {
    load: Arc<Load>,
    answers: usize,
    since: Instant,
}

// === impl Shared ===

impl Shared {
    /// A stream on a connection with room for it. Where there are as many connections as there may be, on the one with the least.
    pub(super) fn stream(&self) -> Option<(SendRequest<Body>, Stream)> {
        let mut open = self.lock();
        open.retain(|connection| !connection.has_ended());
        let with_room = open.iter().filter(|connection| connection.has_room());
        // Narrow ones are for those that a wide one has no room for, or where there is none.
        match with_room.min_by_key(|connection| !connection.is_wide()) {
            Some(connection) => {
                if !connection.is_wide() && next(&open) == Width::Wide {
                    self.lacked_wide.store(true, Ordering::Relaxed);
                }
                Some(connection.stream())
            }
            None if open.len() >= MAX_CONNECTIONS => least(&open),
            // Beyond what we would have on one, rather than wait in vain as others just have.
            None if self.is_shut() && open.iter().any(Connection::is_allowed) => least(&open),
            None => None,
        }
    }

    /// Of what kind the next connection is: wide, where none of that kind is of use, and there are not enough that are silent.
    pub(super) fn next(&self) -> Width {
        next(&self.lock())
    }

    /// The same on any, since there will be no other for now.
    pub(super) fn crowded(&self) -> Option<(SendRequest<Body>, Stream)> {
        *self.shut() = Some(Instant::now());
        least(&self.lock())
    }

    /// The first stream on a new connection, which others may use too, unless there are enough: of all, or of wide ones, since
    /// whoever asked for one at the same time was sooner.
    pub(super) fn begin(
        &self,
        sender: SendRequest<Body>,
        width: Width,
        allowed: Arc<AtomicUsize>,
        place: Arc<Place>,
    ) -> (SendRequest<Body>, Stream) {
        let connection = Connection { sender, width, place, load: Arc::new(Load::new()), allowed };
        let stream = connection.stream();
        *self.shut() = None;
        let mut open = self.lock();
        if open.len() < MAX_CONNECTIONS && (width == Width::Narrow || next(&open) == Width::Wide) {
            open.push(connection);
        }
        stream
    }

    /// Lets go of those that have ended, idle for long among them, that lead to where the name is not any more, or that are idle beside
    /// a wide one that is. The streams that are on one go on. Is any left?
    pub(super) fn sweep(&self) -> bool {
        let (mut open, mut is_kept) = (self.lock(), false);
        open.retain(|connection| {
            if connection.has_ended() || connection.place.is_left() {
                return false;
            }
            // One, for whoever comes next.
            connection.under_way() > 0 || connection.is_wide() && !std::mem::replace(&mut is_kept, true)
        });
        !open.is_empty()
    }

    /// Has anybody, since this was asked last, had a narrow one for want of a wide one, of which there is still none?
    pub(super) fn lacks_wide(&self) -> bool {
        self.lacked_wide.swap(false, Ordering::Relaxed) && self.next() == Width::Wide
    }

    fn is_shut(&self) -> bool {
        self.shut().is_some_and(|since| since.elapsed() < SHUT)
    }

    fn shut(&self) -> MutexGuard<'_, Option<Instant>> {
        self.shut.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn next(open: &[Connection]) -> Width {
    let wide = || open.iter().filter(|connection| connection.is_wide() && !connection.has_ended());
    match wide().any(|connection| !connection.is_silent()) || wide().count() >= MAX_WIDE {
        true => Width::Narrow,
        false => Width::Wide,
    }
}

/// Where there is most room, and beyond what the server allows only if there is none.
fn least(open: &[Connection]) -> Option<(SendRequest<Body>, Stream)> {
    let connection = open.iter().filter(|connection| !connection.has_ended());
    connection
        .min_by_key(|connection| (connection.is_silent(), !connection.is_allowed(), connection.crowd()))
        .map(Connection::stream)
}

// === impl Connection ===

impl Connection {
    fn under_way(&self) -> usize {
        self.load.streams.load(Ordering::Relaxed)
    }

    /// Does it take no other request? One that is silent carries those that it has, and counts among the others for as long. One that
    /// has been idle for long may be about to end.
    fn has_ended(&self) -> bool {
        let is_left = || self.under_way() == 0 && (self.is_silent() || self.load.rests() > MAX_IDLE);
        self.sender.is_closed() || self.load.is_leaving.load(Ordering::Relaxed) || is_left()
    }

    fn is_wide(&self) -> bool {
        self.width == Width::Wide
    }

    fn is_silent(&self) -> bool {
        self.load.is_silent.load(Ordering::Relaxed)
    }

    fn has_room(&self) -> bool {
        self.under_way() < self.room() && !self.is_silent()
    }

    fn room(&self) -> usize {
        self.allowed().min(self.width.streams())
    }

    fn allowed(&self) -> usize {
        self.allowed.load(Ordering::Relaxed)
    }

    /// Would the server take another stream, however many we would have here?
    fn is_allowed(&self) -> bool {
        self.under_way() < self.allowed() && !self.is_silent()
    }

    /// Streams for each hundred that it has room for.
    fn crowd(&self) -> usize {
        self.under_way() * 100 / self.room().max(1)
    }

    fn stream(&self) -> (SendRequest<Body>, Stream) {
        self.load.streams.fetch_add(1, Ordering::Relaxed);
        (self.sender.clone(), Stream { load: self.load.clone(), sent: Sent::default(), is_kept: false })
    }
}

// === impl Width ===

impl Width {
    /// Of each stream, in bytes.
    pub(super) fn window(self, direction: Direction) -> u32 {
        match (self, direction) {
            (Self::Wide, _) => 256 * 1024,
            // The application is beside us, and its callers may be anybody.
            (Self::Narrow, Direction::Inbound) => 8 * 1024,
            // A window is what comes in a round trip, and those who ask are ours. What HTTP/2 has by itself (RFC 9113 §6.9.2), and a byte.
            (Self::Narrow, Direction::Outbound) => 64 * 1024,
        }
    }

    /// How many it carries before another is opened: few, or what most servers allow.
    fn streams(self) -> usize {
        match self {
            Self::Wide => 16,
            Self::Narrow => 100,
        }
    }
}

// === impl Load ===

impl Load {
    fn new() -> Self {
        Self {
            streams: AtomicUsize::new(0),
            rests_since: Mutex::new(Instant::now()),
            is_leaving: AtomicBool::new(false),
            is_silent: AtomicBool::new(false),
            answers: AtomicUsize::new(0),
            rooms: Mutex::default(),
        }
    }

    /// For how long no stream has been under way, if none is.
    fn rests(&self) -> Duration {
        self.rests_since.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    fn rooms(&self) -> MutexGuard<'_, Vec<Sent>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Stream ===

impl Stream {
    /// Notes what goes out, since the server may say that it has not begun with it, or be about to close the connection.
    pub(crate) fn note(&mut self, request: &Request<Body>) {
        self.is_kept = self.load.answers.load(Ordering::Relaxed) > 0;
        self.sent = self.load.rooms().pop().unwrap_or_default();
        self.sent.note(request);
    }

    /// There is an answer: nothing will go out again.
    pub(crate) fn answered(&mut self) {
        self.load.answers.fetch_add(1, Ordering::Relaxed);
        self.load.is_silent.store(false, Ordering::Relaxed);
        let mut sent = std::mem::take(&mut self.sent);
        sent.clear();
        let mut rooms = self.load.rooms();
        if rooms.len() < MAX_ROOMS {
            rooms.push(sent);
        }
    }

    /// The server takes no other stream on this connection.
    pub(crate) fn leave(&self) {
        self.load.is_leaving.store(true, Ordering::Relaxed);
    }

    /// From now on.
    pub(crate) fn silence(&self) -> Silence {
        let answers = self.load.answers.load(Ordering::Relaxed);
        Silence { load: self.load.clone(), answers, since: Instant::now() }
    }

    /// The request, with which the server has not begun; its body is the caller's to add.
    pub(crate) fn refused(mut self) -> Option<Request<Body>> {
        std::mem::take(&mut self.sent).request()
    }

    /// The same of one that was not answered before its connection ended, if it may go out twice.
    pub(crate) fn unheard(self) -> Option<Request<Body>> {
        if self.is_kept { self.refused().filter(|request| request.method().is_idempotent()) } else { None }
    }
}

/// Nobody waits for the answer any more: it is there, overdue, or the caller has gone. Where none has come to anybody meanwhile, it may
/// be the connection that is dead.
impl Drop for Silence {
    fn drop(&mut self) {
        if self.load.answers.load(Ordering::Relaxed) == self.answers && self.since.elapsed() >= PATIENCE {
            self.load.is_silent.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.load.streams.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.load.rests_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

/// As many as carry 1,500 streams: those of fifteen callers who have all that they may.
const MAX_CONNECTIONS: usize = 16;
/// Of wide ones, of which one takes what comes and the others are silent.
const MAX_WIDE: usize = 4;
/// Until another connection is tried for, where there was none to be had.
const SHUT: Duration = Duration::from_secs(5);
/// Who goes sooner says nothing of the connection.
const PATIENCE: Duration = Duration::from_millis(500);
/// For heads, kept by a connection: more requests than wait for their answers at once most of the time.
const MAX_ROOMS: usize = 16;

#[cfg(test)]
mod tests;
