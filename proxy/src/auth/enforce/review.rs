//! Does it still hold? What let a request in, asked again while its answer flows.

use std::sync::Arc;

use countersign_policy::inbound::{Decision, Policies};
use countersign_policy::request::Binding;
use countersign_policy::snapshot::{IssuerId, RuleId};
use countersign_policy::{Reason, Token};

use super::{Ask, Door, Verified};
use crate::auth::credentials::{self, Shown};
use crate::rejection::Refusal;

/// On what an open exchange rests now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// When it ends if nothing changes, in seconds since the epoch. None: it rests on no token.
    pub until: Option<i64>,
    /// In audit mode: why it would be ended.
    pub would_end: Option<Reason>,
}

/// Why it does not, and what was made of the credential, where somebody looked.
struct Fallen {
    reason: Reason,
    rule: Option<RuleId>,
    token: Option<Verified>,
}

// === impl Door ===

impl Door<'_> {
    /// Would policy let this request in now, with the credential that it came with? `held` is what was verified then, where a
    /// token was looked at. Of a request that `has_fields` not, its header fields are gone but for the credential. Counts nothing:
    /// nobody asks for anything new.
    pub async fn review(
        self,
        ask: Ask<'_>,
        held: Option<&Arc<Token>>,
        has_fields: bool,
    ) -> Result<Standing, Refusal> {
        match (&self.port.enforce, &self.port.audit) {
            (Some(policies), _) => match self.standing(policies, &ask, held, has_fields).await {
                Ok(standing) => Ok(standing),
                Err(Fallen { reason, rule, token }) => {
                    let refusal = self.explained(self.refusal(reason, rule), &ask, token.as_ref());
                    Err(self.offering(refusal))
                }
            },
            (None, Some(policies)) => {
                let standing = self.standing(policies, &ask, held, has_fields).await;
                Ok(standing.unwrap_or_else(|fallen| Standing { until: None, would_end: Some(fallen.reason) }))
            }
            (None, None) => Err(Reason::Internal.into()),
        }
    }

    async fn standing(
        self,
        policies: &Policies,
        ask: &Ask<'_>,
        held: Option<&Arc<Token>>,
        has_fields: bool,
    ) -> Result<Standing, Fallen> {
        let request = ask.anonymous();
        if !has_fields && policies.reads_headers_of(&request) {
            // It cannot be told what policy would say: a new request tells.
            return Err(Reason::NoRule.into());
        }
        let (decision, token) = match policies.screen(&request) {
            Some(decision) => (decision, None),
            None => {
                let token = self.verify_again(ask, held).await?;
                (policies.decide(&ask.presenting(&token)), Some(token))
            }
        };
        let (rule, token) = match decision {
            Decision::Allow { rule, public } => {
                (rule, token.filter(|_| !public).and_then(Verified::into_token))
            }
            Decision::Deny { reason, rule } => return Err(Fallen { reason, rule, token }),
        };
        let until = token.map(|token| self.good_until(&token, rule));
        if until.is_some_and(|until| self.verifier.unix() >= until) {
            let token = Some(Verified::No(Reason::Expired));
            return Err(Fallen { reason: Reason::Expired, rule: None, token });
        }
        Ok(Standing { until, would_end: None })
    }

    /// By the keys and settings of now. What the request proved once, it need not prove again: its proof was for that moment.
    async fn verify_again(self, ask: &Ask<'_>, held: Option<&Arc<Token>>) -> Result<Verified, Reason> {
        let shown = credentials::read(ask.headers, ask.query)?;
        let text = match shown {
            Shown::Nothing => return Ok(Verified::Nothing),
            Shown::Bearer(text) | Shown::Dpop { token: text, .. } => text,
        };
        let Self { active, port, .. } = self;
        let verified = match (held, self.introspector(text)) {
            // Its issuer gave its word until it expires, and is not asked by every open stream whenever policy changes.
            (Some(token), _) if token.introspected => Ok(token.clone()),
            (_, Some(introspector)) => introspector.verify(self.last, text).await,
            (_, None) => {
                self.verifier.verify(self.last, text, port, &active.snapshot.issuers, &active.keys).await
            }
        };
        let verified = match (verified, held) {
            // Found out last of all, so the rest of it is in order: for how long it still does, policy says.
            (Err(Reason::Expired), Some(token)) => self.read_again(token),
            (verified, _) => verified,
        };
        Ok(match verified {
            Ok(token) if is_still_held(ask, shown, &token, held) => Verified::Yes(token),
            Ok(_) => Verified::No(Reason::BindingMismatch),
            Err(reason) => Verified::No(reason),
        })
    }

    /// What its claims say by the profile that its issuer has now.
    fn read_again(self, token: &Token) -> Result<Arc<Token>, Reason> {
        let issuers = &self.active.snapshot.issuers;
        let IssuerId(index) = self.port.issuer_of(&token.claims, issuers)?;
        let issuer = issuers.get(index).ok_or(Reason::Internal)?;
        issuer.profile.token(&issuer.issuer, token.claims.clone()).map(Arc::new)
    }

    /// As long as a new request could show it, and the grace of the policy whose rule allows.
    fn good_until(self, token: &Token, rule: RuleId) -> i64 {
        let snapshot = &self.active.snapshot;
        let issuer = self.port.issuer(&token.issuer).and_then(|IssuerId(index)| snapshot.issuers.get(index));
        let leeway = issuer.map_or(0, |issuer| issuer.leeway.as_secs());
        let grace = snapshot.expired_token_grace(rule).as_secs();
        let more = i64::try_from(leeway.saturating_add(grace)).unwrap_or(i64::MAX);
        token.expires_at.saturating_add(more)
    }
}

/// As when it came in, but for the proof, which was for that moment.
fn is_still_held(ask: &Ask<'_>, shown: Shown<'_>, token: &Token, held: Option<&Arc<Token>>) -> bool {
    match (&token.binding, shown) {
        (Binding::None, Shown::Bearer(_)) => true,
        (Binding::Certificate(hash), Shown::Bearer(_)) => {
            ask.peer.is_some_and(|peer| peer.thumbprint == *hash)
        }
        (Binding::Key(_), Shown::Dpop { .. }) => held.is_some_and(|held| held.binding == token.binding),
        _ => false,
    }
}

// === impl Fallen ===

impl From<Reason> for Fallen {
    fn from(reason: Reason) -> Self {
        Self { reason, rule: None, token: None }
    }
}
