//! Does a rule match? The compiled conditions of an inbound rule, and how they are judged (semantics 3 and 4).

mod claims;
mod grpc;
mod headers;
mod peers;

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::condition::{Condition, Subject};
use crate::host::HostPattern;
use crate::path::{CanonicalPath, PathPattern};
use crate::request::{AccessRequest, Token};
use crate::snapshot::{Effect, RuleId};

use claims::one;
pub(crate) use claims::{ClaimTest, is_comparable};
pub(crate) use grpc::GrpcPattern;
pub(crate) use headers::HeaderTest;
pub(crate) use peers::{Network, PeerPattern};

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
    /// Of its file, from one; 0 where none is known.
    pub(crate) line: usize,
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
    /// All of them are demanded.
    pub(crate) headers: Vec<HeaderTest>,
    pub(crate) grpc: Vec<GrpcPattern>,
    /// `rawPaths`, of an allow rule: each of its paths ends in `*` and admits raw paths below.
    pub(crate) raw_paths: bool,
}

/// Who asks, by what token, certificate and address say. An empty list matches all.
#[derive(Debug, Default)]
pub(crate) struct From {
    /// Met only with a token that the rule's policy accepts.
    pub(crate) needs_token: bool,
    /// Met only with a client certificate that was verified.
    pub(crate) needs_certificate: bool,
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
    pub(crate) peers: Vec<PeerPattern>,
    pub(crate) service_accounts: Vec<PeerPattern>,
    /// Of the direct peer.
    pub(crate) sources: Vec<Network>,
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
    /// Of this name, in lower case.
    Header(&'r str),
    Grpc,
    /// No token that the rule's policy accepts.
    Token,
    /// No client certificate.
    Certificate,
    Peers,
    ServiceAccounts,
    Sources,
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
        let conditions = self.from.iter().chain(&self.unless);
        self.when.is_none()
            && !self.to.needs_claims()
            && !conditions.into_iter().any(|condition| condition.needs_token)
    }

    /// Does it look at header fields?
    pub(crate) fn reads_headers(&self) -> bool {
        !self.to.headers.is_empty() || self.when.as_ref().is_some_and(Condition::reads_headers)
    }

    /// Does it look at header fields of what is asked for, whoever asks and whatever they say?
    pub(crate) fn reads_headers_of(&self, request: &AccessRequest<'_>) -> bool {
        self.reads_headers() && !matches!(self.to.judge_target(request, self.effect, None), Judged::No(_))
    }

    /// A deny rule: does it hit? `token` is one that the rule's own policy accepts.
    pub(crate) fn denies(&self, request: &AccessRequest<'_>, token: Option<&Token>) -> bool {
        !matches!(self.judge_deny(request, token), Judged::No(_))
    }

    /// A public allow rule: does it match?
    pub(crate) fn is_open_to(&self, request: &AccessRequest<'_>) -> bool {
        self.public && self.judge_allow(request, None) == Judged::Yes
    }

    /// An allow rule with `from`: does it match this caller? `token` is one that the rule's own policy accepts.
    pub(crate) fn allows(&self, request: &AccessRequest<'_>, token: Option<&Token>) -> bool {
        self.judge_allow(request, token) == Judged::Yes
    }

    /// An allow rule: can it be about what is asked for, whoever asks?
    pub(crate) fn concerns(&self, request: &AccessRequest<'_>) -> bool {
        !matches!(self.to.judge_allow(request, None), Judged::No(_))
    }

    /// An allow rule: is it about what is asked for, by a caller with this token?
    pub(crate) fn is_about(&self, request: &AccessRequest<'_>, token: Option<&Token>) -> bool {
        self.to.judge_allow(request, token.map(|token| &token.claims)) == Judged::Yes
    }

    /// An allow rule that [is about](Self::is_about) what is asked for: does it match this caller?
    pub(crate) fn admits(&self, request: &AccessRequest<'_>, token: Option<&Token>) -> bool {
        self.judge_caller(request, token) == Judged::Yes
    }

