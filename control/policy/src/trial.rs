//! Does policy say what its tests expect? Documents of kind `PolicyTest`, tried with the decision that the proxy takes.

mod case;
mod coverage;
mod expected;
mod reading;

use std::collections::BTreeSet;

use crate::compile::report::Report;
use crate::document::policy_test::PolicyTestSpec;
use crate::document::{Document, DocumentName, Spec};
use crate::documents::{Checked, Documents};
use crate::field::Field;
use crate::headers::Underscores;
use crate::problem::Problem;
use crate::source::Source;
use crate::workload::Workload;
use coverage::Hits;
pub use coverage::PolicyCoverage;

/// The tests among documents, as written.
#[derive(Debug, Default)]
pub struct Trials {
    tests: Vec<Checked<PolicyTestSpec>>,
}

/// What came of all tests.
#[derive(Debug)]
pub struct Outcome {
    pub tests: Vec<TestOutcome>,
    /// Every inbound policy, tested or not.
    pub coverage: Vec<PolicyCoverage>,
}

/// What came of one document.
#[derive(Debug)]
pub struct TestOutcome {
    /// `PolicyTest/namespace/name`.
    pub name: String,
    pub file: String,
    /// No policy selects its workload and port, so nothing was tried: labels misspelt, or the wrong port?
    pub idle: Option<Problem>,
    pub cases: Vec<CaseOutcome>,
}

/// What came of one case.
#[derive(Debug)]
pub struct CaseOutcome {
    pub name: String,
    /// What was expected, and what was found instead.
    pub failure: Option<Problem>,
}

// === impl Trials ===

impl Trials {
    /// Reads the documents that are tests, and no others. Fails with the first problem of shape of each.
    pub fn read(sources: &[Source]) -> Result<Self, Vec<Problem>> {
        let (mut tests, mut problems) = (Vec::new(), Vec::new());
        let mut names: BTreeSet<DocumentName> = BTreeSet::new();
        for source in sources {
            // What else is broken is for `Documents::parse` to tell.
            match Document::read_test(source) {
                Some(Ok(Document { source, name, spec: Spec::PolicyTest(spec) })) => {
                    if !names.insert(name.clone()) {
                        let mut report = Report::new(&source, &name);
                        report.add(
                            &Field::parse("metadata.name"),
                            "another test has the same name: rename one",
                        );
                        problems.extend(report.into_problems());
                    }
                    tests.push(Checked { source, name, value: *spec });
                }
                Some(Err(unreadable)) => problems.push(unreadable.problem),
                Some(Ok(_)) | None => {}
            }
        }
        if problems.is_empty() { Ok(Self { tests }) } else { Err(problems) }
    }

    pub fn len(&self) -> usize {
        self.tests.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tests.is_empty()
    }

    /// Tries every case. Fails with what is wrong with the tests themselves: references to nothing, tokens that their
    /// issuer cannot issue, requests that are none. `underscores` is what the sidecars do with such header fields.
    pub fn run(&self, documents: &Documents, underscores: Underscores) -> Result<Outcome, Vec<Problem>> {
        let (mut outcomes, mut problems) = (Vec::new(), Vec::new());
        let mut hits = Hits::default();
        for test in &self.tests {
            match test.run(documents, underscores, &mut hits) {
                Ok(outcome) => outcomes.push(outcome),
                Err(found) => problems.extend(found),
            }
        }
        if !problems.is_empty() {
            problems.dedup();
            return Err(problems);
        }
        Ok(Outcome { tests: outcomes, coverage: hits.coverage(documents) })
    }
}

#[cfg(test)]
impl Trials {
    /// What each case asks, and of which snapshot and port.
    pub(crate) fn asked(
        &self,
        documents: &Documents,
    ) -> Vec<(crate::Snapshot, u16, Vec<crate::asked::Asked>)> {
        let asked = |test: &Checked<PolicyTestSpec>| {
            let mut report = Report::new(&test.source, &test.name);
            let snapshot = documents.compile(&test.workload()).unwrap();
            let protocol = snapshot.inbound(test.value.to.port.0).map(|port| port.protocol);
            let cases = reading::cases(&test.value, documents, protocol, Underscores::Drop, &mut report);
            (snapshot, test.value.to.port.0, cases.into_iter().map(|case| case.asked).collect())
        };
        self.tests.iter().map(asked).collect()
    }
}

// === impl Outcome ===

impl Outcome {
    pub fn passed(&self) -> usize {
        self.cases().filter(|case| case.failure.is_none()).count()
    }

    pub fn failed(&self) -> usize {
        let idle = self.tests.iter().filter(|test| test.idle.is_some()).count();
        self.cases().filter(|case| case.failure.is_some()).count() + idle
    }

    /// The tests that try nothing, and the cases that are not as expected.
    pub fn failures(&self) -> impl Iterator<Item = &Problem> {
        self.tests.iter().flat_map(|test| {
            test.idle.iter().chain(test.cases.iter().filter_map(|case| case.failure.as_ref()))
        })
    }

    fn cases(&self) -> impl Iterator<Item = &CaseOutcome> {
        self.tests.iter().flat_map(|test| &test.cases)
    }
}

// === impl Checked<PolicyTestSpec> ===

impl Checked<PolicyTestSpec> {
    fn run(
        &self,
        documents: &Documents,
        underscores: Underscores,
        hits: &mut Hits,
    ) -> Result<TestOutcome, Vec<Problem>> {
        let mut report = Report::new(&self.source, &self.name);
        let snapshot = documents.compile(&self.workload())?;
        let protocol = snapshot.inbound(self.value.to.port.0).map(|port| port.protocol);
        let cases = reading::cases(&self.value, documents, protocol, underscores, &mut report);
        let problems = report.into_problems();
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut report = Report::new(&self.source, &self.name);
        let mut outcome = TestOutcome {
            name: self.name.to_string(),
            file: self.source.file.clone(),
            idle: None,
            cases: Vec::new(),
        };
        let Some(port) = snapshot.inbound(self.value.to.port.0) else {
            let message =
                "no policy selects this port of a workload with these labels: the test tries nothing";
            report.add(&Field::parse("spec.to"), message);
            outcome.idle = report.into_problems().pop();
            return Ok(outcome);
        };
        hits.selected(documents, &self.workload(), self.value.to.port.0);
        for (index, case) in cases.iter().enumerate() {
            let tried = case.run(&snapshot, port);
            hits.add(&snapshot, &tried.hit);
            if let Some(difference) = tried.difference {
                let at = Field::parse("spec.cases").index(index);
                report.add(&at, format!("`{}`: {difference}", case.name));
            }
            let failure = std::mem::replace(&mut report, Report::new(&self.source, &self.name));
            let failure = failure.into_problems().pop();
            outcome.cases.push(CaseOutcome { name: case.name.clone(), failure });
        }
        Ok(outcome)
    }

    fn workload(&self) -> Workload {
        let labels = &self.value.to.labels;
        Workload {
            namespace: self.name.namespace.clone(),
            name: self.name.name.clone(),
            labels: labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            service_account: Some("default".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests;
