//! When does a rule hold, beyond its words? `when`: an expression of CEL (semantics 10), read by the parser of the `cel` crate,
//! checked, and evaluated by ourselves on values that are borrowed from the request.
//!
//! What holds of every evaluation: it ends, it does not panic, and it costs at most the number of nodes (fewer than there are
//! bytes in the text) times the size of what the request brings along.

mod check;
mod evaluate;
mod kind;
mod node;
mod sample;
mod value;
mod write;

use cel::parser::ParseErrors;
use cel::parser::PrattParser;
use http::HeaderName;

pub(crate) use check::Known;
pub(crate) use evaluate::Subject;
pub use sample::check;

use node::Node;

/// The longest text, in bytes.
const MAX_BYTES: usize = 1024;
/// The deepest tree. A chain of `&&` or of `||` is as deep as its logarithm.
const MAX_DEPTH: usize = 16;
/// The most brackets in each other, which the tree does not show. Bounds the parser's own recursion.
const MAX_BRACKETS: u16 = 32;

/// A condition that was checked: all that it names exists.
#[derive(Debug)]
pub(crate) struct Condition {
    written: String,
    node: Node,
    /// Does it ask what a token says?
    pub(crate) reads_claims: bool,
}

// === impl Condition ===

impl Condition {
    /// Reads a condition of a rule that knows these things. Fails with all that is wrong with it.
    pub(crate) fn parse(written: &str, known: &Known<'_>) -> Result<Self, Vec<String>> {
        if written.len() > MAX_BYTES {
            let message =
                format!("is {} bytes long, {MAX_BYTES} are the most: write several rules", written.len());
            return Err(vec![message]);
        }
        let parser = PrattParser::new().max_recursion_depth(MAX_BRACKETS);
        let tree = parser.parse(written).map_err(|errors| vec![syntax(&errors)])?;
        let (node, reads_claims) = check::check(&tree, known)?;
        Ok(Self { written: written.to_owned(), node, reads_claims })
    }

    /// As it is written.
    pub(crate) fn as_str(&self) -> &str {
        &self.written
    }

    /// Does it look at header fields?
    pub(crate) fn reads_headers(&self) -> bool {
        !self.headers().is_empty()
    }

    /// The header fields that it looks at.
    pub(crate) fn headers(&self) -> Vec<&HeaderName> {
        let mut found = Vec::new();
        self.node.headers(&mut found);
        found
    }

    /// Does it hold? `None`: it cannot be evaluated.
    pub(crate) fn holds<'a>(&'a self, subject: &Subject<'a>) -> Option<bool> {
        subject.boolean(&self.node)
    }
}

/// The first error.
fn syntax(errors: &ParseErrors) -> String {
    let Some(error) = errors.errors.first() else { return "is no CEL expression".to_owned() };
    let message = error.msg.trim_start_matches("Syntax error: ");
    match error.pos {
        // The parser's way to say that it gave up.
        (0, _) => format!("is nested too deep, or not CEL at all ({message})"),
        (line, column) => format!("is no CEL expression: {message} (line {line}, column {column})"),
    }
}

#[cfg(test)]
mod tests;
