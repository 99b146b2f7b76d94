//! On what does an open exchange rest, and when does it end? What let a request in is asked again while its answer flows: when
//! policy changes, and when its token expires.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use countersign_policy::{PortProtocol, Reason, host};
use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderValue};
use http::uri::Scheme;
use tokio::time::Instant;

use super::exchange::Exchange;
use super::headers;
use super::inbound::Caller;
use super::seen::Seen;
use crate::auth::active::Active;
use crate::auth::enforce::{Ask, Standing};
use crate::config::InboundDefault;
use crate::record::{Direction, Outcome};
use crate::rejection::Refusal;

/// An inbound request that was let in, while it is on its way. Grants are made of it where a body turns out to flow, and right
/// where they are kept: they are large to move about.
pub(crate) struct Admitted<'a> {
    caller: &'a Arc<Caller>,
    seen: &'a Seen,
    credential: Option<HeaderValue>,
    headers: Option<Arc<HeaderMap>>,
}

/// What is kept of the fields of a request.
pub(super) struct Kept {
    credential: Option<HeaderValue>,
    headers: Option<Arc<HeaderMap>>,
}

/// The same with all that it takes to ask again whether it may, for as long as it is open. Shared with the request and its
/// connection, not copied.
pub(crate) struct Grant {
    caller: Arc<Caller>,
    seen: Seen,
    /// The one field with a credential.
    credential: Option<HeaderValue>,
    /// Every field, where policy looked at some.
    headers: Option<Arc<HeaderMap>>,
    /// What the other direction knows, where the request has a body.
    exchange: Option<Arc<Exchange>>,
    is_answered: bool,
}

/// An exchange that may not go on. What made it end has been recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) reason: Reason,
    /// Is the caller told by gRPC trailers?
    pub(crate) is_grpc: bool,
}

/// What one direction of an exchange does about the grant: nothing, until it has been open for a while.
#[expect(
    clippy::large_enum_variant,
    reason = "a body is in a box, and one for the grant would be paid for by every request"
)]
pub(crate) enum Watch {
    /// There is none (outbound).
    Nothing,
    Young(Grant),
    Open {
        ended: Pin<Box<dyn Future<Output = Ending> + Send>>,
        is_answered: Arc<AtomicBool>,
    },
    /// The body was ended before its end.
    Over,
}

/// How many exchanges are watched, so that they do not all ask at the same moment when policy changes.
#[derive(Debug, Default)]
pub struct Watched {
    count: AtomicUsize,
    turns: AtomicUsize,
}

/// One of them, until it is dropped.
struct Place<'a>(&'a Watched);

// === impl Admitted ===

impl<'a> Admitted<'a> {
    /// `kept` is what has to be kept of the fields that were judged.
    pub(super) fn new(caller: &'a Arc<Caller>, seen: &'a Seen, kept: Kept) -> Self {
        let Kept { credential, headers } = kept;
        Self { caller, seen, credential, headers }
    }

    /// What one direction of it rests on. Both directions know the same `exchange`, where the request has a body.
    pub(crate) fn grant(&self, exchange: Option<&Arc<Exchange>>) -> Grant {
        Grant {
            caller: self.caller.clone(),
            seen: self.seen.clone(),
            credential: self.credential.clone(),
            headers: self.headers.clone(),
            exchange: exchange.cloned(),
            is_answered: true,
        }
    }

    /// When it is no short exchange any more, which would end on the policy that it began with.
    pub(super) fn settles_at(&self) -> Instant {
        settles_at(self.seen)
    }
}

fn settles_at(seen: &Seen) -> Instant {
    Instant::from_std(seen.started) + SHORT
}

// === impl Kept ===

impl Kept {
    /// Of these fields, all where policy looks at some.
    pub(super) fn of(fields: &HeaderMap, are_read: bool) -> Self {
        let credential = fields.get(AUTHORIZATION).cloned();
        Self { credential, headers: are_read.then(|| Arc::new(fields.clone())) }
    }
}

// === impl Grant ===

impl Grant {
    /// Resolves when the exchange may not go on, which is recorded then. Until it is polled for the first time it asks nothing,
    /// and then policy once at least. Dropped, it is as if nobody had asked.
    pub(crate) async fn ended(&self) -> Ending {
        self.watched(&AtomicBool::new(self.is_answered)).await
    }

