//! How does a request reach its upstream, and the answer its caller? The road that both stories share.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use countersign_policy::Reason;
use countersign_policy::snapshot::Timeouts;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use super::arriving::Arriving;
use super::attempt::Attempt;
use super::body::{Body, MAX_HEARD_OUT};
use super::challenge;
use super::deadline::Deadline;
use super::exchange::Exchange;
use super::grant::Admitted;
use super::headers::{self, Stripped};
use super::pool::{Carrier, Hold, Upstream};
use super::seen::Awaited;
use super::watch::{Open, Watch};
use super::websocket::Handshake;
use crate::auth::attach::Attachment;
use crate::auth::credentials::DPOP;
use crate::auth::tokens::{DPOP_NONCE, Replay, Shown, Unavailable, target_uri};
use crate::rejection::{Cause, Refusal};

/// A request that may pass, without the fields of its hop, as the upstream shall see it but for what depends on the HTTP
/// version.
pub(crate) struct Outgoing<'a> {
    pub(crate) head: http::request::Parts,
    /// The path and query to ask for.
    pub(crate) target: PathAndQuery,
    /// The host that the caller named.
    pub(crate) authority: Authority,
    pub(crate) incoming: Arriving,
    /// Inbound: what trailers must not carry either. Outbound trailers pass as they are.
    pub(crate) caller: Option<Stripped<'a>>,
    /// Outbound: the token that goes along.
    pub(crate) token: Option<Attachment<'a>>,
    /// Inbound: what it rests on for as long as it is open.
    pub(crate) admitted: Option<&'a Admitted<'a>>,
    /// It asks to go on as WebSocket.
    pub(crate) websocket: Option<&'a Handshake>,
    /// Is told when it goes out.
    pub(super) awaited: &'a Awaited<'a>,
}

/// Sends the request and relays the answer: heads rewritten, bodies and trailers as they flow.
pub(crate) async fn forward(
    outgoing: Outgoing<'_>,
    upstream: &Arc<Upstream>,
    timeouts: Timeouts,
    deadline: Deadline,
) -> Result<Response<Body>, Refusal> {
    let Outgoing { head, target, authority, incoming, caller, token, admitted, websocket, awaited } =
        outgoing;
    let (downstream, is_head) = (head.version, head.method == Method::HEAD);
    let (body, exchange) =
        Body::request(incoming, timeouts.idle, caller, token.is_some(), admitted, deadline);
    let road = Road { upstream, target, authority, timeouts, alone: websocket.is_some(), admitted, awaited };
    let answer = match token {
        None => road.send(Request::from_parts(head, body), exchange, None).await?,
        Some(mut token) => {
            let kept = Kept { method: head.method.clone(), headers: head.headers.clone() };
            let answer = road.send(Request::from_parts(head, body), exchange, Some(&mut token)).await?;
            match answer.refuses_us() {
                true => Box::pin(road.send_again(kept, answer, token)).await,
                false => answer,
            }
        }
    };
    let response = answer.relay(downstream, is_head, timeouts.idle, deadline, admitted, websocket)?;
    poll_fn(|context| Poll::Ready(response.body().begin(context))).await?;
    Ok(response)
}

/// Where a request goes.
struct Road<'a> {
    upstream: &'a Arc<Upstream>,
    target: PathAndQuery,
    authority: Authority,
    timeouts: Timeouts,
    /// Over a connection that is for this request alone.
    alone: bool,
    admitted: Option<&'a Admitted<'a>>,
    awaited: &'a Awaited<'a>,
}

/// The head of a request that may have to be sent again. Its body keeps itself.
struct Kept {
    method: Method,
    headers: HeaderMap,
}

/// An answer, whose body has not been read.
struct Answer {
    response: Response<Incoming>,
    /// What can carry another request at its end.
    hold: Option<Hold>,
    exchange: Option<Arc<Exchange>>,
    /// It names a nonce for the next proof.
    new_nonce: bool,
    /// It has been watched before the answer came.
    open: Option<Arc<Open>>,
}

// === impl Road ===

