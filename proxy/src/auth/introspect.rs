//! Is this opaque token good? Its issuer is asked (RFC 7662), once for all who wait, and its word is kept for a minute at
//! most.
//!
//! What anybody can send us is a question to the issuer, so questions are bounded: so many at once, most of them for tokens
//! that are not known, and of those none when too many of the last ones were about nothing.

mod answer;
mod budget;
mod flight;
mod metrics;
mod question;
mod report;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use countersign_policy::snapshot::Snapshot;
use countersign_policy::{Reason, Token};

use crate::auth::introspect::budget::{Budget, Turns};
use crate::auth::introspect::flight::{Boarded, Flights};
use crate::auth::introspect::metrics::IntrospectionMetrics;
use crate::auth::introspect::question::Question;
pub use crate::auth::introspect::report::IntrospectionReport;
use crate::auth::issuers::metrics::Names;
use crate::auth::issuers::{IssuerKeys, Services};
use crate::auth::tokens::failure::Failure;
use crate::auth::tokens::lifetime;
use crate::auth::tokens::source::{Fingerprint, Moment};
use crate::auth::verify::LastVerdict;
use crate::auth::verify::jwt::TOKEN_LIMIT;
use crate::auth::verify::verdicts::{Lookups, TokenHash, Verdict, Verdicts};
use crate::state::backoff;

/// The longest that an issuer's word on a token is kept, in seconds.
const ACTIVE_LIFE: i64 = 60;
/// So long before the end of that, a token that is used is asked about again while its callers go on.
const AHEAD: i64 = 15;
/// How long a token stays refused without another question, in seconds.
const REFUSED_LIFE: i64 = 10;
/// Of what is kept, in bytes.
const ACTIVE_LIMIT: usize = 4 * 1024 * 1024;
const REFUSED_LIMIT: usize = 512 * 1024;
/// How long a request waits for the issuer's word.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest pause after a failure that may mend itself, unless the issuer asks for more.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often a credential that was refused is looked at.
const FILE_CHECK: Duration = Duration::from_millis(500);

/// Everybody who is asked, across reloads: an introspection whose key is unchanged goes on.
#[derive(Debug)]
pub struct Introspections {
    services: Services,
    kept: Arc<Kept>,
    names: Names,
    by_key: Mutex<HashMap<[u8; 32], Arc<Introspector>>>,
}

/// What issuers said, by the hash of who was asked and about what.
#[derive(Debug)]
struct Kept {
    active: Verdicts,
    refused: Verdicts,
}

/// One issuer that is asked, as one client.
#[derive(Debug)]
pub struct Introspector {
    /// Hash of whom we ask and as whom.
    key: [u8; 32],
    services: Services,
    kept: Arc<Kept>,
    question: Question,
    flights: Flights,
    turns: Turns,
    budget: Budget,
    trouble: Mutex<Trouble>,
    lookups: Lookups,
    metrics: IntrospectionMetrics,
}

/// What keeps the issuer from being asked.
#[derive(Debug, Default)]
struct Trouble {
    /// Failures in a row.
    failures: u32,
    setback: Option<Setback>,
    /// Stays when the issuer answers again.
    last: Option<(Moment, Failure)>,
}

/// Nobody is asked until the pause is over.
#[derive(Clone, Copy, Debug)]
struct Setback {
    at: Moment,
    pause: Duration,
}

/// Is this no JWT, so that only its issuer knows what it is? Three segments of base64url are a JWT (security IN-2).
pub fn is_opaque(token: &str) -> bool {
    let dots = token.bytes().filter(|byte| *byte == b'.').count();
    let is_base64url =
        |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' || byte == b'.';
    dots != 2 || !token.bytes().all(is_base64url)
}

// === impl Introspections ===

impl Introspections {
    pub fn new(services: Services) -> Self {
        let kept = Kept { active: Verdicts::new(ACTIVE_LIMIT), refused: Verdicts::new(REFUSED_LIMIT) };
        Self { services, kept: Arc::new(kept), names: Names::default(), by_key: Mutex::default() }
    }

