//! From text to meaning: the parsed documents of one version, checked, selected and compiled.

use std::collections::{BTreeMap, BTreeSet};

use crate::assemble;
use crate::compile::credential::{self, CheckedCredential};
use crate::compile::inbound::{self, CheckedInbound};
use crate::compile::outbound::{self, CheckedOutbound};
use crate::compile::report::Report;
use crate::compile::{Reference, issuer};
use crate::document::{Document, DocumentName, Kind, Spec};
use crate::field::Field;
use crate::fingerprint::{Fingerprint, hex};
use crate::problem::Problem;
use crate::snapshot::{Issuer, Snapshot};
use crate::source::{MAX_DOCUMENTS, Source};
use crate::workload::Workload;

/// The documents of one version, each well-shaped and all of them in order with each other.
#[derive(Debug)]
pub struct Documents {
    version: String,
    count: usize,
    // Each sorted by namespace and name, so that the order of files never matters.
    pub(crate) issuers: Vec<Checked<Issuer>>,
    pub(crate) credentials: Vec<Checked<CheckedCredential>>,
    pub(crate) outbound: Vec<Checked<CheckedOutbound>>,
    pub(crate) inbound: Vec<Checked<CheckedInbound>>,
}

/// A checked document and where it came from.
#[derive(Debug)]
pub(crate) struct Checked<T> {
    pub(crate) source: Source,
    pub(crate) name: DocumentName,
    pub(crate) value: T,
}

impl Documents {
    /// Parses every document but those of kind `PolicyTest`, which are [`crate::Trials`]. Fails with the first problem of shape of each, and with what is wrong among them whoever
    /// the workload is: duplicate names, dangling references, rules that cannot be compiled.
    pub fn parse(sources: Vec<Source>) -> Result<Self, Vec<Problem>> {
        if let Some(source) = sources.get(MAX_DOCUMENTS) {
            let message = format!("more than {MAX_DOCUMENTS} documents: split the policy");
            let (file, line) = (source.file.clone(), source.line);
            return Err(vec![Problem { file, line, document: String::new(), field: String::new(), message }]);
        }
        let mut parsing = Parsing::default();
        let mut documents = Vec::new();
        for source in sources {
            match Document::read(source) {
                Ok(document) => documents.extend(document),
                Err(unreadable) => {
                    parsing.broken.extend(unreadable.name);
                    parsing.problems.push(unreadable.problem);
                }
            }
        }
        let version = version(documents.iter().map(|document| &document.source));
        let count = documents.len();
        let parsed = parsing.check(documents, version, count);
        if parsing.problems.is_empty() { Ok(parsed) } else { Err(parsing.sorted()) }
    }

    /// Hash of the content of all documents, in hex. A workload's [`Snapshot::version`] is another. The order of files does not count.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The number of documents. Tests do not count.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every document as it was written: what is kept to be read again. Tests are not among them.
    pub fn sources(&self) -> Vec<Source> {
        let issuers = self.issuers.iter().map(|document| &document.source);
        let credentials = self.credentials.iter().map(|document| &document.source);
        let outbound = self.outbound.iter().map(|document| &document.source);
        let inbound = self.inbound.iter().map(|document| &document.source);
        issuers.chain(credentials).chain(outbound).chain(inbound).cloned().collect()
    }

