//! What keeps a connection from being idle? A request that has not been read to its end, and an answer that has not been said to its
//! own.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use http_body::{Body as HttpBody, Frame, SizeHint};

use super::{Exchange, Pace, Stream};

/// Something is under way on a connection, until this is dropped.
#[derive(Debug)]
pub(in crate::http) struct Busy {
    pace: Arc<Pace>,
    /// With its end the exchange is over, of HTTP/1.
    is_exchange: bool,
}

/// An answer's body, which keeps its connection busy.
#[derive(Debug)]
pub(in crate::http) struct Kept<B> {
    body: B,
    /// Of HTTP/2.
    stream: Option<Arc<Stream>>,
    _busy: Busy,
}

// === impl Busy ===

impl Busy {
    /// A request has come of which there may be others.
    pub(in crate::http) fn on(pace: &Arc<Pace>) -> Self {
        pace.lock().busy += 1;
        Self { pace: pace.clone(), is_exchange: false }
    }

    /// A request of HTTP/1 has come, or its beginning.
    pub(in crate::http) fn exchange(pace: &Arc<Pace>, is_whole: bool) -> Self {
        let mut state = pace.lock();
        state.busy += 1;
        state.exchange = if is_whole { Exchange::Owed } else { Exchange::Arriving };
        drop(state);
        Self { pace: pace.clone(), is_exchange: true }
    }

    /// Its body, where not all of that has come.
    pub(in crate::http) fn body(&self) -> Self {
        Self::on(&self.pace)
    }

    /// Who takes the request waits for more of it, or has just been given some.
    pub(in crate::http) fn starves(&self, is_starved: bool) {
        match is_starved {
            true => self.turns(Exchange::Arriving, Exchange::Starved),
            false => self.turns(Exchange::Starved, Exchange::Arriving),
        }
    }

    /// All of the request has come, if it has not been answered before.
    pub(in crate::http) fn is_whole(&self) {
        self.turns(Exchange::Starved, Exchange::Owed);
        self.turns(Exchange::Arriving, Exchange::Owed);
    }

    fn turns(&self, from: Exchange, to: Exchange) {
        let mut state = self.pace.lock();
        if state.exchange != from {
            return;
        }
        state.exchange = to;
        let listener = state.listener.take_if(|_| to == Exchange::Starved);
        drop(state);
        listener.inspect(Waker::wake_by_ref);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.pace.lock();
        state.busy = state.busy.saturating_sub(1);
        if state.busy == 0 {
            state.rest();
        }
        if self.is_exchange {
            state.exchange = Exchange::None;
            let listener = state.listener.take();
            drop(state);
            listener.inspect(Waker::wake_by_ref);
        }
    }
}

// === impl Kept ===

impl<B> Kept<B> {
    pub(in crate::http) fn new(body: B, busy: Busy, stream: Option<Arc<Stream>>) -> Self {
        Self { body, stream, _busy: busy }
    }
}

impl<B: HttpBody + Unpin> HttpBody for Kept<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Some(stream) = &self.stream {
            stream.asked(matches!(frame, Poll::Ready(Some(Ok(_)))));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
