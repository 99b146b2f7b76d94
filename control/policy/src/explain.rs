//! Why was it decided so? Every policy of the port and each of its rules, with the first condition that keeps it from
//! matching, expected against found. The rules are judged by the functions that decide, never a second time otherwise.
//!
//! What an explanation shows of a request is what identifies it and its caller: method, path, host, address, SPIFFE ID, and
//! of a verified token who it is and the claims that a rule names. Never a header's value, a query or a token's text. All of
//! it is clipped, so that one takes a bounded room, whatever was asked and however much policy there is.

mod condition;
mod flaw;
mod question;
mod room;
mod text;
mod token;
mod weight;
mod words;

use std::net::IpAddr;

use serde::Serialize;

pub use condition::Condition;
pub use question::Question;
pub use text::plain_json;
pub use token::ShownToken;

use condition::{Part, Seen};
use room::Rank;
use words::clip;

use crate::inbound::{Decision, Policies, Policy, PortPolicy};
use crate::reason::Reason;
use crate::request::{AccessRequest, Presented, Token};
use crate::rule::{Judged, Rule, RuleBody};
use crate::snapshot::{Effect, RuleId};

/// A decision, with all that led to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub decision: Answer,
    /// Why it is denied: one of the closed list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The rule that decided, or lacks one thing only: `namespace/name/rule`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What is asked for is the resource's own metadata: the sidecar itself answers, and no rule is asked.
    #[serde(skip_serializing_if = "is_not")]
    pub metadata: bool,
    /// Audit policies alone select the port: what they deny passes.
    pub audit: bool,
    pub request: Requested,
    pub token: ShownToken,
    /// What was wrong with the token before any policy was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flaw: Option<Condition>,
    /// The SPIFFE ID of the client certificate; empty where that has none. Absent: there is no certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The policies that select the port, in the order in which they are judged.
    pub policies: Vec<PolicyExplained>,
    /// Policies that select the port too and are not shown, for want of room: neither the one that decided, nor, as long as
    /// there is room, one with rules that match.
    #[serde(skip_serializing_if = "is_zero")]
    pub more_policies: usize,
    /// Policies that do not select the workload or the port, and why. Known where all documents are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unselected: Vec<Unselected>,
}

/// Whether it may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    Allow,
    Deny,
}

/// What was asked for, and from where. Of a connection to a port that is not HTTP, only from where: all else is empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Requested {
    pub method: String,
    /// Without a query.
    pub path: String,
    pub host: String,
    pub grpc: bool,
    pub source: IpAddr,
}

/// A policy that selects the port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyExplained {
    /// `namespace/name`.
    pub policy: String,
    pub file: String,
    /// `enforce` or `audit`.
    pub mode: &'static str,
    /// Whether its `tokens` accept the token that was verified. Absent: there is none, or nobody looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepts_token: Option<bool>,
    /// And if not, why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_accepted: Option<Condition>,
    /// In the order in which they are judged: deny rules, public rules, allow rules.
    pub rules: Vec<RuleExplained>,
    /// Rules that are not shown, for want of room: those that are about other paths first, and never the one that decided.
    #[serde(skip_serializing_if = "is_zero")]
    pub more_rules: usize,
}

/// A rule, as it was judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleExplained {
    pub rule: String,
    /// Of the policy's file; 0 where it is not known.
    pub line: usize,
    pub effect: &'static str,
    pub public: bool,
    /// It decides nothing, whether it matches or not.
    pub shadow: bool,
    pub matched: bool,
    /// The first condition that keeps it from matching; or that cannot be told, which a deny rule matches in spite of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<Condition>,
    /// Of a deny rule that matches: why its `unless` does not spare the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_spared: Option<Condition>,
}

/// A policy that does not select the workload or the port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unselected {
    /// `namespace/name`.
    pub policy: String,
    pub file: String,
    pub condition: Condition,
}

/// A policy, with its rules as they were judged.
struct JudgedPolicy<'p> {
    policy: &'p Policy,
    mode: &'static str,
    /// It was decided without a look at the token.
    is_screened: bool,
    /// The token, if this policy accepts it.
    token: Option<&'p Token>,
    rules: Vec<JudgedRule<'p>>,
}

struct JudgedRule<'p> {
    rule: &'p Rule,
    judged: Judged<'p>,
    rank: Rank,
}

// === impl PortPolicy ===

impl PortPolicy {
    /// What is decided about this request, and why.
    pub fn explain(&self, request: &AccessRequest<'_>) -> Explanation {
        let deciding = self.enforce.as_ref().or(self.audit.as_ref());
        let decision = deciding.map_or(deny(Reason::NoRule), |deciding| deciding.decide(request));
        let metadata = matches!(self.described(request), Some(Ok(_)));
        let is_screened = metadata || deciding.is_some_and(|deciding| deciding.screen(request).is_some());
        let (answer, reason, rule) = match &decision {
            _ if metadata => (Answer::Allow, None, None),
            Decision::Allow { rule, .. } => (Answer::Allow, None, Some(*rule)),
            Decision::Deny { reason, rule } => (Answer::Deny, Some(reason.as_str()), *rule),
        };
        let mut judged = Vec::new();
        for (mode, group) in [("enforce", &self.enforce), ("audit", &self.audit)] {
            judged.extend(group.iter().flat_map(|group| group.judge(mode, request, rule)));
        }
        let all = judged.len();
        let policies: Vec<_> =
            room::shown(judged).iter().map(|(policy, more)| policy.explain(*more, request)).collect();
        Explanation {
            decision: answer,
            reason,
            rule: rule.zip(deciding).and_then(|(rule, deciding)| deciding.name(rule)),
            metadata,
            audit: self.enforce.is_none(),
            token: ShownToken::of(request, is_screened),
            peer: request.principal.peer.map(|peer| clip(peer.id.as_deref().unwrap_or_default())),
            more_policies: all.saturating_sub(policies.len()),
            policies,
            ..Explanation::refused(Requested::of(request), Reason::NoRule)
        }
    }
}

