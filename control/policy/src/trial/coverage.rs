//! Which rules has no case hit? What is not tried is not known to work.

use std::collections::{BTreeMap, BTreeSet};

use crate::compile::report::Report;
use crate::documents::Documents;
use crate::field::Field;
use crate::problem::Problem;
use crate::snapshot::{RuleId, Snapshot};
use crate::workload::Workload;

/// How far the rules of one policy are covered by tests.
#[derive(Debug)]
pub struct PolicyCoverage {
    /// `InboundPolicy/namespace/name`.
    pub policy: String,
    /// Does any test select it?
    pub is_tested: bool,
    /// The number of its rules.
    pub rules: usize,
    /// The rules that no case has hit, each with its place.
    pub missed: Vec<Problem>,
}

/// The rules that cases have hit, by `namespace/name` of their policy.
#[derive(Default)]
pub(super) struct Hits {
    policies: BTreeMap<String, BTreeSet<String>>,
}

// === impl Hits ===

impl Hits {
    /// A test selects these policies, whatever its cases hit.
    pub(super) fn selected(&mut self, documents: &Documents, workload: &Workload, port: u16) {
        for policy in &documents.inbound {
            let ports = policy.value.ports.as_ref();
            if policy.value.selector.selects(workload) && ports.is_none_or(|ports| ports.contains(&port)) {
                self.policies.entry(format!("{}/{}", policy.name.namespace, policy.name.name)).or_default();
            }
        }
    }

    pub(super) fn add(&mut self, snapshot: &Snapshot, rules: &[RuleId]) {
        for rule in rules.iter().filter_map(|rule| snapshot.rules.get(rule.0)) {
            self.policies.entry(rule.policy.clone()).or_default().insert(rule.rule.clone());
        }
    }

    pub(super) fn coverage(&self, documents: &Documents) -> Vec<PolicyCoverage> {
        let coverage = documents.inbound.iter().map(|policy| {
            let hit = self.policies.get(&format!("{}/{}", policy.name.namespace, policy.name.name));
            let mut report = Report::new(&policy.source, &policy.name);
            for (index, rule) in policy.value.rules.iter().enumerate() {
                if !hit.is_some_and(|hit| hit.contains(&rule.name)) {
                    let at = Field::parse("spec.rules").index(index);
                    report.add(&at, format!("rule `{}` is hit by no case", rule.name));
                }
            }
            PolicyCoverage {
                policy: policy.name.to_string(),
                is_tested: hit.is_some(),
                rules: policy.value.rules.len(),
                missed: report.into_problems(),
            }
        });
        coverage.collect()
    }
}
