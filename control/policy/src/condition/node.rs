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
    /// Does it look at header fields, anywhere in it?
    pub(super) fn reads_headers(&self) -> bool {
        match self {
            Self::Header(_) | Self::Has(Presence::Header(_)) => true,
            Self::Constant(_) | Self::Claims | Self::Method | Self::Path | Self::Host => false,
            Self::Capture(_) | Self::PeerId | Self::SourceIp => false,
            Self::Has(Presence::Capture(_) | Presence::PeerId) => false,
            Self::Has(Presence::Member(node, _)) | Self::Member(node, _) => node.reads_headers(),
            Self::Not(node) | Self::Negate(node) | Self::IsNull(node) => node.reads_headers(),
            Self::Size(node) | Self::ToInteger(node) | Self::ToText(node) => node.reads_headers(),
            Self::Index(pair) | Self::And(pair) | Self::Or(pair) => pair.iter().any(Self::reads_headers),
            Self::Equal(pair) | Self::Order(_, pair) | Self::Arithmetic(_, pair) => {
                pair.iter().any(Self::reads_headers)
            }
            Self::In(pair) | Self::Text(_, pair) => pair.iter().any(Self::reads_headers),
            Self::If(parts) => parts.iter().any(Self::reads_headers),
            Self::OneOf(node, list) => node.reads_headers() || list.iter().any(Self::reads_headers),
        }
    }
}
