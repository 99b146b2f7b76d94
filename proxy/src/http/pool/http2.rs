//! Which HTTP/2 connection carries the request? The first that has room, so that those beyond it fall idle and end.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::client::conn::http2::SendRequest;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::stream::Load;
use super::waiting::Waiting;
use super::{Carrier, MAX_IDLE, Place};
use crate::http::body::Body;
use crate::record::Direction;

/// The open HTTP/2 connections to one upstream, oldest first. Belongs to one worker, so its lock is never contended.
#[derive(Default)]
pub(super) struct Shared {
    open: Mutex<Vec<Connection>>,
    /// Who waits for a connection, or for room on one.
    pub(super) waiting: Waiting,
    /// Told when the last of them has ended.
    pub(super) emptied: Notify,
    /// When the server took no other connection, or left it waiting, if that was the last that was heard of it.
    shut: Mutex<Option<Instant>>,
    /// Has anybody had a narrow one for want of a wide one?
    lacked_wide: AtomicBool,
}

/// Who may use a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    All,
    /// The request that it was opened for.
    One,
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

// === impl Shared ===

impl Shared {
    /// A stream on a connection with room for it, unless others have waited for that.
    pub(super) fn stream(&self) -> Option<Carrier> {
        self.hand_out();
        if self.waiting.is_empty() { self.room() } else { None }
    }

    /// Where there is to be no other connection, there is room for what the server allows.
    fn room(&self) -> Option<Carrier> {
        let open = self.open();
        let with_room = open.iter().filter(|connection| connection.has_room());
        // Narrow ones are for those that a wide one has no room for, or where there is none.
        match with_room.min_by_key(|connection| !connection.is_wide()) {
            Some(connection) => {
                if !connection.is_wide() && next(&open) == Width::Wide {
                    self.lacked_wide.store(true, Ordering::Relaxed);
                }
                Some(connection.stream())
            }
            None if open.len() >= MAX_CONNECTIONS || self.was_shut() => least(&open)
                // Where all are silent, there is nothing better.
                .filter(|connection| connection.is_allowed() || connection.load.is_silent())
                .map(Connection::stream),
            None => None,
        }
    }

    /// Of what kind the next connection is: wide, where none of that kind is of use, and there are not enough that are silent.
    pub(super) fn next(&self) -> Width {
        next(&self.open())
    }

    /// A stream on any, since there was no room and no other connection for as long as one may wait.
    pub(super) fn crowded(&self) -> Option<Carrier> {
        least(&self.open()).map(Connection::stream)
    }

    /// How many connections those who wait should have tried for at once: what they fill, or so many where nobody knows yet how much that is.
    pub(super) fn lacking(&self, at_least: usize) -> usize {
        let waiting = self.waiting.len();
        let is_shut = self.is_shut();
        let open = self.open();
        let each = open.iter().map(|connection| connection.allowed().min(Width::Narrow.streams())).max();
        let filled = waiting.div_ceil(each.unwrap_or(usize::MAX).max(1));
        let lacking = if is_shut { 1 } else { filled.max(at_least) };
        lacking.min(waiting).min(MAX_CONNECTIONS.saturating_sub(open.len()))
    }

