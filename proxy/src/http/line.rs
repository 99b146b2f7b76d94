//! What if a kept connection ends just as a request goes out on it? No answer begins then, and the request can go out once more on
//! a new one, if it may be sent twice (RFC 9110 §9.2.2, RFC 9112 §9.3.1).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use http::Request;
use hyper::client::conn::http1;
use tokio::io::{AsyncRead, ReadBuf};

use super::body::Body;
use super::sent::Sent;
use super::wire::Tap;

/// An open HTTP/1 connection to an upstream.
pub(crate) struct Line {
    pub(crate) sender: http1::SendRequest<Body>,
    heard: Heard,
    /// Has it carried a request before?
    is_used: bool,
    sent: Sent,
    /// What had been heard before the request.
    before: usize,
}

/// Bytes that have come from the other side, so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard(Arc<AtomicUsize>);

// === impl Line ===

impl Line {
    pub(super) fn new(sender: http1::SendRequest<Body>, heard: Heard) -> Self {
        Self { sender, heard, is_used: false, sent: Sent::default(), before: 0 }
    }

    /// Notes how much has been heard, and what goes out, where that may have to go out once more: on a connection that the other side may be about to close
    /// for being idle, and with a method that does the same if it is done twice.
    pub(super) fn note(&mut self, request: &Request<Body>) {
        self.before = self.heard.bytes();
        if self.is_used && request.method().is_idempotent() {
            self.sent.note(request);
        }
    }

    /// Has anything come since the request went out?
    pub(super) fn has_heard(&self) -> bool {
        self.before != self.heard.bytes()
    }

    /// The request that got no byte of an answer before the connection ended, if it may go out again; its body is the caller's to
    /// add.
    pub(super) fn unheard(self) -> Option<Request<Body>> {
        if self.has_heard() { None } else { self.sent.request() }
    }

    /// It has carried a request, of which nothing remains here.
    pub(super) fn rest(&mut self) {
        self.is_used = true;
        self.sent.clear();
    }
}

// === impl Heard ===

impl Tap for Heard {
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buf))?;
        self.0.fetch_add(buf.filled().len().saturating_sub(before), Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl Heard {
    fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}
