//! Which rules ask for a header that another policy sets? What `forwardClaims` of any policy on a port sets is removed from what
//! callers send, before anything is judged (semantics 1).

use std::collections::BTreeSet;

use crate::compile::inbound::CheckedInbound;
use crate::compile::report::Report;
use crate::documents::{Checked, Documents};
use crate::field::Field;
use crate::problem::Problem;
use crate::rule::RuleBody;
use crate::untrusted;

type Policy = Checked<CheckedInbound>;

/// Wherever such a rule is asked, the other policy is there too.
pub(crate) fn always(documents: &Documents) -> Vec<Problem> {
    find(
        documents,
        |setting, testing| setting.selects_all_of(testing),
        |name, other| {
            format!(
                "`{name}` is set by `forwardClaims` of {other} wherever this policy is, and a caller's own is removed: judge \
             the claim"
            )
        },
    )
}

/// It depends on the workload or the port.
pub(crate) fn sometimes(documents: &Documents) -> Vec<Problem> {
    let is_one = |setting: &CheckedInbound, testing: &CheckedInbound| {
        setting.may_meet(testing) && !setting.selects_all_of(testing)
    };
    find(documents, is_one, |name, other| {
        format!(
            "`{name}` is set by `forwardClaims` of {other}: where both policies select a port, a caller's own is removed; \
             judge the claim"
        )
    })
}

fn find(
    documents: &Documents,
    is_there: impl Fn(&CheckedInbound, &CheckedInbound) -> bool,
    message: impl Fn(&str, &str) -> String,
) -> Vec<Problem> {
    let setting: Vec<(&Policy, BTreeSet<String>)> = documents
        .inbound
        .iter()
        .filter(|policy| !policy.value.forward_claims.is_empty())
        .map(|policy| (policy, names(&policy.value)))
        .collect();
    let mut problems = Vec::new();
    for policy in documents.inbound.iter().filter(|_| !setting.is_empty()) {
        let mut report = Report::new(&policy.source, &policy.name);
        for (at, name) in tested(&policy.value) {
            // What a policy sets itself is a problem of its own.
            let other = setting.iter().find(|(other, names)| {
                names.contains(&name) && other.name != policy.name && is_there(&other.value, &policy.value)
            });
            if let Some((other, _)) = other {
                report.add(&at, message(&name, &other.name.to_string()));
            }
        }
        problems.extend(report.into_problems());
    }
    problems
}

fn names(policy: &CheckedInbound) -> BTreeSet<String> {
    policy.forward_claims.iter().map(|(name, _)| untrusted::normal(name)).collect()
}

/// The headers that rules ask for, in normal form, each with its place.
fn tested(policy: &CheckedInbound) -> impl Iterator<Item = (Field, String)> {
    let rules = policy.rules.iter().enumerate();
    rules.flat_map(|(index, rule)| in_rule(rule, &Field::parse("spec.rules").index(index)))
}

fn in_rule(rule: &RuleBody, at: &Field) -> Vec<(Field, String)> {
    let words = rule.to.headers.iter().map(|test| (at.key("to").key("headers"), test.name.clone()));
    let when = rule.when.iter().flat_map(|when| when.headers());
    let when: BTreeSet<_> = when.map(|name| untrusted::normal(name.as_str())).collect();
    words.chain(when.into_iter().map(|name| (at.key("when"), name))).collect()
}

// === impl CheckedInbound ===

impl CheckedInbound {
    /// Is it on every port of every workload where the other is?
    pub(crate) fn selects_all_of(&self, other: &Self) -> bool {
        let ports = match (&self.ports, &other.ports) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(wide), Some(narrow)) => narrow.iter().all(|port| wide.contains(port)),
        };
        ports && self.selector.covers(&other.selector)
    }

    /// Can there be a workload and a port that both select?
    pub(crate) fn may_meet(&self, other: &Self) -> bool {
        let ports = match (&self.ports, &other.ports) {
            (Some(ours), Some(theirs)) => ours.iter().any(|port| theirs.contains(port)),
            _ => true,
        };
        ports && self.selector.may_meet(&other.selector)
    }
}
