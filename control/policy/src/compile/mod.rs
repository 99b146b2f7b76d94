//! What does it mean? Written documents checked, one by one and against each other, and made into what runs.

pub(crate) mod bytes;
pub(crate) mod credential;
pub(crate) mod from;
pub(crate) mod headers;
pub(crate) mod inbound;
pub(crate) mod introspect;
pub(crate) mod issuer;
pub(crate) mod outbound;
pub(crate) mod report;
pub(crate) mod resource;
pub(crate) mod tls;
pub(crate) mod url;
pub(crate) mod values;

use std::collections::BTreeMap;

use crate::document::words::Workloads;
use crate::field::Field;
use crate::workload::Workload;
use report::Report;

/// Which workloads a policy selects.
#[derive(Debug)]
pub(crate) struct Selector {
    namespace: String,
    /// Absent: every workload of the namespace.
    labels: Option<BTreeMap<String, String>>,
}

/// What a selector demands and a workload has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unmet<'s> {
    Namespace(&'s str),
    /// Key and value.
    Label(&'s str, &'s str),
}

/// What a name of another document leads to.
#[derive(Debug)]
pub(crate) enum Reference<T> {
    Found(T),
    /// It is there but broken, which is a problem of its own.
    Broken,
    Missing,
}

// === impl Reference ===

impl<T> Reference<T> {
    pub(crate) fn map<U>(self, map: impl FnOnce(T) -> U) -> Reference<U> {
        match self {
            Self::Found(found) => Reference::Found(map(found)),
            Self::Broken => Reference::Broken,
            Self::Missing => Reference::Missing,
        }
    }
}

// === impl Selector ===

impl Selector {
    pub(crate) fn compile(namespace: &str, workloads: Option<&Workloads>, report: &mut Report<'_>) -> Self {
        let labels = workloads.map(|workloads| {
            if workloads.labels.is_empty() {
                let at = Field::parse("spec.workloads.labels");
                report.add(&at, "is empty: leave out `workloads` to select every workload of the namespace");
            }
            workloads.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
        });
        Self { namespace: namespace.to_owned(), labels }
    }

    pub(crate) fn selects(&self, workload: &Workload) -> bool {
        self.unmet(workload).is_none()
    }

    /// The first thing that keeps it from selecting the workload.
    pub(crate) fn unmet(&self, workload: &Workload) -> Option<Unmet<'_>> {
        if self.namespace != workload.namespace {
            return Some(Unmet::Namespace(&self.namespace));
        }
        let lacks = |(key, value): &(&String, &String)| workload.labels.get(*key) != Some(*value);
        let unmet = self.labels.iter().flatten().find(lacks);
        unmet.map(|(key, value)| Unmet::Label(key, value))
    }

    /// Does it name workloads, rather than all of the namespace?
    pub(crate) fn is_specific(&self) -> bool {
        self.labels.is_some()
    }

    /// Does it select every workload that the other does?
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let is_there =
            |(key, value)| other.labels.as_ref().is_some_and(|labels| labels.get(key) == Some(value));
        self.namespace == other.namespace && self.labels.iter().flatten().all(is_there)
    }

    /// Can there be a workload that both select? One label has one value.
    pub(crate) fn may_meet(&self, other: &Self) -> bool {
        let contradicts = |(key, value): (&String, &String)| {
            let theirs = other.labels.iter().find_map(|labels| labels.get(key));
            theirs.is_some_and(|theirs| theirs != value)
        };
        self.namespace == other.namespace && !self.labels.iter().flatten().any(contradicts)
    }

    /// Do both select just the same workloads?
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.namespace == other.namespace && self.labels == other.labels
    }
}
