//! On what does an open exchange rest, and when does it end? What let a request in is asked again while its answer flows: when
//! policy changes, and when its token expires.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use countersign_policy::{PortPolicy, PortProtocol, Reason, host};
use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderValue};
use http::uri::Scheme;
use tokio::time::Instant;

use super::body::Relay;
use super::headers;
use super::inbound::Caller;
use super::seen::Seen;
use super::watch::{self, Nursery};
use crate::auth::active::Active;
use crate::auth::enforce::{Ask, Standing};
use crate::config::InboundDefault;
use crate::rejection::Refusal;

/// An inbound request that was let in, while it is on its way. A grant is made of it where a body turns out to flow, and right
/// where it is kept: it is large to move about.
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
}

/// An exchange that may not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) refusal: Arc<Refusal>,
    /// Is the caller told by gRPC trailers?
    pub(crate) is_grpc: bool,
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

    /// What it rests on.
    pub(crate) fn grant(&self) -> Grant {
        Grant {
            caller: self.caller.clone(),
            seen: self.seen.clone(),
            credential: self.credential.clone(),
            headers: self.headers.clone(),
        }
    }

    /// When it is no short exchange any more, which would end on the policy that it began with.
    pub(super) fn settles_at(&self) -> Instant {
        Instant::from_std(self.seen.started) + SHORT
    }

    /// The relay is watched from then on, if it lives to see it.
    pub(super) fn enter(&self, relay: Weak<Mutex<Relay>>) -> watch::Place {
        Nursery::enter(&self.caller.worker, self.settles_at(), relay)
    }
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
    /// Resolves when what began with an answer may not go on, which is recorded then.
    pub(crate) async fn ended(&self) -> Ending {
        let ending = self.fallen().await;
        self.record(&ending);
        ending
    }

    /// Resolves when the exchange may not go on. Asks policy once at least. Dropped, it is as if nobody had asked.
    pub(super) async fn fallen(&self) -> Ending {
        let sidecar = &self.caller.worker.sidecar;
        let place = sidecar.watched.enter();
        // What admission said of it has been recorded.
        let (mut until, mut would_end, mut patience) = (None, self.seen.would_refuse, PATIENCE);
        loop {
            let edition = sidecar.policy.edition();
            let policy = sidecar.policy.load();
            // In a box of its own: asking takes room that waiting does not need, and there are many who wait.
            let standing = match Box::pin(super::guarded(self.stands(policy.as_ref().as_ref()))).await {
                // The fault is ours or the issuer's and may pass: policy may just have named an issuer whose keys are on their way.
                Err(refusal) if refusal.reason.status() == 503 && !patience.is_zero() => {
                    // What is known of its token holds all the same.
                    let left = until.map_or(RETRY, |until| sidecar.verifier.left_until(until).min(RETRY));
                    if left.is_zero() {
                        return self.ending(Reason::Expired.into());
                    }
                    patience = patience.saturating_sub(left);
                    tokio::time::sleep(left).await;
                    continue;
                }
                Err(refusal) => return self.ending(refusal),
                Ok(standing) => standing,
            };
            if let Some(reason) = standing.would_end.filter(|reason| would_end != Some(*reason)) {
                self.seen.would_end(reason, &sidecar.recorder);
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

    /// An answer that was under way may not go on. Without one it is a request that is refused, and recorded as such.
    pub(super) fn record(&self, Ending { refusal, .. }: &Ending) {
        self.seen.ended(refusal, &self.caller.worker.sidecar.recorder);
    }

    fn ending(&self, mut refusal: Refusal) -> Ending {
        refusal.is_unrepeatable = !self.seen.method.is_idempotent();
        Ending { refusal: Arc::new(refusal), is_grpc: self.seen.is_grpc() }
    }

    /// Does policy still let it in?
    async fn stands(&self, active: Option<&Active>) -> Result<Standing, Refusal> {
        let caller = self.caller.as_ref();
        let active = active.ok_or(Reason::PolicyUnavailable)?;
        if !caller.is_current(Some(active)) {
            // Nobody gets in any more over a connection like this one.
            return Err(Reason::NoRule.into());
        }
        let Some(port) = active.snapshot.inbound(caller.application.target.port()) else {
            return self.unselected();
        };
        if port.protocol != PortProtocol::Http {
            return Err(Reason::NoRule.into());
        }
        let uri = &self.seen.uri;
        let path = port.path(uri.path()).ok_or(Reason::AmbiguousPath)?;
        let fields = self.fields(port);
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
        caller.door(port, active).review(ask, self.seen.token.as_ref(), self.headers.is_some()).await
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

    /// The fields that a decision rests on, all of them where policy looks at some and they were kept.
    fn fields(&self, port: &PortPolicy) -> HeaderMap {
        let Some(headers) = self.headers.as_ref().filter(|_| port.reads_headers) else {
            return self.credential.iter().map(|credential| (AUTHORIZATION, credential.clone())).collect();
        };
        let mut fields = headers.as_ref().clone();
        headers::strip_identity(&mut fields, &port.identity_headers);
        fields
    }

    /// As it was found to be in order when the request came.
    fn host(&self) -> Option<(std::borrow::Cow<'_, str>, Option<u16>)> {
        let authority = self.seen.uri.authority().map(|authority| authority.as_str());
        let field = || self.seen.host.as_ref()?.to_str().ok();
        host::normalize(authority.or_else(field)?)
    }
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Grant([redacted])")
    }
}

// === impl Ending ===

impl Ending {
    pub(crate) fn reason(&self) -> Reason {
        self.refusal.reason
    }
}

impl From<Ending> for Refusal {
    fn from(Ending { refusal, .. }: Ending) -> Self {
        Arc::unwrap_or_clone(refusal)
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
pub(super) mod tests;
