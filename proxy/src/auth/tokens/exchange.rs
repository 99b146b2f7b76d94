//! Whose token do we show where the application sent one to be exchanged (RFC 8693)? One slot for each token that it sends,
//! found by hash; as many as fit, and those that nobody needs any more go.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use countersign_policy::json;

use crate::auth::tokens::failure::{Cause, Failure};
use crate::auth::tokens::lifetime::MARGIN;
use crate::auth::tokens::secret::Secret;
use crate::auth::tokens::slot::{LastError, TokenSlot, Unavailable};
use crate::auth::tokens::source::{Fingerprint, Moment, TokenSource};
use crate::clock::Clock;

/// Tokens whose exchange is remembered at once.
const MAX_SUBJECTS: usize = 4096;
/// How many go at once where there is no more room, so that not every new one costs a look at all.
const MAKE_ROOM_FOR: usize = MAX_SUBJECTS / 8;
/// How often, in seconds, a new one is an occasion to look for those that nobody needs any more.
const SWEEP: u64 = 60;

/// One exchange of policy, with a slot for each token that the application sends.
#[derive(Debug)]
pub struct Exchange {
    /// What is the same for all of them.
    source: TokenSource,
    slots: RwLock<Slots>,
    /// What keeps the issuer from exchanging anybody's token.
    troubles: Arc<Troubles>,
    /// When there was last a look for what nobody needs, in seconds since the epoch.
    swept: AtomicU64,
}

/// By SHA-256 of the application's token.
type Slots = HashMap<[u8; 32], Arc<TokenSlot>>;

/// A token that the application sent.
#[derive(Debug)]
pub(crate) struct Subject {
    token: Secret,
    /// What is exchanged for it is not used from here on, since the epoch: before its own `exp`, where it says so itself. That
    /// is nobody's word yet, so it may only shorten.
    end: Option<Duration>,
    troubles: Arc<Troubles>,
}

/// A failure that is the issuer's or ours, so that every subject would meet it: the issuer is not asked again for each of
/// them before the pause is over.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub at: Moment,
    pub pause: Duration,
    pub failure: Failure,
    /// The content of the credential's files then.
    pub file: Fingerprint,
}

/// The last trouble, and how many came in a row.
#[derive(Debug, Default)]
struct Troubles {
    last: Mutex<Option<Trouble>>,
    in_a_row: AtomicU32,
}

/// What `/tokens` shows of an exchange. Never a token, and nothing of those whom they are about.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ExchangeReport {
    /// `namespace/name`.
    pub credential: String,
    /// `metadata.name`.
    pub issuer: String,
    pub scopes: Vec<String>,
    pub audience: Option<String>,
    pub resource: Option<String>,
    /// The application's tokens that are remembered.
    pub subjects: usize,
    /// Those of them that the issuer refuses.
    pub refused: usize,
    /// Requests to the issuer that are under way.
    pub in_flight: usize,
    /// Callers that wait for a token right now.
    pub waiting: usize,
    /// Why the last token request failed that did so for another reason than a refused subject. It stays when tokens come again.
    pub last_error: Option<String>,
    /// The same, as the label `cause` of `countersign_token_fetch_failures_total`.
    pub last_error_cause: Option<&'static str>,
    /// In seconds since the epoch.
    pub last_error_at: Option<u64>,
}

// === impl Exchange ===

impl Exchange {
    pub(crate) fn new(source: TokenSource) -> Self {
        Self { source, slots: RwLock::default(), troubles: Arc::default(), swept: AtomicU64::new(0) }
    }

