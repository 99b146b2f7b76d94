//! What flows? The bodies that we relay, frame by frame and never buffered, and the short ones of our own.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use countersign_policy::Reason;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::answer;
use super::arriving::Arriving;
use super::exchange::{Again, Exchange};
use super::grant::{Admitted, Ending, Watch};
use super::headers::{self, Stripped, Underscores};
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
    /// Whether it may go on.
    watch: Watch,
}

/// Which trailer fields are removed.
#[derive(Debug)]
enum Forbidden {
    None,
    /// From a caller: credentials, identity headers of the port (the names are the running policy's), and where they are
    /// dropped from heads too, names with `_`.
    Caller {
        identity: Vec<String>,
        underscores: Underscores,
    },
}

/// Why a relayed body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("nothing arrived for {0:?}")]
    Stalled(Duration),
    /// Over HTTP/2 the stream is reset with the code that is the source of this.
    #[error("it may not go on: {0}")]
    Ended(Reason, #[source] h2::Error),
}

/// What a timer wakes a body for.
enum Woken {
    /// It has been open for a while.
    Settled,
    Stalled,
}

/// A timer between two frames, armed only while nothing is at hand.
#[derive(Debug)]
struct Stall {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
    until: Instant,
    /// The frames of the exchange when the timer was set.
    frames: usize,
}

// === impl Body ===

impl Body {
    /// A request's body, with what the answer's is to know of it: `None` where it is empty. One that is to be `kept` is,
    /// while it flows, up to 64 KiB. Both directions rest on what was `admitted`, inbound.
    pub(crate) fn request(
        incoming: Arriving,
        idle: Duration,
        caller: Option<Stripped<'_>>,
        kept: bool,
        admitted: Option<&Admitted<'_>>,
    ) -> (Self, Option<Arc<Exchange>>) {
        if incoming.is_end_stream() {
            return (Self::Empty, None);
        }
        let exchange = Exchange::new(kept, incoming.size_hint().lower());
        let relay = Relay {
            incoming,
            stall: Stall::new(idle),
            forbidden: caller.map_or(Forbidden::None, Forbidden::of),
            watch: Watch::over(admitted, Some(&exchange)),
            exchange: Some(exchange.clone()),
            is_request: true,
            lease: None,
        };
        (Self::Relay(Box::new(relay)), Some(exchange))
    }

    /// An answer's body, for as long as the watch says; the lease goes back to its pool at the end.
    pub(crate) fn response(
        incoming: Incoming,
        idle: Duration,
        lease: Option<Lease>,
        exchange: Option<Arc<Exchange>>,
        watch: Watch,
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
            watch,
            exchange,
            is_request: false,
            lease,
        }))
    }

    /// The same body once more, if there was none or all of it was sent and kept; with what its answer is to know of it.
    pub(crate) fn again(exchange: Option<&Exchange>) -> Option<(Self, Option<Arc<Exchange>>)> {
        let Some(exchange) = exchange else { return Some((Self::Empty, None)) };
        let (again, exchange) = exchange.again()?;
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
            Self::Again(again) => again.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Text(text) => SizeHint::with_exact(u64::try_from(text.len()).unwrap_or(u64::MAX)),
            Self::Relay(relay) => relay.incoming.size_hint(),
            Self::Again(again) => SizeHint::with_exact(again.bytes()),
        }
    }
}

// === impl Relay ===

