//! What do two values have to do with each other? Values borrowed from the request and its claims; comparing and computing
//! that never coerces, and says `None` rather than guess.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::{Map, Number, Value as Json};

use super::node::Operator;

/// The longest string that is put together, in bytes. A longer one cannot be evaluated, which bounds the cost.
const MAX_TEXT: usize = 8 * 1024;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Null,
    Boolean(bool),
    /// Also those of 64 bits without a sign, which claims may hold; computing is within those with one.
    Integer(i128),
    /// Never infinite, always a number.
    Double(f64),
    Text(Cow<'a, str>),
    List(&'a [Json]),
    Map(&'a Map<String, Json>),
}

// === impl Value ===

impl<'a> Value<'a> {
    /// A number is an integer where it is written without fraction and exponent.
    pub(super) fn of(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(boolean) => Self::Boolean(*boolean),
            Json::Number(number) => Self::number(number),
            Json::String(text) => Self::Text(Cow::Borrowed(text)),
            Json::Array(items) => Self::List(items),
            Json::Object(members) => Self::Map(members),
        }
    }

    fn number(number: &Number) -> Self {
        let integer = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
        match (integer, number.as_f64()) {
            (Some(integer), _) => Self::Integer(integer),
            (None, Some(double)) => Self::Double(double),
            // There is none: a number of JSON is one or the other.
            (None, None) => Self::Null,
        }
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        if let Self::Boolean(boolean) = self { Some(*boolean) } else { None }
    }

    pub(super) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Are they equal? `None` where they are of different kinds: whether a list is the string that it holds, or `"1"` the number,
    /// is what others might see differently.
    pub(super) fn equals(&self, other: &Value<'_>) -> Option<bool> {
        match (self, other) {
            (Self::Null, Value::Null) => Some(true),
            (Self::Boolean(one), Value::Boolean(two)) => Some(one == two),
            (Self::Text(one), Value::Text(two)) => Some(one == two),
            (Self::List(one), Value::List(two)) if one.len() != two.len() => Some(false),
            (Self::List(one), Value::List(two)) => {
                all(one.iter().zip(*two).map(|(one, two)| Value::of(one).equals(&Value::of(two))))
            }
            (Self::Map(one), Value::Map(two)) if one.len() != two.len() => Some(false),
            (Self::Map(one), Value::Map(two)) => all(one.iter().map(|(name, one)| match two.get(name) {
                Some(two) => Value::of(one).equals(&Value::of(two)),
                None => Some(false),
            })),
            _ => self.compares_as_number(other).map(Ordering::is_eq),
        }
    }

    /// Numbers by size, also integers with doubles; strings by code points, which UTF-8 keeps in order.
    pub(super) fn compares(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Self::Text(one), Value::Text(two)) => Some(one.cmp(two)),
            _ => self.compares_as_number(other),
        }
    }

    fn compares_as_number(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Self::Integer(one), Value::Integer(two)) => Some(one.cmp(two)),
            (Self::Double(one), Value::Double(two)) => one.partial_cmp(two),
            (Self::Integer(one), Value::Double(two)) => integer_with_double(*one, *two),
            (Self::Double(one), Value::Integer(two)) => {
                integer_with_double(*two, *one).map(Ordering::reverse)
            }
            _ => None,
        }
    }

    /// Is it in this list, or among the names of this map? An item that it is equal to outweighs those that do not compare.
    pub(super) fn is_in(&self, other: &Value<'_>) -> Option<bool> {
        match other {
            Value::List(items) => one(items.iter().map(|item| self.equals(&Value::of(item)))),
            Value::Map(members) => Some(members.contains_key(self.text()?)),
            _ => None,
        }
    }

    /// `None`: not numbers of one kind (or, to add, strings), or the result is out of range.
    pub(super) fn compute(self, operator: Operator, other: Value<'_>) -> Option<Value<'a>> {
        match (self, other) {
            (Self::Integer(one), Value::Integer(two)) => integers(operator, one, two).map(Self::Integer),
            (Self::Double(one), Value::Double(two)) => doubles(operator, one, two).map(Self::Double),
            (Self::Text(one), Value::Text(two)) if operator == Operator::Add => {
                let fits = one.len().saturating_add(two.len()) <= MAX_TEXT;
                fits.then(|| Self::Text(Cow::Owned([&*one, &*two].concat())))
            }
            _ => None,
        }
    }

    pub(super) fn negate(self) -> Option<Self> {
        match self {
            Self::Integer(integer) => i64::try_from(integer).ok()?.checked_neg().map(Self::integer),
            Self::Double(double) => Some(Self::Double(-double)),
            _ => None,
        }
    }

    pub(super) fn integer(integer: i64) -> Self {
        Self::Integer(integer.into())
    }

    /// `size(x)`: code points of a string, items of a list, members of a map.
    pub(super) fn size(&self) -> Option<Self> {
        let size = match self {
            Self::Text(text) => text.chars().count(),
            Self::List(items) => items.len(),
            Self::Map(members) => members.len(),
            _ => return None,
        };
        i64::try_from(size).ok().map(Self::integer)
    }

    /// `int(x)`: of a string in decimal, of a double without its fraction.
    pub(super) fn to_integer(&self) -> Option<Self> {
        match self {
            Self::Integer(integer) => i64::try_from(*integer).ok(),
            Self::Double(double) => i64::try_from(whole(*double)?).ok(),
            Self::Text(text) if !text.starts_with('+') => text.parse().ok(),
            _ => None,
        }
        .map(Self::integer)
    }

    /// `string(x)`: of an integer or a boolean. There are many ways to write a double.
    pub(super) fn into_text(self) -> Option<Self> {
        match self {
            Self::Text(_) => Some(self),
            Self::Integer(integer) => Some(Self::Text(integer.to_string().into())),
            Self::Boolean(boolean) => Some(Self::Text(if boolean { "true" } else { "false" }.into())),
            _ => None,
        }
    }
}

