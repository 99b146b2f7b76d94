//! Which path is it? The one canonical form that is judged and forwarded, and the patterns that match it (semantics 8).

/// A path in canonical form, without the query. Starts with `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalPath(String);

impl CanonicalPath {
    /// The canonical form of the path of a request target, or `None` where it is ambiguous (semantics 8).
    pub fn parse(_raw: &str) -> Option<Self> {
        todo!()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}