    /// Those that the snapshot names, in its order. `keys` are those of its accepted issuers.
    pub fn arm(&self, snapshot: &Snapshot, keys: &[Arc<IssuerKeys>]) -> Vec<Arc<Introspector>> {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *by_key);
        let mut armed = Vec::with_capacity(snapshot.introspections.len());
        for named in &snapshot.introspections {
            // An index that leads nowhere ends the list: nothing may stand in the place of another.
            let Some(issuer) = snapshot.issuers.get(named.issuer.0) else { break };
            let Some(credential) = snapshot.credentials.get(named.credential.0) else { break };
            let Some(keys) = keys.get(named.issuer.0) else { break };
            let introspector = before.get(&named.key).cloned().unwrap_or_else(|| {
                let question = Question::new(&self.services, issuer, credential, keys);
                Arc::new(Introspector::new(named.key, question, self.kept.clone(), &self.names))
            });
            by_key.insert(named.key, introspector.clone());
            armed.push(introspector);
        }
        armed
    }

    /// What there is to know of each, by issuer.
    pub fn report(&self) -> Vec<IntrospectionReport> {
        let by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reports: Vec<_> = by_key.values().map(|introspector| introspector.report()).collect();
        reports.sort_by(|a, b| (&a.issuer, &a.credential).cmp(&(&b.issuer, &b.credential)));
        reports
    }
}

// === impl Introspector ===

impl Introspector {
    fn new(key: [u8; 32], question: Question, kept: Arc<Kept>, names: &Names) -> Self {
        let services = question.services.clone();
        let lookups = Lookups::new(&services.metrics, "introspect");
        Self {
            key,
            metrics: IntrospectionMetrics::new(&services.metrics, names, &question.issuer.name),
            budget: Budget::new(services.clock.now()),
            services,
            kept,
            question,
            flights: Flights::default(),
            turns: Turns::new(),
            trouble: Mutex::default(),
            lookups,
        }
    }

    /// What the issuer says of a token, within the last minute: everything but its audience, and whether the caller holds
    /// what it is bound to. `keys_unavailable` where the issuer cannot be asked, `overloaded` where it is asked too much.
    pub async fn verify(self: &Arc<Self>, last: &LastVerdict, token: &str) -> Result<Arc<Token>, Reason> {
        let now = self.services.clock.unix();
        let on_connection =
            last.recall(token).filter(|verdict| self.holds(verdict, now) && !is_due(verdict, now));
        if let Some(verdict) = on_connection {
            self.lookups.connection.inc();
            return verdict.outcome.clone();
        }
        if token.len() > TOKEN_LIMIT {
            return Err(Reason::MalformedToken);
        }
        let hash = self.hash(token);
        let known = self.kept.active.find(&hash);
        if let Some(verdict) = known.as_ref().filter(|verdict| self.holds(verdict, now)) {
            if is_due(verdict, now) {
                // Nobody waits for it, and nothing is lost where it cannot be asked.
                let _ = self.board(hash, token, true);
            }
            self.lookups.hit.inc();
            last.remember(token, verdict.clone());
            return verdict.outcome.clone();
        }
        if let Some(verdict) = self.kept.refused.find(&hash).filter(|verdict| self.holds(verdict, now)) {
            self.lookups.negative.inc();
            return verdict.outcome.clone();
        }
        self.lookups.miss.inc();
        let is_familiar = known.is_some_and(|verdict| verdict.outcome.is_ok());
        let started = Instant::now();
        let outcome = self.wait_for(hash, token, is_familiar).await;
        self.lookups.duration.observe(started.elapsed().as_secs_f64());
        outcome
    }

    /// When the issuer is asked again, where it is not asked now.
    pub fn retry_after(&self) -> Option<Duration> {
        let setback = self.trouble().setback?;
        let left = setback.pause.saturating_sub(setback.at.elapsed(&self.services.clock));
        (!left.is_zero()).then_some(left)
    }

