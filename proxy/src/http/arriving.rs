//! What if we answer before the request has ended? Its body is heard out for a moment, so that the answer is heard too.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{EXPECT, HeaderMap};
use http::{Request, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::runtime::Handle;

use super::body::BodyError;
use super::pace::{Busy, Pace, Stream};

/// A body, as it arrives. A request's is heard out: dropping one that has not ended closes an HTTP/1 connection with unread
/// bytes in it, and the reset that follows can overtake the answer (RFC 9112 §9.6); over HTTP/2 it resets the stream, and
/// there are clients (curl 7.88) that then lose an answer which they already have, although RFC 9113 §8.1 forbids it.
#[derive(Debug)]
pub(crate) struct Arriving {
    /// Gone only while being dropped.
    incoming: Option<Incoming>,
    /// What has been looked at.
    first: Option<Frame<Bytes>>,
    /// Of a request that has a body: its connection is not idle before all of it has been heard.
    busy: Option<Busy>,
    lingers: bool,
    /// Of HTTP/2, where END_STREAM is its one end (RFC 9113 §8.1).
    is_flagged: bool,
    /// On a connection of HTTP/1: the connection is told how much has come.
    is_told: bool,
    is_starved: bool,
    /// Of HTTP/2.
    stream: Option<Arc<Stream>>,
    /// Of a request of HTTP/1.
    pace: Option<Arc<Pace>>,
}

/// Lets go of the body, and of its stream or connection, once the client has ended or the moment is over.
async fn hear_out(mut body: Incoming, _busy: Option<Busy>) {
    let read = async {
        let mut left = MAX_READ;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                // Flow control holds the client now. Most stop sending when they have been refused.
                std::future::pending::<()>().await;
            }
        }
    };
    let _ = tokio::time::timeout(MOMENT, read).await;
}

// === impl Arriving ===

impl Arriving {
    /// The same request with its body as one that is heard out, on a connection of HTTP/1 or as a stream of HTTP/2.
    pub(super) fn request(
        mut request: Request<Incoming>,
        busy: &Busy,
        stream: Option<&Arc<Stream>>,
    ) -> Request<Self> {
        let version = request.version();
        if version == Version::HTTP_2 {
            // hyper lets us say no 100 there: whoever waits to be asked for the body would wait for nothing.
            request.headers_mut().remove(EXPECT);
        }
        request.map(|incoming| {
            let mut arriving = Self::answer(incoming, version);
            arriving.pace = Some(busy.pace()).filter(|_| stream.is_none()).cloned();
            if !arriving.is_end_stream() {
                arriving.lingers = true;
                arriving.busy = Some(busy.body());
                arriving.is_told = stream.is_none();
                arriving.stream = stream.cloned();
            }
            arriving
        })
    }

    /// The body of an answer: what we do not read of it is the upstream's loss.
    pub(super) fn answer(incoming: Incoming, version: Version) -> Self {
        Self {
            incoming: Some(incoming),
            first: None,
            busy: None,
            lingers: false,
            is_flagged: version == Version::HTTP_2,
            is_told: false,
            is_starved: false,
            stream: None,
            pace: None,
        }
    }

    /// Which connection of HTTP/1 is to be told that its request is passed on.
    pub(super) fn take_pace(&mut self) -> Option<Arc<Pace>> {
        self.pace.take()
    }

    /// Does its sender wait for a 100 before it sends it (RFC 9110 §10.1.1)?
    pub(super) fn awaits_continue(&self, fields: &HeaderMap) -> bool {
        !self.is_end_stream() && fields.contains_key(EXPECT)
    }

    /// Tells a connection of HTTP/1 how much has come.
    fn tell(&mut self, is_starved: bool, is_whole: bool) {
        let Some(busy) = self.busy.as_ref().filter(|_| self.is_told) else { return };
        if std::mem::replace(&mut self.is_starved, is_starved) != is_starved {
            busy.starves(is_starved);
        }
        if is_whole {
            busy.is_whole();
            self.is_told = false;
        }
    }

    /// Looks at the next frame, which then is the first to come.
    pub(super) fn begin(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<(), BodyError>>> {
        Pin::new(&mut *self).poll_frame(context).map_ok(|frame| self.first = Some(frame))
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let unread = self.incoming.take().filter(|incoming| self.lingers && !incoming.is_end_stream());
        // Without a runtime the process is ending.
        if let (Some(unread), Ok(runtime)) = (unread, Handle::try_current()) {
            runtime.spawn(hear_out(unread, self.busy.take()));
        }
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        if this.stream.as_ref().is_some_and(|stream| stream.is_cut(context)) {
            this.incoming = None;
            return Poll::Ready(Some(Err(BodyError::Untaken)));
        }
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
        let frame = Pin::new(&mut *incoming).poll_frame(context);
        // hyper takes a reset with NO_ERROR for the end, wherever it comes.
        if this.is_flagged && matches!(frame, Poll::Ready(None)) && !incoming.is_end_stream() {
            this.incoming = None;
            return Poll::Ready(Some(Err(BodyError::Unended)));
        }
        let is_whole = matches!(frame, Poll::Ready(None)) || incoming.is_end_stream();
        this.tell(frame.is_pending(), is_whole);
        frame.map_err(BodyError::from)
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.incoming.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint);
        let first = self.first.as_ref().and_then(Frame::data_ref).map_or(0, Bytes::len);
        match (first, rest.exact()) {
            (0, _) => rest,
            (first, Some(rest)) => {
                SizeHint::with_exact(rest.saturating_add(u64::try_from(first).unwrap_or(u64::MAX)))
            }
            (_, None) => SizeHint::default(),
        }
    }
}

/// How long and how far an unread body is heard out.
const MOMENT: Duration = Duration::from_secs(1);
const MAX_READ: usize = 64 * 1024;
