//! Which field is meant? The path of a value inside a document, as problems print it: `spec.rules[0].to.paths[1]`.

use std::fmt;

/// Steps beyond these are not printed.
const MAX_PRINTED: usize = 12;

/// A path from the root of a document. The empty path is the document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Field(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

// === impl Field ===

impl Field {
    pub(crate) fn root() -> Self {
        Self::default()
    }

    pub(crate) fn key(&self, key: &str) -> Self {
        let mut below = self.clone();
        below.push_key(key);
        below
    }

    pub(crate) fn index(&self, index: usize) -> Self {
        let mut below = self.clone();
        below.push_index(index);
        below
    }

    pub(crate) fn push_key(&mut self, key: &str) {
        self.0.push(Step::Key(key.to_owned()));
    }

    pub(crate) fn push_index(&mut self, index: usize) {
        self.0.push(Step::Index(index));
    }

    pub(crate) fn pop(&mut self) {
        self.0.pop();
    }

    pub(crate) fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Is it one that Kubernetes adds to a document: all of `status`, and of `metadata` what does not name the document?
    pub(crate) fn is_of_kubernetes(&self) -> bool {
        match self.0.as_slice() {
            [Step::Key(top), ..] if top == "status" => true,
            [Step::Key(top), Step::Key(field), ..] if top == "metadata" => {
                !matches!(&**field, "name" | "namespace")
            }
            _ => false,
        }
    }

    /// The path that such a text means, where no key holds a dot or a bracket.
    pub(crate) fn parse(text: &str) -> Self {
        let mut field = Self::root();
        for part in text.split(['.', '[']).filter(|part| !part.is_empty()) {
            match part.strip_suffix(']').and_then(|index| index.parse().ok()) {
                Some(index) => field.push_index(index),
                None => field.push_key(part),
            }
        }
        field
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                // Deeper than any field of the language: enough is said.
                _ if position == MAX_PRINTED => return f.write_str("…"),
                Step::Key(key) if position == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses() {
        let field = Field::root().key("spec").key("rules").index(3).key("to");
        assert_eq!(field.to_string(), "spec.rules[3].to");
        assert_eq!(Field::parse("spec.rules[3].to"), field);
        assert_eq!(Field::parse("."), Field::root());
    }

    #[test]
    fn what_kubernetes_adds_and_what_a_person_writes() {
        for field in ["status", "status.conditions[0]", "metadata.creationTimestamp", "metadata.labels.name"]
        {
            assert!(Field::parse(field).is_of_kubernetes(), "{field}");
        }
        for field in ["", "metadata", "metadata.name", "metadata.namespace", "spec", "spec.status", "kind"] {
            assert!(!Field::parse(field).is_of_kubernetes(), "{field}");
        }
    }
}
