//! Which names are there, and what do they stand for?

use cel::IdedExpr;
use cel::common::ast::{Expr, LiteralValue};
use http::HeaderName;

use crate::inbound::PortProtocol;
use crate::untrusted::{self, Untrusted};

use super::super::kind::Kind;
use super::super::node::{Node, Presence};
use super::{Checker, Typed};

const REQUEST: &str = "request.method, request.path, request.host and request.headers[\"name\"] are";

// === impl Checker ===

impl Checker<'_> {
    /// A name that stands by itself.
    pub(super) fn name(&mut self, name: &str) -> Option<Typed> {
        match name {
            "claims" => self.claims(),
            "request" => self.problem(format!("`request` is no value by itself: {REQUEST}")),
            "path" => self.problem(
                "`path` is no value by itself: write path.NAME for what `{NAME}` stands for in `to.paths`",
            ),
            "peer" => self.problem("`peer` is no value by itself: write peer.id"),
            "source" => self.problem("`source` is no value by itself: write source.ip"),
            _ => self.problem(format!("`{name}` is not known: claims, request, path, peer and source are")),
        }
    }

    fn claims(&mut self) -> Option<Typed> {
        self.reads_claims = true;
        match self.known.no_claims {
            None => Some(Typed { node: Node::Claims, kind: Kind::Map }),
            Some(reason) => self.problem(reason),
        }
    }

    /// `operand.field`, or `has` of it, or `operand["field"]`, where the operand is one of ours that is no value. `None`: it is
    /// an expression.
    pub(super) fn variable(&mut self, operand: &IdedExpr, field: &str, test: bool) -> Option<Option<Typed>> {
        if let Some(unknown) = self.unknown_of(operand) {
            return Some(self.problem(unknown));
        }
        match &operand.expr {
            Expr::Ident(name) => match &**name {
                "request" => Some(self.request(field, test)),
                "path" => Some(self.capture(field, test)),
                "peer" => Some(self.peer(field, test)),
                "source" => Some(self.source(field, test)),
                _ => None,
            },
            _ if is_headers(operand) => Some(self.header(field, test)),
            _ => None,
        }
    }

    /// Why nothing is known of this operand, whatever is asked of it.
    fn unknown_of(&self, operand: &IdedExpr) -> Option<String> {
        let protocol = self.known.protocol;
        let name = match &operand.expr {
            Expr::Ident(name) if matches!(name.as_str(), "request" | "path" | "peer") => name.as_str(),
            _ if is_headers(operand) => "request",
            _ => return None,
        };
        match (name, protocol) {
            (_, PortProtocol::Http) | ("peer", PortProtocol::Tcp) => None,
            ("peer", PortProtocol::Tls) => Some(
                "`peer`: with `protocol: tls` the application's own TLS passes, and no certificate is seen here"
                    .to_owned(),
            ),
            _ => {
                let protocol = protocol.as_str();
                Some(format!("`{name}` needs HTTP, and the policy says `protocol: {protocol}`"))
            }
        }
    }

    fn request(&mut self, field: &str, test: bool) -> Option<Typed> {
        let node = match field {
            "method" => Node::Method,
            "path" => Node::Path,
            "host" => Node::Host,
            "headers" => {
                return self.problem(
                    "`request.headers` is no value by itself: write request.headers[\"name\"] with the name of one in quotes",
                );
            }
            _ => return self.problem(format!("`request.{field}` is not known: {REQUEST}")),
        };
        if test {
            return self.problem(format!("`has(request.{field})` always holds: leave it out"));
        }
        Some(Typed::text(node))
    }

    fn capture(&mut self, name: &str, test: bool) -> Option<Typed> {
        if !self.known.patterns.iter().any(|pattern| pattern.captures(name)) {
            return self.problem(format!(
                "`path.{name}`: no pattern of `to.paths` has a segment `{{{name}}}`: add it, or correct the name"
            ));
        }
        Some(if test {
            Typed::boolean(Node::Has(Presence::Capture(name.to_owned())))
        } else {
            Typed::text(Node::Capture(name.to_owned()))
        })
    }

    fn peer(&mut self, field: &str, test: bool) -> Option<Typed> {
        match (field, test) {
            ("id", true) => Some(Typed::boolean(Node::Has(Presence::PeerId))),
            ("id", false) => Some(Typed::text(Node::PeerId)),
            _ => self.problem(format!("`peer.{field}` is not known: peer.id is")),
        }
    }

    fn source(&mut self, field: &str, test: bool) -> Option<Typed> {
        match (field, test) {
            ("ip", true) => self.problem("`has(source.ip)` always holds: leave it out"),
            ("ip", false) => Some(Typed::text(Node::SourceIp)),
            _ => self.problem(format!("`source.{field}` is not known: source.ip is")),
        }
    }

    fn header(&mut self, name: &str, test: bool) -> Option<Typed> {
        let of = format!("`request.headers[{name:?}]`");
        let lower = name.to_ascii_lowercase();
        if lower != name {
            return self.problem(format!("{of}: names of headers are in lower case: write {lower:?}"));
        }
        let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
            return self.problem(format!("{of}: {name:?} is no header name (RFC 9110 §5.1)"));
        };
        if name.contains('_') {
            let dashed = name.replace('_', "-");
            return self
                .problem(format!("{of}: `_` counts as `-`, as many servers read it: write {dashed:?}"));
        }
        if let Some(untrusted) = untrusted::why_not(name) {
            return self.problem(format!("{of} {}", why_not_read(untrusted)));
        }
        if self.known.set.iter().any(|set| set == name) {
            return self.problem(format!(
                "{of} is set by `forwardClaims`, and a caller's own is removed: write the claim instead"
            ));
        }
        Some(if test {
            Typed::boolean(Node::Has(Presence::Header(header)))
        } else {
            Typed::text(Node::Header(header))
        })
    }

    /// `"name" in operand`, where the operand is one of ours that is no value: the same as `has`. `None`: it is an expression.
    pub(super) fn named_in(&mut self, name: &IdedExpr, operand: &IdedExpr) -> Option<Option<Typed>> {
        let is_path = matches!(&operand.expr, Expr::Ident(name) if name == "path");
        if !is_path && !is_headers(operand) {
            return None;
        }
        Some(match literal_text(name) {
            Some(name) => self.variable(operand, name, true)?,
            None => self.needs_literal(is_path),
        })
    }

    /// `operand[index]`, likewise.
    pub(super) fn indexed(&mut self, operand: &IdedExpr, index: &IdedExpr) -> Option<Option<Typed>> {
        if let Some(name) = literal_text(index) {
            return self.variable(operand, name, false);
        }
        let is_path = matches!(&operand.expr, Expr::Ident(name) if name == "path");
        (is_path || is_headers(operand)).then(|| self.needs_literal(is_path))
    }

    fn needs_literal(&mut self, is_path: bool) -> Option<Typed> {
        let of = if is_path { "path" } else { "request.headers" };
        self.problem(format!("`{of}[…]`: which one is known beforehand: write its name in quotes"))
    }
}

fn why_not_read(untrusted: Untrusted) -> &'static str {
    match untrusted {
        Untrusted::Host => "is the host: write request.host",
        Untrusted::Credential => {
            "is a credential: what it shows is verified first, and judged by `from` and `claims`"
        }
        Untrusted::OfTheConnection => {
            "is of one connection, and not judged: the application never sees it as it came"
        }
        Untrusted::Hearsay => {
            "can be written by anybody, so nothing is decided by it: write source.ip, request.host or a claim"
        }
    }
}

fn is_headers(part: &IdedExpr) -> bool {
    match &part.expr {
        Expr::Select(select) if !select.test && select.field == "headers" => {
            matches!(&select.operand.expr, Expr::Ident(name) if name == "request")
        }
        _ => false,
    }
}

/// A string in quotes.
pub(super) fn literal_text(part: &IdedExpr) -> Option<&str> {
    match &part.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}
