//! What does a YAML text say? The one place that calls serde_yaml: first within a budget, then into a type.

mod survey;

use std::fmt;

use serde::de::DeserializeOwned;

use crate::field::Field;
use crate::places::Places;
use survey::MAX_TEXT_BYTES;

/// Why a text could not be read, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct YamlError {
    /// One-based; 0 where no line is known.
    pub line: usize,
    /// e.g. `spec.rules[0].name`, or empty.
    pub field: String,
    pub message: String,
}

/// Reads one document into a type. Beyond what serde_yaml and the type refuse, refused are: duplicate keys at any
/// level, keys that are no strings, tags, values left empty (but those that Kubernetes adds under `metadata` and
/// `status`), more than 32 levels, and more than 10,000 values or 1 MiB of text once aliases are expanded.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, YamlError> {
    if text.len() > MAX_TEXT_BYTES {
        let message = format!("the text is larger than {} KiB", MAX_TEXT_BYTES >> 10);
        return Err(YamlError { line: 0, field: String::new(), message });
    }
    survey::brackets(text)?;
    survey::walk(serde_yaml::Deserializer::from_str(text)).map_err(|(error, fault)| match fault {
        Some(fault) => fault.locate(error.location().map_or(0, |at| at.line()), text),
        None => typed(&error, text),
    })?;
    serde_yaml::from_str(text).map_err(|error| typed(&error, text))
}

/// An error of serde_yaml in our words: its line, its path and its message, apart.
fn typed(error: &serde_yaml::Error, text: &str) -> YamlError {
    let line = error.location().map_or(0, |at| at.line());
    let full = error.to_string();
    // Its own places count from the document, ours from the file.
    let bare = &*without_places(&full);
    let (path, message) = match bare.split_once(": ") {
        Some((path, message)) if !path.contains(' ') => (path, message),
        _ => ("", bare),
    };
    if let Some(name) = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()) {
        // serde_yaml gives the line of the mapping; the key itself is what a person looks for.
        let field = Field::parse(path).key(name);
        let line = Places::of(text).line(&field).unwrap_or(line);
        return YamlError {
            line,
            field: field.to_string(),
            message: format!("unknown field{}", expected(message)),
        };
    }
    if indented_by_tab(text, line) {
        let message = "a tab cannot indent YAML: use spaces".to_owned();
        return YamlError { line, field: String::new(), message };
    }
    if message.starts_with("deserializing from YAML containing more than one document") {
        let message = "more than one document where one is expected".to_owned();
        return YamlError { line, field: String::new(), message };
    }
    YamlError { line, field: path.to_owned(), message: without_text(message) }
}

/// A text in the wrong place may be a secret, which must not reach a log. Its place is known, so it need not be repeated.
fn without_text(message: &str) -> String {
    let expected =
        message.strip_prefix("invalid type: string \"").and_then(|text| text.rsplit_once("\", expected "));
    expected.map_or_else(
        || message.to_owned(),
        |(_, expected)| format!("invalid type: text, expected {expected}"),
    )
}

fn without_places(message: &str) -> String {
    let is_place = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    let mut parts = message.split(" at line ");
    let mut bare = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(" column ").filter(|(line, column)| is_place(line) && is_place(column)) {
            Some((_, rest)) => bare.push_str(rest.trim_start_matches(|c: char| c.is_ascii_digit())),
            None => bare = format!("{bare} at line {part}"),
        }
    }
    bare
}

fn expected(message: &str) -> String {
    message.split_once(", ").map(|(_, expected)| format!(", {expected}")).unwrap_or_default()
}

fn indented_by_tab(text: &str, line: usize) -> bool {
    let Some(line) = line.checked_sub(1).and_then(|index| text.lines().nth(index)) else { return false };
    line.chars().take_while(|c| c.is_whitespace()).any(|c| c == '\t')
}

// === impl YamlError ===

impl YamlError {
    /// With the line on which its field stands in this text.
    pub(crate) fn in_line_of(mut self, text: &str) -> Self {
        self.line = Places::of(text).line(&Field::parse(&self.field)).unwrap_or(self.line);
        self
    }
}

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for YamlError {}

#[cfg(test)]
mod tests;
