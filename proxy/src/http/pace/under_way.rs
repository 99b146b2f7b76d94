//! What keeps a connection from being idle? A request that has not been read to its end, and an answer that has not been said to its
//! own.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::{Pace, Stream};

/// Something is under way on a connection, until this is dropped.
#[derive(Debug)]
pub(in crate::http) struct Busy {
    pace: Arc<Pace>,
    /// With its end the exchange is over, of HTTP/1.
    is_exchange: bool,
    /// It may go on for hours, and mostly nothing moves.
    rests: bool,
}

/// What there is between a caller of HTTP/1 and us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Exchange {
    /// No request, or one that is answered.
    None,
    /// A request without its end: there is more to come from the caller.
    Arriving,
    /// The same, and who takes it waits for more.
    Starved,
    /// A whole one, whose answer is owed.
    Owed,
}

/// How it stands between them.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct Standing {
    pub(in crate::http) exchange: Exchange,
    /// The request has been passed on.
    pub(in crate::http) is_out: bool,
    /// A write waits for the caller.
    pub(in crate::http) is_blocked: bool,
}

/// An answer's body, which keeps its connection busy.
#[derive(Debug)]
pub(in crate::http) struct Kept<B> {
    body: B,
    /// Of HTTP/2.
    pieces: Option<Pieces>,
    busy: Busy,
}

/// How an answer over HTTP/2 is handed over: in pieces of about what its caller takes at a time, so that it shows whether any is
/// taken.
#[derive(Debug)]
struct Pieces {
    stream: Arc<Stream>,
    /// What has come of the answer, and has not been handed over.
    rest: Bytes,
    /// Of the next one, in bytes.
    size: usize,
    /// The stream's turn at which the last one was asked for, and how many were.
    turn: u64,
    asked: usize,
}

/// A piece that lies in h2 until it is written, or its stream is over: hyper lets go of an answer when it has been handed over.
#[derive(Debug)]
struct Lying {
    piece: Bytes,
    pace: Arc<Pace>,
}

// === impl Busy ===

impl Busy {
    /// A request has come of which there may be others.
    pub(in crate::http) fn on(pace: &Arc<Pace>) -> Self {
        Self::that(pace, false)
    }

    /// A request of HTTP/1 has come, or its beginning.
    pub(in crate::http) fn exchange(pace: &Arc<Pace>, is_whole: bool) -> Self {
        let mut state = pace.more_busy(false);
        state.exchange = if is_whole { Exchange::Owed } else { Exchange::Arriving };
        state.is_out = false;
        drop(state);
        Self { pace: pace.clone(), is_exchange: true, rests: false }
    }

    /// Its body, where not all of that has come.
    pub(in crate::http) fn body(&self) -> Self {
        Self::on(&self.pace)
    }

    /// Who is to be told when it is passed on.
    pub(in crate::http) fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }

    /// What has become of it, where that is something else than HTTP.
    pub(super) fn onward(&self) -> Self {
        Self::that(&self.pace, true)
    }

    fn that(pace: &Arc<Pace>, rests: bool) -> Self {
        drop(pace.more_busy(rests));
        Self { pace: pace.clone(), is_exchange: false, rests }
    }

    /// Who takes the request waits for more of it, or has just been given some.
    pub(in crate::http) fn starves(&self, is_starved: bool) {
        match is_starved {
            true => self.turns(&[Exchange::Arriving], Exchange::Starved),
            false => self.turns(&[Exchange::Starved], Exchange::Arriving),
        }
    }

    /// All of the request has come, if it has not been answered before.
    pub(in crate::http) fn is_whole(&self) {
        self.turns(&[Exchange::Starved, Exchange::Arriving], Exchange::Owed);
    }

    fn turns(&self, from: &[Exchange], to: Exchange) {
        let mut state = self.pace.lock();
        if !from.contains(&state.exchange) {
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
        let mut state = self.pace.less_busy(self.rests);
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
        let pieces =
            stream.map(|stream| Pieces { stream, rest: Bytes::new(), size: FIRST, turn: 0, asked: 0 });
        Self { body, pieces, busy }
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Kept<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Self { body, pieces, busy } = &mut *self;
        let Some(pieces) = pieces else { return Pin::new(body).poll_frame(context) };
        pieces.fit();
        let is_slow = pieces.size < FIRST;
        let lying = |piece: Bytes| match piece.len() > LEAST || is_slow {
            true => Bytes::from_owner(Lying::new(piece, &busy.pace)),
            // Of small ones there cannot be much.
            false => piece,
        };
        let frame = pieces.poll_next(body, context).map_ok(|frame| frame.map_data(lying));
        pieces.stream.asked(matches!(frame, Poll::Ready(Some(Ok(_)))));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.as_ref().is_none_or(|pieces| pieces.rest.is_empty()) && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl Pieces ===

impl Pieces {
    fn poll_next<B: HttpBody<Data = Bytes> + Unpin>(
        &mut self,
        body: &mut B,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(body).poll_frame(context)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let piece = self.rest.split_to(self.size.min(self.rest.len()));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    /// Who asks for more at once takes more at a time, and who had to be waited for less. hyper asks for one ahead.
    fn fit(&mut self) {
        let turn = self.stream.turn();
        if turn != self.turn {
            (self.turn, self.asked) = (turn, 0);
            if self.stream.is_handed() {
                self.size = (self.size / 2).max(LEAST);
            }
        } else if self.asked >= 2 {
            self.size = (self.size * 2).min(MOST);
        }
        self.asked += 1;
    }
}

// === impl Lying ===

impl Lying {
    fn new(piece: Bytes, pace: &Arc<Pace>) -> Self {
        pace.more_busy(false).lying += 1;
        Self { piece, pace: pace.clone() }
    }
}

impl AsRef<[u8]> for Lying {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

impl Drop for Lying {
    fn drop(&mut self) {
        let mut state = self.pace.less_busy(false);
        (state.lying, state.lying_since) = (state.lying.saturating_sub(1), None);
    }
}

/// In bytes: as much as answers mostly have.
const FIRST: usize = 4 * 1024;
const LEAST: usize = 1024;
const MOST: usize = 64 * 1024;
