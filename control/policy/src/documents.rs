//! From text to meaning: the parsed documents of one version, checked, selected and compiled.

use crate::problem::Problem;
use crate::snapshot::Snapshot;
use crate::source::Source;
use crate::workload::Workload;

/// The documents of one version, each well-shaped.
#[derive(Debug)]
pub struct Documents {}

impl Documents {
    /// Parses every document. Fails with the first problem of shape of each, and with what is wrong among them whoever
    /// the workload is: duplicate names, dangling references, rules that cannot be compiled.
    pub fn parse(_sources: Vec<Source>) -> Result<Self, Vec<Problem>> {
        todo!()
    }

    /// Hash of the content of all documents, in hex. The order of files does not count.
    pub fn version(&self) -> &str {
        todo!()
    }

    pub fn len(&self) -> usize {
        todo!()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The documents that select this workload and what they refer to: what a control plane may show it.
    pub fn select(&self, _workload: &Workload) -> Vec<Source> {
        todo!()
    }

    /// Everything that holds for this workload.
    pub fn compile(&self, _workload: &Workload) -> Result<Snapshot, Vec<Problem>> {
        todo!()
    }
}
