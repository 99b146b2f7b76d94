//! Does a rule match? The compiled conditions of an inbound rule, and how they are judged (semantics 3 and 4).

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::condition::{Condition, Subject};
use crate::host::HostPattern;
use crate::path::PathPattern;
use crate::request::{AccessRequest, Token};
use crate::snapshot::{Effect, RuleId};

/// An inbound rule, as it runs.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) id: RuleId,
    pub(crate) body: Arc<RuleBody>,
}

/// What a rule says, whoever the workload is.
#[derive(Debug)]
pub(crate) struct RuleBody {
    pub(crate) name: String,
    pub(crate) effect: Effect,
    pub(crate) public: bool,
    pub(crate) shadow: bool,
    pub(crate) to: To,
    pub(crate) from: Option<From>,
    pub(crate) unless: Option<From>,
    pub(crate) when: Option<Condition>,
}

/// What is asked for. An empty list matches all.
#[derive(Debug, Default)]
pub(crate) struct To {
    pub(crate) methods: Vec<String>,
    pub(crate) paths: Vec<PathPattern>,
    pub(crate) hosts: Vec<HostPattern>,
    pub(crate) grpc: Vec<GrpcPattern>,
}

/// `pkg.Service/Method`, or `pkg.Service/*`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GrpcPattern {
    pub(crate) service: String,
    /// Absent: every method.
    pub(crate) method: Option<String>,
}

/// Who asks, by what the token says. An empty list matches all.
#[derive(Debug, Default)]
pub(crate) struct From {
    /// The exact `iss` of each.
    pub(crate) issuers: Vec<Arc<str>>,
    /// All of them are demanded.
    pub(crate) scopes: Vec<String>,
    pub(crate) clients: Vec<String>,
    pub(crate) subjects: Vec<String>,
    pub(crate) roles: Vec<String>,
    pub(crate) claims: Vec<(String, ClaimTest)>,
    /// Only with a token that is bound to a certificate or key.
    pub(crate) bound: bool,
}

/// What a claim must be, in the token's own shape.
#[derive(Debug, PartialEq)]
pub(crate) enum ClaimTest {
    /// One of these strings, integers or booleans; or a list that holds one.
    OneOf(Vec<Value>),
    /// An object with these members.
    Members(Vec<(String, ClaimTest)>),
}

