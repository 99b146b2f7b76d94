//! Why was it refused? The explanation of a refusal, made where request and policy are at hand, for the operator alone.
//!
//! It costs as much as some decisions more, and whoever is refused is nobody's friend: so many are made in a second, and the
//! refusals beyond go without.

use std::sync::Arc;

use countersign_policy::Reason;
use countersign_policy::explain::{Condition, Explanation};
use countersign_policy::request::Presented;
use serde_json::{Value, json};

use super::credentials::{self, Shown};
use super::enforce::{Ask, Door, Verified};
use super::verify::flaw;
use crate::clock::Clock;
use crate::limit::Limit;
use crate::rejection::{Explained, Refusal};

/// Decides which refusals are explained; shared by all workers.
#[derive(Debug)]
pub struct Explainer {
    clock: Clock,
    limit: Limit,
}

/// Refusals that are explained at once, and in each second.
const EXPLAINED: u64 = 100;

// === impl Explainer ===

impl Explainer {
    pub fn new(clock: Clock) -> Self {
        Self { clock, limit: Limit::new(EXPLAINED, EXPLAINED) }
    }

    /// May one more be explained?
    fn admits(&self) -> bool {
        self.limit.admit(self.clock.now()).is_some()
    }
}

// === impl Door ===

impl Door<'_> {
    /// The refusal of this request, with why. `token` is what was seen of it; nothing where nobody looked.
    pub(super) fn explained(self, refusal: Refusal, ask: &Ask<'_>, token: Option<&Verified>) -> Refusal {
        if !self.explainer.admits() {
            return Refusal { explained: Explained::Skipped, ..refusal };
        }
        let request = token.map_or_else(|| ask.anonymous(), |token| ask.presenting(token));
        let flaw = match request.principal.token {
            Presented::Rejected(reason) => self.flaw(reason, ask),
            Presented::Nothing | Presented::Verified(_) => None,
        };
        let explanation = Explanation { flaw, ..self.port.explain(&request) };
        Refusal { explained: Explained::Fully(Arc::new(explanation)), ..refusal }
    }

    /// What was wrong with the token that was shown.
    fn flaw(self, reason: Reason, ask: &Ask<'_>) -> Option<Condition> {
        let (text, scheme) = match credentials::read(ask.headers, ask.query).ok()? {
            Shown::Nothing => return None,
            Shown::Bearer(text) => (text, "Bearer"),
            Shown::Dpop { token, .. } => (token, "DPoP"),
        };
        let found =
            flaw::find(text, reason, self.port, &self.active.snapshot.issuers, self.explainer.clock.unix())?;
        Some(match found {
            flaw::Found::Condition(condition) => condition,
            flaw::Found::Binding(cnf) => binding(&cnf, scheme, ask),
        })
    }
}

/// What a token is bound to, and what the caller shows (RFC 8705 §3, RFC 9449 §7.1).
fn binding(cnf: &Value, scheme: &str, ask: &Ask<'_>) -> Condition {
    let (expected, found) = match (cnf.get("x5t#S256").is_some(), cnf.get("jkt").is_some()) {
        (true, false) if scheme != "Bearer" => {
            ("the scheme Bearer, for a token that is bound to a certificate", scheme)
        }
        (true, false) if ask.peer.is_some() => {
            ("the certificate whose hash is in x5t#S256", "another certificate")
        }
        (true, false) => ("the certificate whose hash is in x5t#S256", "no certificate"),
        (false, true) => ("the scheme DPoP, for a token that is bound to a key", scheme),
        _ if cnf.is_null() => ("the scheme Bearer, for a token that is bound to nothing", scheme),
        _ => ("one of x5t#S256 and jkt", "both, or another method"),
    };
    Condition::new("cnf", expected, json!(found))
}

#[cfg(test)]
mod tests;
