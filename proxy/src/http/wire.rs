//! What happens to a connection's bytes? The one stream that a connection of HTTP is read from and written to, and who hears of it.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream with somebody who hears what passes.
#[derive(Debug)]
pub(crate) struct Wire<S, T> {
    stream: S,
    tap: T,
    /// What was read before its reader was there.
    ahead: Bytes,
}

/// Who hears what passes.
pub(super) trait Tap: Unpin {
    /// Reads from the stream, and says what its reader hears of that.
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>>;

    /// So many bytes of these have been taken; or, for `None`, a write, a flush or the end has to wait.
    fn wrote(&mut self, _bytes: &[IoSlice<'_>], _taken: Option<usize>) {}
}

// === impl Wire ===

impl<S, T> Wire<S, T> {
    pub(super) fn new(stream: S, tap: T) -> Self {
        Self { stream, tap, ahead: Bytes::new() }
    }

    /// What becomes something else than HTTP.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    /// With what its last reader has left.
    pub(super) fn after(mut self, ahead: Bytes) -> Self {
        if !ahead.is_empty() {
            self.ahead = ahead;
        }
        self
    }

    #[cfg(test)]
    pub(super) fn tap(&self) -> &T {
        &self.tap
    }
}

impl<S: AsyncRead + Unpin, T: Tap> Wire<S, T> {
    /// Waits for bytes without room for them, and keeps them for a reader. `false`: the other side has ended its own.
    pub(super) async fn stirs(&mut self) -> io::Result<bool> {
        if self.ahead.is_empty() {
            self.ahead = poll_fn(|cx| {
                let mut room = [MaybeUninit::uninit(); ROOM];
                let mut read = ReadBuf::uninit(&mut room);
                ready!(self.tap.poll_read(&mut self.stream, cx, &mut read))?;
                Poll::Ready(io::Result::Ok(Bytes::copy_from_slice(read.filled())))
            })
            .await?;
        }
        Ok(!self.ahead.is_empty())
    }
}

impl<S: AsyncRead + Unpin, T: Tap> AsyncRead for Wire<S, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, tap, ahead } = &mut *self;
        if !ahead.is_empty() {
            buf.put_slice(&ahead.split_to(ahead.len().min(buf.remaining())));
            if ahead.is_empty() {
                // An empty one would keep the room of what it was.
                *ahead = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        tap.poll_read(stream, cx, buf)
    }
}

impl<S: AsyncWrite + Unpin, T: Tap> AsyncWrite for Wire<S, T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.tap.wrote(&[IoSlice::new(buf)], taken(&written, |bytes| *bytes));
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.tap.wrote(bufs, taken(&written, |bytes| *bytes));
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.tap.wrote(&[], taken(&flushed, |()| 0));
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.tap.wrote(&[], taken(&shut, |()| 0));
        shut
    }
}

fn taken<T>(done: &Poll<io::Result<T>>, bytes: impl FnOnce(&T) -> usize) -> Option<usize> {
    match done {
        Poll::Ready(done) => Some(done.as_ref().map_or(0, bytes)),
        Poll::Pending => None,
    }
}

/// In bytes: most heads fit.
const ROOM: usize = 2048;
