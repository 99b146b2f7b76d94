//! Which rules can never decide? Because others decide first, or because nobody and nothing meets them.

use crate::compile::inbound::CheckedInbound;
use crate::compile::report::Report;
use crate::documents::{Checked, Documents};
use crate::field::Field;
use crate::rule::RuleBody;
use crate::snapshot::Effect;

use super::live_rules;
use super::nearby::Nearby;

type Policy = Checked<CheckedInbound>;

/// The rules that can keep others from deciding, of all policies: those that deny, and those that are public.
pub(super) struct Decisive<'d>(pub(super) Nearby<'d, usize>);

// === impl Decisive ===

impl<'d> Decisive<'d> {
    pub(super) fn of(documents: &'d Documents) -> Self {
        let policies = documents.inbound.iter().enumerate();
        let rules =
            policies.flat_map(|(place, policy)| live_rules(policy).map(move |(_, rule)| (place, rule)));
        Self(Nearby::of(rules.filter(|(_, rule)| rule.effect == Effect::Deny || rule.public)))
    }
}

pub(super) fn rules(
    policy: &Policy,
    documents: &Documents,
    decisive: &Decisive<'_>,
    report: &mut Report<'_>,
) {
    // The policies that are asked wherever this one is, itself among them.
    let covers = |other: &Policy| other.value.covers(&policy.value);
    let asked: Vec<_> = documents.inbound.iter().map(|other| covers(other).then_some(other)).collect();
    let asked = |(place, rule)| Some(((*asked.get::<usize>(place)?)?, rule));
    let own = Nearby::of(live_rules(policy).map(|(_, rule)| ((), rule)));
    for (at, rule) in live_rules(policy) {
        let above = decisive.0.above(&rule.to).filter_map(asked);
        match (rule.effect, rule.public) {
            (Effect::Allow, true) => public(policy, rule, above, &at, report),
            (Effect::Allow, false) => allow(policy, rule, above, &at, report),
            (Effect::Deny, _) => {
                let below = || decisive.0.below(&rule.to).filter_map(asked);
                deny(rule, above, below, &at, report);
            }
        }
        if let Some(twin) = twin(rule, own.above(&rule.to).map(|(_, other)| other)) {
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

fn deny<'d, Below: Iterator<Item = (&'d Policy, &'d RuleBody)>>(
    rule: &RuleBody,
    mut above: impl Iterator<Item = (&'d Policy, &'d RuleBody)>,
    below: impl Fn() -> Below,
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
    let is_open = |other: &RuleBody| other.public && other.when.is_none();
    let opened = above.find(|(_, other)| is_open(other) && other.to.covers(&rule.to));
    let opened = opened
        .or_else(|| names_paths.then(below)?.find(|(_, other)| is_open(other) && rule.to.covers(&other.to)));
    if let Some((_, other)) = opened {
        let message = format!(
            "hits nobody where rule `{}` is public: callers are anonymous there (drop `from`, or the public rule)",
            other.name
        );
        report.add(&at.key("from"), message);
    }
}

/// An earlier rule of the policy that says just the same.
fn twin<'p>(rule: &RuleBody, others: impl Iterator<Item = &'p RuleBody>) -> Option<&'p RuleBody> {
    let earlier = others.take_while(|other| !std::ptr::eq(*other, rule));
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
