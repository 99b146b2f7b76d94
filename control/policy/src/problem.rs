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
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", plain(text.get(..end).unwrap_or_default())),
        None => plain(text),
    }
}

/// The text, with nothing in it that a terminal obeys or that shows it in another order.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unseen(c) { plain.extend(c.escape_default()) } else { plain.push(c) }
    }
    plain
}

/// Controls (C0, DEL, C1), ends of lines, and marks that turn the direction of text (UAX #9 §2).
pub(crate) fn is_unseen(c: char) -> bool {
    let turns =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name of a file may hold anything; and a problem may come from another process.
        f.write_str(&plain(&self.file))?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        for part in [&self.document, &self.field] {
            if !part.is_empty() {
                write!(f, ": {}", plain(part))?;
            }
        }
        write!(f, ": {}", plain(&self.message))
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

    #[test]
    fn nothing_reaches_a_terminal_as_it_is() {
        let long = "d/".repeat(MAX_CHARS);
        let hostile = |text: &str| format!("{text}\n\u{1b}[2J\u{9b}\u{202e}\u{2066}\u{2028}ü");
        let said = r"\n\u{1b}[2J\u{9b}\u{202e}\u{2066}\u{2028}ü";
        let problem = Problem::of_file(hostile(&long), &hostile(""));
        assert_eq!(problem.to_string(), format!("{long}{said}: {said}"));
        // As it may come from a sidecar.
        let told = Problem { line: 3, document: hostile("d"), message: hostile("m"), ..problem };
        assert_eq!(told.to_string(), format!("{long}{said}:3: d{said}: m{said}"));
    }
}
