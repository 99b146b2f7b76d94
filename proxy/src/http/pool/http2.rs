//! Which HTTP/2 connection carries the request? The first that has room, so that those beyond it fall idle and end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::client::conn::http2::SendRequest;

use super::Place;
use crate::http::body::Body;

/// The open HTTP/2 connections to one upstream, oldest first. Belongs to one worker, so its lock is never contended.
#[derive(Default)]
pub(super) struct Shared(Mutex<Vec<Connection>>);

struct Connection {
    sender: SendRequest<Body>,
    place: Arc<Place>,
    /// Streams under way.
    streams: Arc<AtomicUsize>,
    /// How many the server allows at once, as it says by now (`SETTINGS_MAX_CONCURRENT_STREAMS`).
    allowed: Arc<AtomicUsize>,
}

/// A stream under way, from before its request until its answer's body has ended: hyper does not tell how many there are.
#[derive(Debug)]
pub(crate) struct Stream(Arc<AtomicUsize>);

// === impl Shared ===

impl Shared {
    /// A stream on a connection with room for it. Where there are as many connections as there may be, on the one with the least.
    pub(super) fn stream(&self) -> Option<(SendRequest<Body>, Stream)> {
        let mut open = self.lock();
        open.retain(|connection| !connection.sender.is_closed());
        match open.iter().find(|connection| connection.has_room()) {
            Some(connection) => Some(connection.stream()),
            None if open.len() < MAX_CONNECTIONS => None,
            None => least(&open),
        }
    }

    /// The same on any, since there will be no other.
    pub(super) fn crowded(&self) -> Option<(SendRequest<Body>, Stream)> {
        least(&self.lock())
    }

    /// The first stream on a new connection, which others may use too, unless there are enough.
    pub(super) fn begin(
        &self,
        sender: SendRequest<Body>,
        allowed: Arc<AtomicUsize>,
        place: Arc<Place>,
    ) -> (SendRequest<Body>, Stream) {
        let connection = Connection { sender, place, streams: Arc::default(), allowed };
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
            let stays = is_needed && !connection.sender.is_closed() && !connection.place.is_left();
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
    let connection = open.iter().filter(|connection| !connection.sender.is_closed());
    connection.min_by_key(|connection| connection.under_way()).map(Connection::stream)
}

// === impl Connection ===

impl Connection {
    fn under_way(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    fn has_room(&self) -> bool {
        self.under_way() < self.allowed.load(Ordering::Relaxed).min(MAX_STREAMS)
    }

    fn stream(&self) -> (SendRequest<Body>, Stream) {
        self.streams.fetch_add(1, Ordering::Relaxed);
        (self.sender.clone(), Stream(self.streams.clone()))
    }
}

// === impl Stream ===

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What most servers allow, and what one connection carries before another is opened.
const MAX_STREAMS: usize = 100;
const MAX_CONNECTIONS: usize = 8;

#[cfg(test)]
mod tests;
