//! What flows? The bodies that we relay, frame by frame and never buffered, and the short ones of our own.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::arriving::Arriving;
use super::pool::Lease;

/// A body, in either direction.
#[derive(Debug, Default)]
pub(crate) enum Body {
    #[default]
    Empty,
    /// Our own words.
    Text(Bytes),
    /// From one connection to the other.
    Relay(Box<Relay>),
    /// A request's body that was sent before.
    Again(Box<Again>),
}

/// What was kept of a request's body, all of it, to be sent once more.
#[derive(Debug)]
pub(crate) struct Again {
    frames: VecDeque<Bytes>,
    exchange: Arc<Exchange>,
}

/// A body on its way through.
#[derive(Debug)]
pub(crate) struct Relay {
    incoming: Arriving,
    stall: Stall,
    /// Trailer fields that must not pass, lower case with `-`.
    forbidden: Forbidden,
    /// Shared with the body of the other direction, where the request has one.
    exchange: Option<Arc<Exchange>>,
    is_request: bool,
    /// The upstream connection, given back when an answer's body has ended well.
    lease: Option<Lease>,
}

/// What the two directions of an exchange know of each other.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    sent: AtomicBool,
    broken: AtomicBool,
    /// Frames of both. While one direction is busy the other is not idle: a stream may be fed, or listened to, for hours.
    frames: AtomicUsize,
    /// What has been sent, where it may have to be sent again. None: nobody asked, it is too much, or it has arrived.
    kept: Mutex<Option<Kept>>,
}

/// Frames of a body, and their bytes in sum.
#[derive(Debug, Default)]
struct Kept {
    frames: VecDeque<Bytes>,
    bytes: u64,
}

/// Which trailer fields are removed.
#[derive(Debug)]
enum Forbidden {
    None,
    /// From a caller: credentials, and identity headers of the port (the names are the running policy's).
    Identity(Vec<String>),
}

/// Why a relayed body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("nothing arrived for {0:?}")]
    Stalled(Duration),
}

/// A timer between two frames, armed only while nothing is at hand.
#[derive(Debug)]
struct Stall {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
    /// The frames of the exchange when the timer was set.
    frames: usize,
}

// === impl Body ===

impl Body {
    /// A request's body, with what the answer's is to know of it: `None` where it is empty. One that is to be `kept` is,
    /// while it flows, up to 64 KiB.
    pub(crate) fn request(
        incoming: Arriving,
        idle: Duration,
        identity: Option<&[String]>,
        kept: bool,
    ) -> (Self, Option<Arc<Exchange>>) {
        if incoming.is_end_stream() {
            return (Self::Empty, None);
        }
        let kept = kept && incoming.size_hint().lower() <= MAX_KEPT;
        let exchange =
            Arc::new(Exchange { kept: Mutex::new(kept.then(Kept::default)), ..Exchange::default() });
        let relay = Relay {
            incoming,
            stall: Stall::new(idle),
            forbidden: identity.map_or(Forbidden::None, |names| Forbidden::Identity(names.to_vec())),
            exchange: Some(exchange.clone()),
            is_request: true,
            lease: None,
        };
        (Self::Relay(Box::new(relay)), Some(exchange))
    }

    /// An answer's body; the lease goes back to its pool at the end.
    pub(crate) fn response(
        incoming: Incoming,
        idle: Duration,
        lease: Option<Lease>,
        exchange: Option<Arc<Exchange>>,
    ) -> Self {
        if incoming.is_end_stream() {
            if let Some(lease) = lease {
                lease.give_back();
            }
            return Self::Empty;
        }
        Self::Relay(Box::new(Relay {
            incoming: incoming.into(),
            stall: Stall::new(idle),
            forbidden: Forbidden::None,
            exchange,
            is_request: false,
            lease,
        }))
    }

    /// The same body once more, if there was none or all of it was sent and kept; with what its answer is to know of it.
    pub(crate) fn again(exchange: Option<&Exchange>) -> Option<(Self, Option<Arc<Exchange>>)> {
        let Some(exchange) = exchange else { return Some((Self::Empty, None)) };
        let frames = exchange.take_kept().filter(|_| exchange.is_sent())?;
        let exchange = Arc::<Exchange>::default();
        let again = Again { frames, exchange: exchange.clone() };
        Some((Self::Again(Box::new(again)), Some(exchange)))
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Text(text) if text.is_empty() => Poll::Ready(None),
            Self::Text(text) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(text))))),
            Self::Relay(relay) => relay.poll_frame(context),
            Self::Again(again) => Poll::Ready(again.next().map(|data| Ok(Frame::data(data)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Text(text) => text.is_empty(),
            Self::Relay(relay) => relay.incoming.is_end_stream(),
            Self::Again(again) => again.frames.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Text(text) => SizeHint::with_exact(u64::try_from(text.len()).unwrap_or(u64::MAX)),
            Self::Relay(relay) => relay.incoming.size_hint(),
            Self::Again(again) => SizeHint::with_exact(length(&again.frames)),
        }
    }
}

// === impl Relay ===

