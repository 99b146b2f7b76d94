//! What became of a request that was sent on a connection? An answer, or what it takes to send it again.

pub(super) mod failure;

use std::error::Error;
use std::io;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;

use super::body::Body;
use super::exchange::Exchange;
use super::pool::{Carrier, Hold};
use crate::rejection::Cause;

/// What became of an attempt.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every attempt is answered, and a box would cost each of them"
)]
pub(super) enum Attempt {
    Answered(Response<Incoming>, Hold),
    /// Nothing was sent, and here it is again.
    Returned(Box<Request<Body>>, Cause),
    /// It was sent on a kept connection that ended without a byte of an answer, and may be sent twice. Here is its head.
    Unheard(Box<Request<Body>>),
    /// The same of a kept connection of HTTP/2, which ended under all that it carried.
    Left(Box<Request<Body>>),
    /// It was sent, and the server says that it has not begun with it. Here is its head.
    Refused(Box<Request<Body>>),
    /// The same, since its connection takes no more (GOAWAY).
    LeftOut(Box<Request<Body>>),
    Broken(Cause),
}

// === impl Attempt ===

impl Attempt {
    /// Sends the request, and waits for the head of its answer.
    pub(super) async fn make(
        carrier: Carrier,
        request: Request<Body>,
        exchange: Option<Arc<Exchange>>,
    ) -> Self {
        let (result, hold) = match carrier {
            Carrier::Http1(mut lease) => {
                lease.exchange = exchange;
                lease.line.note(&request);
                (lease.line.sender.try_send_request(request).await, Hold::Connection(lease))
            }
            Carrier::Http2(mut sender, mut stream) => {
                stream.note(&request);
                (sender.try_send_request(request).await, Hold::Stream(stream))
            }
        };
        match result {
            Ok(response) => Self::answered(response, hold),
            Err(mut error) => match error.take_message() {
                Some(request) => Self::Returned(Box::new(request), failure::of(error.error(), false)),
                None => Self::failed(error.error(), hold),
            },
        }
    }

    fn answered(response: Response<Incoming>, mut hold: Hold) -> Self {
        if let Hold::Stream(stream) = &mut hold {
            stream.answered();
        }
        Self::Answered(response, hold)
    }

    fn failed(error: &hyper::Error, hold: Hold) -> Self {
        tracing::debug!(%error, "an upstream did not answer");
        let heard = matches!(&hold, Hold::Connection(lease) if lease.line.has_heard());
        let again = match hold {
            Hold::Connection(lease) => lease.line.unheard().map(|head| Self::Unheard(Box::new(head))),
            Hold::Stream(stream) => without_answer(error).and_then(|how| {
                if how != Without::Stream {
                    stream.leave();
                }
                match how {
                    Without::Connection => stream.unheard().map(|head| Self::Left(Box::new(head))),
                    Without::GoAway => stream.refused().map(|head| Self::LeftOut(Box::new(head))),
                    Without::Stream => stream.refused().map(|head| Self::Refused(Box::new(head))),
                }
            }),
        };
        again.unwrap_or_else(|| Self::Broken(failure::of(error, heard)))
    }

    /// Why there is no answer, where it is not sent again.
    pub(super) fn cause(&self) -> Cause {
        match self {
            Self::Returned(_, cause) | Self::Broken(cause) => *cause,
            Self::Refused(_) | Self::LeftOut(_) => Cause::DestinationUnavailable,
            Self::Answered(..) | Self::Unheard(_) | Self::Left(_) => Cause::ConnectionTerminated,
        }
    }

    /// The request to send once more, if it may be and if all of its body is at hand, which the exchange from now on is about.
    pub(super) fn once_more(self, exchange: &mut Option<Arc<Exchange>>) -> Option<Request<Body>> {
        let (Self::Unheard(head) | Self::Left(head) | Self::Refused(head) | Self::LeftOut(head)) = self
        else {
            return None;
        };
        let (body, anew) = Body::again(exchange.as_deref())?;
        *exchange = anew;
        tracing::debug!("a request is sent once more, with which the upstream has not begun");
        Some(head.map(|_| body))
    }
}

/// How a server of HTTP/2 leaves a request without an answer, where it may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    /// It has not begun with it: its stream is beyond the last one that the server looks at (RFC 9113 §6.8).
    GoAway,
    /// Nor here: REFUSED_STREAM (RFC 9113 §8.7).
    Stream,
    /// The connection has ended, and nobody knows.
    Connection,
}

fn without_answer(error: &hyper::Error) -> Option<Without> {
    let source = error.source()?;
    // What hyper makes of h2's error of that kind.
    if source.is::<io::Error>() {
        return Some(Without::Connection);
    }
    let error = source.downcast_ref::<h2::Error>()?;
    match () {
        () if !error.is_remote() => None,
        () if error.is_go_away() => Some(Without::GoAway),
        () if error.reason() == Some(h2::Reason::REFUSED_STREAM) => Some(Without::Stream),
        () => None,
    }
}