impl Relay {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.watch.is_over() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(ending) = self.watch.poll(context) {
            return Poll::Ready(Some(self.cut(ending)));
        }
        let frame = match Pin::new(&mut self.incoming).poll_frame(context) {
            Poll::Ready(frame) => frame,
            Poll::Pending => return self.wait(context).map(Some),
        };
        self.stall.armed = false;
        if let Some(exchange) = &self.exchange {
            exchange.count_frame();
        }
        let frame = match frame {
            Some(Ok(frame)) => {
                let frame = self.forbidden.strip(frame);
                if let Some(exchange) = self.exchange.as_ref().filter(|_| self.is_request) {
                    exchange.keep(&frame);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => Some(match self.exchange.as_ref().and_then(|exchange| exchange.ending()) {
                // The request was cut for it, and so the upstream breaks off.
                Some(ending) => self.cut(ending),
                None => Err(self.broken(error)),
            }),
            None => None,
        };
        if frame.is_none() || self.incoming.is_end_stream() {
            self.end();
        }
        Poll::Ready(frame)
    }

    /// Nothing is at hand.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Result<Frame<Bytes>, BodyError>> {
        loop {
            match ready!(self.stall.poll(context, self.exchange.as_deref(), self.watch.due())) {
                Woken::Stalled => return Poll::Ready(Err(self.broken(BodyError::Stalled(self.stall.limit)))),
                Woken::Settled => self.watch.settle(),
            }
            if let Poll::Ready(ending) = self.watch.poll(context) {
                return Poll::Ready(self.cut(ending));
            }
        }
    }

    /// It may not go on. A gRPC caller is told why; any other sees that the end is missing, and so does the application.
    fn cut(&mut self, ending: Ending) -> Result<Frame<Bytes>, BodyError> {
        self.watch = Watch::Over;
        if ending.is_grpc && !self.is_request {
            return Ok(Frame::trailers(answer::trailers(ending.reason)));
        }
        Err(self.broken(BodyError::Ended(ending.reason, h2::Reason::CANCEL.into())))
    }

    fn broken(&self, error: impl Into<BodyError>) -> BodyError {
        if let Some(exchange) = self.exchange.as_ref().filter(|_| self.is_request) {
            exchange.broke_off();
        }
        error.into()
    }

    fn end(&mut self) {
        if let Some(exchange) = self.exchange.take().filter(|_| self.is_request) {
            exchange.ended();
        }
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

// === impl Forbidden ===

impl Forbidden {
    fn of(Stripped { identity, underscores }: Stripped<'_>) -> Self {
        Self::Caller { identity: identity.to_vec(), underscores }
    }

    fn strip(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let Self::Caller { identity, underscores } = self else { return frame };
        match frame.into_trailers() {
            Ok(mut trailers) => {
                strip_trailers(&mut trailers, Stripped { identity, underscores: *underscores });
                Frame::trailers(trailers)
            }
            Err(frame) => frame,
        }
    }
}

/// Trailers never carry credentials or identity (security IN-2, IN-18, IN-22).
fn strip_trailers(trailers: &mut HeaderMap, Stripped { identity, underscores }: Stripped<'_>) {
    if underscores == Underscores::Drop {
        headers::strip_underscored(trailers);
    }
    headers::strip_identity(trailers, identity);
    for name in CREDENTIALS_AND_FRAMING {
        trailers.remove(name);
    }
}

const CREDENTIALS_AND_FRAMING: [&str; 7] =
    ["authorization", "proxy-authorization", "dpop", "cookie", "host", "content-length", "transfer-encoding"];

// === impl Stall ===

impl Stall {
    fn new(limit: Duration) -> Self {
        Self { limit, sleep: None, armed: false, until: Instant::now(), frames: 0 }
    }

    /// Ready when nothing has come for the limit, or once before when it is `due`.
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        exchange: Option<&Exchange>,
        due: Option<Instant>,
    ) -> Poll<Woken> {
        let limit = self.limit;
        let frames = exchange.map_or(0, Exchange::frames);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if !self.armed {
            self.until = Instant::now() + limit;
            sleep.as_mut().reset(due.map_or(self.until, |due| due.min(self.until)));
            (self.armed, self.frames) = (true, frames);
        }
        loop {
            ready!(sleep.as_mut().poll(context));
            if sleep.deadline() < self.until {
                sleep.as_mut().reset(self.until);
                return Poll::Ready(Woken::Settled);
            }
            if frames == self.frames {
                return Poll::Ready(Woken::Stalled);
            }
            // The other direction was busy meanwhile.
            self.until = Instant::now() + limit;
            sleep.as_mut().reset(self.until);
            self.frames = frames;
        }
    }
}