    /// What carries the first request on a new connection. Others may use it too, unless it is for that one alone, or there are enough: of
    /// all, or of wide ones, since whoever asked for one at the same time was sooner.
    pub(super) fn begin(
        self: &Arc<Self>,
        sender: SendRequest<Body>,
        width: Width,
        allowed: Arc<AtomicUsize>,
        place: Arc<Place>,
        scope: Scope,
    ) -> Carrier {
        let connection = Connection { sender, width, place, load: Load::new(self), allowed };
        let carrier = connection.stream();
        if scope == Scope::All {
            *self.shut.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        let mut open = self.open();
        let is_lacking = match width {
            Width::Wide => next(&open) == Width::Wide,
            Width::Narrow => open.len() < MAX_CONNECTIONS,
        };
        if scope == Scope::All && is_lacking {
            open.push(connection);
        }
        carrier
    }

    /// Gives what room there is to those who wait for it, first come, first served.
    pub(super) fn hand_out(&self) {
        while !self.waiting.is_empty() {
            match self.room() {
                Some(carrier) => self.waiting.tell_first(carrier),
                None => return,
            }
        }
    }

    /// A stream has ended, and perhaps its connection.
    pub(super) fn ended(&self) {
        self.hand_out();
        if !self.waiting.is_empty() && self.open().is_empty() {
            self.waiting.look();
        }
    }

    /// There is no other connection for now, and those that there are carry what the server allows. Is there none at all?
    pub(super) fn make_do(&self) -> bool {
        let is_any = !self.open().is_empty();
        if is_any {
            *self.shut.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            self.hand_out();
        }
        !is_any
    }

    /// Lets go of those that have ended, idle for long among them, and of those that are idle beside a wide one that is. The streams
    /// that are on one go on. Is any left?
    pub(super) fn sweep(&self) -> bool {
        let mut open = self.open();
        // One, for whoever comes next.
        let is_kept = open.iter().position(Connection::is_wide).unwrap_or(0);
        let mut number = 0..;
        open.retain(|connection| number.next() == Some(is_kept) || connection.load.under_way() > 0);
        drop(open);
        self.hand_out();
        !self.open().is_empty()
    }

    /// Has anybody, since this was asked last, had a narrow one for want of a wide one, of which there is still none?
    pub(super) fn lacks_wide(&self) -> bool {
        self.lacked_wide.swap(false, Ordering::Relaxed) && self.next() == Width::Wide
    }

    /// Is no other connection to be had for now, beside those that there are?
    pub(super) fn is_shut(&self) -> bool {
        self.was_shut() && !self.open().is_empty()
    }

    fn was_shut(&self) -> bool {
        let since = *self.shut.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() < SHUT)
    }

    /// Those that have not ended.
    fn open(&self) -> MutexGuard<'_, Vec<Connection>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let before = open.len();
        open.retain(|connection| !connection.has_ended());
        if open.is_empty() && before > 0 {
            self.emptied.notify_waiters();
        }
        open
    }
}

fn next(open: &[Connection]) -> Width {
    let wide = || open.iter().filter(|connection| connection.is_wide());
    match wide().any(|connection| !connection.load.is_silent()) || wide().count() >= MAX_WIDE {
        true => Width::Narrow,
        false => Width::Wide,
    }
}

/// Where there is most room, and beyond what the server allows only if there is none.
fn least(open: &[Connection]) -> Option<&Connection> {
    open.iter()
        .min_by_key(|connection| (connection.load.is_silent(), !connection.is_allowed(), connection.crowd()))
}

// === impl Connection ===

impl Connection {
    /// Does it take no other request? One that is silent carries those that it has, and counts among the others for as long. One that
    /// has been idle for long may be about to end, and one may lead to where the name is not any more.
    fn has_ended(&self) -> bool {
        let is_idle =
            || self.load.under_way() == 0 && (self.load.is_silent() || self.load.rests() > MAX_IDLE);
        self.sender.is_closed() || self.load.is_leaving() || self.place.is_left() || is_idle()
    }

    fn is_wide(&self) -> bool {
        self.width == Width::Wide
    }

    fn has_room(&self) -> bool {
        self.load.under_way() < self.room() && !self.load.is_silent()
    }

    fn room(&self) -> usize {
        self.allowed().min(self.width.streams())
    }

    fn allowed(&self) -> usize {
        self.allowed.load(Ordering::Relaxed)
    }

    /// Would the server take another stream, however many we would have here?
    fn is_allowed(&self) -> bool {
        self.load.under_way() < self.allowed() && !self.load.is_silent()
    }

    /// Streams for each hundred that it has room for.
    fn crowd(&self) -> usize {
        self.load.under_way() * 100 / self.room().max(1)
    }

    fn stream(&self) -> Carrier {
        Carrier::Http2(self.sender.clone(), self.load.begin())
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

/// As many as carry 1,500 streams: those of fifteen callers who have all that they may.
const MAX_CONNECTIONS: usize = 16;
/// Of wide ones, of which one takes what comes and the others are silent.
const MAX_WIDE: usize = 4;
/// Until another connection is tried for, where there was none to be had.
const SHUT: Duration = Duration::from_secs(5);
#[cfg(test)]
mod tests;