    /// An allow rule: is it satisfied only with a token?
    pub(crate) fn needs_token(&self) -> bool {
        let shows_token = self.from.as_ref().is_none_or(|from| from.needs_token);
        shows_token || self.to.needs_claims() || self.when_reads_claims()
    }

    /// Does `when` ask what a token says? Without a token that cannot be told.
    pub(crate) fn when_reads_claims(&self) -> bool {
        self.when.as_ref().is_some_and(|when| when.reads_claims)
    }

    /// An allow rule: does it match in all but its scopes?
    pub(crate) fn lacks_only_scopes(&self, request: &AccessRequest<'_>, token: Option<&Token>) -> bool {
        let Some((from, token)) = self.from.as_ref().zip(token) else { return false };
        !from.has_scopes(token)
            && from.judge_shown(request, Some(token)).and(|| from.judge_claimed(token)) == Judged::Yes
            && self.is_about(request, Some(token))
            && self.judge_when(request, Some(token)) == Judged::Yes
    }

    /// An allow rule: does it match in all but that no certificate was shown?
    pub(crate) fn lacks_only_certificate(&self, request: &AccessRequest<'_>, token: Option<&Token>) -> bool {
        let but_certificate = |from: &From| {
            request.principal.peer.is_none()
                && from.needs_certificate
                && from.judge_all_but_certificate(request, token) == Judged::Yes
        };
        self.from.as_ref().is_some_and(but_certificate)
            && self.is_about(request, token)
            // What it says of the peer cannot be told.
            && !matches!(self.judge_when(request, token), Judged::No(_))
    }

