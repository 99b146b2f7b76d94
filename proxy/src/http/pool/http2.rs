//! Which HTTP/2 connection carries the request? The first that has room, so that those beyond it fall idle and end.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Request;
use hyper::client::conn::http2::SendRequest;

use super::Place;
use crate::http::body::Body;
use crate::http::sent::Sent;

/// The open HTTP/2 connections to one upstream, oldest first. Belongs to one worker, so its lock is never contended.
#[derive(Default)]
pub(super) struct Shared(Mutex<Vec<Connection>>);

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
#[derive(Default)]
struct Load {
    /// Streams under way.
    streams: AtomicUsize,
    /// It takes no others: the server says so (GOAWAY), or says nothing.
    is_leaving: AtomicBool,
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
}

/// How much had come on a connection when a request went out on it.
pub(crate) struct Silence {
    load: Arc<Load>,
    answers: usize,
}

// === impl Shared ===

impl Shared {
    /// A stream on a connection with room for it. Where there are as many connections as there may be, on the one with the least.
    pub(super) fn stream(&self) -> Option<(SendRequest<Body>, Stream)> {
        let mut open = self.lock();
        open.retain(|connection| !connection.has_ended());
        match open.iter().find(|connection| connection.has_room()) {
            Some(connection) => Some(connection.stream()),
            None if open.len() < MAX_CONNECTIONS => None,
            None => least(&open),
        }
    }

    /// Of what kind the next connection is: wide, where there is none of that kind.
    pub(super) fn next(&self) -> Width {
        let is_wide = |connection: &Connection| connection.width == Width::Wide && !connection.has_ended();
        if self.lock().iter().any(is_wide) { Width::Narrow } else { Width::Wide }
    }

    /// The same on any, since there will be no other.
    pub(super) fn crowded(&self) -> Option<(SendRequest<Body>, Stream)> {
        least(&self.lock())
    }

    /// The first stream on a new connection, which others may use too, unless there are enough.
    pub(super) fn begin(
        &self,
        sender: SendRequest<Body>,
        width: Width,
        allowed: Arc<AtomicUsize>,
        place: Arc<Place>,
    ) -> (SendRequest<Body>, Stream) {
        let connection = Connection { sender, width, place, load: Arc::default(), allowed };
        let stream = connection.stream();
        let mut open = self.lock();
        if open.len() < MAX_CONNECTIONS {
            open.push(connection);
        }
        stream
    }

    /// Lets go of those that have ended, that lead to where the name is not any more, or that are beyond the first and idle. The
    /// streams that are on one go on. Is any left?
    pub(super) fn sweep(&self) -> bool {
        let mut open = self.lock();
        let mut is_first = true;
        open.retain(|connection| {
            let is_needed = is_first || connection.under_way() > 0;
            let stays = is_needed && !connection.has_ended() && !connection.place.is_left();
            is_first &= !stays;
            stays
        });
        !open.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn least(open: &[Connection]) -> Option<(SendRequest<Body>, Stream)> {
    let connection = open.iter().filter(|connection| !connection.has_ended());
    connection.min_by_key(|connection| connection.crowd()).map(Connection::stream)
}

// === impl Connection ===

impl Connection {
    fn under_way(&self) -> usize {
        self.load.streams.load(Ordering::Relaxed)
    }

    /// Does it take no other request?
    fn has_ended(&self) -> bool {
        self.sender.is_closed() || self.load.is_leaving.load(Ordering::Relaxed)
    }

    fn has_room(&self) -> bool {
        self.under_way() < self.room()
    }

    fn room(&self) -> usize {
        self.allowed.load(Ordering::Relaxed).min(self.width.streams())
    }

    /// Streams for each hundred that it has room for.
    fn crowd(&self) -> usize {
        self.under_way() * 100 / self.room().max(1)
    }

    fn stream(&self) -> (SendRequest<Body>, Stream) {
        self.load.streams.fetch_add(1, Ordering::Relaxed);
        (self.sender.clone(), Stream { load: self.load.clone(), sent: Sent::default() })
    }
}

// === impl Width ===

impl Width {
    /// Of each stream, in bytes.
    pub(super) fn window(self) -> u32 {
        match self {
            Self::Wide => 256 * 1024,
            Self::Narrow => 16 * 1024,
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
    fn rooms(&self) -> MutexGuard<'_, Vec<Sent>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Stream ===

impl Stream {
    /// Notes what goes out, since the server may say that it has not begun with it.
    pub(crate) fn note(&mut self, request: &Request<Body>) {
        self.sent = self.load.rooms().pop().unwrap_or_default();
        self.sent.note(request);
    }

    /// There is an answer: nothing will go out again.
    pub(crate) fn answered(&mut self) {
        self.load.answers.fetch_add(1, Ordering::Relaxed);
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
        Silence { load: self.load.clone(), answers: self.load.answers.load(Ordering::Relaxed) }
    }

    /// The request, with which the server has not begun; its body is the caller's to add.
    pub(crate) fn refused(mut self) -> Option<Request<Body>> {
        std::mem::take(&mut self.sent).request()
    }
}

// === impl Silence ===

impl Silence {
    /// An answer is overdue. Where no other has come meanwhile it may be the connection that is dead: it carries what it carries to
    /// its end, and nothing else.
    pub(crate) fn is_too_long(&self) {
        if self.load.answers.load(Ordering::Relaxed) == self.answers {
            self.load.is_leaving.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.load.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

const MAX_CONNECTIONS: usize = 8;
/// For heads, kept by a connection: more requests than wait for their answers at once most of the time.
const MAX_ROOMS: usize = 16;

#[cfg(test)]
mod tests;
