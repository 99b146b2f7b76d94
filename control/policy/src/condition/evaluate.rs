//! Does the condition hold for this request? One walk over the tree, on values borrowed from the request. `None`: it cannot
//! be evaluated.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use serde_json::{Map, Value as Json};

use crate::path::{self, PathPattern};
use crate::request::AccessRequest;

use super::node::{Node, Presence};
use super::value::{self, Value};

/// What a condition is evaluated on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) request: &'a AccessRequest<'a>,
    /// Of the token that the rule's policy accepts, if there is one.
    pub(crate) claims: Option<&'a Map<String, Json>>,
    /// Of the rule. Captures are those of the first that matches.
    pub(crate) patterns: &'a [PathPattern],
}

// === impl Subject ===

impl<'a> Subject<'a> {
    pub(super) fn boolean(&self, node: &'a Node) -> Option<bool> {
        match node {
            Node::Has(presence) => self.has(presence),
            Node::Not(operand) => self.boolean(operand).map(|holds| !holds),
            Node::And(pair) => self.logic(false, pair),
            Node::Or(pair) => self.logic(true, pair),
            Node::IsNull(operand) => Some(self.value(operand)? == Value::Null),
            Node::Equal(pair) => self.both(pair, |one, two| one.equals(two)),
            Node::Order(order, pair) => {
                self.both(pair, |one, two| one.compares(two).map(|ordering| order.holds(ordering)))
            }
            Node::In(pair) => self.both(pair, Value::is_in),
            Node::OneOf(operand, items) => self.one_of(operand, items),
            Node::Text(test, pair) => {
                self.both(pair, |text, part| Some(test.holds(text.text()?, part.text()?)))
            }
            _ => self.value(node)?.boolean(),
        }
    }

    fn value(&self, node: &'a Node) -> Option<Value<'a>> {
        match node {
            Node::Constant(constant) => Some(Value::of(constant)),
            Node::Claims => self.claims.map(Value::Map),
            Node::Method => Some(borrowed(self.request.method)),
            // What others would make of a raw path cannot be told.
            Node::Path if self.request.path.is_raw() => None,
            Node::Path => path::text(self.request.path.as_str()).map(Value::Text),
            Node::Host => Some(borrowed(self.request.host)),
            Node::Header(name) => header(self.request.headers, name).map(borrowed),
            Node::Capture(name) => path::text(self.capture(name)??).map(Value::Text),
            Node::PeerId => self.request.principal.peer?.id.as_deref().map(borrowed),
            Node::SourceIp => Some(Value::Text(Cow::Owned(self.request.source.to_canonical().to_string()))),
            Node::Member(operand, name) => member(&self.value(operand)?, name).map(Value::of),
            Node::Index(pair) => self.index(pair),
            Node::Negate(operand) => self.value(operand)?.negate(),
            Node::If(parts) => {
                let [condition, then, otherwise] = &**parts;
                self.value(if self.boolean(condition)? { then } else { otherwise })
            }
            Node::Arithmetic(operator, pair) => {
                let [one, two] = &**pair;
                self.value(one)?.compute(*operator, self.value(two)?)
            }
            Node::Size(operand) => self.value(operand)?.size(),
            Node::ToInteger(operand) => self.value(operand)?.to_integer(),
            Node::ToText(operand) => self.value(operand)?.into_text(),
            _ => self.boolean(node).map(Value::Boolean),
        }
    }

    fn both(
        &self,
        pair: &'a [Node; 2],
        test: impl FnOnce(&Value<'a>, &Value<'a>) -> Option<bool>,
    ) -> Option<bool> {
        let [one, two] = pair;
        test(&self.value(one)?, &self.value(two)?)
    }

    /// And, or: one side that decides outweighs another that cannot be evaluated (CEL, "Logical Operators").
    fn logic(&self, decisive: bool, pair: &'a [Node; 2]) -> Option<bool> {
        value::one_is(decisive, pair.iter().map(|side| self.boolean(side)))
    }

    /// As in CEL, an item that cannot be evaluated is a list that cannot be, whatever the others are.
    fn one_of(&self, operand: &'a Node, items: &'a [Node]) -> Option<bool> {
        let operand = self.value(operand)?;
        let mut is_one = Some(false);
        for item in items {
            match operand.equals(&self.value(item)?) {
                Some(true) => is_one = Some(true),
                Some(false) => {}
                None if is_one == Some(true) => {}
                None => is_one = None,
            }
        }
        is_one
    }

    fn index(&self, pair: &'a [Node; 2]) -> Option<Value<'a>> {
        let [operand, index] = pair;
        match (self.value(operand)?, self.value(index)?) {
            (Value::List(items), Value::Integer(place)) => {
                items.get(usize::try_from(place).ok()?).map(Value::of)
            }
            (Value::Map(members), Value::Text(name)) => members.get(&*name).map(Value::of),
            _ => None,
        }
    }

    fn has(&self, presence: &'a Presence) -> Option<bool> {
        match presence {
            Presence::Member(operand, name) => match self.value(operand)? {
                Value::Map(members) => Some(members.contains_key(name)),
                _ => None,
            },
            Presence::Header(name) => Some(lines(self.request.headers, name).next().is_some()),
            Presence::Capture(name) => Some(self.capture(name)?.is_some()),
            Presence::PeerId => Some(self.request.principal.peer.is_some_and(|peer| peer.id.is_some())),
        }
    }

    /// Still escaped. `None`: whether the pattern that would say it matches cannot be told, so what comes later in the list
    /// may not speak for it.
    fn capture(&self, name: &str) -> Option<Option<&'a str>> {
        let path = self.request.path;
        for pattern in self.patterns {
            if pattern.judge(path, self.claims)? {
                return Some(pattern.capture(name, path));
            }
        }
        Some(None)
    }
}

fn borrowed(text: &str) -> Value<'_> {
    Value::Text(Cow::Borrowed(text))
}

fn member<'a>(value: &Value<'a>, name: &str) -> Option<&'a Json> {
    if let Value::Map(members) = value { members.get(name) } else { None }
}

/// The value of a header field with one line. Several could be read as the first, the last or all, and one that is spelled
/// with `_` as this one: none of them can be told.
fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut lines = lines(headers, name);
    match (lines.next(), lines.next()) {
        (Some((spelled, value)), None) if spelled == name => std::str::from_utf8(value.as_bytes()).ok(),
        _ => None,
    }
}

/// The lines of a header, also those that are spelled with `_` for `-`.
fn lines<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = (&'a HeaderName, &'a http::HeaderValue)> {
    let same = |(own, other)| own == other || (own == b'-' && other == b'_');
    let is_named = move |spelled: &HeaderName| {
        let (own, other) = (name.as_str(), spelled.as_str());
        own.len() == other.len() && own.bytes().zip(other.bytes()).all(same)
    };
    headers.iter().filter(move |(spelled, _)| is_named(spelled))
}
