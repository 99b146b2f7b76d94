//! May this request come in? The inbound door: from what the caller shows and what policy says to a decision.

mod review;

use std::net::IpAddr;
use std::sync::Arc;

use countersign_policy::inbound::{Decision, PortPolicy, ProtectedResource};
use countersign_policy::path::CanonicalPath;
use countersign_policy::request::{AccessRequest, Binding, Peer, Presented, Principal};
use countersign_policy::snapshot::{IntrospectionId, RuleId};
use countersign_policy::{Reason, Token};
use http::HeaderMap;

use super::active::Active;
use super::credentials::{self, Shown};
use super::explain::Explainer;
use super::introspect::{self, Introspector};
use super::verify::{LastVerdict, Target, Verifier};
use crate::rejection::{Offers, Refusal};

pub use review::Standing;

/// A request at the door, whatever protocol brought it.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub method: &'a str,
    pub path: &'a CanonicalPath<'a>,
    pub query: Option<&'a str>,
    pub host: &'a str,
    /// The port of the authority, where one is written.
    pub port: Option<u16>,
    pub grpc: bool,
    pub headers: &'a HeaderMap,
    pub source: IpAddr,
    /// `https` where the caller spoke TLS to us, else `http`.
    pub scheme: &'a str,
    /// Whose client certificate was verified on the caller's connection.
    pub peer: Option<&'a Peer>,
}

/// A request that may come in.
#[derive(Debug)]
pub struct Admission {
    /// The rule that allowed; none where only audit policies select the port.
    pub rule: Option<RuleId>,
    /// What the caller's token says, where that was verified and looked at.
    pub token: Option<Arc<Token>>,
    /// A public rule allowed: nothing is shown of the caller, its certificate included.
    pub anonymous: bool,
    /// In audit mode: why it would have been refused.
    pub would_refuse: Option<Reason>,
}

/// One door: a port of the application, with all that its decisions take.
#[derive(Clone, Copy, Debug)]
pub struct Door<'a> {
    pub port: &'a PortPolicy,
    pub active: &'a Active,
    pub verifier: &'a Verifier,
    /// What the caller's connection remembers.
    pub last: &'a LastVerdict,
    pub explainer: &'a Explainer,
}

/// What verification said of what was shown.
#[derive(Clone, Debug)]
pub(super) enum Verified {
    Nothing,
    No(Reason),
    Yes(Arc<Token>),
}

// === impl Door ===

