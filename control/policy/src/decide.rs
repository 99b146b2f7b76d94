//! May it pass? The decision over the policies of one port, step by step in the order of semantics 5.

use std::net::IpAddr;

use crate::inbound::{Decision, Policies, Policy, Shadow};
use crate::reason::Reason;
use crate::request::{AccessRequest, Peer, Presented, Token};
use crate::rule::Rule;
use crate::snapshot::RuleId;

/// The one shadow rule that is taken for live, if any.
#[derive(Clone, Copy)]
struct Trial(Option<RuleId>);

// === impl Policies ===

impl Policies {
    /// What needs no token to be judged: a deny (semantics 5b), or a public rule (5c). `None`: a token is to be looked at
    /// next, then [`Policies::decide`]. Of the request's principal it is the certificate alone that is read.
    pub fn screen(&self, request: &AccessRequest<'_>) -> Option<Decision> {
        self.screen_with(request, Trial(None))
    }

    /// Is a token of this issuer, these audiences and this binding accepted by one of the policies?
    pub fn accepts(&self, token: &Token) -> bool {
        self.policies.iter().any(|policy| policy.accepts(token))
    }

    /// The whole decision, from framing to rules (semantics 5b to 5e). The same function for the proxy, `test` and `explain`.
    pub fn decide(&self, request: &AccessRequest<'_>) -> Decision {
        self.decide_with(request, Trial(None))
    }

    /// The same for a connection whose bytes are not looked into (`protocol: tcp` or `tls`): `peer` is the certificate that
    /// was verified, where TLS is served.
    pub fn decide_connection(&self, peer: Option<&Peer>, source: IpAddr) -> Decision {
        AccessRequest::of_connection(peer, source, |request| self.decide(request))
    }

    /// The shadow rules that match this request, and what would be decided if each were live. Empty for nearly all requests.
    pub fn shadows(&self, request: &AccessRequest<'_>) -> Vec<Shadow> {
        if !self.has_shadows {
            return Vec::new();
        }
        let shadow = |rule: &&Rule| rule.body.shadow;
        let mut matching = Vec::new();
        for policy in &self.policies {
            let token = policy.token(request);
            let denies = policy.denies.iter().filter(shadow).filter(|rule| rule.body.denies(request, token));
            let publics = policy.publics.iter().filter(shadow).filter(|rule| rule.body.is_open_to(request));
            let allows = policy.allows.iter().filter(shadow);
            let allows = allows.filter(|rule| rule.body.allows(request, token));
            matching.extend(denies.chain(publics).chain(allows).map(|rule| rule.id));
        }
        let would = |rule| Shadow { rule, would: self.decide_with(request, Trial(Some(rule))) };
        matching.into_iter().map(would).collect()
    }

    /// Is there any shadow rule? Where there is none, `shadows` need not be asked.
    pub fn has_shadows(&self) -> bool {
        self.has_shadows
    }

    fn decide_with(&self, request: &AccessRequest<'_>, trial: Trial) -> Decision {
        // (b) and (c)
        if let Some(decision) = self.screen_with(request, trial) {
            return decision;
        }
        // (d)
        let token = match request.principal.token {
            Presented::Rejected(reason) => return deny(reason, None),
            Presented::Verified(token) if !self.accepts(token) => {
                return deny(self.why_not_accepted(token), None);
            }
            Presented::Verified(token) => Some(token),
            Presented::Nothing if self.lacks_token(request, trial) => {
                return deny(Reason::MissingToken, None);
            }
            Presented::Nothing => None,
        };
        // (e)
        let accepted = |policy: &Policy| token.filter(|token| policy.accepts(token));
        if let Some(rule) = self.denied(request, trial, accepted) {
            return deny(Reason::DeniedByRule, Some(rule));
        }
        let (mut lacks_scopes, mut lacks_certificate) = (None, None);
        for policy in &self.policies {
            let token = accepted(policy);
            for rule in policy.allows.iter().filter(|rule| trial.is_live(rule)) {
                let Rule { id, body } = rule;
                // What is asked for tells most rules apart, and is compared once.
                if !body.is_about(request, token) {
                    continue;
                }
                if body.admits(request, token) {
                    return Decision::Allow { rule: *id, public: false };
                }
                if lacks_scopes.is_none() && body.lacks_only_scopes(request, token) {
                    lacks_scopes = Some(*id);
                }
                if lacks_certificate.is_none() && body.lacks_only_certificate(request, token) {
                    lacks_certificate = Some(*id);
                }
            }
        }
        match (lacks_scopes, lacks_certificate) {
            (Some(rule), _) => deny(Reason::InsufficientScope, Some(rule)),
            (None, Some(rule)) => deny(Reason::PeerRequired, Some(rule)),
            (None, None) => deny(Reason::NoRule, None),
        }
    }

