//! Does a peer of HTTP/2 send frames that ask for nothing, or a request's head that does not end? Heads of frames are looked at as the
//! bytes pass, since h2 bounds resets and CONTINUATION, but neither PING nor SETTINGS, WINDOW_UPDATE, PRIORITY or unknown frames, nor time.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::pace::{Begun, Pace};
use super::wire::Tap;

/// Hears a connection of HTTP/2, whose reader is told to end once its peer has spent what it had.
#[derive(Debug)]
pub(super) struct Meter {
    read: Frames,
    written: Frames,
    budget: Budget,
    /// Told of the end, and of what has begun.
    pace: Arc<Pace>,
    has_told: bool,
    /// What is still to be read of [`CALM`], after which there is nothing more.
    end: Option<&'static [u8]>,
}

/// Where a sequence of frames is, as its bytes pass in whatever pieces.
#[derive(Debug)]
struct Frames {
    /// What is left of the preface or of a payload.
    skip: usize,
    head: [u8; HEAD + INCREMENT],
    known: usize,
    /// The next frame is one too many.
    over: bool,
    /// Those that have begun; of one request's head there may be several, which count as one.
    count: u64,
    /// Such a head has begun and not ended, and whether the frame that there is ends it.
    in_head: bool,
    ends_head: bool,
}

/// What matters of the head of a frame (RFC 9113 §4.1).
#[derive(Clone, Copy)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    /// By how many bytes it opens the window of the connection (§6.9).
    opens: u32,
}

/// Frames that may come without work: some at once, more with time, and more with each request and each DATA of ours.
#[derive(Debug)]
struct Budget {
    left: u32,
    /// Until when what time brings was added.
    since: Instant,
}

// === impl Meter ===

impl Meter {
    /// For a server, whose peer begins with the preface.
    pub(super) fn new(pace: Arc<Pace>) -> Self {
        let budget = Budget { left: BURST, since: Instant::now() };
        Self {
            read: Frames::after(PREFACE),
            written: Frames::after(0),
            budget,
            pace,
            has_told: false,
            end: None,
        }
    }

    /// Says what is waited for.
    fn tell(&mut self) {
        let begun = self.read.begun();
        self.has_told = begun.is_some();
        self.pace.waits_for(begun);
    }
}

impl Tap for Meter {
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(end) = &mut self.end {
            return Poll::Ready(say(end, buf));
        }
        let before = buf.filled().len();
        let Poll::Ready(read) = Pin::new(stream).poll_read(cx, buf) else {
            if self.has_told || self.read.begun().is_some() {
                self.tell();
            }
            return Poll::Pending;
        };
        read?;
        let (budget, pace) = (&mut self.budget, &self.pace);
        let bytes = buf.filled().get(before..).unwrap_or_default();
        if !bytes.is_empty() {
            pace.heard(bytes.len());
        }
        let allows = |head: Head| {
            if head.opens > 0 {
                pace.window(i64::from(head.opens));
            }
            budget.allows(head)
        };
        let cut = self.read.pass(bytes, allows);
        if self.has_told {
            self.tell();
        }
        let Some(cut) = cut else { return Poll::Ready(Ok(())) };
        tracing::debug!("a connection of HTTP/2 sends too many frames that ask for nothing");
        self.pace.flood();
        buf.set_filled(before + cut);
        Poll::Ready(say(self.end.insert(CALM), buf))
    }

    fn wrote(&mut self, bytes: &[IoSlice<'_>], taken: Option<usize>) {
        self.pace.wrote(taken);
        let (mut left, budget, pace) = (taken.unwrap_or_default(), &mut self.budget, &self.pace);
        for bytes in bytes {
            let (part, _) = bytes.split_at(left.min(bytes.len()));
            left -= part.len();
            self.written.pass(part, |head| {
                if head.kind == DATA {
                    budget.earn(for_data(head.length));
                    pace.window(i64::try_from(head.length).map_or(0, i64::wrapping_neg));
                }
                true
            });
        }
    }
}

