//! What is sound but probably not meant? Warnings about policy that compiles: rules that never decide, rules that let in more
//! than they say, documents that nobody uses.

mod breadth;
mod certificates;
mod covers;
mod nearby;
mod reach;
mod stars;
mod tokens;
mod unused;

use crate::assemble::shadowed;
use crate::compile::inbound::CheckedInbound;
use crate::compile::report::Report;
use crate::documents::{Checked, Documents};
use crate::field::Field;
use crate::problem::Problem;
use crate::rule::RuleBody;
use crate::trial::Outcome;

/// What is odd about these documents and their tests, in the order of files and lines.
pub fn warnings(documents: &Documents, tests: &Outcome) -> Vec<Problem> {
    let mut warnings = Vec::new();
    let decisive = reach::Decisive::of(documents);
    for policy in &documents.inbound {
        let mut report = Report::new(&policy.source, &policy.name);
        reach::rules(policy, documents, &decisive, &mut report);
        breadth::inbound(policy, &mut report);
        stars::inbound(policy, &mut report);
        tokens::inbound(policy, documents, &mut report);
        certificates::inbound(policy, documents, &mut report);
        warnings.extend(report.into_problems());
    }
    for policy in &documents.outbound {
        let mut report = Report::new(&policy.source, &policy.name);
        breadth::outbound(policy, &mut report);
        warnings.extend(report.into_problems());
    }
    warnings.extend(shadowed::sometimes(documents));
    warnings.extend(unused::documents(documents));
    warnings.extend(unused::tests(tests, documents));
    warnings.sort_by(|a, b| (&a.file, a.line, &a.field).cmp(&(&b.file, b.line, &b.field)));
    warnings
}

/// The rules of a policy that decide, each with its place.
fn live_rules(policy: &Checked<CheckedInbound>) -> impl Iterator<Item = (Field, &RuleBody)> {
    all_rules(policy).filter(|(_, rule)| !rule.shadow)
}

/// Those that decide nothing too.
fn all_rules(policy: &Checked<CheckedInbound>) -> impl Iterator<Item = (Field, &RuleBody)> {
    let rules = policy.value.rules.iter().enumerate();
    rules.map(|(index, rule)| (Field::parse("spec.rules").index(index), &**rule))
}

#[cfg(test)]
mod tests;