impl Relay {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match Pin::new(&mut self.incoming).poll_frame(context) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                ready!(self.stall.poll(context, self.exchange.as_deref()));
                return Poll::Ready(Some(Err(self.broken(BodyError::Stalled(self.stall.limit)))));
            }
        };
        self.stall.armed = false;
        if let Some(exchange) = &self.exchange {
            exchange.frames.fetch_add(1, Ordering::Relaxed);
        }
        let frame = match frame {
            Some(Ok(frame)) => {
                let frame = self.forbidden.strip(frame);
                if let Some(exchange) = self.exchange.as_ref().filter(|_| self.is_request) {
                    exchange.keep(&frame);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => Some(Err(self.broken(error))),
            None => None,
        };
        if frame.is_none() || self.incoming.is_end_stream() {
            self.end();
        }
        Poll::Ready(frame)
    }

    fn broken(&self, error: impl Into<BodyError>) -> BodyError {
        if let Some(exchange) = self.exchange.as_ref().filter(|_| self.is_request) {
            exchange.broken.store(true, Ordering::Relaxed);
        }
        error.into()
    }

    fn end(&mut self) {
        if let Some(exchange) = self.exchange.take().filter(|_| self.is_request) {
            exchange.sent.store(true, Ordering::Relaxed);
        }
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

// === impl Again ===

impl Again {
    fn next(&mut self) -> Option<Bytes> {
        let frame = self.frames.pop_front();
        self.exchange.frames.fetch_add(1, Ordering::Relaxed);
        if self.frames.is_empty() {
            self.exchange.sent.store(true, Ordering::Relaxed);
        }
        frame
    }
}

fn length(frames: &VecDeque<Bytes>) -> u64 {
    frames.iter().map(size).sum()
}

fn size(data: &Bytes) -> u64 {
    u64::try_from(data.len()).unwrap_or(u64::MAX)
}

// === impl Exchange ===

impl Exchange {
    /// Has all of the request been sent?
    pub(crate) fn is_sent(&self) -> bool {
        self.sent.load(Ordering::Relaxed)
    }

    /// Did the request end before its end: cut off, malformed, or not going on?
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Keeps what has been sent, without copying it. Trailers come too rarely to be kept.
    fn keep(&self, frame: &Frame<Bytes>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Kept { frames, bytes }) = kept.as_mut() else { return };
        match frame.data_ref() {
            Some(data) if bytes.saturating_add(size(data)) <= MAX_KEPT && frames.len() < MAX_KEPT_FRAMES => {
                *bytes += size(data);
                frames.push_back(data.clone());
            }
            _ => *kept = None,
        }
    }

    /// The answer stands: nothing will be sent again, and a stream that goes on for hours holds nothing of its beginning.
    pub(crate) fn forget(&self) {
        self.take_kept();
    }

    fn take_kept(&self) -> Option<VecDeque<Bytes>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).take().map(|kept| kept.frames)
    }

    /// Frames of both directions so far.
    pub(crate) fn frames(&self) -> usize {
        self.frames.load(Ordering::Relaxed)
    }
}

// === impl Forbidden ===

impl Forbidden {
    fn strip(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let Self::Identity(names) = self else { return frame };
        match frame.into_trailers() {
            Ok(mut trailers) => {
                strip_trailers(&mut trailers, names);
                Frame::trailers(trailers)
            }
            Err(frame) => frame,
        }
    }
}

/// Trailers never carry credentials or identity (security IN-2, IN-18, IN-22).
fn strip_trailers(trailers: &mut HeaderMap, names: &[String]) {
    super::headers::strip_identity(trailers, names);
    for name in ["authorization", "host", "content-length", "transfer-encoding", "cookie"] {
        trailers.remove(name);
    }
}

// === impl Stall ===

impl Stall {
    fn new(limit: Duration) -> Self {
        Self { limit, sleep: None, armed: false, frames: 0 }
    }

    fn poll(&mut self, context: &mut Context<'_>, exchange: Option<&Exchange>) -> Poll<()> {
        let limit = self.limit;
        let frames = exchange.map_or(0, Exchange::frames);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if !self.armed {
            sleep.as_mut().reset(Instant::now() + limit);
            (self.armed, self.frames) = (true, frames);
        }
        loop {
            ready!(sleep.as_mut().poll(context));
            if frames == self.frames {
                return Poll::Ready(());
            }
            // The other direction was busy meanwhile.
            sleep.as_mut().reset(Instant::now() + limit);
            self.frames = frames;
        }
    }
}

/// Of a request's body, in bytes: what is kept so that it can be sent again.
const MAX_KEPT: u64 = 64 * 1024;
/// Each of them holds on to the buffer that it was read into.
const MAX_KEPT_FRAMES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(frames: &[usize]) -> Arc<Exchange> {
        let exchange = Exchange { kept: Mutex::new(Some(Kept::default())), ..Exchange::default() };
        frames.iter().for_each(|&bytes| exchange.keep(&Frame::data(vec![0; bytes].into())));
        exchange.sent.store(true, Ordering::Relaxed);
        Arc::new(exchange)
    }

    fn again(exchange: &Arc<Exchange>) -> Option<u64> {
        Body::again(Some(exchange)).and_then(|(body, _)| body.size_hint().exact())
    }

    #[test]
    fn out_11_what_is_kept_of_a_body_is_bounded_and_goes_with_the_answer() {
        assert_eq!(again(&sent(&[])), Some(0));
        assert_eq!(again(&sent(&[1, 2, 0])), Some(3));
        assert_eq!(again(&sent(&[32 * 1024; 2])), Some(MAX_KEPT));
        assert_eq!(again(&sent(&[32 * 1024, 32 * 1024, 1])), None);
        assert_eq!(again(&sent(&[1; MAX_KEPT_FRAMES])), Some(1024));
        assert_eq!(again(&sent(&[1; MAX_KEPT_FRAMES + 1])), None, "each holds on to a buffer");
        let answered = sent(&[1]);
        answered.forget();
        assert_eq!(again(&answered), None);
    }
}