impl Road<'_> {
    /// Sends a request over a connection that takes it.
    async fn send(
        &self,
        mut request: Request<Body>,
        mut exchange: Option<Arc<Exchange>>,
        mut token: Option<&mut Attachment<'_>>,
    ) -> Result<Answer, Refusal> {
        let Self { upstream, target, authority, timeouts, .. } = self;
        let (mut attempts, mut is_again, mut is_stale) = (0, false, false);
        loop {
            // What is kept may be about to end, all of it.
            let (fresh, is_last) = (self.alone || is_stale, attempts + 1 == MAX_ATTEMPTS);
            let (carrier, waited) = match if fresh || is_last { None } else { upstream.ready() } {
                Some(carrier) => (carrier, attempts > 0),
                None if fresh => (upstream.fresh(timeouts.connect).await?, true),
                None if is_last => (upstream.fresh_or_any(timeouts.connect).await?, true),
                None => (upstream.connection(timeouts.connect).await?, true),
            };
            attempts += 1;
            // Meanwhile the token may have come to its end, and past that it is never sent.
            if let Some(token) = token.as_mut().filter(|_| waited) {
                token.shown = match token.slot.sendable_over(upstream.certificate()) {
                    Some(shown) => shown,
                    None => token.slot.token().await.map_err(Unavailable::reason)?,
                };
                // Bound to a certificate that this connection does not present: of no use there.
                if token.shown.certificate() != upstream.certificate() {
                    return Err(Reason::TokenUnavailable.into());
                }
                request.headers_mut().insert(AUTHORIZATION, token.shown.authorization.clone());
            }
            address(&mut request, &carrier, upstream.scheme(), authority, target)?;
            if let Some(token) = token.as_ref() {
                self.prove(&mut request, &token.shown)?;
            }
            let _silence = carrier.silence();
            self.awaited.sends();
            let sent = Attempt::make(carrier, request, exchange.clone());
            let mut open = None;
            match self.answer(sent, exchange.as_ref(), &mut open).await? {
                Attempt::Answered(mut response, hold) => {
                    let hold = Some(hold).filter(|_| !self.alone);
                    let bound = token.is_some_and(|token| token.shown.bound().is_some());
                    let new_nonce = bound && self.remember_nonce(&mut response);
                    return Ok(Answer { response, hold, exchange, new_nonce, open });
                }
                // The connection ended before it took the request: nothing was sent, so it can be sent again.
                Attempt::Returned(back, _) if attempts < MAX_ATTEMPTS => request = *back,
                failed => {
                    is_stale = matches!(failed, Attempt::Unheard(_));
                    let (cause, is_left_out) = (failed.cause(), matches!(failed, Attempt::LeftOut(_)));
                    // Once, and no oftener (RFC 9110 §9.2.2), but for what it was only the connection that took no more of.
                    let may_go = if is_left_out { attempts < MAX_ATTEMPTS } else { !is_again };
                    let again =
                        Some(failed).filter(|_| may_go).and_then(|failed| failed.once_more(&mut exchange));
                    request = again.ok_or_else(|| broken(exchange.as_deref(), cause))?;
                    is_again |= !is_left_out;
                }
            }
        }
    }

    /// The time to the first byte of the answer counts from when all of the request has been sent. While its body still flows,
    /// its own idle limit holds; an upstream that takes nothing of it and says nothing does not hold us for ever either. What
    /// let the request in has to hold for as long.
    async fn answer(
        &self,
        sent: impl Future<Output = Attempt>,
        exchange: Option<&Arc<Exchange>>,
        open: &mut Option<Arc<Open>>,
    ) -> Result<Attempt, Refusal> {
        let Timeouts { first_byte, idle, .. } = self.timeouts;
        let mut sent = pin!(sent);
        loop {
            let sending = exchange.filter(|exchange| !exchange.is_sent());
            let before = sending.map(|exchange| exchange.frames());
            let limit = Instant::now() + sending.map_or(first_byte, |_| first_byte.max(idle));
            // A short exchange needs no timer but this one.
            let due = self.admitted.filter(|_| open.is_none()).map(Admitted::settles_at);
            if let Some(due) = due.filter(|due| *due < limit) {
                if let Ok(answer) = timeout_at(due, sent.as_mut()).await {
                    return Ok(answer);
                }
                *open = match exchange {
                    Some(exchange) => exchange.open(),
                    None => Watch::over(self.admitted, false).open(),
                };
            }
            let goes_on = || sending.is_some_and(|e| e.is_sent() || Some(e.frames()) != before);
            let answer = poll_fn(|context| match open.as_ref().map(|open| open.poll_ended(context)) {
                Some(Poll::Ready(ending)) => Poll::Ready(Err(ending.into())),
                Some(Poll::Pending) | None => sent.as_mut().poll(context).map(Ok),
            });
            match timeout_at(limit, answer).await {
                Ok(answer) => return answer,
                Err(_) if goes_on() => {}
                Err(_) if sending.is_some() => return Err(Cause::ConnectionWriteTimeout.into()),
                Err(_) => return Err(Cause::ConnectionReadTimeout.into()),
            }
        }
    }

    /// A token that is bound to a key of ours goes along with a proof for this attempt alone, in the place of whatever the
    /// application wrote there (RFC 9449 §7.1). Its URI is the one that the destination sees.
    fn prove(&self, request: &mut Request<Body>, shown: &Shown) -> Result<(), Reason> {
        let Some(bound) = shown.bound() else { return Ok(()) };
        let host = request.headers().get(HOST).map_or(Ok(self.authority.as_str()), HeaderValue::to_str);
        let host = host.map_err(|_| Reason::BadRequest)?;
        let uri = target_uri(&self.upstream.scheme(), host, self.target.path());
        let nonce = self.upstream.nonce.newest();
        let proof = bound.prove(request.method(), &uri, nonce.as_deref()).map_err(|error| {
            tracing::error!("{error}");
            Reason::Internal
        })?;
        request.headers_mut().insert(DPOP, proof);
        Ok(())
    }

    /// The nonce of an answer is for our proofs, not for the application (RFC 9449 §9).
    fn remember_nonce(&self, response: &mut Response<Incoming>) -> bool {
        let is_new = self.upstream.nonce.observe(response.headers());
        response.headers_mut().remove(DPOP_NONCE);
        is_new
    }

    /// The destination refused the token, or a proof without its nonce: the request is sent once more with another token or
    /// with that nonce, if there is another and if all of the request is at hand (RFC 6750 §3.1, RFC 9449 §9, security
    /// OUT-11). Otherwise the answer stands as it is.
    async fn send_again(&self, kept: Kept, refusal: Answer, mut token: Attachment<'_>) -> Answer {
        if !refusal.demands_nonce() && !token.slot.refused(&token.shown) {
            return refusal;
        }
        let Some((body, exchange)) = Body::again(refusal.exchange.as_deref()) else {
            token.slot.replayed(Replay::Unfit);
            return refusal;
        };
        let shown = token.slot.token().await.ok();
        let Some(shown) = shown.filter(|shown| shown.certificate() == self.upstream.certificate()) else {
            token.slot.replayed(Replay::Failed);
            return refusal;
        };
        let mut request = Request::new(body);
        *request.method_mut() = kept.method;
        *request.headers_mut() = kept.headers;
        request.headers_mut().insert(AUTHORIZATION, shown.authorization.clone());
        token.shown = shown;
        match self.send(request, exchange, Some(&mut token)).await {
            Ok(answer) => {
                token.slot.replayed(if answer.refuses_us() { Replay::Refused } else { Replay::Accepted });
                if refusal.demands_nonce() && challenge::refuses_token(&answer.response) {
                    // Behind the nonce it was the token after all: the next request has another one.
                    token.slot.refused(&token.shown);
                }
                refusal.hear_out(self.timeouts.idle);
                answer
            }
            Err(_) => {
                token.slot.replayed(Replay::Failed);
                refusal
            }
        }
    }
}

