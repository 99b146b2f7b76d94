//! Whom do we let in? The compiled inbound policies of each port, and what they decide (semantics 1 to 7).

use crate::reason::Reason;
use crate::request::{AccessRequest, Token};
use crate::snapshot::{IssuerId, RuleId, Snapshot, Timeouts};

/// Ports, each with the policies that select it.
#[derive(Debug, Default)]
pub(crate) struct InboundTable {}

/// The policies that select one port of the workload.
#[derive(Debug)]
pub struct PortPolicy {
    /// Policies with `mode: enforce`. Where there is one, these alone decide.
    pub enforce: Option<Policies>,
    /// Policies with `mode: audit`: decided apart and recorded.
    pub audit: Option<Policies>,
    /// The header names that `forwardClaims` of any of these policies sets, lower case, with `-`. Stripped from every
    /// request on the port, also when spelled with `_`.
    pub identity_headers: Vec<String>,
    pub timeouts: Timeouts,
}

/// Policies of one mode on one port, decided together: a deny of any wins, else an allow of any, else deny.
#[derive(Debug)]
pub struct Policies {}

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
        /// The rule that denied, or for `insufficient_scope` the allow rule whose scopes are lacking.
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
    pub fn inbound(&self, _port: u16) -> Option<&PortPolicy> {
        todo!()
    }

    /// What to forward when this rule allowed.
    pub fn forward(&self, _rule: RuleId) -> Forward<'_> {
        todo!()
    }

    /// The scopes that this rule demands, for the challenge of `insufficient_scope`.
    pub fn required_scopes(&self, _rule: RuleId) -> &[String] {
        todo!()
    }
}

impl PortPolicy {
    /// The issuer with this exact `iss` that some policy on the port accepts tokens of. `None`: `unknown_issuer`.
    pub fn issuer(&self, _iss: &str) -> Option<IssuerId> {
        todo!()
    }
}

impl Policies {
    /// What needs no token to be judged: a deny (semantics 5b), or a public rule (5c). `None`: a token is to be looked at
    /// next, then [`Policies::decide`]. The request's principal may be empty; it is not read but for its peer.
    pub fn screen(&self, _request: &AccessRequest<'_>) -> Option<Decision> {
        todo!()
    }

    /// Is a token of this issuer and these audiences accepted by one of the policies? Else `wrong_audience`.
    pub fn accepts(&self, _token: &Token) -> bool {
        todo!()
    }

    /// The whole decision, from framing to rules (semantics 5b to 5e). The same function for the proxy, `test` and `explain`.
    pub fn decide(&self, _request: &AccessRequest<'_>) -> Decision {
        todo!()
    }

    /// The shadow rules that match this request, and what would be decided if each were live. Empty for nearly all requests.
    pub fn shadows(&self, _request: &AccessRequest<'_>) -> Vec<Shadow> {
        todo!()
    }

    /// Is there any shadow rule? Where there is none, `shadows` need not be asked.
    pub fn has_shadows(&self) -> bool {
        todo!()
    }
}