    /// The documents that select this workload and what they refer to: what a control plane may show it.
    pub fn select(&self, workload: &Workload) -> Vec<Source> {
        let inbound: Vec<_> =
            self.inbound.iter().filter(|policy| policy.value.selector.selects(workload)).collect();
        let outbound: Vec<_> =
            self.outbound.iter().filter(|policy| policy.value.selector.selects(workload)).collect();
        let rules = outbound.iter().flat_map(|policy| &policy.value.rules);
        let shown = rules.filter_map(|rule| rule.token.as_ref()).map(|token| token.credential);
        let entries = inbound.iter().flat_map(|policy| &policy.value.tokens);
        let asking = entries.filter_map(|tokens| tokens.introspect).map(|(credential, _)| credential);
        let used: BTreeSet<usize> = shown.chain(asking).collect();
        let credentials: Vec<_> = used.into_iter().filter_map(|place| self.credentials.get(place)).collect();
        let accepted = inbound.iter().flat_map(|policy| &policy.value.tokens).map(|tokens| tokens.issuer);
        let asked = credentials.iter().map(|credential| credential.value.issuer);
        let issuers: BTreeSet<usize> = accepted.chain(asked).collect();

        let issuers =
            issuers.into_iter().filter_map(|place| self.issuers.get(place)).map(|issuer| &issuer.source);
        let credentials = credentials.iter().map(|credential| &credential.source);
        let outbound = outbound.iter().map(|policy| &policy.source);
        let inbound = inbound.iter().map(|policy| &policy.source);
        issuers.chain(credentials).chain(outbound).chain(inbound).cloned().collect()
    }

    /// Everything that holds for this workload.
    pub fn compile(&self, workload: &Workload) -> Result<Snapshot, Vec<Problem>> {
        assemble::snapshot(self, workload, version_for(workload, &self.select(workload)))
    }
}

/// Hash of all that a snapshot is made of: who the workload is fills in templates, so it counts as the documents do.
fn version_for(workload: &Workload, sources: &[Source]) -> String {
    let Workload { namespace, name, labels, service_account } = workload;
    let labels: Vec<&str> = labels.iter().flat_map(|(key, value)| [key.as_str(), value.as_str()]).collect();
    let hash = Fingerprint::of("snapshot").text(namespace).text(name).optional(service_account.as_deref());
    hex(&hash.list(labels.into_iter()).text(&version(sources.iter())).finish())
}

/// Hash of the content of documents, in any order.
fn version<'s>(sources: impl Iterator<Item = &'s Source>) -> String {
    let hash = |source: &Source| Fingerprint::of("document").text(&source.file).text(&source.text).finish();
    let mut hashes: Vec<[u8; 32]> = sources.map(hash).collect();
    hashes.sort_unstable();
    hex(&hashes.iter().fold(Fingerprint::of("version"), |all, hash| all.bytes(hash)).finish())
}

/// Documents being checked against each other.
#[derive(Default)]
struct Parsing {
    problems: Vec<Problem>,
    /// Documents that are there but could not be read, so that references to them are not called dangling.
    broken: BTreeSet<DocumentName>,
}

// === impl Parsing ===

impl Parsing {
    fn check(&mut self, documents: Vec<Document>, version: String, count: usize) -> Documents {
        let documents = self.without_duplicates(documents);
        let mut all = Documents {
            version,
            count,
            issuers: vec![],
            credentials: vec![],
            outbound: vec![],
            inbound: vec![],
        };
        // Sorted by kind first, in the order in which kinds refer to each other.
        for (name, Document { source, spec, .. }) in documents {
            let mut report = Report::new(&source, &name);
            match spec {
                Spec::Issuer(spec) => {
                    let value = issuer::compile(&name.name, &spec, &source, &mut report);
                    self.check_unique_iss(&value, &all.issuers, &mut report);
                    self.keep(report.into_problems(), Checked { source, name, value }, &mut all.issuers);
                }
                Spec::Credential(spec) => {
                    let issuer = self.issuer(&spec.issuer, &all.issuers);
                    let issuer = issuer.map(|(place, _)| place);
                    let value = credential::compile(&spec, issuer, &source, &mut report);
                    let problems = report.into_problems();
                    match value {
                        Some(value) => {
                            self.keep(problems, Checked { source, name, value }, &mut all.credentials)
                        }
                        None => self.reject(problems, name),
                    }
                }
                Spec::OutboundPolicy(spec) => {
                    let namespace = &name.namespace;
                    let find = |name: &str| self.credential(namespace, name, &all.credentials);
                    let value = outbound::compile(namespace, &spec, &find, &source, &mut report);
                    self.keep(report.into_problems(), Checked { source, name, value }, &mut all.outbound);
                }
                Spec::InboundPolicy(spec) => {
                    let find = inbound::Find {
                        issuer: &|issuer| self.issuer(issuer, &all.issuers),
                        credential: &|credential| {
                            self.credential(&name.namespace, credential, &all.credentials)
                        },
                    };
                    let value = inbound::compile(&name.namespace, &spec, &find, &source, &mut report);
                    self.keep(report.into_problems(), Checked { source, name, value }, &mut all.inbound);
                }
                // Not among what `Document::read` gives.
                Spec::PolicyTest(_) => {}
            }
        }
        self.problems.extend(assemble::certain_conflicts(&all));
        all
    }

