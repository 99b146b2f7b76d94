//! Where does a document come from? Files split into documents, with their places, within bounds of size and number.

use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// The text of one YAML document and its place. This is what bundles carry and what the state directory keeps, so that
/// every proxy compiles exactly what was written, and its problems name the file that a person can edit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub file: String,
    /// One-based line of the document's first line in the file.
    pub line: usize,
    pub text: String,
}

/// Does a file of this name belong to a policy folder: `*.yaml`, `*.yml`, `*.json`, not beginning with a dot?
pub fn is_policy_file(_name: &str) -> bool {
    todo!()
}

/// The documents of one file. Empty documents are skipped; size, encoding and number are checked.
pub fn split(_file: &str, _bytes: &[u8]) -> Result<Vec<Source>, Problem> {
    todo!()
}
