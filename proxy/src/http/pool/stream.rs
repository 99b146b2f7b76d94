//! What do an HTTP/2 connection and its streams know of each other? How many there are, and whether anybody is answered.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::Request;
use tokio::time::Instant;

use super::http2::Shared;
use crate::http::body::Body;
use crate::http::sent::Sent;

/// What a connection and its streams know of each other.
pub(super) struct Load {
    /// Streams under way.
    streams: AtomicUsize,
    /// Where somebody may wait for one of them to end.
    shared: Weak<Shared>,
    /// When the last of them ended.
    rests_since: Mutex<Instant>,
    /// The server takes no others (GOAWAY).
    is_leaving: AtomicBool,
    /// It says nothing, and others go elsewhere: until it does, or carries none any more.
    pub(super) is_silent: AtomicBool,
    /// Answers that have come.
    answers: AtomicUsize,
    /// For heads of requests. As of the connections, its lock is never contended.
    rooms: Mutex<Vec<Sent>>,
}

/// A stream under way, from before its request until its answer's body has ended: hyper does not tell how many there are.
pub(crate) struct Stream {
    pub(super) load: Arc<Load>,
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

// === impl Load ===

impl Load {
    pub(super) fn new(shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            streams: AtomicUsize::new(0),
            shared: Arc::downgrade(shared),
            rests_since: Mutex::new(Instant::now()),
            is_leaving: AtomicBool::new(false),
            is_silent: AtomicBool::new(false),
            answers: AtomicUsize::new(0),
            rooms: Mutex::default(),
        })
    }

    pub(super) fn begin(self: &Arc<Self>) -> Stream {
        self.streams.fetch_add(1, Ordering::Relaxed);
        Stream { load: self.clone(), sent: Sent::default(), is_kept: false }
    }

    pub(super) fn under_way(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    pub(super) fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Relaxed)
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Relaxed)
    }

    /// For how long no stream has been under way, if none is.
    pub(super) fn rests(&self) -> Duration {
        self.rests_since.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// There may be room for whoever waits.
    fn tell(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.ended();
        }
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
        if self.load.is_silent() {
            self.load.is_silent.store(false, Ordering::Relaxed);
            self.load.tell();
        }
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
        self.load.tell();
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

/// Who goes sooner says nothing of the connection.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
/// For heads, kept by a connection: more requests than wait for their answers at once most of the time.
const MAX_ROOMS: usize = 16;
