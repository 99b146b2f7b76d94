//! What is wrong with this document? Problems gathered while it is compiled, each with its line.

use crate::document::DocumentName;
use crate::field::Field;
use crate::places::Places;
use crate::problem::Problem;
use crate::source::Source;

/// The problems of one document.
pub(crate) struct Report<'s> {
    source: &'s Source,
    document: String,
    namespace: String,
    /// Made when first asked for: nearly every document is in order.
    places: Option<Places<'s>>,
    problems: Vec<Problem>,
}

// === impl Report ===

impl<'s> Report<'s> {
    pub(crate) fn new(source: &'s Source, document: &DocumentName) -> Self {
        let namespace = document.namespace.clone();
        Self { source, document: document.to_string(), namespace, places: None, problems: Vec::new() }
    }

    /// That of the document.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn add(&mut self, at: &Field, message: impl Into<String>) {
        let line = self.places().line(at).unwrap_or(1);
        let document = self.document.clone();
        self.problems.push(Problem::new(self.source, line, document, &at.to_string(), &message.into()));
    }

    /// A field or value of a later version.
    pub(crate) fn unsupported(&mut self, at: &Field) {
        self.add(at, "not supported by this version");
    }

    /// A field of a later version, where it is written.
    pub(crate) fn unsupported_if(&mut self, is_written: bool, at: &Field) {
        if is_written {
            self.unsupported(at);
        }
    }

    /// The value, or the problem with it.
    pub(crate) fn ok<T>(&mut self, at: &Field, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.add(at, message)).ok()
    }

    /// The line of the file on which each item of this list begins, as far as they were found.
    pub(crate) fn item_lines(&mut self, at: &Field) -> Vec<usize> {
        let first = self.source.line;
        self.places().item_lines(at).map(|line| first + line - 1).collect()
    }

    /// Is the value at this field written in quotes?
    pub(crate) fn is_quoted(&mut self, at: &Field) -> bool {
        self.places().is_quoted(at)
    }

    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    fn places(&mut self) -> &Places<'s> {
        self.places.get_or_insert_with(|| Places::of(&self.source.text))
    }
}
