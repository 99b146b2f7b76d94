//! The inbound side of a snapshot: rules numbered, policies gathered by port.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::compile::inbound::CheckedInbound;
use crate::compile::report::Report;
use crate::compile::values::WrittenTimeouts;
use crate::document::inbound::Mode;
use crate::documents::Checked;
use crate::field::Field;
use crate::inbound::{Accepted, InboundTable, Policies, Policy, PortPolicy, PortProtocol};
use crate::problem::Problem;
use crate::rule::Rule;
use crate::snapshot::{Effect, IntrospectionId, RuleId, RuleName};
use crate::untrusted;

use super::{Parts, resource};

/// A policy that selects the workload, as written and as it runs.
pub(super) struct Selected<'d> {
    pub(super) written: &'d CheckedInbound,
    pub(super) policy: Arc<Policy>,
    introspection: Option<IntrospectionId>,
}

pub(super) fn assemble(
    policies: &[&Checked<CheckedInbound>],
    parts: &mut Parts<'_>,
) -> (InboundTable, Vec<Arc<RuleName>>) {
    parts.problems.extend(conflicts(policies));
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
        let rule_name = |rule: &Rule| RuleName {
            policy: name.clone(),
            rule: rule.body.name.clone(),
            effect: rule.body.effect,
            shadow: rule.body.shadow,
        };
        names.extend(rules.iter().map(rule_name).map(Arc::new));
        let policy = Arc::new(self::policy(policy, &rules, parts));
        let asking = written.tokens.iter().find_map(|tokens| tokens.introspect);
        let introspection = asking.and_then(|(credential, _)| parts.introspection(credential));
        table.rules.extend(rules.into_iter().map(|rule| (policy.clone(), rule)));
        selected.push(Selected { written, policy, introspection });
    }
    let ports: BTreeSet<u16> =
        selected.iter().flat_map(|policy| policy.written.ports.iter().flatten()).copied().collect();
    table.named =
        ports.into_iter().filter_map(|port| Some((port, port_policy(&selected, Some(port))?))).collect();
    table.others = port_policy(&selected, None);
    (table, names)
}

/// What a port has once: policies that select it and write it have to agree.
pub(super) fn conflicts(policies: &[&Checked<CheckedInbound>]) -> Vec<Problem> {
    let tls = |policy: &CheckedInbound| {
        let tls = policy.tls.as_ref()?;
        Some((Field::parse("spec.tls"), tls.fingerprint))
    };
    let introspect = |policy: &CheckedInbound| {
        let mut asking = policy.tokens.iter().filter_map(|tokens| tokens.introspect);
        let (credential, entry) = asking.next()?;
        Some((Field::parse("spec.tokens").index(entry).key("introspect"), credential))
    };
    let resource = |policy: &CheckedInbound| {
        let resource = policy.resource.clone()?;
        Some((Field::parse("spec.resourceMetadata"), resource))
    };
    let protocol = |policy: &CheckedInbound| Some((Field::parse("spec.protocol"), policy.protocol));
    let message = "speaks another: a port speaks one protocol, so write the same in both";
    let mut conflicts = conflicts_over(policies, protocol, message);
    conflicts.extend(conflicts_over(policies, tls, "writes another: write the same in both"));
    let message =
        "asks with another credential: opaque tokens of a port have one issuer, so write the same in both";
    conflicts.extend(conflicts_over(policies, introspect, message));
    let message = "describes another resource: a port is one, so write the same audience in both";
    conflicts.extend(conflicts_over(policies, resource, message));
    conflicts
}

/// `of` is what a policy says, and where; two that say it differently for one port are a problem.
fn conflicts_over<T: PartialEq>(
    policies: &[&Checked<CheckedInbound>],
    of: impl Fn(&CheckedInbound) -> Option<(Field, T)>,
    message: &str,
) -> Vec<Problem> {
    let mut conflicts = Vec::new();
    let mut first: BTreeMap<Option<u16>, &Checked<CheckedInbound>> = BTreeMap::new();
    for policy in policies {
        let Some((at, said)) = of(&policy.value) else { continue };
        let differs =
            |other: &Checked<CheckedInbound>| of(&other.value).is_some_and(|(_, theirs)| theirs != said);
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
            let mut report = Report::new(&policy.source, &policy.name);
            report.add(&at, format!("{} selects {port} too and {message}", other.name));
            conflicts.extend(report.into_problems());
        }
        for port in ports {
            first.entry(port).or_insert(policy);
        }
    }
    conflicts
}

fn policy(checked: &Checked<CheckedInbound>, rules: &[Rule], parts: &mut Parts<'_>) -> Policy {
    let written = &checked.value;
    let accepted = written.tokens.iter().filter_map(|tokens| {
        let id = parts.issuer(tokens.issuer)?;
        let issuer = parts.issuers.all.get(id.0)?.issuer.clone();
        Some(Accepted {
            issuer,
            id,
            audiences: tokens.audiences.clone(),
            bound: tokens.bound,
            introspects: tokens.introspect.is_some(),
        })
    });
    let tokens = accepted.collect();
    let those = |wanted: fn(&Rule) -> bool| rules.iter().filter(|rule| wanted(rule)).cloned().collect();
    Policy {
        name: format!("{}/{}", checked.name.namespace, checked.name.name),
        file: checked.source.file.clone(),
        tokens,
        denies: those(|rule| rule.body.effect == Effect::Deny),
        publics: those(|rule| rule.body.effect == Effect::Allow && rule.body.public),
        allows: those(|rule| rule.body.effect == Effect::Allow && !rule.body.public),
        forward_claims: written.forward_claims.clone(),
        strip_token: written.strip_token,
        expired_token_grace: written.expired_token_grace,
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
    let identity_headers: BTreeSet<String> =
        written_headers.map(|(name, _)| untrusted::normal(name)).collect();
    // Where they differ, that is a problem already.
    let protocol = here.iter().map(|policy| policy.written.protocol).next().unwrap_or_default();
    let timeouts = timeouts.fold(WrittenTimeouts::default(), WrittenTimeouts::shortest);
    Some(PortPolicy {
        protocol,
        enforce,
        audit,
        identity_headers: identity_headers.into_iter().collect(),
        timeouts: match protocol {
            PortProtocol::Http => timeouts.or_default(),
            PortProtocol::Tcp | PortProtocol::Tls => timeouts.or_default_of_bytes(),
        },
        introspection: here.iter().find_map(|policy| policy.introspection),
        resource: resource::describe(&here),
        reads_headers: here.iter().flat_map(|policy| &policy.written.rules).any(|rule| rule.reads_headers()),
        wants_bound: here.iter().any(|policy| policy.policy.wants_bound()),
        tls: here.iter().find_map(|policy| policy.written.tls.clone()),
    })
}
