//! What is sound but probably not meant? Warnings about policy that compiles: rules that never decide, rules that let in more
//! than they say, documents that nobody uses.

mod breadth;
mod certificates;
mod covers;
mod reach;
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
    for policy in &documents.inbound {
        let mut report = Report::new(&policy.source, &policy.name);
        reach::rules(policy, documents, &mut report);
        breadth::inbound(policy, &mut report);
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
    let rules = policy.value.rules.iter().enumerate();
    let rules = rules.map(|(index, rule)| (Field::parse("spec.rules").index(index), &**rule));
    rules.filter(|(_, rule)| !rule.shadow)
}

#[cfg(test)]
mod tests;
