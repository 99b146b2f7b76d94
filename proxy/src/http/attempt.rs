//! What became of a request that was sent on a connection? An answer, or what it takes to send it again.

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;

use super::body::Body;
use super::exchange::Exchange;
use super::pool::{Carrier, Hold};

/// What became of an attempt.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every attempt is answered, and a box would cost each of them"
)]
pub(super) enum Attempt {
    Answered(Response<Incoming>, Hold),
    /// Nothing was sent, and here it is again.
    Returned(Box<Request<Body>>),
    /// It was sent on a kept connection that ended without a byte of an answer, and may be sent twice. Here is its head.
    Unheard(Box<Request<Body>>),
    Broken,
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
            Carrier::Http2(mut sender, stream) => {
                (sender.try_send_request(request).await, Hold::Stream(stream))
            }
        };
        match result {
            Ok(response) => Self::Answered(response, hold),
            Err(mut error) => match error.take_message() {
                Some(request) => Self::Returned(Box::new(request)),
                None => {
                    tracing::debug!(error = %error.error(), "an upstream did not answer");
                    let head = match hold {
                        Hold::Connection(lease) => lease.line.unheard(),
                        Hold::Stream(_) => None,
                    };
                    head.map_or(Self::Broken, |head| Self::Unheard(Box::new(head)))
                }
            },
        }
    }

    /// The request to send once more, if it may be and if all of its body is at hand, which the exchange from now on is about.
    pub(super) fn once_more(self, exchange: &mut Option<Arc<Exchange>>) -> Option<Request<Body>> {
        let Self::Unheard(head) = self else { return None };
        let (body, anew) = Body::again(exchange.as_deref())?;
        *exchange = anew;
        tracing::debug!("a kept connection ended under a request, which is sent once more");
        Some(head.map(|_| body))
    }
}