    /// An allow rule: `to`, then `from`, then `when`.
    pub(crate) fn judge_allow(&self, request: &AccessRequest<'_>, token: Option<&Token>) -> Judged<'_> {
        self.to
            .judge_allow(request, token.map(|token| &token.claims))
            .and(|| self.judge_caller(request, token))
    }

    fn judge_caller(&self, request: &AccessRequest<'_>, token: Option<&Token>) -> Judged<'_> {
        let from = match &self.from {
            None => Judged::of(self.public, Word::Token),
            Some(from) => from.judge(request, token),
        };
        from.and(|| self.judge_when(request, token))
    }

    /// A deny rule: `to`, then `from`, then `unless`, then `when`.
    pub(crate) fn judge_deny(&self, request: &AccessRequest<'_>, token: Option<&Token>) -> Judged<'_> {
        self.to
            .judge_deny(request, token.map(|token| &token.claims))
            .and(|| self.from.as_ref().map_or(Judged::Yes, |from| from.judge(request, token)))
            .and(|| {
                let is_spared = |unless: &From| unless.judge(request, token) == Judged::Yes;
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
    /// Does what it matches depend on the token?
    fn needs_claims(&self) -> bool {
        self.paths.iter().any(PathPattern::needs_claims)
    }

    fn judge_allow(&self, request: &AccessRequest<'_>, claims: Option<&Map<String, Value>>) -> Judged<'_> {
        self.judge_target(request, Effect::Allow, claims).and(|| self.judge_headers(request, Effect::Allow))
    }

    fn judge_deny(&self, request: &AccessRequest<'_>, claims: Option<&Map<String, Value>>) -> Judged<'_> {
        self.judge_target(request, Effect::Deny, claims).and(|| self.judge_headers(request, Effect::Deny))
    }

    /// All but the header fields.
    fn judge_target(
        &self,
        request: &AccessRequest<'_>,
        effect: Effect,
        claims: Option<&Map<String, Value>>,
    ) -> Judged<'_> {
        // Paths first: they tell most rules apart, at the least cost.
        self.judge_paths(request.path, claims)
            .and(|| self.judge_grpc(request, effect))
            .and(|| Judged::of(any(&self.methods, |method| method == request.method), Word::Methods))
            .and(|| Judged::of(any(&self.hosts, |host| host.matches(request.host)), Word::Hosts))
    }

    /// A raw path is allowed by nothing but what admits it. A server may take for gRPC what does not say so: only the path counts
    /// where a call is denied.
    fn judge_grpc(&self, request: &AccessRequest<'_>, effect: Effect) -> Judged<'_> {
        match effect {
            Effect::Allow => {
                let is_grpc = |grpc: &GrpcPattern| request.grpc && grpc.matches(request.path.as_str());
                Judged::of(self.raw_paths || !request.path.is_raw(), Word::Paths)
                    .and(|| Judged::of(any(&self.grpc, is_grpc), Word::Grpc))
            }
            Effect::Deny if self.grpc.is_empty() => Judged::Yes,
            Effect::Deny => {
                let is_grpc = |grpc: &GrpcPattern| grpc.judge(request.path);
                Judged::told(one(self.grpc.iter().map(is_grpc)), Word::Grpc)
            }
        }
    }

    fn judge_paths(&self, path: &CanonicalPath<'_>, claims: Option<&Map<String, Value>>) -> Judged<'_> {
        if self.paths.is_empty() {
            return Judged::Yes;
        }
        Judged::told(one(self.paths.iter().map(|pattern| pattern.judge(path, claims))), Word::Paths)
    }

    fn judge_headers(&self, request: &AccessRequest<'_>, effect: Effect) -> Judged<'_> {
        self.headers.iter().fold(Judged::Yes, |judged, header| {
            judged.and(|| Judged::told(header.judge(request.headers, effect), Word::Header(&header.name)))
        })
    }
}

/// One of the values, or no value at all.
fn any<T>(values: &[T], matches: impl Fn(&T) -> bool) -> bool {
    values.is_empty() || values.iter().any(matches)
}

// === impl From ===

impl From {
    /// What is shown, then what it says.
    pub(crate) fn judge(&self, request: &AccessRequest<'_>, token: Option<&Token>) -> Judged<'_> {
        self.judge_shown(request, token).and(|| token.map_or(Judged::Yes, |token| self.judge_token(token)))
    }

    fn judge_all_but_certificate(&self, request: &AccessRequest<'_>, token: Option<&Token>) -> Judged<'_> {
        Judged::of(token.is_some() || !self.needs_token, Word::Token)
            .and(|| self.judge_source(request))
            .and(|| token.map_or(Judged::Yes, |token| self.judge_token(token)))
    }

    /// That what it needs is there, and all that is not in the token.
    fn judge_shown(&self, request: &AccessRequest<'_>, token: Option<&Token>) -> Judged<'_> {
        let peer = request.principal.peer;
        let is_peer =
            |one: &PeerPattern| peer.and_then(|peer| peer.id.as_deref()).is_some_and(|id| one.matches(id));
        Judged::of(token.is_some() || !self.needs_token, Word::Token)
            .and(|| Judged::of(peer.is_some() || !self.needs_certificate, Word::Certificate))
            .and(|| Judged::of(any(&self.peers, is_peer), Word::Peers))
            .and(|| Judged::of(any(&self.service_accounts, is_peer), Word::ServiceAccounts))
            .and(|| self.judge_source(request))
    }

    fn judge_source(&self, request: &AccessRequest<'_>) -> Judged<'_> {
        Judged::of(any(&self.sources, |network| network.contains(request.source)), Word::Sources)
    }

    fn judge_token(&self, token: &Token) -> Judged<'_> {
        Judged::of(self.has_scopes(token), Word::Scopes).and(|| self.judge_claimed(token))
    }

    fn has_scopes(&self, token: &Token) -> bool {
        self.scopes.iter().all(|scope| token.scopes.contains(scope))
    }

    /// All that the token says but its scopes.
    fn judge_claimed(&self, token: &Token) -> Judged<'_> {
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
            judged.and(|| {
                let holds = claims.get(name).map_or(Some(false), |claim| test.holds(claim));
                Judged::told(holds, Word::Claim(name))
            })
        })
    }
}

// === impl Judged ===

impl<'r> Judged<'r> {
    fn of(holds: bool, word: Word<'r>) -> Self {
        if holds { Self::Yes } else { Self::No(word) }
    }

    /// `None`: it cannot be told.
    fn told(holds: Option<bool>, word: Word<'r>) -> Self {
        holds.map_or(Self::Unknown(word), |holds| Self::of(holds, word))
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