/// Puts as much of the end as there is room for into the place of what was read.
fn say(end: &mut &'static [u8], buf: &mut ReadBuf<'_>) -> io::Result<()> {
    let left = *end;
    // h2 has heard it, and should have ended.
    if left.is_empty() {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    let (now, later) = left.split_at(left.len().min(buf.remaining()));
    buf.put_slice(now);
    *end = later;
    Ok(())
}

// === impl Frames ===

impl Frames {
    fn after(skip: usize) -> Self {
        let head = [0; HEAD + INCREMENT];
        Self { skip, head, known: 0, over: false, count: 0, in_head: false, ends_head: false }
    }

    /// What has begun and not ended, if it is a request's head or may be one.
    fn begun(&self) -> Option<Begun> {
        let [_, _, _, kind, ..] = self.head;
        let is_head = self.in_head || self.known > KIND && is_of_head(kind);
        let begins = is_head || (1..=KIND).contains(&self.known);
        begins.then_some(Begun { number: self.count, is_head, since: None })
    }

    /// Tells of each head, until one is not allowed; then where the frame after that begins, once it is among these bytes.
    fn pass(&mut self, bytes: &[u8], mut allows: impl FnMut(Head) -> bool) -> Option<usize> {
        let mut rest = bytes;
        loop {
            let (skipped, more) = rest.split_at(self.skip.min(rest.len()));
            self.skip -= skipped.len();
            rest = more;
            if self.skip > 0 {
                return None;
            }
            self.in_head &= !self.ends_head;
            if self.over && self.known == 0 {
                return Some(bytes.len() - rest.len());
            }
            let needed = if self.known < HEAD { HEAD } else { HEAD + INCREMENT };
            let (part, more) = rest.split_at((needed - self.known).min(rest.len()));
            if self.known == 0 && !self.in_head && !part.is_empty() {
                self.count += 1;
            }
            if let Some(place) = self.head.get_mut(self.known..self.known + part.len()) {
                place.copy_from_slice(part);
            }
            self.known += part.len();
            rest = more;
            if self.known < needed {
                return None;
            }
            let head = Head::read(self.head);
            if needed == HEAD && head.is_update() {
                continue;
            }
            (self.known, self.skip) = (0, (HEAD + head.length).saturating_sub(needed));
            if is_of_head(head.kind) {
                (self.in_head, self.ends_head) = (true, head.flags & END_HEADERS != 0);
            }
            self.over |= !allows(head);
        }
    }
}

// === impl Head ===

impl Head {
    fn read([a, b, c, kind, flags, i, j, k, l, increment @ ..]: [u8; HEAD + INCREMENT]) -> Self {
        let length = (usize::from(a) << 16) | (usize::from(b) << 8) | usize::from(c);
        let mut head = Self { length, kind, flags, opens: 0 };
        if head.is_update() && [i, j, k, l] == [0; 4] {
            head.opens = u32::from_be_bytes(increment) & RESERVED;
        }
        head
    }

    /// Is there an increment behind it?
    fn is_update(self) -> bool {
        self.kind == WINDOW_UPDATE && self.length == INCREMENT
    }

    /// What the frame spends; frames that carry something spend nothing.
    fn cost(self) -> u32 {
        match self.kind {
            HEADERS => 0,
            DATA if self.length > 0 || self.flags & END_STREAM != 0 => 0,
            // It may change the window of every stream.
            SETTINGS if self.flags & ACK == 0 => FOR_SETTINGS,
            _ => 1,
        }
    }
}

// === impl Budget ===

impl Budget {
    /// Counts a frame that came.
    fn allows(&mut self, head: Head) -> bool {
        if head.kind == HEADERS {
            self.earn(FOR_REQUEST);
        }
        let cost = head.cost();
        // The time is asked for only here, so that those who never come to it pay nothing for it.
        if self.left < cost {
            self.refill();
        }
        let left = self.left.checked_sub(cost);
        self.left = left.unwrap_or_default();
        left.is_some()
    }

    fn earn(&mut self, frames: u32) {
        self.left = self.left.saturating_add(frames).min(MOST);
    }

    fn refill(&mut self) {
        let passed = self.since.elapsed();
        let frames = u32::try_from(passed.as_nanos() / INTERVAL.as_nanos()).unwrap_or(BURST);
        if frames > 0 {
            self.earn(frames.min(BURST));
            // What is left of an interval is lost to those alone who waited for long.
            self.since += if frames < BURST { INTERVAL * frames } else { passed };
        }
    }
}

fn is_of_head(kind: u8) -> bool {
    matches!(kind, HEADERS | CONTINUATION)
}

fn for_data(length: usize) -> u32 {
    u32::try_from(length / BYTES).unwrap_or(MOST).saturating_add(FOR_DATA)
}

const HEAD: usize = 9;
/// Where the kind stands in it.
const KIND: usize = 3;
/// Of a WINDOW_UPDATE, and what its first bit is not part of.
const INCREMENT: usize = 4;
const RESERVED: u32 = u32::MAX >> 1;
/// In bytes (RFC 9113 §3.4).
const PREFACE: usize = 24;
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const SETTINGS: u8 = 0x4;
const WINDOW_UPDATE: u8 = 0x8;
const CONTINUATION: u8 = 0x9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const ACK: u8 = 0x1;

/// So many at once, whatever they are: far above what a client says to begin with.
const BURST: u32 = 1000;
/// In which time brings one more: keep-alive of gRPC sends a PING every ten seconds at most.
const INTERVAL: Duration = Duration::from_millis(10);
/// With a request: PRIORITY or PRIORITY_UPDATE, WINDOW_UPDATE, RST_STREAM, and one to spare.
const FOR_REQUEST: u32 = 4;
/// With each DATA of ours: WINDOW_UPDATE of stream and connection, and a PING by which gRPC measures the road.
const FOR_DATA: u32 = 3;
/// And one more with so many bytes of it, since who reads piece by piece opens both windows as often: Go does for each 4 KiB.
const BYTES: usize = 512;
const FOR_SETTINGS: u32 = 5;
/// Those that may be saved up by work.
const MOST: u32 = 100_000;

/// What h2 answers with `GOAWAY` and `ENHANCE_YOUR_CALM` by itself, with nothing of ours between its frames: a header block of six
/// empty CONTINUATION too many, of a stream that nobody opened. Inside of a header block it is a `PROTOCOL_ERROR`.
const CALM: &[u8] = &[
    0, 0, 0, 1, 0, 0x7f, 0xff, 0xff, 0xff, //
    0, 0, 0, 9, 0, 0x7f, 0xff, 0xff, 0xff, //
    0, 0, 0, 9, 0, 0x7f, 0xff, 0xff, 0xff, //
    0, 0, 0, 9, 0, 0x7f, 0xff, 0xff, 0xff, //
    0, 0, 0, 9, 0, 0x7f, 0xff, 0xff, 0xff, //
    0, 0, 0, 9, 0, 0x7f, 0xff, 0xff, 0xff, //
    0, 0, 0, 9, 0, 0x7f, 0xff, 0xff, 0xff,
];

#[cfg(test)]
mod tests;
