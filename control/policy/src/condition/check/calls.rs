//! Which operators and functions are there, and what do they take?

use cel::IdedExpr;
use cel::common::ast::{CallExpr, Expr, operators};

use super::super::kind::Kind;
use super::super::node::{Node, Operator, Order, Pair, TextTest};
use super::super::write::quote;
use super::names::literal_text;
use super::{Checker, Typed, member};

const FUNCTIONS: &str = "has, size, startsWith, endsWith, contains, int and string are";

// === impl Checker ===

impl Checker<'_> {
    pub(super) fn call(&mut self, whole: &IdedExpr, call: &CallExpr) -> Option<Typed> {
        let name = call.func_name.as_str();
        match (call.target.as_deref(), &*call.args) {
            (None, [condition, then, otherwise]) if name == operators::CONDITIONAL => {
                self.conditional(condition, then, otherwise)
            }
            (None, [one, two]) => self.binary(whole, name, one, two),
            (None, [one]) => self.unary(name, one),
            (Some(target), [argument]) if text_test(name).is_some() => {
                self.text_test(text_test(name)?, target, argument)
            }
            (Some(target), []) if name == "size" => self.unary(name, target),
            _ => self.unknown(name),
        }
    }

    fn unknown(&mut self, name: &str) -> Option<Typed> {
        match name {
            "matches" => self.problem(
                "`matches`: regular expressions are not part of this language: write startsWith, endsWith or contains",
            ),
            "has" => self.problem("`has` asks for one member: write has(claims.NAME)"),
            "startsWith" | "endsWith" | "contains" => {
                self.problem(format!("`{name}` is asked of a string, with one other: write x.{name}(\"y\")"))
            }
            "size" | "int" | "string" => self.problem(format!("`{name}` takes one value: write {name}(x)")),
            _ => self.problem(format!("`{name}` is no function here: {FUNCTIONS}")),
        }
    }

    fn unary(&mut self, name: &str, part: &IdedExpr) -> Option<Typed> {
        type Make = fn(Box<Node>) -> Node;
        let (kinds, result, make): (&[Kind], Kind, Make) = match name {
            operators::LOGICAL_NOT => (&[Kind::Boolean], Kind::Boolean, Node::Not),
            operators::NEGATE => (&[Kind::Integer, Kind::Double], Kind::Any, Node::Negate),
            "size" => (&[Kind::Text, Kind::List, Kind::Map], Kind::Integer, Node::Size),
            "int" => (&[Kind::Integer, Kind::Double, Kind::Text], Kind::Integer, Node::ToInteger),
            "string" => (&[Kind::Text, Kind::Integer, Kind::Boolean], Kind::Text, Node::ToText),
            _ => return self.unknown(name),
        };
        let typed = self.expression(part)?;
        let kind = if name == operators::NEGATE { typed.kind } else { result };
        let role = match name {
            operators::LOGICAL_NOT => "stands after `!`".to_owned(),
            operators::NEGATE => "stands after `-`".to_owned(),
            _ => format!("is given to `{name}`"),
        };
        let node = self.expect(part, typed, kinds, &role)?;
        Some(Typed { node: make(Box::new(node)), kind })
    }

    fn binary(&mut self, whole: &IdedExpr, name: &str, one: &IdedExpr, two: &IdedExpr) -> Option<Typed> {
        match name {
            operators::LOGICAL_AND => self.logic(Node::And, "&&", one, two),
            operators::LOGICAL_OR => self.logic(Node::Or, "||", one, two),
            operators::EQUALS => self.equal(whole, one, two),
            operators::NOT_EQUALS => {
                let equal = self.equal(whole, one, two)?;
                Some(Typed::boolean(Node::Not(Box::new(equal.node))))
            }
            operators::IN => self.is_in(whole, one, two),
            operators::INDEX => self.index(one, two),
            _ => match (order(name), operator(name)) {
                (Some(order), _) => self.order(whole, order, one, two),
                (None, Some(operator)) => self.arithmetic(whole, operator, one, two),
                (None, None) => self.unknown(name),
            },
        }
    }

    /// Both sides, so that the problems of both are told.
    fn sides(&mut self, one: &IdedExpr, two: &IdedExpr) -> Option<(Typed, Typed)> {
        let (one, two) = (self.expression(one), self.expression(two));
        Some((one?, two?))
    }

    fn logic(&mut self, make: fn(Pair) -> Node, sign: &str, one: &IdedExpr, two: &IdedExpr) -> Option<Typed> {
        let role = format!("stands beside `{sign}`");
        let mut side = |part: &IdedExpr| {
            let typed = self.expression(part)?;
            self.expect(part, typed, &[Kind::Boolean], &role)
        };
        let (one, two) = (side(one), side(two));
        Some(Typed::boolean(make(Box::new([one?, two?]))))
    }

    fn conditional(&mut self, condition: &IdedExpr, then: &IdedExpr, otherwise: &IdedExpr) -> Option<Typed> {
        let typed = self.expression(condition);
        let sides = self.sides(then, otherwise);
        let condition = self.expect(condition, typed?, &[Kind::Boolean], "stands before `?`")?;
        let (then, otherwise) = sides?;
        let kind = if then.kind == otherwise.kind { then.kind } else { Kind::Any };
        Some(Typed { node: Node::If(Box::new([condition, then.node, otherwise.node])), kind })
    }

    fn equal(&mut self, whole: &IdedExpr, one: &IdedExpr, two: &IdedExpr) -> Option<Typed> {
        let (one, two) = self.sides(one, two)?;
        self.comparable(whole, one.kind, two.kind)?;
        Some(Typed::boolean(match (one.kind, two.kind) {
            (Kind::Null, _) => Node::IsNull(Box::new(two.node)),
            (_, Kind::Null) => Node::IsNull(Box::new(one.node)),
            _ => Node::Equal(Box::new([one.node, two.node])),
        }))
    }

    fn comparable(&mut self, whole: &IdedExpr, one: Kind, two: Kind) -> Option<()> {
        if one.compares_with(two) {
            return Some(());
        }
        let (whole, one, two) = (quote(whole), one.name(), two.name());
        self.problem(format!("{whole} compares {one} with {two}, and never holds: write values of one kind"))
    }

    fn order(&mut self, whole: &IdedExpr, order: Order, one: &IdedExpr, two: &IdedExpr) -> Option<Typed> {
        const ORDERED: [Kind; 3] = [Kind::Integer, Kind::Double, Kind::Text];
        let (left, right) = self.sides(one, two)?;
        self.comparable(whole, left.kind, right.kind)?;
        let role = "is compared by size";
        let (left, right) = (self.expect(one, left, &ORDERED, role), self.expect(two, right, &ORDERED, role));
        Some(Typed::boolean(Node::Order(order, Box::new([left?, right?]))))
    }

    fn arithmetic(
        &mut self,
        whole: &IdedExpr,
        operator: Operator,
        one: &IdedExpr,
        two: &IdedExpr,
    ) -> Option<Typed> {
        let kinds: &[Kind] = match operator {
            Operator::Add => &[Kind::Integer, Kind::Double, Kind::Text],
            Operator::Remainder => &[Kind::Integer],
            _ => &[Kind::Integer, Kind::Double],
        };
        let (left, right) = self.sides(one, two)?;
        // Where one is known, the result is of its kind, or there is none.
        let kind = if left.kind == Kind::Any { right.kind } else { left.kind };
        if kind != right.kind && right.kind != Kind::Any {
            let (whole, left, right) = (quote(whole), left.kind.name(), right.kind.name());
            return self
                .problem(format!("{whole} computes with {left} and {right}: write values of one kind"));
        }
        let role = "is computed with";
        let (left, right) = (self.expect(one, left, kinds, role), self.expect(two, right, kinds, role));
        Some(Typed { node: Node::Arithmetic(operator, Box::new([left?, right?])), kind })
    }

    fn is_in(&mut self, whole: &IdedExpr, one: &IdedExpr, two: &IdedExpr) -> Option<Typed> {
        if let Some(typed) = self.named_in(one, two) {
            return typed;
        }
        if let Expr::List(list) = &two.expr {
            return self.one_of(whole, one, &list.elements);
        }
        let (left, right) = self.sides(one, two)?;
        let right = self.expect(two, right, &[Kind::List, Kind::Map], "stands on the right of `in`")?;
        if right == Node::Claims && !left.kind.may_be(&[Kind::Text]) {
            return self
                .problem(format!("{} is asked for in `claims`: write the name of a claim", quote(one)));
        }
        Some(Typed::boolean(Node::In(Box::new([left.node, right]))))
    }

    /// In a list that is written out.
    fn one_of(&mut self, whole: &IdedExpr, one: &IdedExpr, elements: &[IdedExpr]) -> Option<Typed> {
        let one = self.expression(one);
        let items: Vec<_> = elements.iter().map(|element| self.expression(element)).collect();
        let (one, items) = (one?, items.into_iter().collect::<Option<Vec<_>>>()?);
        if items.is_empty() {
            return self.problem(format!("{}: nothing is in an empty list: write its values", quote(whole)));
        }
        for item in &items {
            if item.kind == Kind::Null || one.kind == Kind::Null {
                return self
                    .problem(format!("{}: null is not compared by `in`: write x == null", quote(whole)));
            }
            self.comparable(whole, one.kind, item.kind)?;
        }
        let is_constant = |item: &Typed| matches!(item.node, Node::Constant(_));
        let all_constant = items.iter().all(is_constant);
        let nodes: Vec<Node> = items.into_iter().map(|item| item.node).collect();
        Some(Typed::boolean(if all_constant {
            let constants = nodes.into_iter().filter_map(|node| match node {
                Node::Constant(constant) => Some(constant),
                _ => None,
            });
            Node::In(Box::new([one.node, Node::Constant(constants.collect())]))
        } else {
            Node::OneOf(Box::new(one.node), nodes)
        }))
    }

    fn index(&mut self, operand: &IdedExpr, index: &IdedExpr) -> Option<Typed> {
        if let Some(typed) = self.indexed(operand, index) {
            return typed;
        }
        if let Some(name) = literal_text(index) {
            let operand = self.map(operand)?;
            return Some(member(operand, name.to_owned(), false));
        }
        let (one, two) = self.sides(operand, index)?;
        let one = self.expect(operand, one, &[Kind::List, Kind::Map], "stands before `[`");
        let two = self.expect(index, two, &[Kind::Integer, Kind::Text], "stands in `[ ]`");
        Some(Typed { node: Node::Index(Box::new([one?, two?])), kind: Kind::Any })
    }

    fn text_test(&mut self, test: TextTest, target: &IdedExpr, argument: &IdedExpr) -> Option<Typed> {
        let (text, part) = self.sides(target, argument)?;
        let role = "is compared as a string";
        let text = self.expect(target, text, &[Kind::Text], role);
        let part = self.expect(argument, part, &[Kind::Text], role);
        Some(Typed::boolean(Node::Text(test, Box::new([text?, part?]))))
    }
}

fn text_test(name: &str) -> Option<TextTest> {
    match name {
        "startsWith" => Some(TextTest::StartsWith),
        "endsWith" => Some(TextTest::EndsWith),
        "contains" => Some(TextTest::Contains),
        _ => None,
    }
}

fn order(name: &str) -> Option<Order> {
    match name {
        operators::LESS => Some(Order::Less),
        operators::LESS_EQUALS => Some(Order::LessOrEqual),
        operators::GREATER => Some(Order::Greater),
        operators::GREATER_EQUALS => Some(Order::GreaterOrEqual),
        _ => None,
    }
}

fn operator(name: &str) -> Option<Operator> {
    match name {
        operators::ADD => Some(Operator::Add),
        operators::SUBSTRACT => Some(Operator::Subtract),
        operators::MULTIPLY => Some(Operator::Multiply),
        operators::DIVIDE => Some(Operator::Divide),
        operators::MODULO => Some(Operator::Remainder),
        _ => None,
    }
}