fn deny(reason: Reason) -> Decision {
    Decision::Deny { reason, rule: None }
}

// === impl Policies ===

impl Policies {
    fn judge<'p>(
        &'p self,
        mode: &'static str,
        request: &AccessRequest<'p>,
        decisive: Option<RuleId>,
    ) -> impl Iterator<Item = JudgedPolicy<'p>> {
        // Nobody looks at the token where policy decides without it.
        let is_screened = self.screen(request).is_some();
        self.policies.iter().map(move |policy| {
            let token = if is_screened { None } else { policy.token(request) };
            let rules = policy.rules().map(|rule| {
                let judged = rule.body.judge(request, token);
                JudgedRule { rule, judged, rank: Rank::of(rule, judged, decisive) }
            });
            JudgedPolicy { policy, mode, is_screened, token, rules: rules.collect() }
        })
    }

    /// `namespace/name/rule`
    fn name(&self, id: RuleId) -> Option<String> {
        let mut rules =
            self.policies.iter().flat_map(|policy| policy.rules().map(move |rule| (policy, rule)));
        let (policy, rule) = rules.find(|(_, rule)| rule.id == id)?;
        Some(format!("{}/{}", policy.name, rule.body.name))
    }
}

// === impl Policy ===

impl Policy {
    /// In the order in which they are judged.
    fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.denies.iter().chain(&self.publics).chain(&self.allows)
    }
}

// === impl JudgedPolicy ===

impl JudgedPolicy<'_> {
    /// `more`: so many of its rules have no room.
    fn explain(&self, more: usize, request: &AccessRequest<'_>) -> PolicyExplained {
        let &Self { policy, mode, is_screened, token, .. } = self;
        let shown = match request.principal.token {
            Presented::Verified(token) if !is_screened => Some(token),
            _ => None,
        };
        let seen = Seen { request, token, is_screened };
        let not_accepted = shown.filter(|_| token.is_none());
        PolicyExplained {
            policy: policy.name.clone(),
            file: clip(&policy.file),
            mode,
            accepts_token: shown.map(|_| token.is_some()),
            not_accepted: not_accepted.map(|token| token::not_accepted(&policy.tokens, token)),
            rules: self.rules.iter().map(|rule| rule.rule.body.explain(rule.judged, &seen)).collect(),
            more_rules: more,
        }
    }
}

// === impl RuleBody ===

impl RuleBody {
    /// As it decides. `token` is one that the rule's own policy accepts; a public rule does not look at it.
    fn judge(&self, request: &AccessRequest<'_>, token: Option<&Token>) -> Judged<'_> {
        match (self.effect, self.public) {
            (Effect::Deny, _) => self.judge_deny(request, token),
            (Effect::Allow, true) => self.judge_allow(request, None),
            (Effect::Allow, false) => self.judge_allow(request, token),
        }
    }

    /// What cannot be told is a match for deny, and none for allow.
    fn is_met(&self, judged: Judged<'_>) -> bool {
        match judged {
            Judged::Yes => true,
            Judged::No(_) => false,
            Judged::Unknown(_) => self.effect == Effect::Deny,
        }
    }

    fn explain(&self, judged: Judged<'_>, seen: &Seen<'_>) -> RuleExplained {
        let matched = self.is_met(judged);
        RuleExplained {
            rule: self.name.clone(),
            line: self.line,
            effect: match self.effect {
                Effect::Allow => "allow",
                Effect::Deny => "deny",
            },
            public: self.public,
            shadow: self.shadow,
            matched,
            condition: condition::of(judged, self, Part::From, seen),
            not_spared: self.unless.as_ref().filter(|_| matched).and_then(|unless| {
                condition::of(unless.judge(seen.request, seen.token), self, Part::Unless, seen)
            }),
        }
    }
}

// === impl Explanation ===

impl Explanation {
    /// Refused before any policy was asked.
    pub fn refused(request: Requested, reason: Reason) -> Self {
        Self {
            decision: Answer::Deny,
            reason: Some(reason.as_str()),
            rule: None,
            metadata: false,
            audit: false,
            request,
            token: ShownToken::NotLookedAt,
            flaw: None,
            peer: None,
            policies: Vec::new(),
            more_policies: 0,
            unselected: Vec::new(),
        }
    }

    /// Is it the token that was refused, before any rule was asked?
    fn is_about_token(&self) -> bool {
        // Of a token that was verified, for these reasons alone: no policy that decides accepts it.
        let unfit = [Reason::UnknownIssuer, Reason::WrongAudience, Reason::BindingMismatch];
        match self.token {
            ShownToken::Refused { .. } => true,
            ShownToken::Verified { .. } => unfit.iter().any(|unfit| self.reason == Some(unfit.as_str())),
            ShownToken::None | ShownToken::NotLookedAt => false,
        }
    }

    /// Is it let through, by a rule or because policy is in audit mode?
    pub fn passes(&self) -> bool {
        self.decision == Answer::Allow || self.audit
    }
}

// === impl Requested ===

impl Requested {
    fn of(request: &AccessRequest<'_>) -> Self {
        Self {
            method: clip(request.method),
            path: if request.method.is_empty() { String::new() } else { clip(request.path.as_str()) },
            host: clip(request.host),
            grpc: request.grpc,
            source: request.source,
        }
    }
}

fn is_not(is_so: &bool) -> bool {
    !is_so
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests;
