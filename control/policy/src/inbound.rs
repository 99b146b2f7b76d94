//! Whom do we let in? The compiled inbound policies of each port, and what they show to the application.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::path::CanonicalPath;
use crate::profile::Profile;
use crate::reason::Reason;
use crate::request::{AccessRequest, Token};
use crate::rule::Rule;
use crate::snapshot::{InboundTls, IntrospectionId, Issuer, IssuerId, RuleId, Snapshot, Timeouts};

/// Ports, each with the policies that select it.
#[derive(Debug, Default)]
pub(crate) struct InboundTable {
    /// Ports that policies name, in order.
    pub(crate) named: Vec<(u16, PortPolicy)>,
    /// Every other port, where a policy names none.
    pub(crate) others: Option<PortPolicy>,
    /// The policy and place of each rule, by [`RuleId`].
    pub(crate) rules: Vec<(Arc<Policy>, Rule)>,
}

/// What is spoken on a port, as policy says. Nobody guesses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortProtocol {
    /// Each request is judged.
    #[default]
    Http,
    /// The connection is judged, by certificate (where we serve TLS) and address; then bytes pass as they are.
    Tcp,
    /// The same, and the bytes are the application's own TLS.
    Tls,
}

/// The policies that select one port of the workload.
#[derive(Debug)]
pub struct PortPolicy {
    /// What is spoken there, as all of them say.
    pub protocol: PortProtocol,
    /// Policies with `mode: enforce`. Where there is one, these alone decide.
    pub enforce: Option<Policies>,
    /// Policies with `mode: audit`: decided apart and recorded.
    pub audit: Option<Policies>,
    /// The header names that `forwardClaims` of any of these policies sets, lower case, with `-`. Stripped from every
    /// request on the port, also when spelled with `_`.
    pub identity_headers: Vec<String>,
    /// The shortest that the deciding policies write, each.
    pub timeouts: Timeouts,
    /// The one issuer that is asked about opaque tokens, by any of these policies. `None`: there are no opaque tokens.
    pub introspection: Option<IntrospectionId>,
    /// What it says of itself to clients, where a policy turns it on.
    pub resource: Option<ProtectedResource>,
    /// Does any of them demand tokens that are bound to a certificate or key, at least for some requests?
    pub wants_bound: bool,
    /// Does any rule look at header fields, one in shadow or audit too? Then whoever may have to ask again for a request keeps them.
    pub reads_headers: bool,
    /// What every policy says that writes `tls`, whatever its mode. `None`: the port is spoken to in plain text.
    pub tls: Option<InboundTls>,
}

/// A resource as clients know it (RFC 9728).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtectedResource {
    /// Its identifier, an https URL: the audience that clients ask for, as policy writes it.
    pub resource: String,
    /// Where its metadata is (§3.1), for challenges.
    pub metadata_url: String,
    /// The path of that, in the form in which requests are judged.
    pub metadata_path: String,
    /// Whose tokens are accepted for it.
    pub authorization_servers: Vec<Arc<str>>,
    /// What rules demand, sorted.
    pub scopes: Vec<String>,
    /// Certificate-bound tokens can be used (RFC 8705).
    pub certificates: bool,
    /// No others but DPoP-bound tokens can (RFC 9449).
    pub demands_dpop: bool,
}

/// Policies of one mode on one port, decided together: a deny of any wins, else an allow of any, else deny.
#[derive(Debug)]
pub struct Policies {
    pub(crate) policies: Vec<Arc<Policy>>,
    pub(crate) has_shadows: bool,
}

/// One inbound policy, as it runs.
#[derive(Debug)]
pub(crate) struct Policy {
    /// `namespace/name`.
    pub(crate) name: String,
    /// Where it is written.
    pub(crate) file: String,
    pub(crate) tokens: Vec<Accepted>,
    pub(crate) denies: Vec<Rule>,
    pub(crate) publics: Vec<Rule>,
    pub(crate) allows: Vec<Rule>,
    pub(crate) forward_claims: Vec<(String, ClaimSource)>,
    pub(crate) strip_token: bool,
    /// How long an open stream may outlive its token.
    pub(crate) expired_token_grace: Duration,
}

/// Tokens that a policy accepts.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    pub(crate) issuer: Arc<str>,
    pub(crate) id: IssuerId,
    pub(crate) audiences: Vec<String>,
    /// Only such as are bound to a certificate or key of the caller.
    pub(crate) bound: bool,
    /// Opaque ones too.
    pub(crate) introspects: bool,
}

/// What keeps a token from being accepted by an entry of `tokens`; what is asked last is the least that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unfit {
    Issuer,
    /// Opaque, where the entry does not ask about such.
    Opaque,
    Audience,
    Binding,
}

