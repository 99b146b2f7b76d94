//! How is it told? The same text from the command and from a running sidecar: first what was decided and about whom, then
//! policy by policy and rule by rule.

use std::fmt::{self, Display, Formatter};

use serde_json::Value;

use super::{
    Answer, Condition, Explanation, PolicyExplained, Requested, RuleExplained, ShownToken, Unselected,
};
use crate::problem::{is_unseen, one_line};
use crate::reason::Reason;

/// A value as it is told: lists with commas, texts without quotes, all of it on one line.
struct Told<'v>(&'v Value);

/// JSON that says the same, and in which nothing is that a terminal obeys or shows in another order: all of it is escaped.
pub fn plain_json(json: &str) -> String {
    let mut plain = String::with_capacity(json.len());
    for c in json.chars() {
        // Outside of strings there are no others than ends of lines, and inside of them those are escaped.
        if c != '\n' && is_unseen(c) {
            plain.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            plain.push(c);
        }
    }
    plain
}

// === impl Explanation ===

impl Display for Explanation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.write_decision(f)?;
        writeln!(f, "request: {}", self.request)?;
        writeln!(f, "token:   {}", self.token)?;
        if let Some(flaw) = &self.flaw {
            writeln!(f, "         {flaw}")?;
        }
        match self.peer.as_deref() {
            None => writeln!(f, "peer:    no client certificate")?,
            Some("") => writeln!(f, "peer:    a certificate without a SPIFFE ID")?,
            Some(id) => writeln!(f, "peer:    {}", one_line(id))?,
        }
        if self.is_about_token() {
            writeln!(
                f,
                "The token is refused before rules are asked; they are shown as they see a caller without one."
            )?;
        }
        if self.policies.is_empty() && self.reason == Some(Reason::NoRule.as_str()) {
            writeln!(f, "No policy selects the workload and port.")?;
        }
        for policy in &self.policies {
            policy.write(self.rule.as_deref(), self.reason, f)?;
        }
        if self.more_policies > 0 {
            writeln!(f, "and {} more policies", self.more_policies)?;
        }
        for unselected in &self.unselected {
            write!(f, "{unselected}")?;
        }
        Ok(())
    }
}

impl Explanation {
    fn write_decision(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match (self.decision, self.reason) {
            (Answer::Allow, _) if self.metadata => write!(f, "allow: the resource's own metadata")?,
            (Answer::Allow, _) => write!(f, "allow")?,
            (Answer::Deny, None) => write!(f, "deny")?,
            (Answer::Deny, Some(word)) => {
                write!(f, "deny {word}")?;
                if let Some(reason) = Reason::ALL.iter().find(|reason| reason.as_str() == word) {
                    write!(f, ": {}", reason.title())?;
                }
            }
        }
        if let Some(rule) = &self.rule {
            write!(f, " (rule {rule})")?;
        }
        if self.audit && self.decision == Answer::Deny {
            write!(f, "; in audit mode: it passes")?;
        }
        writeln!(f)
    }
}

impl Display for Requested {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.method.is_empty() {
            return write!(f, "a connection from {}", self.source);
        }
        let grpc = if self.grpc { " (gRPC)" } else { "" };
        let (path, host) = (one_line(&self.path), one_line(&self.host));
        write!(f, "{} {path}{grpc}, host {host}, from {}", one_line(&self.method), self.source)
    }
}

impl Display for ShownToken {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => write!(f, "none"),
            Self::NotLookedAt => write!(f, "not looked at"),
            Self::Refused { reason } => write!(f, "refused, {reason}"),
            Self::Verified { issuer, audiences, client, subject, scopes, roles, bound_to, opaque } => {
                let kind = if *opaque { "opaque, verified" } else { "verified" };
                let text = |text: &Option<String>| text.as_deref().map_or("none".to_owned(), one_line);
                write!(f, "{kind}; issuer {}, audiences {}", one_line(issuer), Told(audiences))?;
                write!(f, ", client {}, subject {}", text(client), text(subject))?;
                write!(f, ", scopes {}, roles {}, bound to {bound_to}", Told(scopes), Told(roles))
            }
        }
    }
}

// === impl PolicyExplained ===

impl PolicyExplained {
    fn write(&self, rule: Option<&str>, reason: Option<&str>, f: &mut Formatter<'_>) -> fmt::Result {
        let mode = if self.mode == "enforce" { "" } else { " (audit)" };
        write!(f, "policy {}{mode} in {}", self.policy, one_line(&self.file))?;
        match (self.accepts_token, &self.not_accepted) {
            (Some(true), _) => writeln!(f, ": accepts the token")?,
            (Some(false), Some(why)) => writeln!(f, ": does not accept the token\n    {why}")?,
            (Some(false), None) | (None, _) => writeln!(f)?,
        }
        let decisive = rule.and_then(|rule| rule.strip_prefix(&*self.policy)?.strip_prefix('/'));
        for rule in &self.rules {
            rule.write(decisive == Some(&rule.rule), reason, f)?;
        }
        if self.more_rules > 0 {
            writeln!(f, "  and {} more rules", self.more_rules)?;
        }
        Ok(())
    }
}

impl RuleExplained {
    fn write(&self, is_decisive: bool, reason: Option<&str>, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "  {} {}", self.effect, self.rule)?;
        for (is_so, word) in [(self.public, "public"), (self.shadow, "shadow")] {
            if is_so {
                write!(f, ", {word}")?;
            }
        }
        if self.line > 0 {
            write!(f, " (line {})", self.line)?;
        }
        let matched = if self.matched { "matches" } else { "does not match" };
        let decisive = match (is_decisive, self.matched) {
            (false, _) => "",
            (true, true) => ", and decides",
            (true, false) if reason == Some(Reason::PeerRequired.as_str()) => {
                ", for want of a certificate alone"
            }
            (true, false) => ", for want of scopes alone",
        };
        writeln!(f, ": {matched}{decisive}")?;
        for condition in self.condition.iter().chain(&self.not_spared) {
            writeln!(f, "    {condition}")?;
        }
        Ok(())
    }
}

impl Display for Unselected {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (policy, file) = (&self.policy, one_line(&self.file));
        writeln!(
            f,
            "policy {policy} in {file}: does not select the workload and port\n    {}",
            self.condition
        )
    }
}

impl Display for Condition {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (expected, found) = (Told(&self.expected), Told(&self.found));
        write!(f, "{}: expected {expected}, found {found}", one_line(&self.field))?;
        if self.unknown { write!(f, " (which cannot be told)") } else { Ok(()) }
    }
}

// === impl Told ===

impl Display for Told<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::String(text) => write!(f, "{}", one_line(text)),
            Value::Array(items) if items.is_empty() => write!(f, "none"),
            Value::Array(items) => each(f, items.iter(), |f, item| write!(f, "{}", Told(item))),
            Value::Object(members) => {
                write!(f, "{{")?;
                each(f, members.iter(), |f, (name, value)| {
                    let (open, close) = if value.is_array() { ("[", "]") } else { ("", "") };
                    write!(f, "{}: {open}{}{close}", one_line(name), Told(value))
                })?;
                write!(f, "}}")
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => write!(f, "{}", self.0),
        }
    }
}

/// With commas between.
fn each<T>(
    f: &mut Formatter<'_>,
    items: impl Iterator<Item = T>,
    write: impl Fn(&mut Formatter<'_>, T) -> fmt::Result,
) -> fmt::Result {
    for (index, item) in items.enumerate() {
        if index > 0 {
            write!(f, ", ")?;
        }
        write(f, item)?;
    }
    Ok(())
}
