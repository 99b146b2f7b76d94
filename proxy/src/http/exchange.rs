//! What do the two directions of an exchange know of each other? How far the request has come, and what of its body may have
//! to be sent again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use http_body::Frame;

use super::body::Relay;
use super::grant::Ending;
use super::watch::{Open, Watch};

/// What the two directions of an exchange know of each other.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    sent: AtomicBool,
    broken: AtomicBool,
    /// Frames of both. While one direction is busy the other is not idle: a stream may be fed, or listened to, for hours.
    frames: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What has been sent, where it may have to be sent again. None: nobody asked, it is too much, or it has arrived.
    kept: Option<Kept>,
    /// Over both directions.
    watch: Watch,
    /// The request's body, where its answer has a deadline.
    request: Weak<Mutex<Relay>>,
}

/// Frames of a body, and their bytes in sum.
#[derive(Debug, Default)]
struct Kept {
    frames: VecDeque<Bytes>,
    bytes: u64,
}

/// What was kept of a request's body, all of it, to be sent once more.
#[derive(Debug)]
pub(crate) struct Again {
    frames: VecDeque<Bytes>,
    exchange: Arc<Exchange>,
}

// === impl Exchange ===

impl Exchange {
    /// What the answer is to know of a request's body; one that may have to be sent again is `kept`, if it may not be too
    /// long from the start.
    pub(crate) fn new(kept: bool, at_least: u64, watch: Watch) -> Arc<Self> {
        let kept = (kept && at_least <= MAX_KEPT).then(Kept::default);
        Arc::new(Self { state: Mutex::new(State { kept, watch, ..State::default() }), ..Self::default() })
    }

    /// Has all of the request been sent?
    pub(crate) fn is_sent(&self) -> bool {
        self.sent.load(Ordering::Relaxed)
    }

    /// Did the request end before its end: cut off, malformed, or not going on?
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// The request's body, which ends with an answer that may not go on.
    pub(crate) fn carries(&self, request: Weak<Mutex<Relay>>) {
        self.lock().request = request;
    }

    /// The same, if it is still on its way.
    pub(crate) fn carried(&self) -> Option<Arc<Mutex<Relay>>> {
        self.lock().request.upgrade()
    }

    /// It has been open for a while, and is watched. `None`: there is nothing to watch for.
    pub(crate) fn open(&self) -> Option<Arc<Open>> {
        self.lock().watch.open()
    }

    /// Why it may not go on, if so.
    pub(crate) fn ending(&self) -> Option<Ending> {
        self.lock().watch.ending()
    }

    /// Keeps what has been sent, without copying it. Trailers come too rarely to be kept.
    pub(crate) fn keep(&self, frame: &Frame<Bytes>) {
        let kept = &mut self.lock().kept;
        let Some(Kept { frames, bytes }) = kept.as_mut() else { return };
        match frame.data_ref() {
            Some(data) if bytes.saturating_add(size(data)) <= MAX_KEPT && frames.len() < MAX_KEPT_FRAMES => {
                *bytes += size(data);
                frames.push_back(data.clone());
            }
            _ => *kept = None,
        }
    }

    /// The answer stands, unless it came too late: nothing will be sent again, and a stream that goes on for hours holds nothing of
    /// its beginning.
    pub(crate) fn answered(&self) -> Result<(), Ending> {
        let mut state = self.lock();
        state.kept = None;
        state.watch.stand()
    }

    /// All of the body once more, if all of it was sent and kept; with what its answer is to know of it.
    pub(crate) fn again(&self) -> Option<(Again, Arc<Self>)> {
        let Kept { frames, .. } = self.lock().kept.take().filter(|_| self.is_sent())?;
        let exchange = Arc::<Self>::default();
        Some((Again { frames, exchange: exchange.clone() }, exchange))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count_frame(&self) {
        self.frames.fetch_add(1, Ordering::Relaxed);
    }

    /// All of the request has been sent.
    pub(crate) fn ended(&self) {
        self.sent.store(true, Ordering::Relaxed);
    }

    pub(crate) fn broke_off(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// Frames of both directions so far.
    pub(crate) fn frames(&self) -> usize {
        self.frames.load(Ordering::Relaxed)
    }
}

// === impl Again ===

impl Again {
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        let frame = self.frames.pop_front();
        self.exchange.count_frame();
        if self.frames.is_empty() {
            self.exchange.ended();
        }
        frame
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.frames.iter().map(size).sum()
    }
}

fn size(data: &Bytes) -> u64 {
    u64::try_from(data.len()).unwrap_or(u64::MAX)
}

/// Of a request's body, in bytes: what is kept so that it can be sent again.
const MAX_KEPT: u64 = 64 * 1024;
/// Each of them holds on to the buffer that it was read into.
const MAX_KEPT_FRAMES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(frames: &[usize]) -> Arc<Exchange> {
        let exchange = Exchange::new(true, 0, Watch::Nothing);
        frames.iter().for_each(|&bytes| exchange.keep(&Frame::data(vec![0; bytes].into())));
        exchange.ended();
        exchange
    }

    fn again(exchange: &Arc<Exchange>) -> Option<u64> {
        exchange.again().map(|(again, _)| again.bytes())
    }

    #[test]
    fn out_11_what_is_kept_of_a_body_is_bounded_and_goes_with_the_answer() {
        assert_eq!(again(&sent(&[])), Some(0));
        assert_eq!(again(&sent(&[1, 2, 0])), Some(3));
        assert_eq!(again(&sent(&[32 * 1024; 2])), Some(MAX_KEPT));
        assert_eq!(again(&sent(&[32 * 1024, 32 * 1024, 1])), None);
        assert_eq!(again(&sent(&[1; MAX_KEPT_FRAMES])), Some(1024));
        assert_eq!(again(&sent(&[1; MAX_KEPT_FRAMES + 1])), None, "each holds on to a buffer");
        assert_eq!(again(&Exchange::new(true, MAX_KEPT + 1, Watch::Nothing)), None);
        let answered = sent(&[1]);
        answered.answered().unwrap();
        assert_eq!(again(&answered), None);
    }
}
