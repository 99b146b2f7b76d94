//! Does a claim hold what a rule demands? Claims are compared in the token's own shape, and nothing is coerced (semantics 4).

use serde_json::{Map, Value};

/// What a claim must be, in the token's own shape.
#[derive(Debug, PartialEq)]
pub(crate) enum ClaimTest {
    /// One of these strings, integers or booleans; or a list that holds one.
    OneOf(Vec<Value>),
    /// An object with these members.
    Members(Vec<(String, ClaimTest)>),
}

// === impl ClaimTest ===

impl ClaimTest {
    /// `None`: the claim has a shape that cannot be compared.
    pub(super) fn holds(&self, claim: &Value) -> Option<bool> {
        match (self, claim) {
            (Self::Members(tests), Value::Object(claims)) => all(tests
                .iter()
                .map(|(name, test)| claims.get(name).map_or(Some(false), |claim| test.holds(claim)))),
            (Self::Members(_), _) => None,
            (Self::OneOf(wanted), Value::Array(items)) => {
                one(items.iter().map(|item| is_one_of(wanted, item)))
            }
            (Self::OneOf(wanted), claim) => is_one_of(wanted, claim),
        }
    }
}

// What an explanation says of it.

impl ClaimTest {
    /// As it is written.
    pub(crate) fn written(&self) -> Value {
        match self {
            Self::OneOf(wanted) => Value::Array(wanted.clone()),
            Self::Members(tests) => tests.iter().map(|(name, test)| (name.clone(), test.written())).collect(),
        }
    }

    /// As much of a claim as it asks for: of an object, the members that it names and no others.
    pub(crate) fn concerned(&self, claim: &Value) -> Value {
        match (self, claim) {
            (Self::Members(tests), Value::Object(claims)) => {
                let named = |(name, test): &(String, Self)| {
                    claims.get(name).map(|claim| (name.clone(), test.concerned(claim)))
                };
                Value::Object(tests.iter().filter_map(named).collect::<Map<_, _>>())
            }
            (Self::OneOf(_), Value::Array(items)) => items.iter().map(unless_it_holds_more).collect(),
            (_, claim) => unless_it_holds_more(claim),
        }
    }
}

/// The value itself; where it has parts, they are not what was asked for, and it is not said what is in them.
fn unless_it_holds_more(value: &Value) -> Value {
    match value {
        Value::Object(_) => Value::String("an object".to_owned()),
        Value::Array(_) => Value::String("a list".to_owned()),
        _ => value.clone(),
    }
}

fn is_one_of(wanted: &[Value], claim: &Value) -> Option<bool> {
    is_comparable(claim).then(|| wanted.contains(claim))
}

/// Do all hold? One that does not outweighs those that cannot be told.
fn all(tests: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    outweighed_by(false, tests)
}

/// Does one hold? One that does outweighs those that cannot be told.
pub(super) fn one(tests: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    outweighed_by(true, tests)
}

fn outweighed_by(decisive: bool, tests: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut others = Some(!decisive);
    for test in tests {
        match test {
            Some(test) if test == decisive => return Some(decisive),
            Some(_) => {}
            None => others = None,
        }
    }
    others
}

/// Strings, integers and booleans compare, as they are; nothing else does.
pub(crate) fn is_comparable(value: &Value) -> bool {
    match value {
        Value::String(_) | Value::Bool(_) => true,
        Value::Number(number) => !number.is_f64(),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}
