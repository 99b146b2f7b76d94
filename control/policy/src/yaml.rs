//! What does a YAML text say? The one place that calls serde_yaml: first within a budget, then into a type.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor,
};

use crate::field::Field;
use crate::places::Places;

/// The most values (keys included) of one document, with aliases expanded.
const MAX_NODES: usize = 10_000;
/// The most text of one document, with aliases expanded.
const MAX_TEXT_BYTES: usize = 1 << 20;
/// The deepest nesting of mappings and lists.
const MAX_DEPTH: usize = 32;

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
/// level, keys that are no strings, tags, values left empty (but under `metadata` and `status`, which Kubernetes
/// writes), more than 32 levels, and more than 10,000 values or 1 MiB of text once aliases are expanded.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, YamlError> {
    survey(text)?;
    serde_yaml::from_str(text).map_err(|error| typed(&error, text))
}

/// Walks the document once without keeping it.
fn survey(text: &str) -> Result<(), YamlError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(YamlError {
            line: 0,
            field: String::new(),
            message: "the text is larger than 1 MiB".to_owned(),
        });
    }
    bracket_depth(text)?;
    let budget = RefCell::new(Budget::default());
    let walked = Node { budget: &budget, depth: 0 }.deserialize(serde_yaml::Deserializer::from_str(text));
    let Err(error) = walked else { return Ok(()) };
    Err(match budget.into_inner().fault {
        Some(fault) => fault.locate(&error, text),
        None => typed(&error, text),
    })
}

/// Refuses absurd nesting of brackets before the parser sees it: its tokenizer keeps state for each open one.
fn bracket_depth(text: &str) -> Result<(), YamlError> {
    let mut depth = 0_usize;
    for (index, line) in text.lines().enumerate() {
        for byte in line.bytes() {
            match byte {
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        // Brackets inside of strings count too, hence the distance to the true limit.
        if depth > 100 * MAX_DEPTH {
            return Err(YamlError { line: index + 1, field: String::new(), message: too_deep() });
        }
    }
    Ok(())
}

fn too_deep() -> String {
    format!("more than {MAX_DEPTH} levels of nesting")
}

/// What has been used so far, where we are, and what went wrong.
#[derive(Default)]
struct Budget {
    nodes: usize,
    bytes: usize,
    field: Field,
    fault: Option<Fault>,
}

struct Fault {
    field: Field,
    message: String,
    /// The second occurrence of the key is the place.
    duplicate: bool,
}

// === impl Budget ===

impl Budget {
    fn spend(&mut self, bytes: usize) -> Result<(), String> {
        self.nodes += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.nodes > MAX_NODES {
            return Err(format!("more than {MAX_NODES} values in one document, aliases expanded"));
        }
        if self.bytes > MAX_TEXT_BYTES {
            return Err("more than 1 MiB of text in one document, aliases expanded".to_owned());
        }
        Ok(())
    }

    fn fail<E: Error>(&mut self, message: String, duplicate: bool) -> E {
        let error = E::custom(&message);
        self.fault.get_or_insert(Fault { field: self.field.clone(), message, duplicate });
        error
    }
}

// === impl Fault ===

impl Fault {
    fn locate(self, error: &serde_yaml::Error, text: &str) -> YamlError {
        let places = Places::of(text);
        let found = if self.duplicate { places.second(&self.field) } else { places.line(&self.field) };
        let line = found.or_else(|| error.location().map(|at| at.line())).unwrap_or(0);
        YamlError { line, field: self.field.to_string(), message: self.message }
    }
}

/// Visits one value and all below it.
#[derive(Clone, Copy)]
struct Node<'b> {
    budget: &'b RefCell<Budget>,
    depth: usize,
}

// === impl Node ===

impl Node<'_> {
    fn scalar<E: Error>(self, bytes: usize) -> Result<(), E> {
        let spent = self.budget.borrow_mut().spend(bytes);
        spent.map_err(|message| self.fail(message))
    }

    fn fail<E: Error>(self, message: impl Into<String>) -> E {
        self.budget.borrow_mut().fail(message.into(), false)
    }

    fn deeper<E: Error>(self) -> Result<Self, E> {
        self.scalar(0)?;
        if self.depth >= MAX_DEPTH {
            return Err(self.fail(too_deep()));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    fn empty<E: Error>(self) -> Result<(), E> {
        self.scalar(0)?;
        let tolerated = {
            let budget = self.budget.borrow();
            budget.field.is_under("metadata") || budget.field.is_under("status")
        };
        if tolerated { Ok(()) } else { Err(self.fail("has no value: write one, or leave the field out")) }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping, a list or a plain value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.scalar(1)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.scalar(8)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.scalar(8)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.scalar(8)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.scalar(text.len())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.empty()
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.empty()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let below = self.deeper()?;
        for index in 0.. {
            self.budget.borrow_mut().field.push_index(index);
            let more = seq.next_element_seed(below)?;
            self.budget.borrow_mut().field.pop();
            if more.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let below = self.deeper()?;
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key_seed(Key(self))? {
            self.budget.borrow_mut().field.push_key(&key);
            if !seen.insert(key) {
                return Err(self.budget.borrow_mut().fail("is written twice: remove one".to_owned(), true));
            }
            map.next_value_seed(below)?;
            self.budget.borrow_mut().field.pop();
        }
        Ok(())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(self.fail("YAML tags are not supported: remove the `!`"))
    }
}

/// A key: a string and nothing else.
struct Key<'b>(Node<'b>);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key that is a string: quote it")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<String, E> {
        self.0.scalar(key.len())?;
        Ok(key.to_owned())
    }
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
    YamlError { line, field: path.to_owned(), message: message.to_owned() }
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