    async fn watched(&self, is_answered: &AtomicBool) -> Ending {
        let sidecar = &self.caller.worker.sidecar;
        let place = sidecar.watched.enter();
        let (mut until, mut would_end, mut patience) = (None, None, PATIENCE);
        loop {
            if let Some(ending) = self.exchange.as_ref().and_then(|exchange| exchange.ending()) {
                return ending;
            }
            let edition = sidecar.policy.edition();
            let policy = sidecar.policy.load();
            let active = policy.as_ref().as_ref();
            // In a box of its own: asking takes room that waiting does not need, and there are many who wait.
            let standing = match Box::pin(super::guarded(self.stands(active))).await {
                // The fault is ours or the issuer's and may pass: policy may just have named an issuer whose keys are on their way.
                Err(refusal) if refusal.reason.status() == 503 && !patience.is_zero() => {
                    // What is known of its token holds all the same.
                    let left = until.map_or(RETRY, |until| sidecar.verifier.left_until(until).min(RETRY));
                    if left.is_zero() {
                        return self.end(&Reason::Expired.into(), active, is_answered);
                    }
                    patience = patience.saturating_sub(left);
                    tokio::time::sleep(left).await;
                    continue;
                }
                Err(refusal) => return self.end(&refusal, active, is_answered),
                Ok(standing) => standing,
            };
            let is_new = |reason: &Reason| {
                would_end != Some(*reason)
                    && self.exchange.as_ref().is_none_or(|exchange| exchange.would_end(*reason))
            };
            if let Some(reason) = standing.would_end.filter(is_new) {
                self.seen.ended(&reason.into(), active, &sidecar.recorder, Outcome::Audit);
            }
            (until, would_end, patience) = (standing.until, standing.would_end, PATIENCE);
            drop(policy);
            let left = until.map_or(LOOK_AGAIN, |until| sidecar.verifier.left_until(until));
            tokio::select! {
                () = sidecar.policy.later_than(edition) => tokio::time::sleep(place.turn()).await,
                () = tokio::time::sleep(left.min(LOOK_AGAIN)) => {}
            }
        }
    }

    /// Does policy still let it in?
    async fn stands(&self, active: Option<&Active>) -> Result<Standing, Refusal> {
        let caller = self.caller.as_ref();
        let active = active.ok_or(Reason::PolicyUnavailable)?;
        if !caller.is_current(Some(active)) {
            // Nobody gets in any more over a connection like this one.
            return Err(Reason::NoRule.into());
        }
        let Some(port) = active.snapshot.inbound(caller.application.port) else {
            return self.unselected();
        };
        if port.protocol != PortProtocol::Http {
            return Err(Reason::NoRule.into());
        }
        let uri = &self.seen.uri;
        let path = port.path(uri.path()).ok_or(Reason::AmbiguousPath)?;
        let fields = self.fields(port.reads_headers, &port.identity_headers)?;
        let (host, named) = self.host().ok_or(Reason::BadRequest)?;
        let scheme = if caller.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let ask = Ask {
            method: self.seen.method.as_str(),
            path: &path,
            query: uri.query(),
            host: &host,
            port: named,
            grpc: self.seen.is_grpc(),
            headers: &fields,
            source: caller.address.ip(),
            scheme: scheme.as_str(),
            peer: caller.peer(),
        };
        caller.door(port, active).review(ask, self.seen.token.as_ref()).await
    }

    /// A port that no policy selects any more (semantics 7).
    fn unselected(&self) -> Result<Standing, Refusal> {
        let would_end = match self.caller.worker.sidecar.inbound_default {
            InboundDefault::Deny => return Err(Reason::NoRule.into()),
            InboundDefault::Audit => Some(Reason::NoRule),
            InboundDefault::Pass => None,
        };
        Ok(Standing { until: None, would_end })
    }

    /// The fields that a decision rests on. Where policy looks at fields only now they are gone, and it cannot be told what it
    /// would say: a new request tells.
    fn fields(&self, are_read: bool, identity: &[String]) -> Result<HeaderMap, Reason> {
        if let Some(headers) = self.headers.as_ref().filter(|_| are_read) {
            let mut fields = headers.as_ref().clone();
            headers::strip_identity(&mut fields, identity);
            return Ok(fields);
        }
        if are_read {
            return Err(Reason::NoRule);
        }
        Ok(self.credential.iter().map(|credential| (AUTHORIZATION, credential.clone())).collect())
    }

