//! How does a request reach its upstream, and the answer its caller? The road that both stories share.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use countersign_policy::Reason;
use countersign_policy::snapshot::Timeouts;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;

use super::arriving::Arriving;
use super::body::{Body, Exchange};
use super::headers;
use super::pool::{Carrier, Lease, Upstream};
use crate::auth::tokens::{TokenSlot, Unavailable};

/// A request that may pass, without the fields of its hop, as the upstream shall see it but for what depends on the HTTP
/// version.
pub(crate) struct Outgoing<'a> {
    pub(crate) head: http::request::Parts,
    /// The path and query to ask for.
    pub(crate) target: PathAndQuery,
    /// The host that the caller named.
    pub(crate) authority: Authority,
    pub(crate) incoming: Arriving,
    /// Inbound: identity headers, which trailers must not carry either. Outbound trailers pass as they are.
    pub(crate) identity: Option<&'a [String]>,
    /// Outbound: whose token is attached.
    pub(crate) token: Option<&'a TokenSlot>,
}

/// Sends the request and relays the answer: heads rewritten, bodies and trailers as they flow.
pub(crate) async fn forward(
    outgoing: Outgoing<'_>,
    upstream: &Arc<Upstream>,
    timeouts: Timeouts,
) -> Result<Response<Body>, Reason> {
    let Outgoing { head, target, authority, incoming, identity, token } = outgoing;
    let downstream = head.version;
    let (body, exchange) = Body::request(incoming, timeouts.idle, identity);
    let mut request = Request::from_parts(head, body);
    let mut attempts = 0;
    loop {
        let (carrier, waited) = match upstream.ready() {
            Some(carrier) => (carrier, attempts > 0),
            None => (upstream.connection(timeouts.connect).await?, true),
        };
        attempts += 1;
        // Meanwhile the token may have come to its end, and past that it is never sent.
        if let Some(slot) = token.filter(|_| waited) {
            let value = match slot.sendable() {
                Some(value) => value,
                None => slot.token().await.map_err(Unavailable::reason)?,
            };
            request.headers_mut().insert(AUTHORIZATION, value.authorization);
        }
        address(&mut request, &carrier, upstream.scheme(), &authority, &target)?;
        let answer =
            await_answer(send(carrier, request, exchange.clone()), exchange.as_deref(), &timeouts).await?;
        match answer {
            Attempt::Answered(response, lease) => {
                return relay(response, lease, exchange, downstream, timeouts.idle);
            }
            // The connection ended before it took the request: nothing was sent, so it can be sent again.
            Attempt::Returned(back) if attempts < MAX_ATTEMPTS => request = *back,
            // The caller's fault, not the upstream's.
            Attempt::Broken if exchange.as_ref().is_some_and(|exchange| exchange.is_broken()) => {
                return Err(Reason::BadRequest);
            }
            Attempt::Returned(_) | Attempt::Broken => return Err(Reason::UpstreamUnreachable),
        }
    }
}

/// Puts the target where this HTTP version has it: a request line and `Host`, or pseudo header fields.
fn address(
    request: &mut Request<Body>,
    carrier: &Carrier,
    scheme: Scheme,
    authority: &Authority,
    target: &PathAndQuery,
) -> Result<(), Reason> {
    match carrier {
        Carrier::Http1(_) => {
            *request.version_mut() = Version::HTTP_11;
            *request.uri_mut() = Uri::from(target.clone());
            if !request.headers().contains_key(HOST) {
                let host = HeaderValue::try_from(authority.as_str()).map_err(|_| Reason::BadRequest)?;
                request.headers_mut().insert(HOST, host);
            }
            // hyper takes a GET or HEAD whose length is not known for one without a body, and would drop it.
            if !request.body().is_end_stream() && !request.headers().contains_key(CONTENT_LENGTH) {
                request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
        Carrier::Http2(_) => {
            *request.version_mut() = Version::HTTP_2;
            let uri =
                Uri::builder().scheme(scheme).authority(authority.clone()).path_and_query(target.clone());
            *request.uri_mut() = uri.build().map_err(|_| Reason::BadRequest)?;
            request.headers_mut().remove(HOST);
            request.headers_mut().remove(TRANSFER_ENCODING);
        }
    }
    Ok(())
}

/// What became of an attempt.
enum Attempt {
    Answered(Response<Incoming>, Option<Lease>),
    /// Nothing was sent, and here it is again.
    Returned(Box<Request<Body>>),
    Broken,
}

async fn send(carrier: Carrier, request: Request<Body>, exchange: Option<Arc<Exchange>>) -> Attempt {
    let (result, lease) = match carrier {
        Carrier::Http1(mut lease) => {
            lease.exchange = exchange;
            (lease.sender.try_send_request(request).await, Some(lease))
        }
        Carrier::Http2(mut sender) => (sender.try_send_request(request).await, None),
    };
    match result {
        Ok(response) => Attempt::Answered(response, lease),
        Err(mut error) => match error.take_message() {
            Some(request) => Attempt::Returned(Box::new(request)),
            None => {
                tracing::debug!(error = %error.error(), "an upstream did not answer");
                Attempt::Broken
            }
        },
    }
}

/// The time to the first byte of the answer counts from when all of the request has been sent. While its body still flows,
/// its own idle limit holds; an upstream that takes nothing of it and says nothing does not hold us for ever either.
async fn await_answer(
    answer: impl Future<Output = Attempt>,
    exchange: Option<&Exchange>,
    timeouts: &Timeouts,
) -> Result<Attempt, Reason> {
    let mut answer = pin!(answer);
    loop {
        let sending = exchange.filter(|exchange| !exchange.is_sent());
        let before = sending.map(Exchange::frames);
        let limit = sending.map_or(timeouts.first_byte, |_| timeouts.first_byte.max(timeouts.idle));
        let goes_on = || sending.is_some_and(|e| e.is_sent() || Some(e.frames()) != before);
        match tokio::time::timeout(limit, answer.as_mut()).await {
            Ok(answer) => return Ok(answer),
            Err(_) if goes_on() => {}
            Err(_) => return Err(Reason::UpstreamTimeout),
        }
    }
}

/// The answer as the caller sees it: our own framing, no field of the upstream's connection.
fn relay(
    response: Response<Incoming>,
    lease: Option<Lease>,
    exchange: Option<Arc<Exchange>>,
    downstream: Version,
    idle: Duration,
) -> Result<Response<Body>, Reason> {
    let (mut head, incoming) = response.into_parts();
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        // Nobody asked for it: no `Upgrade` is forwarded.
        return Err(Reason::UpstreamUnreachable);
    }
    if head.headers.contains_key(TRANSFER_ENCODING) {
        head.headers.remove(CONTENT_LENGTH);
    }
    headers::strip_hop_by_hop(&mut head.headers).map_err(|_| Reason::UpstreamUnreachable)?;
    head.version = downstream;
    head.extensions.clear();
    Ok(Response::from_parts(head, Body::response(incoming, idle, lease, exchange)))
}

const MAX_ATTEMPTS: u32 = 3;
