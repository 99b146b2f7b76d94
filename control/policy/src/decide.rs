//! May it pass? The decision over the policies of one port, step by step in the order of semantics 5.

use crate::inbound::{Decision, Policies, Policy, Shadow};
use crate::reason::Reason;
use crate::request::{AccessRequest, Presented, Token};
use crate::rule::Rule;
use crate::snapshot::RuleId;

/// The one shadow rule that is taken for live, if any.
#[derive(Clone, Copy)]
struct Trial(Option<RuleId>);

// === impl Policies ===

impl Policies {
    /// What needs no token to be judged: a deny (semantics 5b), or a public rule (5c). `None`: a token is to be looked at
    /// next, then [`Policies::decide`]. The request's principal may be empty; it is not read but for its peer.
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
            let allows = allows.filter(|rule| token.is_some_and(|token| rule.body.allows(request, token)));
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
        // (d) No rule of this version can be satisfied by a certificate alone, so a token is demanded.
        let token = match request.principal.token {
            Presented::Nothing => return deny(Reason::MissingToken, None),
            Presented::Rejected(reason) => return deny(reason, None),
            Presented::Verified(token) => token,
        };
        if !self.accepts(token) {
            return deny(self.why_not_accepted(token), None);
        }
        // (e)
        if let Some(rule) = self.denied(request, trial, |policy| policy.accepts(token).then_some(token)) {
            return deny(Reason::DeniedByRule, Some(rule));
        }
        let accepting = || self.policies.iter().filter(|policy| policy.accepts(token));
        let allows = || accepting().flat_map(|policy| &policy.allows).filter(|rule| trial.is_live(rule));
        if let Some(rule) = allows().find(|rule| rule.body.allows(request, token)) {
            return Decision::Allow { rule: rule.id, public: false };
        }
        match allows().find(|rule| rule.body.lacks_only_scopes(request, token)) {
            Some(rule) => deny(Reason::InsufficientScope, Some(rule.id)),
            None => deny(Reason::NoRule, None),
        }
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
    fn token<'a>(&self, request: &AccessRequest<'a>) -> Option<&'a Token> {
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