/// What policy says of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow {
        rule: RuleId,
        /// A public rule: whatever token came is ignored and the caller is anonymous.
        public: bool,
    },
    Deny {
        reason: Reason,
        /// The rule that denied, or the allow rule whose scopes (`insufficient_scope`) or certificate (`peer_required`) are
        /// lacking.
        rule: Option<RuleId>,
    },
}

/// A shadow rule that matched, and what would be decided if it were live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadow {
    pub rule: RuleId,
    pub would: Decision,
}

/// What the policy whose rule allowed a request shows to the application.
#[derive(Debug)]
pub struct Forward<'a> {
    /// Header name (as written) and where its value comes from.
    pub claims: &'a [(String, ClaimSource)],
    /// `forwardToken: strip`.
    pub strip_token: bool,
}

/// Where the value of a forwarded header comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimSource {
    Client,
    Subject,
    Scopes,
    Roles,
    Peer,
    Claim(String),
}

impl Snapshot {
    /// The policies that select this port of the application. `None`: nobody does (semantics 7).
    pub fn inbound(&self, port: u16) -> Option<&PortPolicy> {
        let table = &self.inbound;
        match table.named.binary_search_by_key(&port, |(named, _)| *named) {
            Ok(index) => table.named.get(index).map(|(_, policy)| policy),
            Err(_) => table.others.as_ref(),
        }
    }

    /// The TLS of every port that has it; ports that share it name it more than once.
    pub fn inbound_tls(&self) -> impl Iterator<Item = &InboundTls> {
        let ports = self.inbound.named.iter().map(|(_, policy)| policy).chain(&self.inbound.others);
        ports.filter_map(|policy| policy.tls.as_ref())
    }

    /// What to forward when this rule allowed.
    pub fn forward(&self, rule: RuleId) -> Forward<'_> {
        match self.inbound.rules.get(rule.0) {
            Some((policy, _)) => Forward { claims: &policy.forward_claims, strip_token: policy.strip_token },
            // No rule of this snapshot: show nothing.
            None => Forward { claims: &[], strip_token: true },
        }
    }

    /// How long an open stream that this rule allowed may outlive its token.
    pub fn expired_token_grace(&self, rule: RuleId) -> Duration {
        self.inbound.rules.get(rule.0).map_or(Duration::ZERO, |(policy, _)| policy.expired_token_grace)
    }

    /// The scopes that this rule demands, for the challenge of `insufficient_scope`.
    pub fn required_scopes(&self, rule: RuleId) -> &[String] {
        let from = self.inbound.rules.get(rule.0).and_then(|(_, rule)| rule.body.from.as_ref());
        from.map(|from| from.scopes.as_slice()).unwrap_or_default()
    }
}

// === impl PortProtocol ===

impl PortProtocol {
    /// As policy writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

// === impl PortPolicy ===

impl PortPolicy {
    /// The path of a request target in the form that is judged and forwarded, or `None` where it can be read in two ways
    /// (semantics 8). A raw path is admitted only below what a rule with `rawPaths: true` names.
    pub fn path<'a>(&self, raw: &'a str) -> Option<CanonicalPath<'a>> {
        CanonicalPath::parse(raw).or_else(|| {
            let deciding = self.enforce.as_ref().or(self.audit.as_ref())?;
            // Nearly no port admits any, and then it costs nothing to say so.
            deciding.raw_rules().next()?;
            let path = CanonicalPath::parse_raw(raw)?;
            let mut patterns = deciding.raw_rules().flat_map(|rule| &rule.body.to.paths);
            patterns.any(|pattern| pattern.covers_raw(&path)).then_some(path)
        })
    }

    /// The issuer with this exact `iss` that some policy on the port accepts tokens of. `None`: `unknown_issuer`.
    pub fn issuer(&self, iss: &str) -> Option<IssuerId> {
        let groups = self.enforce.iter().chain(&self.audit);
        let mut accepted = groups.flat_map(|group| &group.policies).flat_map(|policy| &policy.tokens);
        accepted.find(|accepted| *accepted.issuer == *iss).map(|accepted| accepted.id)
    }
}

impl PortPolicy {
    /// The exact `iss` of each issuer whose tokens some policy on the port accepts.
    pub fn issuers(&self) -> Vec<&str> {
        let groups = self.enforce.iter().chain(&self.audit);
        let accepted = groups.flat_map(|group| &group.policies).flat_map(|policy| &policy.tokens);
        let issuers: BTreeSet<&str> = accepted.map(|accepted| &*accepted.issuer).collect();
        issuers.into_iter().collect()
    }

