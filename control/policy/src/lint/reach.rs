//! Which rules can never decide? Because others decide first, or because nobody and nothing meets them.

use crate::compile::inbound::CheckedInbound;
use crate::compile::report::Report;
use crate::documents::{Checked, Documents};
use crate::field::Field;
use crate::rule::RuleBody;
use crate::snapshot::Effect;

use super::live_rules;

type Policy = Checked<CheckedInbound>;

pub(super) fn rules(policy: &Policy, documents: &Documents, report: &mut Report<'_>) {
    for (at, rule) in live_rules(policy) {
        let others = || asked_with(policy, documents);
        match (rule.effect, rule.public) {
            (Effect::Allow, true) => public(policy, rule, others(), &at, report),
            (Effect::Allow, false) => allow(policy, rule, others(), &at, report),
            (Effect::Deny, _) => deny(rule, others(), &at, report),
        }
        if let Some(twin) = twin(policy, rule) {
            report.add(&at, format!("says the same as rule `{}`: remove one", twin.name));
        }
        if !rule.to.grpc.is_empty()
            && !rule.to.methods.is_empty()
            && !rule.to.methods.iter().any(|m| m == "POST")
        {
            let message = "gRPC calls are POST: together with `grpc` these methods never match";
            report.add(&at.key("to").key("methods"), message);
        }
    }
}

/// Every live rule that is asked wherever this policy is, its own among them, and the policy that it is of.
fn asked_with<'d>(
    policy: &'d Policy,
    documents: &'d Documents,
) -> impl Iterator<Item = (&'d Policy, &'d RuleBody)> {
    let policies = documents.inbound.iter().filter(|other| other.value.covers(&policy.value));
    policies.flat_map(|other| live_rules(other).map(move |(_, rule)| (other, rule)))
}

/// Whom a deny spares, and whom its `from` names, is nobody where nobody is asked for a token (semantics 5c).
fn public<'d>(
    policy: &Policy,
    rule: &RuleBody,
    mut others: impl Iterator<Item = (&'d Policy, &'d RuleBody)>,
    at: &Field,
    report: &mut Report<'_>,
) {
    let closes = |(_, other): &(&Policy, &RuleBody)| {
        other.effect == Effect::Deny
            && other.from.is_none()
            && (other.when.is_none() || other.when_reads_claims())
            && other.unless.as_ref().is_none_or(|unless| unless.needs_token)
            && other.to.covers(&rule.to)
    };
    let Some((of, other)) = others.find(closes) else { return };
    let name = name(of, other, policy);
    let message = match other.when {
        None => format!(
            "can never allow: deny rule {name} hits all that it matches, as callers are anonymous here"
        ),
        Some(_) => format!(
            "may never allow: `when` of deny rule {name} reads claims, which callers do not have here, and what \
             cannot be told is denied"
        ),
    };
    report.add(at, message);
}

fn allow<'d>(
    policy: &Policy,
    rule: &RuleBody,
    others: impl Iterator<Item = (&'d Policy, &'d RuleBody)>,
    at: &Field,
    report: &mut Report<'_>,
) {
    for (of, other) in others.filter(|(_, other)| other.when.is_none() && other.to.covers(&rule.to)) {
        let name = name(of, other, policy);
        if other.effect == Effect::Deny && hits_all_of(other, rule, of.name == policy.name) {
            report.add(at, format!("can never allow: deny rule {name} hits all that it matches"));
            return;
        }
        if other.public {
            report.add(at, format!("is never asked: rule {name} is public and matches all that it matches"));
            return;
        }
    }
}

/// Does the deny hit every caller of the allow rule?
fn hits_all_of(deny: &RuleBody, allow: &RuleBody, same_policy: bool) -> bool {
    let everybody = match (&deny.from, &allow.from) {
        (None, _) => true,
        (Some(wide), Some(narrow)) => same_policy && wide.covers(narrow),
        (Some(_), None) => false,
    };
    everybody && deny.unless.is_none()
}

fn deny<'d>(
    rule: &RuleBody,
    mut others: impl Iterator<Item = (&'d Policy, &'d RuleBody)>,
    at: &Field,
    report: &mut Report<'_>,
) {
    let (Some(from), unless) = (&rule.from, &rule.unless) else { return };
    if unless.as_ref().is_some_and(|unless| unless.covers(from)) {
        report.add(&at.key("unless"), "spares everybody whom `from` names: the rule can never deny");
        return;
    }
    if !from.needs_token {
        // Certificates and addresses are what they are, also where callers are anonymous.
        return;
    }
    // A deny that names no paths is about the caller, and what is public is public to that one too.
    let names_paths = !rule.to.paths.is_empty() || !rule.to.grpc.is_empty();
    let opens = |other: &RuleBody| {
        other.public
            && other.when.is_none()
            && (other.to.covers(&rule.to) || names_paths && rule.to.covers(&other.to))
    };
    if let Some((_, other)) = others.find(|(_, other)| opens(other)) {
        let message = format!(
            "hits nobody where rule `{}` is public: callers are anonymous there (drop `from`, or the public rule)",
            other.name
        );
        report.add(&at.key("from"), message);
    }
}

/// An earlier rule of the policy that says just the same.
fn twin<'p>(policy: &'p Policy, rule: &RuleBody) -> Option<&'p RuleBody> {
    let earlier = live_rules(policy).map(|(_, other)| other).take_while(|other| !std::ptr::eq(*other, rule));
    let mut earlier = earlier.filter(|other| other.effect == rule.effect && other.public == rule.public);
    earlier.find(|other| {
        let both = |one: &Option<_>, two: &Option<_>| match (one, two) {
            (None, None) => true,
            (Some(one), Some(two)) => is_same(one, two, crate::rule::From::covers),
            _ => false,
        };
        other.when.is_none()
            && rule.when.is_none()
            && is_same(&other.to, &rule.to, crate::rule::To::covers)
            && both(&other.from, &rule.from)
            && both(&other.unless, &rule.unless)
    })
}

fn is_same<T>(one: &T, two: &T, covers: impl Fn(&T, &T) -> bool) -> bool {
    covers(one, two) && covers(two, one)
}

/// The name of a rule, with that of its policy where it is another.
fn name(of: &Policy, rule: &RuleBody, here: &Policy) -> String {
    if of.name == here.name { format!("`{}`", rule.name) } else { format!("`{}` of {}", rule.name, of.name) }
}
