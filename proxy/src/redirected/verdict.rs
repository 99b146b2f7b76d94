//! Whose connection is it? What the rules for its destination and its first bytes make of it, and nothing else.

use std::sync::Arc;

use countersign_policy::outbound::{Carries, Outbound, OutboundHosts, OutboundRule};
use countersign_policy::snapshot::Timeouts;
use countersign_policy::{Reason, Snapshot};

use super::said::Said;
use crate::tcp::hello::{self, Hello};

/// What becomes of a connection that was going out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// What it says decides, and it has not said enough.
    Listen,
    /// Each of its requests is judged for itself.
    Http,
    /// Its bytes are not looked into.
    Pass(Bypass),
    /// The same, if its destination is an address of this name.
    PassAs(String, Bypass),
    Refuse(Reason),
    /// It had its time and said nothing, where only the application can begin.
    Silent,
}

/// How bytes pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bypass {
    /// Why they pass without a token: a value of the label `reason` of `countersign_outbound_bypassed_total`.
    pub(super) reason: &'static str,
    pub(super) timeouts: Timeouts,
}

/// `at`: the hosts of rules whose address the destination is. `full_names`: what a name may stand for, as written first.
pub(super) fn verdict(
    snapshot: &Snapshot,
    port: u16,
    at: &[Arc<str>],
    said: &Said,
    full_names: &dyn Fn(&str) -> Vec<String>,
) -> Verdict {
    let named = snapshot.outbound_hosts(port);
    let (mut http, mut tcp, mut tls) = (false, None, None);
    for (_, rule) in named.iter().flat_map(OutboundHosts::rules).filter(|(host, _)| at.contains(host)) {
        match rule.carries() {
            Carries::Http => http = true,
            Carries::Tcp => tcp = Some(rule),
            Carries::Tls => tls = Some(rule),
        }
    }
    match tcp {
        // Its first bytes do not tell which of the two is meant.
        Some(_) if http => return Verdict::Refuse(Reason::AmbiguousDestination),
        Some(rule) => return Verdict::Pass(Bypass::by(rule, "tcp")),
        None => {}
    }
    // An address says nothing of the names that a wildcard stands for: those count for the whole port.
    let wildcards = named.map(|named| named.wildcards()).unwrap_or_default();
    let http = http || wildcards.contains(&Carries::Http);
    let denied = snapshot.denies_egress();
    let by_name = denied && (tls.is_some() || wildcards.contains(&Carries::Tls));
    if !http && !by_name {
        // Nothing that it could say would make a difference, so nobody waits: the server may be the one that begins.
        return match tls {
            Some(rule) => Verdict::Pass(Bypass::by(rule, "passthrough")),
            None if denied => Verdict::Refuse(Reason::EgressDenied),
            None => Verdict::Pass(Bypass::unnamed("no_rule")),
        };
    }
    match said.bytes.first() {
        None if !said.is_all => Verdict::Listen,
        None if http => Verdict::Silent,
        Some(first) if hello::is_tls(*first) && denied => by_server_name(snapshot, port, said, full_names),
        Some(first) if hello::is_tls(*first) => Verdict::Pass(Bypass::unnamed("tls")),
        Some(_) if http => Verdict::Http,
        None | Some(_) => Verdict::Refuse(Reason::EgressDenied),
    }
}

/// The application's own TLS, where only what a rule names may go out.
fn by_server_name(
    snapshot: &Snapshot,
    port: u16,
    said: &Said,
    full_names: &dyn Fn(&str) -> Vec<String>,
) -> Verdict {
    let name = match hello::read(&said.bytes) {
        Hello::Incomplete if !said.is_all => return Verdict::Listen,
        Hello::Incomplete | Hello::Nameless => return Verdict::Refuse(Reason::EgressDenied),
        Hello::Name(name) => name,
    };
    let named = full_names(&name).into_iter().find_map(|full| match snapshot.outbound(&full, port) {
        Outbound::Rule(rule) => Some((full, rule)),
        Outbound::Pass | Outbound::Denied => None,
    });
    match named {
        Some((full, rule)) if rule.carries() == Carries::Tls => {
            Verdict::PassAs(full, Bypass::by(rule, "passthrough"))
        }
        _ => Verdict::Refuse(Reason::EgressDenied),
    }
}

// === impl Bypass ===

impl Bypass {
    fn by(rule: &OutboundRule, reason: &'static str) -> Self {
        Self { reason, timeouts: rule.timeouts }
    }

    fn unnamed(reason: &'static str) -> Self {
        Self { reason, timeouts: super::unnamed() }
    }
}

#[cfg(test)]
mod tests;
