//! Does one condition hold wherever another does? By what is written; where that does not tell, the answer is no.
//!
//! Every field is named, so that a condition that is new does not compile here until it is thought of.

use crate::compile::inbound::CheckedInbound;
use crate::host::HostPattern;
use crate::rule::{ClaimTest, From, GrpcPattern, To};

impl To {
    /// Is every request of the other one of this too?
    pub(super) fn covers(&self, other: &Self) -> bool {
        let Self { methods, paths, hosts, headers, grpc, raw_paths } = self;
        each(methods, &other.methods, |one, other| one == other)
            && each(paths, &other.paths, |one, other| one.covers(other))
            && each(hosts, &other.hosts, HostPattern::covers)
            && headers.iter().all(|header| other.headers.contains(header))
            && each(grpc, &other.grpc, GrpcPattern::covers)
            && (*raw_paths || !other.raw_paths)
    }
}

impl From {
    /// Is every caller of the other one of this too? Both of one policy, so that they see the same token.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let Self {
            needs_token,
            needs_certificate,
            issuers,
            scopes,
            clients,
            subjects,
            roles,
            claims,
            bound,
            peers,
            service_accounts,
            sources,
        } = self;
        (!needs_token || other.needs_token)
            && (!needs_certificate || other.needs_certificate)
            && each(peers, &other.peers, |one, other| one == other)
            && each(service_accounts, &other.service_accounts, |one, other| one == other)
            && each(sources, &other.sources, |one, other| one == other)
            && each(issuers, &other.issuers, |one, other| one == other)
            && scopes.iter().all(|scope| other.scopes.contains(scope))
            && each(clients, &other.clients, |one, other| one == other)
            && each(subjects, &other.subjects, |one, other| one == other)
            && each(roles, &other.roles, |one, other| one == other)
            && claims.iter().all(|(name, test)| {
                other.claims.iter().any(|(other, narrow)| name == other && test.covers(narrow))
            })
            && (!bound || other.bound)
    }

    /// `from: {}`: everybody with a token that the policy accepts, or with a certificate where it accepts none.
    pub(super) fn is_anybody(&self) -> bool {
        let Self { needs_token, needs_certificate, .. } = *self;
        self.covers(&Self { needs_token, needs_certificate, ..Self::default() })
    }
}

impl ClaimTest {
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::OneOf(wide), Self::OneOf(narrow)) => narrow.iter().all(|value| wide.contains(value)),
            _ => self == other,
        }
    }
}

impl GrpcPattern {
    fn covers(&self, other: &Self) -> bool {
        self.service == other.service && (self.method.is_none() || self.method == other.method)
    }
}

impl CheckedInbound {
    /// Is this policy asked wherever the other is, and in the same mode?
    pub(super) fn covers(&self, other: &Self) -> bool {
        self.mode == other.mode && self.selects_all_of(other)
    }
}

/// Values that are or-ed; none means all. Does each of the other's fall under one of these?
fn each<T>(wide: &[T], narrow: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
    let is_covered = |narrow: &T| wide.iter().any(|wide| covers(wide, narrow));
    wide.is_empty() || (!narrow.is_empty() && narrow.iter().all(is_covered))
}
