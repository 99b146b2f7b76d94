//! Does a rule match? The compiled conditions of an inbound rule, and how they are judged (semantics 3 and 4).

use std::sync::Arc;

use serde_json::{Map, Value};

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

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Yes,
    No,
    /// The claim has a shape that cannot be compared: a match for deny, none for allow.
    Unknown,
}

// === impl RuleBody ===

impl RuleBody {
    /// A deny that needs no token to be judged (semantics 5b).
    pub(crate) fn needs_no_token(&self) -> bool {
        self.from.is_none() && self.unless.is_none()
    }

    /// A deny rule: does it hit? `token` is one that the rule's own policy accepts.
    pub(crate) fn denies(&self, request: &AccessRequest<'_>, token: Option<&Token>) -> bool {
        // A server may take for gRPC what does not say so: only the path counts where a call is denied.
        let request = &AccessRequest { grpc: true, ..*request };
        let is_from = |from: &From| token.is_some_and(|token| from.judge(token) != Verdict::No);
        let is_spared = |unless: &From| token.is_some_and(|token| unless.judge(token) == Verdict::Yes);
        self.to.matches(request, None)
            && self.from.as_ref().is_none_or(is_from)
            && !self.unless.as_ref().is_some_and(is_spared)
    }

    /// A public allow rule: does it match?
    pub(crate) fn is_open_to(&self, request: &AccessRequest<'_>) -> bool {
        self.public && self.to.matches(request, None)
    }

    /// An allow rule with `from`: does it match this caller?
    pub(crate) fn allows(&self, request: &AccessRequest<'_>, token: &Token) -> bool {
        self.from.as_ref().is_some_and(|from| from.judge(token) == Verdict::Yes)
            && self.to.matches(request, Some(&token.claims))
    }

    /// An allow rule: does it match in all but its scopes?
    pub(crate) fn lacks_only_scopes(&self, request: &AccessRequest<'_>, token: &Token) -> bool {
        self.from
            .as_ref()
            .is_some_and(|from| !from.has_scopes(token) && from.judge_all_but_scopes(token) == Verdict::Yes)
            && self.to.matches(request, Some(&token.claims))
    }
}

// === impl To ===

impl To {
    fn matches(&self, request: &AccessRequest<'_>, claims: Option<&Map<String, Value>>) -> bool {
        any(&self.methods, |method| method == request.method)
            && any(&self.hosts, |host| host.matches(request.host))
            && any(&self.paths, |path| path.matches(request.path, claims))
            && any(&self.grpc, |grpc| request.grpc && grpc.matches(request.path.as_str()))
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
    pub(crate) fn judge(&self, token: &Token) -> Verdict {
        Verdict::of(self.has_scopes(token)).and(|| self.judge_all_but_scopes(token))
    }

    fn has_scopes(&self, token: &Token) -> bool {
        self.scopes.iter().all(|scope| token.scopes.contains(scope))
    }

    fn judge_all_but_scopes(&self, token: &Token) -> Verdict {
        let is_one = |wanted: &[String], actual: Option<&String>| {
            wanted.is_empty() || actual.is_some_and(|actual| wanted.contains(actual))
        };
        let plain = any(&self.issuers, |issuer| **issuer == *token.issuer)
            && is_one(&self.clients, token.client.as_ref())
            && is_one(&self.subjects, token.subject.as_ref())
            && any(&self.roles, |role| token.roles.contains(role))
            && (!self.bound || token.is_bound());
        Verdict::of(plain).and(|| judge_members(&self.claims, &token.claims))
    }
}

// === impl ClaimTest ===

impl ClaimTest {
    fn judge(&self, claim: &Value) -> Verdict {
        match (self, claim) {
            (Self::Members(members), Value::Object(claim)) => judge_members(members, claim),
            (Self::Members(_), _) => Verdict::Unknown,
            (Self::OneOf(wanted), Value::Array(items)) => {
                let verdicts = items.iter().map(|item| judge_scalar(wanted, item));
                verdicts.fold(Verdict::No, Verdict::or)
            }
            (Self::OneOf(wanted), claim) => judge_scalar(wanted, claim),
        }
    }
}

/// All of the members. One that is not there is not met.
fn judge_members(tests: &[(String, ClaimTest)], claims: &Map<String, Value>) -> Verdict {
    tests.iter().fold(Verdict::Yes, |verdict, (name, test)| {
        verdict.and(|| claims.get(name).map_or(Verdict::No, |claim| test.judge(claim)))
    })
}

fn judge_scalar(wanted: &[Value], claim: &Value) -> Verdict {
    if is_comparable(claim) { Verdict::of(wanted.contains(claim)) } else { Verdict::Unknown }
}

/// Strings, integers and booleans compare, as they are; nothing else does.
pub(crate) fn is_comparable(value: &Value) -> bool {
    match value {
        Value::String(_) | Value::Bool(_) => true,
        Value::Number(number) => !number.is_f64(),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

// === impl Verdict ===

impl Verdict {
    fn of(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }

    /// `No` outweighs `Unknown`, which outweighs `Yes`.
    fn and(self, other: impl FnOnce() -> Self) -> Self {
        match self {
            Self::No => Self::No,
            Self::Yes => other(),
            Self::Unknown if other() == Self::No => Self::No,
            Self::Unknown => Self::Unknown,
        }
    }

    /// `Yes` outweighs `Unknown`, which outweighs `No`.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Yes, _) | (_, Self::Yes) => Self::Yes,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::No, Self::No) => Self::No,
        }
    }
}

#[cfg(test)]
mod tests;