    fn without_duplicates(&mut self, documents: Vec<Document>) -> BTreeMap<DocumentName, Document> {
        let mut by_name: BTreeMap<DocumentName, Document> = BTreeMap::new();
        for document in documents {
            match by_name.get(&document.name) {
                Some(first) => {
                    let Source { file, line, .. } = &first.source;
                    let message = format!("the same name stands in {file}:{line}: rename one");
                    let mut report = Report::new(&document.source, &document.name);
                    report.add(&Field::parse("metadata.name"), message);
                    self.problems.extend(report.into_problems());
                }
                None => {
                    by_name.insert(document.name.clone(), document);
                }
            }
        }
        by_name
    }

    /// Two issuers with one `iss` would leave it open whose keys and profile count.
    fn check_unique_iss(&self, issuer: &Issuer, before: &[Checked<Issuer>], report: &mut Report<'_>) {
        if let Some(other) = before.iter().find(|other| other.value.issuer == issuer.issuer) {
            let message = format!("Issuer `{}` has the same `issuer`: keep one of them", other.value.name);
            report.add(&Field::parse("spec.issuer"), message);
        }
    }

    /// Broken documents are kept too, where later ones may refer to them; then the whole is refused anyway.
    fn keep<T>(&mut self, problems: Vec<Problem>, checked: Checked<T>, all: &mut Vec<Checked<T>>) {
        self.problems.extend(problems);
        all.push(checked);
    }

    fn reject(&mut self, problems: Vec<Problem>, name: DocumentName) {
        self.problems.extend(problems);
        self.broken.insert(name);
    }

    fn issuer<'a>(&self, name: &str, issuers: &'a [Checked<Issuer>]) -> Reference<(usize, &'a Issuer)> {
        match issuers.iter().enumerate().find(|(_, issuer)| issuer.name.name == name) {
            Some((place, issuer)) => Reference::Found((place, &issuer.value)),
            None => self.missing(Kind::Issuer, "", name),
        }
    }

    fn credential<'a>(
        &self,
        namespace: &str,
        name: &str,
        all: &'a [Checked<CheckedCredential>],
    ) -> Reference<(usize, &'a CheckedCredential)> {
        let is_it = |checked: &Checked<_>| checked.name.namespace == namespace && checked.name.name == name;
        match all.iter().enumerate().find(|(_, checked)| is_it(checked)) {
            Some((place, checked)) => Reference::Found((place, &checked.value)),
            None => self.missing(Kind::Credential, namespace, name),
        }
    }

    fn missing<T>(&self, kind: Kind, namespace: &str, name: &str) -> Reference<T> {
        let name = DocumentName { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        if self.broken.contains(&name) { Reference::Broken } else { Reference::Missing }
    }

    fn sorted(self) -> Vec<Problem> {
        let mut problems = self.problems;
        problems.sort_by(|a, b| (&a.file, a.line, &a.field).cmp(&(&b.file, b.line, &b.field)));
        problems
    }
}

#[cfg(test)]
mod tests;