    async fn wait_for(
        self: &Arc<Self>,
        hash: TokenHash,
        token: &str,
        is_familiar: bool,
    ) -> Result<Arc<Token>, Reason> {
        let mut landing = match self.board(hash, token, is_familiar)? {
            Boarded::Landed(verdict) => return verdict.outcome.clone(),
            Boarded::Flying(landing) => landing,
        };
        match tokio::time::timeout(PATIENCE, landing.wait_for(Option::is_some)).await {
            Ok(Ok(landed)) => landed.clone().unwrap_or(Err(Reason::Internal)),
            Ok(Err(_)) => Err(Reason::Internal),
            Err(_) => Err(Reason::KeysUnavailable),
        }
    }

    /// Is it still the issuer's word, asked as we would ask today?
    fn holds(&self, verdict: &Verdict, now: i64) -> bool {
        verdict.tag == self.key && now < verdict.until
    }

    fn hash(&self, token: &str) -> TokenHash {
        let mut context = Context::new(&SHA256);
        // Of one length, so nothing can move between the two.
        context.update(&self.key);
        context.update(token.as_bytes());
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        hash
    }

    /// Keeps what was said of a token, as of when it was asked.
    fn keep(&self, hash: TokenHash, asked: i64, outcome: &Result<Arc<Token>, Reason>) {
        let until = match outcome {
            Ok(token) => token.expires_at.min(asked.saturating_add(ACTIVE_LIFE)),
            // It will be valid one day, which may be soon.
            Err(Reason::NotYetValid) => return,
            Err(_) => asked.saturating_add(REFUSED_LIFE),
        };
        let issuer = self.question.issuer.issuer.clone();
        let verdict = Arc::new(Verdict { issuer, tag: self.key, until, outcome: outcome.clone() });
        match outcome {
            Ok(_) => self.kept.active.insert(hash, verdict),
            Err(_) => {
                // What was active before is so no longer.
                if self.kept.active.find(&hash).is_some() {
                    self.kept.active.insert(hash, verdict.clone());
                }
                self.kept.refused.insert(hash, verdict);
            }
        }
    }

    /// The issuer answers.
    fn is_served(&self) {
        let mut trouble = self.trouble();
        if trouble.failures > 0 {
            tracing::info!(issuer = %self.question.issuer.name, failures = trouble.failures, "the issuer answers again about tokens");
        }
        trouble.failures = 0;
        trouble.setback = None;
    }

    /// The issuer cannot be asked, whatever the token.
    fn is_in_trouble(self: &Arc<Self>, failure: Failure, file: Fingerprint) {
        let at = Moment::now(&self.services.clock);
        let is_permanent = failure.cause.is_permanent();
        let pause = {
            let mut trouble = self.trouble();
            trouble.failures = trouble.failures.saturating_add(1);
            let random = backoff::random();
            let pause = lifetime::pause(trouble.failures, is_permanent, failure.retry_after, random);
            let may_last = is_permanent || failure.retry_after.is_some();
            let pause = if may_last { pause } else { pause.min(LONGEST_PAUSE) };
            trouble.setback = Some(Setback { at, pause });
            trouble.last = Some((at, failure.clone()));
            pause
        };
        let issuer = &self.question.issuer.name;
        tracing::warn!(%issuer, cause = failure.cause.as_str(), retry_in = ?pause, "cannot ask about tokens: {failure}");
        if is_permanent {
            self.services.background.spawn(watch_file(Arc::downgrade(self), file));
        }
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Is the token to be asked about again ahead of time? Not where it ends itself.
fn is_due(verdict: &Verdict, now: i64) -> bool {
    let ends_later = verdict.outcome.as_ref().is_ok_and(|token| token.expires_at > verdict.until);
    ends_later && now >= verdict.until.saturating_sub(AHEAD)
}

/// A credential that was refused is tried again as soon as its files are others.
async fn watch_file(introspector: std::sync::Weak<Introspector>, file: Fingerprint) {
    loop {
        tokio::time::sleep(FILE_CHECK).await;
        let Some(introspector) = introspector.upgrade() else { return };
        if introspector.retry_after().is_none() {
            return;
        }
        if Some(introspector.question.fingerprint()) != file {
            introspector.trouble().setback = None;
            return;
        }
    }
}

#[cfg(test)]
mod tests;
