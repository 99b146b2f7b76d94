//! How is a part of a condition quoted in a message? As CEL, made from the tree, since the parser keeps no places of what it
//! accepts.

use std::fmt::{self, Display, Formatter};

use cel::IdedExpr;
use cel::common::ast::{CallExpr, Expr, LiteralValue, operators};

/// The longest part that is quoted, in characters.
const MAX_CHARS: usize = 60;

/// A part, in backquotes.
pub(super) fn quote(part: &IdedExpr) -> String {
    let text = Part(part, 4).to_string();
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("`{}…`", text.get(..end).unwrap_or_default()),
        None => format!("`{text}`"),
    }
}

/// With how many levels below it are shown.
struct Part<'a>(&'a IdedExpr, usize);

// === impl Part ===

impl Display for Part<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(below) = self.1.checked_sub(1) else { return write!(f, "…") };
        let part = |expr| Part(expr, below);
        match &self.0.expr {
            Expr::Ident(name) => write!(f, "{name}"),
            Expr::Literal(literal) => write_literal(f, literal),
            Expr::Select(select) if select.test => {
                write!(f, "has({}.{})", part(&select.operand), select.field)
            }
            Expr::Select(select) => write!(f, "{}.{}", part(&select.operand), select.field),
            Expr::List(list) => {
                write!(f, "[")?;
                write_each(f, &list.elements, below)?;
                write!(f, "]")
            }
            Expr::Call(call) => write_call(f, call, below),
            Expr::Map(_) => write!(f, "{{…}}"),
            Expr::Struct(structure) => write!(f, "{}{{…}}", structure.type_name),
            Expr::Comprehension(comprehension) => write!(f, "{}.…(…)", part(&comprehension.iter_range)),
            Expr::Unspecified => write!(f, "…"),
        }
    }
}

fn write_call(f: &mut Formatter<'_>, call: &CallExpr, below: usize) -> fmt::Result {
    let part = |expr| Part(expr, below);
    let name = call.func_name.as_str();
    match (&call.target, &*call.args) {
        (None, [one, two, three]) if name == operators::CONDITIONAL => {
            write!(f, "({} ? {} : {})", part(one), part(two), part(three))
        }
        (None, [one, two]) if name == operators::INDEX => write!(f, "{}[{}]", part(one), part(two)),
        (None, [one, two]) if name == operators::IN => write!(f, "{} in {}", part(one), part(two)),
        // `_&&_` and its like
        (None, [one, two]) if name.starts_with('_') => {
            write!(f, "{} {} {}", part(one), name.trim_matches('_'), part(two))
        }
        (None, [one]) if name.ends_with('_') => write!(f, "{}{}", name.trim_matches('_'), part(one)),
        (target, arguments) => {
            if let Some(target) = target {
                write!(f, "{}.", part(target))?;
            }
            write!(f, "{name}(")?;
            write_each(f, arguments, below)?;
            write!(f, ")")
        }
    }
}

fn write_each(f: &mut Formatter<'_>, parts: &[IdedExpr], below: usize) -> fmt::Result {
    for (index, part) in parts.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        write!(f, "{comma}{}", Part(part, below))?;
    }
    Ok(())
}

fn write_literal(f: &mut Formatter<'_>, literal: &LiteralValue) -> fmt::Result {
    match literal {
        LiteralValue::Boolean(boolean) => write!(f, "{}", **boolean),
        LiteralValue::Bytes(_) => write!(f, "b\"…\""),
        LiteralValue::Double(double) => write!(f, "{:?}", **double),
        LiteralValue::Int(int) => write!(f, "{}", **int),
        LiteralValue::Null => write!(f, "null"),
        LiteralValue::String(text) => write!(f, "{:?}", text.inner()),
        LiteralValue::UInt(uint) => write!(f, "{}u", **uint),
    }
}
