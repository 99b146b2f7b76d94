//! What is wrong with a policy document, and where? One problem, as `check`, logs and acknowledgements print it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `file:line: kind/namespace/name: field.path: message`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub file: String,
    /// One-based; 0 where no line is known.
    pub line: usize,
    /// `kind/namespace/name`, `kind/name` for issuers, or empty where the document could not be read so far.
    pub document: String,
    /// e.g. `spec.rules[0].to.paths[1]`, or empty.
    pub field: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        for part in [&self.document, &self.field] {
            if !part.is_empty() {
                write!(f, ": {part}")?;
            }
        }
        write!(f, ": {}", self.message)
    }
}
