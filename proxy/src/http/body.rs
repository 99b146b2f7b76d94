//! What flows? The bodies that we relay, frame by frame and never buffered, and the short ones of our own.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use countersign_policy::Reason;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::answer;
use super::arriving::Arriving;
use super::attempt::failure;
use super::deadline::{Alarm, Deadline};
use super::exchange::{Again, Exchange};
use super::grant::{Admitted, Ending};
use super::headers::Stripped;
use super::pool::Hold;
use super::watch::{Place, Watch};
use crate::rejection::Cause;
use stall::Stall;
use trailers::Forbidden;

pub(super) use rest::MAX_HEARD_OUT;

mod rest;
mod stall;
mod trailers;

/// A body, in either direction.
#[derive(Debug, Default)]
pub(crate) enum Body {
    #[default]
    Empty,
    /// Our own words.
    Text(Bytes),
    /// From one connection to the other. Shared with the watch over it, which ends it though nobody reads.
    Relay(Arc<Mutex<Relay>>),
    /// A request's body that was sent before.
    Again(Box<Again>),
}

/// A body on its way through.
#[derive(Debug)]
pub(crate) struct Relay {
    flow: Flow,
    stall: Stall,
    /// Trailer fields that must not pass, lower case with `-`.
    forbidden: Forbidden,
    /// Shared with the body of the other direction, where the request has one.
    exchange: Option<Arc<Exchange>>,
    is_request: bool,
    /// Of the upstream connection, given back when an answer's body has ended well.
    hold: Option<Hold>,
    /// Over an exchange without a body of the request; else it is there.
    watch: Watch,
    /// Until it is watched.
    place: Option<Place>,
    /// Of an answer that has to be there in time.
    alarm: Option<Alarm>,
    /// Who waits for a frame.
    waker: Option<Waker>,
}

#[derive(Debug)]
enum Flow {
    On(Arriving),
    /// It broke off, and nobody has been told.
    Broken(BodyError),
    /// It may not go on, and nobody has been told.
    Ended(Ending),
    Over,
}

/// Why a relayed body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// Over HTTP/2 its stream was reset with NO_ERROR, or the connection left it behind. Who takes it hears INTERNAL_ERROR.
    #[error("it ended before its end")]
    Unended,
    #[error("nothing arrived for {0:?}")]
    Stalled(Duration),
    /// Over HTTP/2 this is INTERNAL_ERROR as well: of CANCEL hyper and Node tell their callers that the body is whole.
    #[error("it may not go on: {0}")]
    Ended(Reason),
    /// The same, of a request whose caller let its answer lie.
    #[error("nobody takes its answer")]
    Untaken,
}

// === impl Body ===

impl Body {
    /// A request's body, with what the answer's is to know of it: `None` where it is empty. One that is to be `kept` is,
    /// while it flows, up to 64 KiB. Both directions rest on what was `admitted`, inbound. It goes no further than an answer that
    /// breaks off at its `deadline`.
    pub(crate) fn request(
        incoming: Arriving,
        idle: Duration,
        caller: Option<Stripped<'_>>,
        kept: bool,
        admitted: Option<&Admitted<'_>>,
        deadline: Deadline,
    ) -> (Self, Option<Arc<Exchange>>) {
        if incoming.is_end_stream() {
            return (Self::Empty, None);
        }
        let watch = Watch::over(admitted, false);
        let exchange = Exchange::new(kept, incoming.size_hint().lower(), watch);
        let relay = Relay {
            forbidden: caller.map_or(Forbidden::None, Forbidden::of),
            exchange: Some(exchange.clone()),
            is_request: true,
            ..Relay::new(incoming, idle)
        };
        let relay = relay.shared(admitted);
        if deadline.is_set() {
            exchange.carries(Arc::downgrade(&relay));
        }
        (Self::Relay(relay), Some(exchange))
    }

    /// An answer's body; what it holds of its connection is given back at the end. Without an `exchange` the watch is its own.
    pub(crate) fn response(
        incoming: Arriving,
        idle: Duration,
        deadline: Deadline,
        hold: Option<Hold>,
        exchange: Option<Arc<Exchange>>,
        watch: Watch,
        admitted: Option<&Admitted<'_>>,
    ) -> Self {
        if incoming.is_end_stream() {
            if let Some(hold) = hold {
                hold.give_back();
            }
            return Self::Empty;
        }
        let relay = Relay { exchange, hold, watch, ..Relay::new(incoming, idle) }.shared(admitted);
        let late = Arc::downgrade(&relay);
        lock(&relay).alarm = deadline.then(move |ending| Relay::too_late(&late, &ending));
        Self::Relay(relay)
    }