/// Whose fault is it that there is no answer?
fn broken(exchange: Option<&Exchange>, cause: Cause) -> Refusal {
    match exchange.and_then(Exchange::ending) {
        // What let it in holds no longer, while it was still arriving.
        Some(ending) => ending.into(),
        // The caller's fault, not the upstream's.
        None if exchange.is_some_and(Exchange::is_broken) => Reason::BadRequest.into(),
        None => cause.into(),
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
        Carrier::Http2(..) => {
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

// === impl Answer ===

impl Answer {
    /// Is it about what we showed, so that something else may do?
    fn refuses_us(&self) -> bool {
        challenge::refuses_token(&self.response) || self.demands_nonce()
    }

    /// Does it demand a proof with the nonce that it names?
    fn demands_nonce(&self) -> bool {
        self.new_nonce && challenge::demands_nonce(&self.response)
    }

    /// The answer as the caller sees it, if it may still go there: our own framing, no field of the upstream's connection.
    fn relay(
        self,
        downstream: Version,
        is_head: bool,
        idle: Duration,
        deadline: Deadline,
        admitted: Option<&Admitted<'_>>,
        websocket: Option<&Handshake>,
    ) -> Result<Response<Body>, Refusal> {
        let mut watch = match (&self.exchange, self.open) {
            // The exchange has it.
            (Some(_), _) => Watch::Nothing,
            (None, Some(open)) => Watch::Open(open),
            (None, None) => Watch::over(admitted, true),
        };
        match &self.exchange {
            Some(exchange) => exchange.answered()?,
            None => watch.stand()?,
        }
        if self.response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(websocket.ok_or(Cause::HttpUpgradeFailed)?.answered(self.response)?);
        }
        if self.response.status().is_success() && websocket.is_some_and(Handshake::is_extended) {
            // To its caller it would be what a 101 is (RFC 8441 §4).
            return Err(Cause::HttpUpgradeFailed.into());
        }
        let (mut head, incoming) = self.response.into_parts();
        let hold = self.hold.filter(|_| headers::is_bare(&head));
        let has_body = headers::answered(&mut head, is_head)?;
        let incoming = Arriving::answer(incoming, head.version);
        head.version = downstream;
        head.extensions.clear();
        let mut body = Body::response(incoming, idle, deadline, hold, self.exchange, watch, admitted);
        if !has_body {
            std::mem::take(&mut body).hear_out();
        }
        Ok(Response::from_parts(head, body))
    }

    /// Nobody wants it any more: what is left of a short body is read, so that its connection can carry another request.
    fn hear_out(self, idle: Duration) {
        if !matches!(self.hold, Some(Hold::Connection(_)))
            || self.response.body().size_hint().lower() > MAX_HEARD_OUT
        {
            return;
        }
        let (version, watch) = (self.response.version(), Watch::Nothing);
        let incoming = Arriving::answer(self.response.into_body(), version);
        Body::response(incoming, idle, Deadline::NEVER, self.hold, self.exchange, watch, None).hear_out();
    }
}

const MAX_ATTEMPTS: u32 = 3;
