//! Which connections does the sidecar get? The rules in their order, for both families, before they are written for any
//! program.
//!
//! A rule sees the first packet of a connection alone; the kernel treats the rest of it likewise. There is no condition on
//! TCP flags: a packet that is not SYN and comes first is led to the sidecar too, or whoever sends one that the kernel
//! drops in silence could open a connection past us behind it.

use super::args::Exempt;
use super::values::{Networks, Port, Ports, Ranges};

/// What is asked for, checked.
#[derive(Clone, Debug)]
pub struct Redirect {
    pub inbound_port: Port,
    pub outbound_port: Port,
    pub health_port: Port,
    pub exempt: Exempt,
    /// Empty: all.
    pub include_inbound_ports: Ports,
    pub exclude_inbound_ports: Ports,
    pub exclude_outbound_ports: Ports,
    /// Empty: all.
    pub include_outbound_cidrs: Networks,
    pub exclude_outbound_cidrs: Networks,
}

/// The rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// For what the pod sends (hook output).
    pub outbound: Vec<Rule>,
    /// For what comes to the pod (hook prerouting).
    pub inbound: Vec<Rule>,
}

/// The first rule whose matches all hold decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub matches: Vec<Match>,
    pub verdict: Verdict,
    /// For whoever reads the rules.
    pub why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    User(u32),
    Group(u32),
    Mark(u32),
    /// Leaves by `lo`: to the pod itself.
    ToSelf,
    To(Family, Ranges),
    /// TCP to one of these ports.
    Port(Ranges),
    Tcp,
    /// To an address that is none of the pod's: forwarded, broadcast.
    NotLocal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Goes where it was going.
    Pass,
    /// Goes to this port of the sidecar.
    Redirect(u16),
}

// === impl Plan ===

impl Plan {
    pub fn new(asked: &Redirect) -> Self {
        let Networks { v4, v6 } = loopback();
        // To the pod's own ports that nobody redirects, from outside and from within alike.
        let own = asked.exclude_inbound_ports.0.and(&Ranges::one(asked.health_port.0));

        let mut outbound = vec![
            pass([Match::User(asked.exempt.uid.0)], "the sidecar"),
            pass([Match::Group(asked.exempt.gid.0)], "the sidecar"),
            pass([Match::Mark(asked.exempt.mark.0)], "the sidecar"),
            pass([Match::ToSelf, Match::To(Family::V4, v4.clone())], "loopback"),
            pass([Match::ToSelf, Match::To(Family::V6, v6.clone())], "loopback"),
            pass([Match::ToSelf, Match::Port(own.clone())], "excluded inbound ports"),
        ];
        // An application that calls its own service goes through inbound.
        outbound.extend(to_inbound(asked, &[Match::ToSelf]));
        if !asked.include_inbound_ports.0.is_empty() {
            outbound.push(pass([Match::ToSelf], "inbound ports that are not included"));
        }
        if !asked.exclude_outbound_ports.0.is_empty() {
            let ports = Match::Port(asked.exclude_outbound_ports.0.clone());
            outbound.push(pass([ports], "excluded outbound ports"));
        }
        for to in to(&asked.exclude_outbound_cidrs) {
            outbound.push(pass([to], "excluded networks"));
        }
        outbound.extend(to_outbound(asked));

        let mut inbound = vec![
            pass([Match::NotLocal], "not to this pod"),
            // Redirected, a packet that a neighbour sends to 127.0.0.1 would not be dropped as it should.
            pass([Match::To(Family::V4, v4)], "loopback"),
            pass([Match::To(Family::V6, v6)], "loopback"),
            pass([Match::Port(own)], "excluded inbound ports"),
        ];
        inbound.extend(to_inbound(asked, &[]));
        Self { outbound, inbound }
    }
}

fn to_inbound(asked: &Redirect, first: &[Match]) -> Option<Rule> {
    let included = &asked.include_inbound_ports.0;
    let last = if included.is_empty() { Match::Tcp } else { Match::Port(included.clone()) };
    let matches = first.iter().cloned().chain([last]).collect();
    Some(Rule { matches, verdict: Verdict::Redirect(asked.inbound_port.0), why: "to the inbound listener" })
}

fn to_outbound(asked: &Redirect) -> Vec<Rule> {
    let rule = |matches| Rule {
        matches,
        verdict: Verdict::Redirect(asked.outbound_port.0),
        why: "to the outbound listener",
    };
    let included = to(&asked.include_outbound_cidrs);
    if included.is_empty() {
        return vec![rule(vec![Match::Tcp])];
    }
    included.into_iter().map(|to| rule(vec![to, Match::Tcp])).collect()
}

fn pass<const N: usize>(matches: [Match; N], why: &'static str) -> Rule {
    Rule { matches: matches.into(), verdict: Verdict::Pass, why }
}

/// One match for each family that has networks.
fn to(networks: &Networks) -> Vec<Match> {
    let families = [(Family::V4, &networks.v4), (Family::V6, &networks.v6)];
    let some = families.into_iter().filter(|(_, ranges)| !ranges.is_empty());
    some.map(|(family, ranges)| Match::To(family, ranges.clone())).collect()
}

fn loopback() -> Networks {
    Networks { v4: Ranges::new(vec![(0x7f00_0000, 0x7fff_ffff)]), v6: Ranges::one(1_u32) }
}
