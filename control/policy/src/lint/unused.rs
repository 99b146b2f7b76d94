//! Which documents does nobody use? Often a name misspelt, or what was left behind.

use std::collections::BTreeSet;

use crate::compile::report::Report;
use crate::documents::{Checked, Documents};
use crate::field::Field;
use crate::problem::Problem;
use crate::trial::Outcome;

pub(super) fn documents(documents: &Documents) -> Vec<Problem> {
    let rules = documents.outbound.iter().flat_map(|policy| &policy.value.rules);
    let attached = rules.filter_map(|rule| rule.token.as_ref()).map(|token| token.credential);
    let tokens = || documents.inbound.iter().flat_map(|policy| &policy.value.tokens);
    let asking = tokens().filter_map(|tokens| tokens.introspect).map(|(credential, _)| credential);
    let credentials: BTreeSet<usize> = attached.chain(asking).collect();
    let accepted = tokens().map(|tokens| tokens.issuer);
    let asked = documents.credentials.iter().map(|credential| credential.value.issuer);
    let issuers: BTreeSet<usize> = accepted.chain(asked).collect();
    let unused = "is used by nobody";
    let issuers = unused_of(&documents.issuers, &issuers, &format!("{unused}: no `tokens`, no Credential"));
    let credentials = unused_of(
        &documents.credentials,
        &credentials,
        &format!("{unused}: no rule of an OutboundPolicy, no `introspect`"),
    );
    issuers.into_iter().chain(credentials).collect()
}

fn unused_of<T>(all: &[Checked<T>], used: &BTreeSet<usize>, message: &str) -> Vec<Problem> {
    let unused = all.iter().enumerate().filter(|(place, _)| !used.contains(place));
    unused.flat_map(|(_, document)| about(document, message)).collect()
}

/// Tests that try nothing, and policies without a test where others have one.
pub(super) fn tests(outcome: &Outcome, documents: &Documents) -> Vec<Problem> {
    let mut found: Vec<Problem> = outcome.tests.iter().filter_map(|test| test.idle.clone()).collect();
    if outcome.tests.is_empty() {
        return found;
    }
    for (policy, coverage) in documents.inbound.iter().zip(&outcome.coverage) {
        if !coverage.is_tested {
            found.extend(about(policy, "no PolicyTest selects it, though others have one"));
        }
    }
    found
}

fn about<T>(document: &Checked<T>, message: &str) -> Vec<Problem> {
    let mut report = Report::new(&document.source, &document.name);
    report.add(&Field::parse("metadata.name"), message);
    report.into_problems()
}