    /// Looks at an answer's first frame, if that is at hand: what has broken off by now is no answer.
    pub(crate) fn begin(&self, context: &mut Context<'_>) -> Result<(), Cause> {
        match self {
            Self::Relay(relay) => lock(relay).begin(context),
            Self::Empty | Self::Text(_) | Self::Again(_) => Ok(()),
        }
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
            Self::Relay(relay) => lock(relay).poll_frame(context),
            Self::Again(again) => Poll::Ready(again.next().map(|data| Ok(Frame::data(data)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Text(text) => text.is_empty(),
            Self::Relay(relay) => lock(relay).flow.is_end_stream(),
            Self::Again(again) => again.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Text(text) => SizeHint::with_exact(u64::try_from(text.len()).unwrap_or(u64::MAX)),
            Self::Relay(relay) => lock(relay).flow.size_hint(),
            Self::Again(again) => SizeHint::with_exact(again.bytes()),
        }
    }
}

// === impl Relay ===

impl Relay {
    fn new(incoming: Arriving, idle: Duration) -> Self {
        Self {
            flow: Flow::On(incoming),
            stall: Stall::new(idle),
            forbidden: Forbidden::None,
            exchange: None,
            is_request: false,
            hold: None,
            watch: Watch::Nothing,
            place: None,
            alarm: None,
            waker: None,
        }
    }

    fn shared(mut self, admitted: Option<&Admitted<'_>>) -> Arc<Mutex<Self>> {
        Arc::new_cyclic(|own| {
            self.place = admitted.map(|admitted| admitted.enter(own.clone()));
            Mutex::new(self)
        })
    }

    /// It has been open for a while: from now on it goes as far as what let it in.
    pub(super) fn settle(relay: &Arc<Mutex<Self>>) {
        let held = {
            let mut this = lock(relay);
            this.place = None;
            let open = match &this.exchange {
                Some(exchange) => exchange.open(),
                None => this.watch.open(),
            };
            open.map_or(Ok(()), |open| open.hold(Arc::downgrade(relay)))
        };
        if let Err(ending) = held {
            Self::end_early(relay, &ending);
        }
    }

    /// It may not go on: the other side of what flows here sees the end at once, and who takes it is told when he asks.
    pub(super) fn end_early(relay: &Arc<Mutex<Self>>, ending: &Ending) {
        let (held, waker) = {
            let mut this = lock(relay);
            if !matches!(this.flow, Flow::On(_)) {
                return;
            }
            let flow = std::mem::replace(&mut this.flow, Flow::Ended(ending.clone()));
            ((flow, this.hold.take()), this.waker.take())
        };
        drop(held);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The time for all of an answer is over, whether anybody takes it or not: nothing more of it is taken, nor sent of its request.
    fn too_late(late: &Weak<Mutex<Self>>, ending: &Ending) {
        let Some(relay) = late.upgrade() else { return };
        tracing::debug!("an answer took longer than timeouts.total");
        let request = lock(&relay).exchange.as_ref().and_then(|exchange| exchange.carried());
        for relay in request.iter().chain([&relay]) {
            Self::end_early(relay, ending);
        }
    }

    fn begin(&mut self, context: &mut Context<'_>) -> Result<(), Cause> {
        let Flow::On(incoming) = &mut self.flow else { return Ok(()) };
        match incoming.begin(context) {
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(%error, "an answer broke off before anything of its body came");
                return Err(failure::of_body(&error));
            }
            Poll::Ready(None) => self.end(),
            Poll::Ready(Some(Ok(()))) | Poll::Pending => {}
        }
        Ok(())
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let incoming = match &mut self.flow {
            Flow::On(incoming) => incoming,
            Flow::Broken(_) | Flow::Ended(_) => return Poll::Ready(self.cut()),
            Flow::Over => return Poll::Ready(None),
        };
        let frame = match Pin::new(incoming).poll_frame(context) {
            Poll::Ready(frame) => frame,
            Poll::Pending => return self.wait(context),
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
            Some(Err(error)) if self.is_request => Some(Err(self.broken(error))),
            Some(Err(error)) => {
                // With the error hyper lets go of what it has not written yet, be it the head: that goes first.
                self.flow = Flow::Broken(error);
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            None => None,
        };
        if frame.is_none() || self.flow.is_end_stream() {
            self.end();
        }
        Poll::Ready(frame)
    }

    /// Nothing is at hand.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            self.waker = Some(context.waker().clone());
        }
        ready!(self.stall.poll(context, self.exchange.as_deref()));
        Poll::Ready(Some(Err(self.broken(BodyError::Stalled(self.stall.limit)))))
    }

    /// A gRPC caller is told why it ends; any other sees that the end is missing, and so does the application.
    fn cut(&mut self) -> Option<Result<Frame<Bytes>, BodyError>> {
        let ending = match std::mem::replace(&mut self.flow, Flow::Over) {
            Flow::Ended(ending) => ending,
            Flow::Broken(error) => return Some(Err(self.broken(error))),
            Flow::On(_) | Flow::Over => return None,
        };
        if ending.is_grpc && !self.is_request {
            return Some(Ok(Frame::trailers(answer::trailers(&ending.refusal))));
        }
        Some(Err(self.broken(BodyError::Ended(ending.reason()))))
    }

    fn broken(&self, error: BodyError) -> BodyError {
        if let Some(exchange) = self.exchange.as_ref().filter(|_| self.is_request) {
            exchange.broke_off();
        }
        error
    }

    /// All of it has passed: what may still lie in a buffer is the caller's.
    fn end(&mut self) {
        (self.flow, self.watch, self.place, self.alarm) = (Flow::Over, Watch::Nothing, None, None);
        if let Some(exchange) = self.exchange.take().filter(|_| self.is_request) {
            exchange.ended();
        }
        if let Some(hold) = self.hold.take() {
            hold.give_back();
        }
    }
}

fn lock(relay: &Mutex<Relay>) -> MutexGuard<'_, Relay> {
    relay.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Flow ===

impl Flow {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::On(incoming) => incoming.is_end_stream(),
            Self::Broken(_) | Self::Ended(_) => false,
            Self::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::On(incoming) => incoming.size_hint(),
            Self::Broken(_) | Self::Ended(_) | Self::Over => SizeHint::default(),
        }
    }
}