    /// Nothing was shown but maybe a certificate: is it a token that is missing? Not where a rule is satisfied without, nor
    /// where all that there are for this request would be, or no token is accepted anyway.
    fn lacks_token(&self, request: &AccessRequest<'_>, trial: Trial) -> bool {
        let live =
            || self.policies.iter().flat_map(|policy| &policy.allows).filter(|rule| trial.is_live(rule));
        let mut concerned = live().filter(|rule| rule.body.concerns(request)).peekable();
        self.policies.iter().any(|policy| !policy.tokens.is_empty())
            && !live().any(|rule| rule.body.allows(request, None))
            && (concerned.peek().is_none() || concerned.any(|rule| rule.body.needs_token()))
    }

    fn screen_with(&self, request: &AccessRequest<'_>, trial: Trial) -> Option<Decision> {
        // (b)
        let denies = self.policies.iter().flat_map(|policy| &policy.denies);
        let mut tokenless = denies.filter(|rule| rule.body.needs_no_token() && trial.is_live(rule));
        if let Some(rule) = tokenless.find(|rule| rule.body.denies(request, None)) {
            return Some(deny(Reason::DeniedByRule, Some(rule.id)));
        }
        // (c)
        let mut publics = self.policies.iter().flat_map(|policy| &policy.publics);
        let open = publics.find(|rule| trial.is_live(rule) && rule.body.is_open_to(request))?;
        Some(match self.denied(request, trial, |_| None) {
            Some(rule) => deny(Reason::DeniedByRule, Some(rule)),
            None => Decision::Allow { rule: open.id, public: true },
        })
    }

    /// The first deny rule that hits, where each policy sees the token that it accepts, if any.
    fn denied<'t>(
        &self,
        request: &AccessRequest<'_>,
        trial: Trial,
        token: impl Fn(&Policy) -> Option<&'t Token>,
    ) -> Option<RuleId> {
        self.policies.iter().find_map(|policy| {
            let token = token(policy);
            let mut live = policy.denies.iter().filter(|rule| trial.is_live(rule));
            live.find(|rule| rule.body.denies(request, token)).map(|rule| rule.id)
        })
    }

    fn why_not_accepted(&self, token: &Token) -> Reason {
        let accepted = || self.policies.iter().flat_map(|policy| &policy.tokens);
        if accepted().any(|accepted| accepted.is_meant(token)) {
            Reason::BindingMismatch
        } else if accepted().any(|accepted| accepted.issuer == token.issuer) {
            Reason::WrongAudience
        } else {
            Reason::UnknownIssuer
        }
    }
}

// === impl Policy ===

impl Policy {
    /// The request's token, if it was verified and this policy accepts it.
    pub(crate) fn token<'a>(&self, request: &AccessRequest<'a>) -> Option<&'a Token> {
        match request.principal.token {
            Presented::Verified(token) if self.accepts(token) => Some(token),
            _ => None,
        }
    }
}

// === impl Trial ===

impl Trial {
    fn is_live(self, rule: &Rule) -> bool {
        !rule.body.shadow || self.0 == Some(rule.id)
    }
}

fn deny(reason: Reason, rule: Option<RuleId>) -> Decision {
    Decision::Deny { reason, rule }
}

#[cfg(test)]
mod tests;
