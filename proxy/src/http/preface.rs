//! Has a connection of HTTP/2 begun? Its preface, noticed as it is read: hyper waits for that one without a bound.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

/// Of the preface, in bytes (RFC 9113 §3.4).
const PREFACE: usize = 24;

/// A stream that tells once as many bytes have been read as the preface has.
pub(super) struct Begins<S> {
    stream: S,
    missing: usize,
    begun: Arc<Notify>,
}

// === impl Begins ===

impl<S> Begins<S> {
    /// The stream, and what is notified.
    pub(super) fn watch(stream: S) -> (Self, Arc<Notify>) {
        let begun = Arc::new(Notify::new());
        (Self { stream, missing: PREFACE, begun: begun.clone() }, begun)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Begins<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if self.missing > 0 {
            self.missing = self.missing.saturating_sub(buf.filled().len().saturating_sub(before));
            if self.missing == 0 {
                self.begun.notify_one();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begins<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
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
