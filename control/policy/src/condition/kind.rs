//! Which kind of value is it, as far as can be told before there is a request?

use serde_json::Value as Json;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Known only when it is evaluated: what comes from claims.
    Any,
    Null,
    Boolean,
    Integer,
    Double,
    Text,
    List,
    Map,
}

// === impl Kind ===

impl Kind {
    pub(super) fn of(constant: &Json) -> Self {
        match constant {
            Json::Null => Self::Null,
            Json::Bool(_) => Self::Boolean,
            Json::Number(number) if number.is_f64() => Self::Double,
            Json::Number(_) => Self::Integer,
            Json::String(_) => Self::Text,
            Json::Array(_) => Self::List,
            Json::Object(_) => Self::Map,
        }
    }

    /// Could it be one of these?
    pub(super) fn may_be(self, kinds: &[Self]) -> bool {
        self == Self::Any || kinds.contains(&self)
    }

    /// Could the two be equal? Numbers of either kind compare, and everything compares with null.
    pub(super) fn compares_with(self, other: Self) -> bool {
        let is_free = |kind| matches!(kind, Self::Any | Self::Null);
        is_free(self) || is_free(other) || self == other || (self.is_number() && other.is_number())
    }

    fn is_number(self) -> bool {
        matches!(self, Self::Integer | Self::Double)
    }

    /// With its article, as messages name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Any => "a value",
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Integer => "an integer",
            Self::Double => "a double",
            Self::Text => "a string",
            Self::List => "a list",
            Self::Map => "a map",
        }
    }
}
