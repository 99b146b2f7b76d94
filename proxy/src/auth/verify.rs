//! Is this token what it claims to be? The verifier of inbound tokens, with its verdict caches in front.

mod dpop;
pub(crate) mod flaw;
pub(crate) mod jwt;
mod replays;
pub(crate) mod verdicts;

use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_policy::snapshot::{Issuer, IssuerId};
use countersign_policy::{PortPolicy, Profile, Reason, Token};
use prometheus::Histogram;

use crate::auth::issuers::IssuerKeys;
use crate::auth::issuers::jwks::Key;
pub use crate::auth::verify::dpop::Target;
use crate::auth::verify::jwt::{Jwt, TOKEN_LIMIT};
use crate::auth::verify::replays::Replays;
pub use crate::auth::verify::verdicts::LastVerdict;
use crate::auth::verify::verdicts::{Lookups, TokenHash, Verdict, Verdicts};
use crate::clock::Clock;
use crate::metrics::Metrics;

/// Of verified tokens, in bytes.
const VERIFIED_LIMIT: usize = 16 * 1024 * 1024;
/// Of refused tokens, in bytes.
const REFUSED_LIMIT: usize = 1024 * 1024;
/// Proofs that are remembered: enough for 7,000 requests a second at any length, in some 36 MiB then.
const PROOFS_LIMIT: usize = 1024 * 1024;
/// The longest that a verified token is not looked at again, in seconds.
const VERIFIED_LIFE: i64 = 10 * 60;
/// The same for a refused one.
const REFUSED_LIFE: i64 = 30;

/// Verifies tokens; shared by all workers.
#[derive(Debug)]
pub struct Verifier {
    clock: Clock,
    verified: Verdicts,
    refused: Verdicts,
    replays: Replays,
    lookups: Lookups,
    proof_duration: Histogram,
}

// === impl Verifier ===

impl Verifier {
    pub fn new(clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self {
            clock,
            verified: Verdicts::new(VERIFIED_LIMIT),
            refused: Verdicts::new(REFUSED_LIMIT),
            replays: Replays::new(PROOFS_LIMIT),
            lookups: Lookups::new(&metrics, "verify"),
            proof_duration: metrics.auth_duration.with_label_values(&["proof"]),
        }
    }

    /// Verifies everything about a token but its audience, and whether the caller holds what it is bound to: form,
    /// issuer, algorithm, key, signature, times, type and claims. `issuers` and `keys` are the snapshot's, in the same
    /// order. Waits only for an issuer's keys.
    pub async fn verify(
        &self,
        last: &LastVerdict,
        token: &str,
        port: &PortPolicy,
        issuers: &[Issuer],
        keys: &[Arc<IssuerKeys>],
    ) -> Result<Arc<Token>, Reason> {
        self.check(last, token, Accepted { port, issuers, keys }).await
    }

    /// The time by which tokens are judged, in seconds since the epoch.
    pub fn unix(&self) -> i64 {
        self.clock.unix()
    }

    /// How long it is until then, in seconds since the epoch.
    pub fn left_until(&self, then: i64) -> Duration {
        Duration::from_secs(u64::try_from(then).unwrap_or(0)).saturating_sub(self.clock.now())
    }

    /// Does the caller hold the key with this thumbprint, to which its token is bound? `proof` is what it shows for this
    /// one request (RFC 9449 §7), and is good once. Asked when all else about the token is known, so that only who has
    /// such a token can make us verify a signature, or fill the store of proofs.
    pub fn prove(
        &self,
        key: &str,
        token: &str,
        proof: Option<&str>,
        target: &Target<'_>,
    ) -> Result<(), Reason> {
        let proof = proof.ok_or(Reason::ProofInvalid)?;
        let (started, now) = (Instant::now(), self.clock.unix());
        let checked = dpop::check(proof, key, token, target, now);
        self.proof_duration.observe(started.elapsed().as_secs_f64());
        let jti = checked.map_err(|flaw| {
            tracing::debug!(%flaw, "a DPoP proof is refused");
            Reason::ProofInvalid
        })?;
        self.replays.admit(key, &jti, now)
    }

    async fn check(
        &self,
        last: &LastVerdict,
        token: &str,
        accepted: Accepted<'_>,
    ) -> Result<Arc<Token>, Reason> {
        let now = self.clock.unix();
        if let Some(verdict) = last.recall(token).filter(|verdict| accepted.holds(verdict, now)) {
            self.lookups.connection.inc();
            return verdict.outcome.clone();
        }
        if token.len() > TOKEN_LIMIT {
            return Err(Reason::MalformedToken);
        }
        let hash = verdicts::hash(token);
        if let Some(verdict) = self.verified.find(&hash).filter(|verdict| accepted.holds(verdict, now)) {
            self.lookups.hit.inc();
            last.remember(token, verdict.clone());
            return verdict.outcome.clone();
        }
        if let Some(verdict) = self.refused.find(&hash).filter(|verdict| accepted.holds(verdict, now)) {
            self.lookups.negative.inc();
            return verdict.outcome.clone();
        }
        self.lookups.miss.inc();
        let started = Instant::now();
        let outcome = Box::pin(self.judge(last, token, hash, accepted)).await;
        self.lookups.duration.observe(started.elapsed().as_secs_f64());
        outcome
    }

