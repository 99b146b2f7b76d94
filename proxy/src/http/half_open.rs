//! Is a client gone that has ended its side of the connection? It may be waiting for its answer, or have given up: nothing tells
//! which. Who has sent all of a request is given a while; hyper would either drop the request at once, or never notice.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::body::{Body, BodyError};

/// An HTTP/1 connection of a client, whose end is not heard while it is owed an answer.
pub(super) struct HalfOpen<S> {
    stream: S,
    owed: Owed,
    /// When the client ended its side, or took the last byte after that.
    silent_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    /// It does not take what we write.
    is_full: bool,
}

/// Is an answer owed? Shared with the request and the answer, of which there is one at a time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owed(Arc<State>);

#[derive(Debug, Default)]
struct State {
    phase: AtomicU8,
    /// Who waits for the end of the client.
    waker: AtomicWaker,
}

/// The body of an answer, with which the debt ends.
pub(super) struct Answer {
    body: Body,
    owed: Owed,
}

/// No request, or one that is answered.
const IDLE: u8 = 0;
/// A request without its end: there is more to come from the client.
const ARRIVING: u8 = 1;
/// The same, and who takes it waits for more.
const STARVED: u8 = 2;
/// A whole one.
const OWED: u8 = 3;

// === impl Owed ===

impl Owed {
    /// A request has come, or the beginning of one.
    pub(super) fn begins(&self, is_whole: bool) {
        self.0.phase.store(if is_whole { OWED } else { ARRIVING }, Ordering::Relaxed);
    }

    /// Who takes the request waits for more of it, or has just been given some.
    pub(super) fn starves(&self, is_starved: bool) {
        let (from, to) = if is_starved { (ARRIVING, STARVED) } else { (STARVED, ARRIVING) };
        if self.turns(from, to) && is_starved {
            self.0.waker.wake();
        }
    }

    /// All of the request has come, if it has not been answered before.
    pub(super) fn is_whole(&self) {
        let _ = self.turns(ARRIVING, OWED) || self.turns(STARVED, OWED);
    }

    fn turns(&self, from: u8, to: u8) -> bool {
        self.0.phase.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// The answer, which is owed until it is dropped.
    pub(super) fn with(self, body: Body) -> Answer {
        Answer { body, owed: self }
    }
}

// === impl Answer ===

impl Drop for Answer {
    fn drop(&mut self) {
        self.owed.0.phase.store(IDLE, Ordering::Relaxed);
        self.owed.0.waker.wake();
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl HalfOpen ===

impl<S> HalfOpen<S> {
    pub(super) fn over(stream: S) -> (Self, Owed) {
        let owed = Owed::default();
        (Self { stream, owed: owed.clone(), silent_since: None, timer: None, is_full: false }, owed)
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    /// Ready when the end of the client is to be heard.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.owed.0.waker.register(cx.waker());
        let limit = match self.owed.0.phase.load(Ordering::Relaxed) {
            _ if self.is_full => PATIENCE,
            IDLE => return Poll::Ready(()),
            // The end of the request may have come along with that of the client, and not have been taken yet.
            STARVED => MOMENT,
            _ => PATIENCE,
        };
        let due = *self.silent_since.get_or_insert_with(Instant::now) + limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(cx)
    }

    /// What it takes tells that it is there.
    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        if std::mem::replace(&mut self.is_full, written.is_pending()) && written.is_ready() {
            self.owed.0.waker.wake();
        }
        if let (Some(since), Poll::Ready(Ok(1..))) = (self.silent_since.as_mut(), written) {
            *since = Instant::now();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HalfOpen<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.silent_since.is_none() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        }
        if buf.filled().len() > before || buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        self.poll_end(cx).map(Ok)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HalfOpen<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// How long a client that has ended its side may be silent while it is owed an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same, where its request has no end and all of it that came has been taken.
const MOMENT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
