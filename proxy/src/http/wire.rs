//! What happens to a connection's bytes? The one stream that everything HTTP is read from and written to, and who hears of it: what a
//! kind of connection has to know.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream with somebody who hears what passes.
#[derive(Debug)]
pub(crate) struct Wire<S, T> {
    stream: S,
    tap: T,
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
        Self { stream, tap }
    }

    /// What becomes something else than HTTP.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    #[cfg(test)]
    pub(super) fn tap(&self) -> &T {
        &self.tap
    }
}

impl<S: AsyncRead + Unpin, T: Tap> AsyncRead for Wire<S, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, tap } = &mut *self;
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
