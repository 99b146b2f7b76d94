//! The inbound side of a snapshot: rules numbered, policies gathered by port.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::compile::headers;
use crate::compile::inbound::CheckedInbound;
use crate::compile::report::Report;
use crate::compile::values::WrittenTimeouts;
use crate::document::inbound::Mode;
use crate::documents::Checked;
use crate::field::Field;
use crate::inbound::{Accepted, InboundTable, Policies, Policy, PortPolicy};
use crate::problem::Problem;
use crate::rule::Rule;
use crate::snapshot::{Effect, RuleId, RuleName};

use super::Parts;

/// A policy that selects the workload, as written and as it runs.
struct Selected<'d> {
    written: &'d CheckedInbound,
    policy: Arc<Policy>,
}

pub(super) fn assemble(
    policies: &[&Checked<CheckedInbound>],
    parts: &mut Parts<'_>,
) -> (InboundTable, Vec<RuleName>) {
    parts.problems.extend(tls_conflicts(policies));
    let mut table = InboundTable::default();
    let mut names = Vec::new();
    let mut selected = Vec::new();
    for policy in policies {
        let written = &policy.value;
        let name = format!("{}/{}", policy.name.namespace, policy.name.name);
        let rules: Vec<Rule> = written
            .rules
            .iter()
            .zip(names.len()..)
            .map(|(body, number)| Rule { id: RuleId(number), body: body.clone() })
            .collect();
        names.extend(rules.iter().map(|rule| RuleName {
            policy: name.clone(),
            rule: rule.body.name.clone(),
            effect: rule.body.effect,
            shadow: rule.body.shadow,
        }));
        let policy = Arc::new(self::policy(written, &rules, parts));
        table.rules.extend(rules.into_iter().map(|rule| (policy.clone(), rule)));
        selected.push(Selected { written, policy });
    }
    let ports: BTreeSet<u16> =
        selected.iter().flat_map(|policy| policy.written.ports.iter().flatten()).copied().collect();
    table.named =
        ports.into_iter().filter_map(|port| Some((port, port_policy(&selected, Some(port))?))).collect();
    table.others = port_policy(&selected, None);
    (table, names)
}

/// A port speaks TLS in one way: policies that select it and write `tls` have to agree.
pub(super) fn tls_conflicts(policies: &[&Checked<CheckedInbound>]) -> Vec<Problem> {
    let mut conflicts = Vec::new();
    let mut first: BTreeMap<Option<u16>, &Checked<CheckedInbound>> = BTreeMap::new();
    for policy in policies {
        let Some(tls) = &policy.value.tls else { continue };
        let differs = |other: &Checked<CheckedInbound>| {
            other.value.tls.as_ref().is_some_and(|theirs| theirs.fingerprint != tls.fingerprint)
        };
        let ports: Vec<Option<u16>> = match &policy.value.ports {
            None => vec![None],
            Some(ports) => ports.iter().copied().map(Some).collect(),
        };
        let other = match policy.value.ports {
            None => first.iter().find(|(_, other)| differs(other)),
            Some(_) => {
                let mut shared = ports.iter().chain(&[None]).filter_map(|port| first.get_key_value(port));
                shared.find(|(_, other)| differs(other))
            }
        };
        if let Some((port, other)) = other {
            let port = port.map_or("every port".to_owned(), |port| format!("port {port}"));
            let message =
                format!("{} selects {port} too and writes another: write the same in both", other.name);
            let mut report = Report::new(&policy.source, &policy.name);
            report.add(&Field::parse("spec.tls"), message);
            conflicts.extend(report.into_problems());
        }
        for port in ports {
            first.entry(port).or_insert(policy);
        }
    }
    conflicts
}

fn policy(written: &CheckedInbound, rules: &[Rule], parts: &mut Parts<'_>) -> Policy {
    let accepted = written.tokens.iter().filter_map(|tokens| {
        let id = parts.issuer(tokens.issuer)?;
        let issuer = parts.issuers.all.get(id.0)?.issuer.clone();
        Some(Accepted { issuer, id, audiences: tokens.audiences.clone(), bound: tokens.bound })
    });
    let tokens = accepted.collect();
    let those = |wanted: fn(&Rule) -> bool| rules.iter().filter(|rule| wanted(rule)).cloned().collect();
    Policy {
        tokens,
        denies: those(|rule| rule.body.effect == Effect::Deny),
        publics: those(|rule| rule.body.effect == Effect::Allow && rule.body.public),
        allows: those(|rule| rule.body.effect == Effect::Allow && !rule.body.public),
        forward_claims: written.forward_claims.clone(),
        strip_token: written.strip_token,
    }
}

/// The policies for a port, or for those that no policy names. `None` where there are none.
fn port_policy(selected: &[Selected<'_>], port: Option<u16>) -> Option<PortPolicy> {
    let holds = |policy: &&Selected<'_>| match (&policy.written.ports, port) {
        (None, _) => true,
        (Some(ports), Some(port)) => ports.contains(&port),
        (Some(_), None) => false,
    };
    let here: Vec<&Selected<'_>> = selected.iter().filter(holds).collect();
    let of_mode = |mode: Mode| here.iter().copied().filter(move |policy| policy.written.mode == mode);
    let group = |mode: Mode| {
        let policies: Vec<Arc<Policy>> = of_mode(mode).map(|policy| policy.policy.clone()).collect();
        let has_shadows = of_mode(mode).any(|policy| policy.written.rules.iter().any(|rule| rule.shadow));
        (!policies.is_empty()).then_some(Policies { policies, has_shadows })
    };
    let (enforce, audit) = (group(Mode::Enforce), group(Mode::Audit));
    let deciding = if enforce.is_some() { Mode::Enforce } else { Mode::Audit };
    if enforce.is_none() && audit.is_none() {
        return None;
    }
    let timeouts = of_mode(deciding).map(|policy| policy.written.timeouts);
    let written_headers = here.iter().flat_map(|policy| &policy.written.forward_claims);
    let identity_headers: BTreeSet<String> = written_headers.map(|(name, _)| headers::normal(name)).collect();
    Some(PortPolicy {
        enforce,
        audit,
        identity_headers: identity_headers.into_iter().collect(),
        timeouts: timeouts.fold(WrittenTimeouts::default(), WrittenTimeouts::shortest).or_default(),
        tls: here.iter().find_map(|policy| policy.written.tls.clone()),
    })
}
