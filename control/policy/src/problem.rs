//! What is wrong with a policy document, and where? One problem, as `check`, logs and acknowledgements print it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::source::Source;

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

/// Messages and fields quote what was written, which may be anything of any length.
const MAX_CHARS: usize = 300;

// === impl Problem ===

impl Problem {
    /// Of a file as a whole, or of a version that has no place in one.
    pub fn of_file(file: impl fmt::Display, message: &str) -> Self {
        Self {
            file: file.to_string(),
            line: 0,
            document: String::new(),
            field: String::new(),
            message: one_line(message),
        }
    }

    /// `line` counts from the document's first, or is 0 where none is known.
    pub(crate) fn new(source: &Source, line: usize, document: String, field: &str, message: &str) -> Self {
        let line = if line == 0 { source.line } else { source.line + line - 1 };
        Self { file: source.file.clone(), line, document, field: one_line(field), message: one_line(message) }
    }
}

/// The text on one line and not too long.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::new();
    for (index, c) in text.chars().enumerate() {
        if index == MAX_CHARS {
            line.push('…');
            break;
        }
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_on_one_line() {
        let source = Source { file: "f".to_owned(), line: 10, text: String::new() };
        let problem = Problem::new(&source, 2, "Issuer/a".to_owned(), "spec.a\nb", &"x".repeat(1_000));
        assert_eq!(problem.to_string(), format!("f:11: Issuer/a: spec.a\\nb: {}…", "x".repeat(MAX_CHARS)));
    }
}
