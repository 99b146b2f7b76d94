//! Does the condition name only what there is, and compare only what compares? From the parser's tree to our own, with every
//! problem in it.

mod calls;
mod names;

use cel::IdedExpr;
use cel::common::ast::{Expr, ListExpr, LiteralValue};
use serde_json::Value as Json;

use crate::inbound::PortProtocol;
use crate::path::PathPattern;

use super::MAX_DEPTH;
use super::kind::Kind;
use super::node::{Node, Presence};
use super::write::quote;

/// What the rule around a condition has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'k> {
    /// Why there are no claims, where no request has them.
    pub(crate) no_claims: Option<&'static str>,
    /// What is spoken: without HTTP there is no request, and with the application's own TLS no peer that is known.
    pub(crate) protocol: PortProtocol,
    pub(crate) patterns: &'k [PathPattern],
    /// Headers that the policy itself sets, in lower case with `-`.
    pub(crate) set: &'k [String],
}

/// A part that was checked.
struct Typed {
    node: Node,
    kind: Kind,
}

struct Checker<'k> {
    known: &'k Known<'k>,
    problems: Vec<String>,
    reads_claims: bool,
}

/// The whole, which is a boolean, and whether claims are among what it names.
pub(super) fn check(tree: &IdedExpr, known: &Known<'_>) -> Result<(Node, bool), Vec<String>> {
    let mut checker = Checker { known, problems: Vec::new(), reads_claims: false };
    if is_deeper(tree, MAX_DEPTH) {
        return Err(vec![format!("is nested deeper than {MAX_DEPTH}: write several rules")]);
    }
    let typed = checker.expression(tree);
    let node =
        typed.and_then(|typed| checker.expect(tree, typed, &[Kind::Boolean], "is the whole condition"));
    match node {
        Some(node) if checker.problems.is_empty() => Ok((node, checker.reads_claims)),
        _ => Err(checker.problems),
    }
}

/// Its own depth is that of the limit and one.
fn is_deeper(expression: &IdedExpr, limit: usize) -> bool {
    let Some(below) = limit.checked_sub(1) else { return true };
    let deeper = |expression: &IdedExpr| is_deeper(expression, below);
    match &expression.expr {
        Expr::Call(call) => call.target.iter().any(|target| deeper(target)) || call.args.iter().any(deeper),
        Expr::List(list) => list.elements.iter().any(deeper),
        Expr::Select(select) => deeper(&select.operand),
        // Refused, whatever is in them.
        Expr::Comprehension(_) | Expr::Map(_) | Expr::Struct(_) => false,
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => false,
    }
}

// === impl Typed ===

impl Typed {
    fn boolean(node: Node) -> Self {
        Self { node, kind: Kind::Boolean }
    }

    fn text(node: Node) -> Self {
        Self { node, kind: Kind::Text }
    }
}

// === impl Checker ===

impl Checker<'_> {
    fn problem<T>(&mut self, message: impl Into<String>) -> Option<T> {
        let message = message.into();
        if !self.problems.contains(&message) {
            self.problems.push(message);
        }
        None
    }

    /// The part, if it is or may be of one of these kinds. `role` says what it is to the whole.
    fn expect(&mut self, part: &IdedExpr, typed: Typed, kinds: &[Kind], role: &str) -> Option<Node> {
        if typed.kind.may_be(kinds) {
            return Some(typed.node);
        }
        let wanted: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
        let (wanted, actual) = (wanted.join(" or "), typed.kind.name());
        self.problem(format!("{} {role} and is {actual}: write {wanted}", quote(part)))
    }

    fn expression(&mut self, expression: &IdedExpr) -> Option<Typed> {
        match &expression.expr {
            Expr::Literal(literal) => {
                let constant = self.literal(expression, literal)?;
                Some(Typed { kind: Kind::of(&constant), node: Node::Constant(constant) })
            }
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => {
                if let Some(typed) = self.variable(&select.operand, &select.field, select.test) {
                    return typed;
                }
                let operand = self.map(&select.operand)?;
                Some(member(operand, select.field.clone(), select.test))
            }
            Expr::List(list) => {
                let items = self.constants(list)?;
                match items {
                    Some(items) => {
                        Some(Typed { node: Node::Constant(Json::Array(items)), kind: Kind::List })
                    }
                    None => self.problem(format!(
                        "{} is not all literals: such a list stands only on the right of `in`",
                        quote(expression)
                    )),
                }
            }
            Expr::Call(call) => self.call(expression, call),
            Expr::Comprehension(_) => self.problem(
                "`all`, `exists`, `exists_one`, `map` and `filter` are not part of this language: compare with `in`, or \
                 write a rule for each case",
            ),
            Expr::Map(_) | Expr::Struct(_) => {
                self.problem(format!("{}: maps are not written out here: compare each member", quote(expression)))
            }
            Expr::Unspecified => self.problem("is no CEL expression"),
        }
    }

    /// What has members: claims, or a part of them.
    fn map(&mut self, part: &IdedExpr) -> Option<Node> {
        let typed = self.expression(part)?;
        self.expect(part, typed, &[Kind::Map], "is asked for a member")
    }

    fn literal(&mut self, part: &IdedExpr, literal: &LiteralValue) -> Option<Json> {
        match literal {
            LiteralValue::Boolean(boolean) => Some(Json::from(**boolean)),
            LiteralValue::Int(int) => Some(Json::from(**int)),
            LiteralValue::Double(double) => Some(Json::from(**double)),
            LiteralValue::String(text) => Some(Json::from(text.inner())),
            LiteralValue::Null => Some(Json::Null),
            LiteralValue::UInt(uint) => {
                self.problem(format!("{}: write {} without the u", quote(part), **uint))
            }
            LiteralValue::Bytes(_) => {
                self.problem("no value here is of bytes: write the literal without the b")
            }
        }
    }

    /// The items of a list of literals. `Some(None)`: something else is among them.
    fn constants(&mut self, list: &ListExpr) -> Option<Option<Vec<Json>>> {
        let mut items = Vec::new();
        for element in &list.elements {
            match &element.expr {
                Expr::Literal(literal) => items.push(self.literal(element, literal)?),
                Expr::List(list) => match self.constants(list)? {
                    Some(inner) => items.push(Json::Array(inner)),
                    None => return Some(None),
                },
                _ => return Some(None),
            }
        }
        Some(Some(items))
    }
}

fn member(operand: Node, name: String, test: bool) -> Typed {
    if test {
        Typed::boolean(Node::Has(Presence::Member(Box::new(operand), name)))
    } else {
        Typed { node: Node::Member(Box::new(operand), name), kind: Kind::Any }
    }
}