    /// The slot of what this token is exchanged for. None is made for a token at its end.
    pub fn slot(&self, token: &str) -> Result<Arc<TokenSlot>, Unavailable> {
        let key = hash(token);
        if let Some(slot) = self.slots.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(slot.clone());
        }
        let subject = Subject { troubles: self.troubles.clone(), ..Subject::new(token) };
        if subject.has_ended(self.source.services.clock.now()) {
            return Err(Unavailable::ended());
        }
        let source = TokenSource { subject: Some(Arc::new(subject)), ..self.source.clone() };
        let mut slots = self.write();
        if let Some(slot) = slots.get(&key) {
            // Another request with the same token was faster.
            return Ok(slot.clone());
        }
        let gone = self.make_room(&mut slots);
        let slot = TokenSlot::new(source);
        slots.insert(key, slot.clone());
        drop(slots);
        // Their tokens are wiped without anybody waiting for it.
        drop(gone);
        Ok(slot)
    }

    /// Takes out what nobody needs any more and, where that leaves no room, what was unused for longest.
    fn make_room(&self, slots: &mut Slots) -> Vec<Arc<TokenSlot>> {
        let (now, is_full) = (self.source.services.clock.now().as_secs(), slots.len() >= MAX_SUBJECTS);
        if !is_full && now.saturating_sub(self.swept.load(Ordering::Relaxed)) < SWEEP {
            return Vec::new();
        }
        self.swept.store(now, Ordering::Relaxed);
        let mut gone: Vec<_> = slots.extract_if(|_, slot| slot.is_spent()).map(|(_, slot)| slot).collect();
        if slots.len() >= MAX_SUBJECTS {
            let mut by_age: Vec<_> = slots.iter().map(|(key, slot)| (slot.last_used(), *key)).collect();
            by_age.sort_unstable();
            gone.extend(by_age.iter().take(MAKE_ROOM_FOR).filter_map(|(_, key)| slots.remove(key)));
        }
        gone
    }

    pub(crate) fn source(&self) -> &TokenSource {
        &self.source
    }

    pub(crate) fn report(&self) -> ExchangeReport {
        let TokenSource { issuer, credential, request, .. } = &self.source;
        let slots: Vec<_> =
            self.slots.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let mut report = ExchangeReport {
            credential: credential.name.clone(),
            issuer: issuer.name.clone(),
            scopes: request.scopes.clone(),
            audience: request.audience.clone(),
            resource: request.resource.clone(),
            subjects: slots.len(),
            refused: 0,
            in_flight: 0,
            waiting: 0,
            last_error: None,
            last_error_cause: None,
            last_error_at: None,
        };
        let mut latest: Option<LastError> = None;
        for status in slots.iter().map(|slot| slot.status()) {
            report.in_flight += usize::from(status.in_flight);
            report.waiting += status.waiting;
            let Some(error) = status.last_error else { continue };
            if error.failure.cause != Cause::Subject {
                latest = latest.filter(|latest| latest.at.wall > error.at.wall).or(Some(error));
            } else if status.state == "unavailable" {
                report.refused += 1;
            }
        }
        report.last_error_cause = latest.as_ref().map(|error| error.failure.cause.as_str());
        report.last_error_at = latest.as_ref().map(|error| error.at.wall.as_secs());
        report.last_error = latest.map(|error| error.failure.text);
        report
    }

    fn write(&self) -> RwLockWriteGuard<'_, Slots> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hash(token: &str) -> [u8; 32] {
    // SHA-256 has that many bytes.
    digest::digest(&digest::SHA256, token.as_bytes()).as_ref().try_into().unwrap_or_default()
}

// === impl Subject ===

impl Subject {
    pub(crate) fn new(token: &str) -> Self {
        let end = expiry(token).map(|exp| exp.saturating_sub(MARGIN));
        Self { token: token.to_owned().into(), end, troubles: Arc::default() }
    }

    pub(crate) fn token(&self) -> &str {
        self.token.expose()
    }

    /// How long something that is had for it may be used, at most; none where it does not say.
    pub(crate) fn left(&self, now: Duration) -> Option<Duration> {
        self.end.map(|end| end.saturating_sub(now))
    }

    /// The failure that another subject met, as long as its pause lasts and the credential's files are the same.
    pub(crate) fn trouble(&self, clock: &Clock, file: [u8; 32]) -> Option<Failure> {
        let last = self.troubles.last.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = last.as_ref().filter(|trouble| trouble.file == Some(file))?;
        let left = trouble.pause.saturating_sub(trouble.at.elapsed(clock));
        let failure = || Failure { retry_after: Some(left), is_known: true, ..trouble.failure.clone() };
        (!left.is_zero()).then(failure)
    }

    /// How many failures there have been in a row, with this one.
    pub(crate) fn count_failure(&self) -> u32 {
        self.troubles.in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    pub(crate) fn is_in_trouble(&self, trouble: Trouble) {
        *self.troubles.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble);
    }

    /// The issuer exchanges again.
    pub(crate) fn is_served(&self) {
        self.troubles.in_a_row.store(0, Ordering::Relaxed);
        *self.troubles.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn has_ended(&self, now: Duration) -> bool {
        self.left(now).is_some_and(|left| left.is_zero())
    }
}

/// `exp` (RFC 7519 §4.1.4) of what may be a JWT, without a look at its signature. What cannot be read says nothing.
fn expiry(token: &str) -> Option<Duration> {
    let mut segments = token.split('.');
    let (_header, claims, _signature) = (segments.next()?, segments.next()?, segments.next()?);
    if segments.next().is_some() {
        return None;
    }
    let claims = json::object(&BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?)?;
    Duration::try_from_secs_f64(claims.get("exp")?.as_f64()?.max(0.0)).ok()
}

#[cfg(test)]
mod tests;