    /// Verifies a token that no cache knows, and remembers what was proven.
    async fn judge(
        &self,
        last: &LastVerdict,
        token: &str,
        hash: TokenHash,
        accepted: Accepted<'_>,
    ) -> Result<Arc<Token>, Reason> {
        let jwt = Jwt::parse(token)?;
        let IssuerId(index) = accepted.port.issuer_of(&jwt.claims, accepted.issuers)?;
        let (Some(issuer), Some(keys)) = (accepted.issuers.get(index), accepted.keys.get(index)) else {
            return Err(Reason::Internal);
        };
        let algorithm = jwt.header.algorithm;
        if !issuer.algorithms.contains(&algorithm) {
            return Err(Reason::UnsupportedAlgorithm);
        }
        let (key, tag) = keys.key(jwt.header.kid.as_deref(), algorithm).await?;
        // Read again: the keys may have taken their time.
        let now = self.clock.unix();
        let outcome = examine(jwt, &key, issuer, now).map(Arc::new);
        let Some(until) = lasting(&outcome, now) else { return outcome };
        let verdict =
            Arc::new(Verdict { issuer: issuer.issuer.clone(), tag, until, outcome: outcome.clone() });
        if outcome.is_ok() {
            last.remember(token, verdict.clone());
            self.verified.insert(hash, verdict);
        } else {
            self.refused.insert(hash, verdict);
        }
        outcome
    }
}

/// Whose tokens are accepted where the token was presented.
struct Accepted<'a> {
    port: &'a PortPolicy,
    issuers: &'a [Issuer],
    keys: &'a [Arc<IssuerKeys>],
}

// === impl Accepted ===

impl Accepted<'_> {
    /// Is the verdict still worth something: not too old, its issuer accepted here, the issuer's keys and settings the same?
    fn holds(&self, verdict: &Verdict, now: i64) -> bool {
        let Some(IssuerId(index)) = self.port.issuer(&verdict.issuer) else { return false };
        now < verdict.until
            && self.keys.get(index).is_some_and(|keys| keys.has_tag(&verdict.tag, now))
            && self.is_told_apart(index, verdict)
    }

    /// A JWT-SVID that names no issuer may be somebody else's on another port.
    fn is_told_apart(&self, index: usize, verdict: &Verdict) -> bool {
        let is_svid = self.issuers.get(index).is_some_and(|issuer| issuer.profile == Profile::JwtSvid);
        match &verdict.outcome {
            Ok(token) if is_svid => self.port.issuer_of(&token.claims, self.issuers) == Ok(IssuerId(index)),
            _ => true,
        }
    }
}

/// From the signature on: nothing in the token is believed before it.
fn examine(jwt: Jwt<'_>, key: &Key, issuer: &Issuer, now: i64) -> Result<Token, Reason> {
    if !key.verify(jwt.header.algorithm, jwt.signed, &jwt.signature) {
        return Err(Reason::BadSignature);
    }
    if !issuer.profile.accepts_type(jwt.header.typ.as_deref()) {
        return Err(Reason::WrongType);
    }
    let token = issuer.profile.token(&issuer.issuer, jwt.claims)?;
    in_time(&token, issuer.leeway, now)?;
    Ok(token)
}

/// `exp`, `nbf` and `iat` against the clock (RFC 7519 §4.1.4 to §4.1.6).
pub(crate) fn in_time(token: &Token, leeway: Duration, now: i64) -> Result<(), Reason> {
    let leeway = i64::try_from(leeway.as_secs()).unwrap_or(0);
    if now >= token.expires_at.saturating_add(leeway) {
        return Err(Reason::Expired);
    }
    let latest_start = now.saturating_add(leeway);
    if token.not_before.into_iter().chain(token.issued_at).any(|start| start > latest_start) {
        return Err(Reason::NotYetValid);
    }
    Ok(())
}

/// Until when an outcome need not be found again, if it will be the same by then: a token until it expires, a refusal
/// that rests on the token's bytes and the issuer's keys alone for a moment. What has expired stays so.
fn lasting(outcome: &Result<Arc<Token>, Reason>, now: i64) -> Option<i64> {
    match outcome {
        Ok(token) => {
            Some(token.expires_at.min(now.saturating_add(VERIFIED_LIFE))).filter(|until| *until > now)
        }
        Err(
            Reason::BadSignature
            | Reason::WrongType
            | Reason::MissingClaim
            | Reason::BindingMismatch
            | Reason::UnknownIssuer
            | Reason::Expired,
        ) => Some(now.saturating_add(REFUSED_LIFE)),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod vectors;