// Numbers.

fn integers(operator: Operator, one: i128, two: i128) -> Option<i128> {
    let (one, two) = (i64::try_from(one).ok()?, i64::try_from(two).ok()?);
    match operator {
        Operator::Add => one.checked_add(two),
        Operator::Subtract => one.checked_sub(two),
        Operator::Multiply => one.checked_mul(two),
        Operator::Divide => one.checked_div(two),
        Operator::Remainder => one.checked_rem(two),
    }
    .map(i128::from)
}

fn doubles(operator: Operator, one: f64, two: f64) -> Option<f64> {
    let result = match operator {
        Operator::Add => one + two,
        Operator::Subtract => one - two,
        Operator::Multiply => one * two,
        Operator::Divide => one / two,
        Operator::Remainder => return None,
    };
    result.is_finite().then_some(result)
}

fn integer_with_double(integer: i128, double: f64) -> Option<Ordering> {
    match whole(double) {
        // Where the whole parts are equal, the fraction decides.
        Some(whole) => Some(integer.cmp(&whole).then_with(|| 0.0_f64.total_cmp(&(double % 1.0 + 0.0)))),
        None if double > 0.0 => Some(Ordering::Less),
        None if double < 0.0 => Some(Ordering::Greater),
        None => None,
    }
}

/// The double without its fraction. `None`: it is beyond all integers.
fn whole(double: f64) -> Option<i128> {
    const BEYOND: f64 = 1e30;
    #[expect(clippy::cast_possible_truncation, reason = "the fraction is cut off, and the rest is in range")]
    (double.abs() < BEYOND).then_some(double as i128)
}

// Three-valued logic over many.

/// Do all hold? One that does not outweighs those that cannot be told.
fn all(tests: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    one_is(false, tests)
}

/// Does one hold? One that does outweighs those that cannot be told.
pub(super) fn one(tests: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    one_is(true, tests)
}

pub(super) fn one_is(decisive: bool, mut tests: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut others = Some(!decisive);
    let is_decisive = |test: Option<bool>| match test {
        Some(test) => test == decisive,
        None => {
            others = None;
            false
        }
    };
    if tests.any(is_decisive) { Some(decisive) } else { others }
}

#[cfg(test)]
mod tests;