    /// The exact `iss` of the one issuer that is asked about opaque tokens.
    pub(crate) fn introspecting(&self) -> Option<&str> {
        let groups = self.enforce.iter().chain(&self.audit);
        let mut accepted = groups.flat_map(|group| &group.policies).flat_map(|policy| &policy.tokens);
        accepted.find(|accepted| accepted.introspects).map(|accepted| &*accepted.issuer)
    }

    /// Is the resource's own metadata asked for (RFC 9728 §3.1), which is served in the application's place? Whoever asks may
    /// have it, unless a rule denies without a look at a token. `Err`: that denial.
    pub fn described(&self, request: &AccessRequest<'_>) -> Option<Result<&ProtectedResource, Decision>> {
        let resource = self.resource.as_ref()?;
        if !matches!(request.method, "GET" | "HEAD") || request.path.as_str() != resource.metadata_path {
            return None;
        }
        let screened = self.enforce.as_ref().and_then(|policies| policies.screen(request));
        Some(match screened {
            Some(decision @ Decision::Deny { .. }) => Err(decision),
            Some(Decision::Allow { .. }) | None => Ok(resource),
        })
    }

    /// The issuer of these claims, among those of the snapshot. JWT-SVIDs need not name one: such a token is that of the one
    /// issuer here whose tokens they are.
    pub fn issuer_of(&self, claims: &Map<String, Value>, issuers: &[Issuer]) -> Result<IssuerId, Reason> {
        if let Some(iss) = claims.get("iss") {
            let iss = iss.as_str().ok_or(Reason::MissingClaim)?;
            return self.issuer(iss).ok_or(Reason::UnknownIssuer);
        }
        let possible = issuers.iter().filter(|issuer| issuer.profile == Profile::JwtSvid);
        let mut accepted = possible.filter_map(|issuer| self.issuer(&issuer.issuer));
        match (accepted.next(), accepted.next()) {
            (Some(issuer), None) => Ok(issuer),
            (Some(_), Some(_)) => Err(Reason::UnknownIssuer),
            (None, _) => Err(Reason::MissingClaim),
        }
    }

    /// Does any policy on the port accept this token, whatever its rules say?
    pub fn accepts(&self, token: &Token) -> bool {
        let groups = self.enforce.iter().chain(&self.audit);
        groups.flat_map(|group| &group.policies).any(|policy| policy.accepts(token))
    }
}

// === impl Policies ===

impl Policies {
    /// Does a live rule look at header fields of what is asked for here? Without them it cannot be told then what is decided.
    pub fn reads_headers_of(&self, request: &AccessRequest<'_>) -> bool {
        let rules = self
            .policies
            .iter()
            .flat_map(|policy| policy.denies.iter().chain(&policy.publics).chain(&policy.allows));
        rules.filter(|rule| !rule.body.shadow).any(|rule| rule.body.reads_headers_of(request))
    }

    /// The live rules that admit raw paths.
    fn raw_rules(&self) -> impl Iterator<Item = &Rule> {
        let allows = self.policies.iter().flat_map(|policy| policy.publics.iter().chain(&policy.allows));
        allows.filter(|rule| rule.body.to.raw_paths && !rule.body.shadow)
    }
}

// === impl Policy ===

impl Policy {
    /// Does this policy accept the token: its issuer, one of its audiences, and its binding? (Everything else has been
    /// verified.)
    pub(crate) fn accepts(&self, token: &Token) -> bool {
        self.tokens.iter().any(|accepted| accepted.unfit(token).is_none())
    }
}

impl Policy {
    /// Does it demand bound tokens, of an issuer or in a rule that lets somebody in?
    pub(crate) fn wants_bound(&self) -> bool {
        let in_rule =
            |rule: &Rule| !rule.body.shadow && rule.body.from.as_ref().is_some_and(|from| from.bound);
        self.tokens.iter().any(|accepted| accepted.bound) || self.allows.iter().any(in_rule)
    }
}

// === impl Accepted ===

impl Accepted {
    /// Issuer, kind and audience.
    pub(crate) fn is_meant(&self, token: &Token) -> bool {
        matches!(self.unfit(token), None | Some(Unfit::Binding))
    }

    /// The first thing that keeps the token from being accepted.
    pub(crate) fn unfit(&self, token: &Token) -> Option<Unfit> {
        if self.issuer != token.issuer {
            Some(Unfit::Issuer)
        } else if token.introspected && !self.introspects {
            Some(Unfit::Opaque)
        } else if !self.audiences.iter().any(|audience| token.audiences.contains(audience)) {
            Some(Unfit::Audience)
        } else if self.bound && !token.is_bound() {
            Some(Unfit::Binding)
        } else {
            None
        }
    }
}
