//! Is this text within bounds? A walk over the whole document, aliases expanded, that keeps nothing of it.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};

use super::YamlError;
use crate::field::Field;
use crate::places::Places;

/// The most values (keys included) of one document, with aliases expanded.
pub(super) const MAX_NODES: usize = 10_000;
/// The most text of one document, with aliases expanded.
pub(super) const MAX_TEXT_BYTES: usize = 1 << 20;
/// The deepest nesting of mappings and lists.
pub(super) const MAX_DEPTH: usize = 32;

/// Walks the document once without keeping it. Where a bound is the reason why that fails, the fault says which.
pub(super) fn walk<'de, D: Deserializer<'de>>(document: D) -> Result<(), (D::Error, Option<Fault>)> {
    let budget = RefCell::new(Budget::default());
    let walked = Node { budget: &budget, depth: 0 }.deserialize(document);
    walked.map_err(|error| (error, budget.into_inner().fault))
}

/// Refuses absurd nesting of brackets before the parser sees it: its tokenizer keeps state for each open one.
pub(super) fn brackets(text: &str) -> Result<(), YamlError> {
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

pub(super) struct Fault {
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
    /// `line` is where the walk ended, for want of better.
    pub(super) fn locate(self, line: usize, text: &str) -> YamlError {
        let places = Places::of(text);
        let found = if self.duplicate { places.second(&self.field) } else { places.line(&self.field) };
        let line = found.unwrap_or(line);
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
            budget.field.is_of_kubernetes()
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