/// Whether a rule, or a part of one, holds; and if not, the first condition that keeps it from holding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judged<'r> {
    Yes,
    No(Word<'r>),
    /// What is compared has a shape that cannot be compared: a match for deny, none for allow.
    Unknown(Word<'r>),
}

/// A condition, by the word of the rule that it is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word<'r> {
    Methods,
    Paths,
    Hosts,
    Grpc,
    /// No token that the rule's policy accepts.
    Token,
    Issuers,
    Scopes,
    Clients,
    Subjects,
    Roles,
    /// A claim at the top level of `claims`.
    Claim(&'r str),
    Binding,
    /// Of a deny rule: the caller is spared.
    Unless,
    When,
}

// === impl RuleBody ===

impl RuleBody {
    /// A deny that needs no token to be judged (semantics 5b).
    pub(crate) fn needs_no_token(&self) -> bool {
        self.from.is_none() && self.unless.is_none() && self.when.is_none()
    }

    /// A deny rule: does it hit? `token` is one that the rule's own policy accepts.
    pub(crate) fn denies(&self, request: &AccessRequest<'_>, token: Option<&Token>) -> bool {
        !matches!(self.judge_deny(request, token), Judged::No(_))
    }

    /// A public allow rule: does it match?
    pub(crate) fn is_open_to(&self, request: &AccessRequest<'_>) -> bool {
        self.public && self.judge_allow(request, None) == Judged::Yes
    }

    /// An allow rule with `from`: does it match this caller?
    pub(crate) fn allows(&self, request: &AccessRequest<'_>, token: &Token) -> bool {
        self.judge_allow(request, Some(token)) == Judged::Yes
    }

    /// An allow rule: does it match in all but its scopes?
    pub(crate) fn lacks_only_scopes(&self, request: &AccessRequest<'_>, token: &Token) -> bool {
        let but_scopes =
            |from: &From| !from.has_scopes(token) && from.judge_all_but_scopes(token) == Judged::Yes;
        self.from.as_ref().is_some_and(but_scopes)
            && self.to.judge(request, Some(&token.claims)) == Judged::Yes
            && self.judge_when(request, Some(token)) == Judged::Yes
    }

    /// An allow rule: `to`, then `from`, then `when`.
    pub(crate) fn judge_allow(&self, request: &AccessRequest<'_>, token: Option<&Token>) -> Judged<'_> {
        self.to
            .judge(request, token.map(|token| &token.claims))
            .and(|| match &self.from {
                None => Judged::of(self.public, Word::Token),
                Some(from) => token.map_or(Judged::No(Word::Token), |token| from.judge(token)),
            })
            .and(|| self.judge_when(request, token))
    }

    /// A deny rule: `to`, then `from`, then `unless`, then `when`.
    pub(crate) fn judge_deny(&self, request: &AccessRequest<'_>, token: Option<&Token>) -> Judged<'_> {
        // A server may take for gRPC what does not say so: only the path counts where a call is denied.
        let request = &AccessRequest { grpc: true, ..*request };
        self.to
            .judge(request, None)
            .and(|| match &self.from {
                None => Judged::Yes,
                Some(from) => token.map_or(Judged::No(Word::Token), |token| from.judge(token)),
            })
            .and(|| {
                let is_spared = |unless: &From| token.is_some_and(|token| unless.judge(token) == Judged::Yes);
                Judged::of(!self.unless.as_ref().is_some_and(is_spared), Word::Unless)
            })
            .and(|| self.judge_when(request, token))
    }

    fn judge_when(&self, request: &AccessRequest<'_>, token: Option<&Token>) -> Judged<'_> {
        let Some(when) = &self.when else { return Judged::Yes };
        let claims = token.map(|token| &token.claims);
        match when.holds(&Subject { request, claims, patterns: &self.to.paths }) {
            Some(holds) => Judged::of(holds, Word::When),
            None => Judged::Unknown(Word::When),
        }
    }
}

// === impl To ===

impl To {
    fn judge(&self, request: &AccessRequest<'_>, claims: Option<&Map<String, Value>>) -> Judged<'_> {
        let is_grpc = |grpc: &GrpcPattern| request.grpc && grpc.matches(request.path.as_str());
        // Paths first: they tell most rules apart, at the least cost.
        Judged::of(any(&self.paths, |path| path.matches(request.path, claims)), Word::Paths)
            .and(|| Judged::of(any(&self.methods, |method| method == request.method), Word::Methods))
            .and(|| Judged::of(any(&self.grpc, is_grpc), Word::Grpc))
            .and(|| Judged::of(any(&self.hosts, |host| host.matches(request.host)), Word::Hosts))
    }
}

/// One of the values, or no value at all.
fn any<T>(values: &[T], matches: impl Fn(&T) -> bool) -> bool {
    values.is_empty() || values.iter().any(matches)
}

// === impl GrpcPattern ===

impl GrpcPattern {
    fn matches(&self, path: &str) -> bool {
        let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else {
            return false;
        };
        let is_method = match &self.method {
            Some(wanted) => method == wanted,
            None => !method.is_empty() && !method.contains('/'),
        };
        service == self.service && is_method
    }
}

// === impl From ===

impl From {
    pub(crate) fn judge(&self, token: &Token) -> Judged<'_> {
        Judged::of(self.has_scopes(token), Word::Scopes).and(|| self.judge_all_but_scopes(token))
    }

    fn has_scopes(&self, token: &Token) -> bool {
        self.scopes.iter().all(|scope| token.scopes.contains(scope))
    }

    fn judge_all_but_scopes(&self, token: &Token) -> Judged<'_> {
        let is_one = |wanted: &[String], actual: Option<&String>| {
            wanted.is_empty() || actual.is_some_and(|actual| wanted.contains(actual))
        };
        Judged::of(any(&self.issuers, |issuer| **issuer == *token.issuer), Word::Issuers)
            .and(|| Judged::of(is_one(&self.clients, token.client.as_ref()), Word::Clients))
            .and(|| Judged::of(is_one(&self.subjects, token.subject.as_ref()), Word::Subjects))
            .and(|| Judged::of(any(&self.roles, |role| token.roles.contains(role)), Word::Roles))
            .and(|| Judged::of(!self.bound || token.is_bound(), Word::Binding))
            .and(|| self.judge_claims(&token.claims))
    }

    /// All of the claims. One that is not there is not met.
    fn judge_claims(&self, claims: &Map<String, Value>) -> Judged<'_> {
        self.claims.iter().fold(Judged::Yes, |judged, (name, test)| {
            judged.and(|| match claims.get(name).map_or(Some(false), |claim| test.holds(claim)) {
                Some(holds) => Judged::of(holds, Word::Claim(name)),
                None => Judged::Unknown(Word::Claim(name)),
            })
        })
    }
}

// === impl ClaimTest ===

impl ClaimTest {
    /// `None`: the claim has a shape that cannot be compared.
    fn holds(&self, claim: &Value) -> Option<bool> {
        match (self, claim) {
            (Self::Members(tests), Value::Object(claims)) => all(tests
                .iter()
                .map(|(name, test)| claims.get(name).map_or(Some(false), |claim| test.holds(claim)))),
            (Self::Members(_), _) => None,
            (Self::OneOf(wanted), Value::Array(items)) => {
                one(items.iter().map(|item| is_one_of(wanted, item)))
            }
            (Self::OneOf(wanted), claim) => is_one_of(wanted, claim),
        }
    }
}

fn is_one_of(wanted: &[Value], claim: &Value) -> Option<bool> {
    is_comparable(claim).then(|| wanted.contains(claim))
}

/// Do all hold? One that does not outweighs those that cannot be told.
fn all(tests: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    outweighed_by(false, tests)
}

/// Does one hold? One that does outweighs those that cannot be told.
fn one(tests: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    outweighed_by(true, tests)
}

fn outweighed_by(decisive: bool, tests: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut others = Some(!decisive);
    for test in tests {
        match test {
            Some(test) if test == decisive => return Some(decisive),
            Some(_) => {}
            None => others = None,
        }
    }
    others
}

/// Strings, integers and booleans compare, as they are; nothing else does.
pub(crate) fn is_comparable(value: &Value) -> bool {
    match value {
        Value::String(_) | Value::Bool(_) => true,
        Value::Number(number) => !number.is_f64(),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

// === impl Judged ===

impl<'r> Judged<'r> {
    fn of(holds: bool, word: Word<'r>) -> Self {
        if holds { Self::Yes } else { Self::No(word) }
    }

    /// `No` outweighs `Unknown`, which outweighs `Yes`.
    fn and(self, other: impl FnOnce() -> Self) -> Self {
        match self {
            Self::No(word) => Self::No(word),
            Self::Yes => other(),
            Self::Unknown(word) => match other() {
                Self::No(other) => Self::No(other),
                Self::Yes | Self::Unknown(_) => Self::Unknown(word),
            },
        }
    }
}

#[cfg(test)]
mod tests;