    /// As it was found to be in order when the request came.
    fn host(&self) -> Option<(std::borrow::Cow<'_, str>, Option<u16>)> {
        let authority = self.seen.uri.authority().map(|authority| authority.as_str());
        let field = || self.seen.host.as_ref()?.to_str().ok();
        host::normalize(authority.or_else(field)?)
    }

    /// Records it, once for both directions.
    fn end(&self, refusal: &Refusal, active: Option<&Active>, is_answered: &AtomicBool) -> Ending {
        let ending = Ending { reason: refusal.reason, is_grpc: self.seen.is_grpc() };
        let exchange = self.exchange.as_ref();
        let is_first = exchange.is_none_or(|exchange| exchange.end(ending));
        // Without an answer yet it is a request that is refused, and recorded as such.
        let is_answered =
            is_answered.load(Ordering::Relaxed) && exchange.is_none_or(|exchange| exchange.is_answered());
        if is_first && is_answered {
            let decision = Outcome::of(Direction::Inbound, refusal.reason);
            self.seen.ended(refusal, active, &self.caller.worker.sidecar.recorder, decision);
        }
        ending
    }
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Grant([redacted])")
    }
}

// === impl Watch ===

impl Watch {
    /// Over one direction of an exchange.
    pub(crate) fn over(admitted: Option<&Admitted<'_>>, exchange: Option<&Arc<Exchange>>) -> Self {
        admitted.map_or(Self::Nothing, |admitted| Self::Young(admitted.grant(exchange)))
    }

    /// Over an exchange that has no answer yet, though it has been open for a while.
    pub(crate) fn unanswered(admitted: &Admitted<'_>, exchange: Option<&Arc<Exchange>>) -> Self {
        let mut watch = Self::Young(Grant { is_answered: false, ..admitted.grant(exchange) });
        watch.settle();
        watch
    }

    /// The answer has come.
    pub(crate) fn answered(self) -> Self {
        if let Self::Open { is_answered, .. } = &self {
            is_answered.store(true, Ordering::Relaxed);
        }
        self
    }

    /// Asked with every frame, and when there is none. A short exchange pays for nothing but a look at the clock.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Ending> {
        if let Self::Young(grant) = self {
            if Instant::now() < settles_at(&grant.seen) {
                return Poll::Pending;
            }
            self.settle();
        }
        match self {
            Self::Open { ended, .. } => ended.as_mut().poll(context),
            Self::Nothing | Self::Young(_) | Self::Over => Poll::Pending,
        }
    }

    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }

    /// When to [settle](Self::settle) at the latest.
    pub(crate) fn due(&self) -> Option<Instant> {
        match self {
            Self::Young(grant) => Some(settles_at(&grant.seen)),
            Self::Nothing | Self::Open { .. } | Self::Over => None,
        }
    }

    /// It has been open for a while: from now on it is watched.
    pub(crate) fn settle(&mut self) {
        *self = match std::mem::replace(self, Self::Nothing) {
            Self::Young(grant) => {
                let is_answered = Arc::new(AtomicBool::new(grant.is_answered));
                let told = is_answered.clone();
                Self::Open { ended: Box::pin(async move { grant.watched(&told).await }), is_answered }
            }
            other => other,
        };
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Young(_) => "Young",
            Self::Open { .. } => "Open",
            Self::Over => "Over",
        })
    }
}

// === impl Watched ===

impl Watched {
    fn enter(&self) -> Place<'_> {
        self.count.fetch_add(1, Ordering::Relaxed);
        Place(self)
    }
}

// === impl Place ===

impl Place<'_> {
    /// How long to wait for one's turn when all are woken at once: new requests are served in between.
    fn turn(&self) -> Duration {
        let Self(watched) = self;
        let count = watched.count.load(Ordering::Relaxed).max(1);
        let turn = watched.turns.fetch_add(1, Ordering::Relaxed) % count;
        u32::try_from(turn).map_or(LONGEST_TURN, |turn| (TURN * turn).min(LONGEST_TURN))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An exchange that takes no longer ends on the policy that it began with.
const SHORT: Duration = Duration::from_secs(1);
/// Also when nothing has changed that we know of: keys may be withdrawn, and the clock may be set.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// How long it may be impossible to tell, and between two attempts.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(3);
/// What asking again and ending takes, generously: 10,000 of them take half a second.
const TURN: Duration = Duration::from_micros(50);
const LONGEST_TURN: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