impl Door<'_> {
    /// Is the resource's own metadata asked for (RFC 9728 §3.1)? Whoever asks may have it, unless a rule denies without a
    /// look at a token.
    pub fn described(&self, ask: &Ask<'_>) -> Option<Result<&ProtectedResource, Refusal>> {
        let described = self.port.described(&ask.anonymous())?;
        Some(described.map_err(|decision| {
            self.count(&decision);
            match decision {
                Decision::Deny { reason, rule } => self.refusal(reason, rule),
                Decision::Allow { .. } => Reason::Internal.into(),
            }
        }))
    }

    /// Decides one request: semantics 5 and 6, in the order of time.
    pub async fn admit(self, ask: Ask<'_>) -> Result<Admission, Refusal> {
        self.judge(ask).await.map_err(|refusal| self.offering(refusal))
    }

    /// Says in the challenge what would be welcome, if there is one.
    fn offering(self, mut refusal: Refusal) -> Refusal {
        if refusal.reason.status() == 401 || refusal.reason == Reason::InsufficientScope {
            refusal.offers = Offers {
                metadata: self.port.resource.as_ref().map(|resource| resource.metadata_url.clone()),
                dpop: self.port.wants_bound,
            };
        }
        refusal
    }

    async fn judge(self, ask: Ask<'_>) -> Result<Admission, Refusal> {
        let request = ask.anonymous();
        let Some(policies) = self.port.enforce.as_ref() else {
            return Box::pin(self.audit(ask)).await;
        };
        // What needs no token to be judged: a deny, or a public rule.
        let (decision, token) = match policies.screen(&request) {
            Some(decision) => (decision, None),
            None => {
                let token = self.verify(&ask, credentials::read(ask.headers, ask.query)?).await;
                (policies.decide(&ask.presenting(&token)), Some(token))
            }
        };
        self.count(&decision);
        if policies.has_shadows() || self.port.audit.is_some() {
            let token = match (token.clone(), &self.port.audit) {
                (Some(token), _) => token,
                // What was decided without a token does not wait for keys, unless an audit policy wants to know who it is.
                (None, Some(audited)) if audited.screen(&request).is_none() => {
                    Box::pin(self.present(&ask)).await
                }
                (None, _) => Verified::Nothing,
            };
            let request = ask.presenting(&token);
            self.shadow(policies, &request, &decision);
            if let Some(audited) = &self.port.audit {
                let beside = audited.decide(&request);
                self.count(&beside);
                self.audit_beside(&beside, &request, &decision);
                self.shadow(audited, &request, &decision);
            }
        }
        match decision {
            Decision::Allow { rule, public } => Ok(Admission {
                rule: Some(rule),
                token: token.filter(|_| !public).and_then(Verified::into_token),
                anonymous: public,
                would_refuse: None,
            }),
            Decision::Deny { reason, rule } => {
                Err(self.explained(self.refusal(reason, rule), &ask, token.as_ref()))
            }
        }
    }

    /// A port that only audit policies select: everything passes but what is malformed; what would be refused is recorded.
    async fn audit(self, ask: Ask<'_>) -> Result<Admission, Refusal> {
        let Some(policies) = self.port.audit.as_ref() else { return Err(Reason::Internal.into()) };
        let screened = policies.screen(&ask.anonymous());
        let token = match screened {
            Some(_) => Verified::Nothing,
            None => self.present(&ask).await,
        };
        let request = ask.presenting(&token);
        let decision = screened.unwrap_or_else(|| policies.decide(&request));
        self.count(&decision);
        self.shadow(policies, &request, &decision);
        Ok(match decision {
            Decision::Allow { rule, public } => Admission {
                rule: Some(rule),
                token: Some(token).filter(|_| !public).and_then(Verified::into_token),
                anonymous: public,
                would_refuse: None,
            },
            Decision::Deny { reason, .. } => Admission {
                rule: None,
                token: token.into_token(),
                anonymous: false,
                would_refuse: Some(reason),
            },
        })
    }

    /// What the request shows, verified; what cannot be read counts as rejected.
    async fn present(self, ask: &Ask<'_>) -> Verified {
        match credentials::read(ask.headers, ask.query) {
            Ok(shown) => self.verify(ask, shown).await,
            Err(reason) => Verified::No(reason),
        }
    }

    async fn verify(self, ask: &Ask<'_>, shown: Shown<'_>) -> Verified {
        let Active { snapshot, keys, .. } = self.active;
        let text = match shown {
            Shown::Nothing => return Verified::Nothing,
            Shown::Bearer(text) | Shown::Dpop { token: text, .. } => text,
        };
        let verified = match self.introspector(text) {
            Some(introspector) => Box::pin(introspector.verify(self.last, text)).await,
            None => self.verifier.verify(self.last, text, self.port, &snapshot.issuers, keys).await,
        };
        match verified {
            Ok(token) => match self.held(ask, shown, &token) {
                Ok(()) => Verified::Yes(token),
                Err(reason) => Verified::No(reason),
            },
            Err(reason) => Verified::No(reason),
        }
    }

    /// Who is to be asked about this token; nobody where it is a JWT, or the port accepts no others.
    fn introspector(&self, token: &str) -> Option<&Arc<Introspector>> {
        let IntrospectionId(index) = self.port.introspection.filter(|_| introspect::is_opaque(token))?;
        self.active.introspectors.get(index)
    }

    /// Does the caller hold what the token is bound to, and show it as such? Asked of every request, whatever the caches know.
    fn held(self, ask: &Ask<'_>, shown: Shown<'_>, verified: &Token) -> Result<(), Reason> {
        match (&verified.binding, shown) {
            (Binding::None, Shown::Bearer(_)) => Ok(()),
            // RFC 8705 §3.
            (Binding::Certificate(hash), Shown::Bearer(_))
                if ask.peer.is_some_and(|peer| peer.thumbprint == *hash) =>
            {
                Ok(())
            }
            // A token that is not meant for anybody here costs no signature, and no room among the proofs.
            (Binding::Key(_), Shown::Dpop { .. }) if !self.port.accepts(verified) => {
                Err(Reason::WrongAudience)
            }
            (Binding::Key(key), Shown::Dpop { token, proof }) => {
                self.verifier.prove(key, token, proof, &ask.target())
            }
            // A bound token is not a bearer token, nor any other a bound one (RFC 9449 §7.2).
            _ => Err(Reason::BindingMismatch),
        }
    }

    fn refusal(self, reason: Reason, rule: Option<RuleId>) -> Refusal {
        let scopes = match (reason, rule) {
            (Reason::InsufficientScope, Some(rule)) => self.active.snapshot.required_scopes(rule).to_vec(),
            _ => Vec::new(),
        };
        let asked = self.port.introspection.and_then(|id| self.active.introspectors.get(id.0));
        let retry_after = match (reason, asked) {
            (Reason::KeysUnavailable, Some(introspector)) => introspector.retry_after(),
            _ => None,
        };
        Refusal {
            rule: rule.and_then(|RuleId(index)| self.active.snapshot.rules.get(index).cloned()),
            scopes,
            retry_after,
            ..reason.into()
        }
    }

    fn count(self, decision: &Decision) {
        let rule = match decision {
            Decision::Allow { rule, .. } => Some(*rule),
            // A rule whose scopes are lacking did not decide.
            Decision::Deny { reason: Reason::DeniedByRule, rule } => *rule,
            Decision::Deny { .. } => None,
        };
        if let Some(counter) = rule.and_then(|RuleId(index)| self.active.decisions.get(index)) {
            counter.inc();
        }
    }
}

// === impl Ask ===

impl<'a> Ask<'a> {
    /// Without the token; what the connection is remains.
    pub(super) fn anonymous(self) -> AccessRequest<'a> {
        AccessRequest {
            principal: Principal { token: Presented::Nothing, peer: self.peer },
            method: self.method,
            path: self.path,
            host: self.host,
            headers: self.headers,
            grpc: self.grpc,
            source: self.source,
        }
    }

    /// What a proof for this request has to name.
    fn target(&self) -> Target<'_> {
        let Self { method, scheme, host, port, path, .. } = *self;
        Target { method, scheme, host, port, path }
    }

    pub(super) fn presenting<'b>(self, token: &'b Verified) -> AccessRequest<'b>
    where
        'a: 'b,
    {
        let token = match token {
            Verified::Nothing => Presented::Nothing,
            Verified::No(reason) => Presented::Rejected(*reason),
            Verified::Yes(token) => Presented::Verified(token),
        };
        AccessRequest { principal: Principal { token, peer: self.peer }, ..self.anonymous() }
    }
}

// === impl Verified ===

impl Verified {
    fn into_token(self) -> Option<Arc<Token>> {
        match self {
            Self::Yes(token) => Some(token),
            Self::Nothing | Self::No(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
