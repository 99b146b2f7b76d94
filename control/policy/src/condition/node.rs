//! What is there to compute? The tree of a condition that was checked. Our own and small, so that its cost is plain to see.

use http::HeaderName;
use serde_json::Value as Json;

/// An expression. Everything that it names exists; what it names need not be there.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    /// A literal, or a list of literals.
    Constant(Json),
    /// All claims of the token.
    Claims,
    Method,
    Path,
    Host,
    /// The one field of this name.
    Header(HeaderName),
    /// What `{name}` of the pattern stands for.
    Capture(String),
    PeerId,
    SourceIp,
    /// `x.name`, `x["name"]`
    Member(Box<Node>, String),
    /// `x[y]`
    Index(Pair),
    Has(Presence),
    Not(Box<Node>),
    Negate(Box<Node>),
    And(Pair),
    Or(Pair),
    /// Condition, then, else.
    If(Box<[Node; 3]>),
    /// `x == null`
    IsNull(Box<Node>),
    Equal(Pair),
    Order(Order, Pair),
    Arithmetic(Operator, Pair),
    /// In a list, or among the names of a map.
    In(Pair),
    /// In a list that is written out and is not all literals.
    OneOf(Box<Node>, Vec<Node>),
    Text(TextTest, Pair),
    Size(Box<Node>),
    ToInteger(Box<Node>),
    ToText(Box<Node>),
}

/// Left and right.
pub(super) type Pair = Box<[Node; 2]>;

/// Of what `has` asks whether it is there.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Presence {
    Member(Box<Node>, String),
    Header(HeaderName),
    Capture(String),
    PeerId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextTest {
    StartsWith,
    EndsWith,
    Contains,
}

// === impl Order ===

impl Order {
    pub(super) fn holds(self, ordering: std::cmp::Ordering) -> bool {
        match self {
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

// === impl TextTest ===

impl TextTest {
    pub(super) fn holds(self, text: &str, part: &str) -> bool {
        match self {
            Self::StartsWith => text.starts_with(part),
            Self::EndsWith => text.ends_with(part),
            Self::Contains => text.contains(part),
        }
    }
}

// === impl Node ===

impl Node {
    /// The header fields that it looks at, anywhere in it.
    pub(super) fn headers<'n>(&'n self, found: &mut Vec<&'n HeaderName>) {
        let mut all = |nodes: &'n [Self]| nodes.iter().for_each(|node| node.headers(found));
        match self {
            Self::Header(name) | Self::Has(Presence::Header(name)) => found.push(name),
            Self::Constant(_) | Self::Claims | Self::Method | Self::Path | Self::Host => {}
            Self::Capture(_) | Self::PeerId | Self::SourceIp => {}
            Self::Has(Presence::Capture(_) | Presence::PeerId) => {}
            Self::Has(Presence::Member(node, _)) | Self::Member(node, _) => node.headers(found),
            Self::Not(node) | Self::Negate(node) | Self::IsNull(node) => node.headers(found),
            Self::Size(node) | Self::ToInteger(node) | Self::ToText(node) => node.headers(found),
            Self::Index(pair) | Self::And(pair) | Self::Or(pair) | Self::Equal(pair) => all(&**pair),
            Self::Order(_, pair) | Self::Arithmetic(_, pair) => all(&**pair),
            Self::In(pair) | Self::Text(_, pair) => all(&**pair),
            Self::If(parts) => all(&**parts),
            Self::OneOf(node, list) => {
                node.headers(found);
                list.iter().for_each(|node| node.headers(found));
            }
        }
    }
}
