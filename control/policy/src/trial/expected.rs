//! Is a decision the one that was expected? What is not written is not compared.

use std::fmt;

use crate::inbound::Decision;
use crate::reason::Reason;
use crate::snapshot::{RuleId, Snapshot};

/// A decision, or as much of it as somebody cares about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) allow: bool,
    pub(super) reason: Option<Reason>,
    /// `policy/rule`.
    pub(super) rule: Option<String>,
}

// === impl Expected ===

impl Expected {
    /// `allow`, `allow policy/rule`, `deny`, `deny reason`, `deny reason policy/rule`.
    pub(super) fn parse(text: &str, namespace: &str) -> Result<Self, String> {
        let mut expected = match text.split(' ').next() {
            Some("allow") => Self { allow: true, reason: None, rule: None },
            Some("deny") => Self { allow: false, reason: None, rule: None },
            _ => {
                return Err(format!(
                    "`{text}` is no decision: write e.g. `allow policy/rule` or `deny no_rule`"
                ));
            }
        };
        for word in text.split(' ').skip(1) {
            if word.contains('/') && expected.rule.is_none() {
                expected.rule = Some(rule(word, namespace)?);
            } else if !expected.allow && expected.reason.is_none() && expected.rule.is_none() {
                expected.reason = Some(reason(word)?);
            } else {
                return Err(format!(
                    "`{word}` is too much: write `allow policy/rule` or `deny reason policy/rule`"
                ));
            }
        }
        Ok(expected)
    }

    pub(super) fn of(decision: &Decision, snapshot: &Snapshot) -> Self {
        match decision {
            Decision::Allow { rule, .. } => {
                Self { allow: true, reason: None, rule: rule_name(*rule, snapshot) }
            }
            Decision::Deny { reason, rule } => Self {
                allow: false,
                reason: Some(*reason),
                rule: rule.and_then(|rule| rule_name(rule, snapshot)),
            },
        }
    }

    pub(super) fn is_met_by(&self, found: &Self) -> bool {
        let is_one = |wanted: bool, equal: bool| !wanted || equal;
        self.allow == found.allow
            && is_one(self.reason.is_some(), self.reason == found.reason)
            && is_one(self.rule.is_some(), self.rule == found.rule)
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.allow { "allow" } else { "deny" })?;
        if let Some(reason) = self.reason {
            write!(f, " {reason}")?;
        }
        match &self.rule {
            Some(rule) => write!(f, " {rule}"),
            None => Ok(()),
        }
    }
}

/// `policy/rule` of what may be written with its namespace too: a workload has policies of its own namespace alone.
pub(super) fn rule(text: &str, namespace: &str) -> Result<String, String> {
    match text.split('/').collect::<Vec<_>>().as_slice() {
        [policy, rule] => Ok(format!("{policy}/{rule}")),
        [own, policy, rule] if *own == namespace => Ok(format!("{policy}/{rule}")),
        [other, _, _] => Err(format!("`{text}` is of namespace `{other}`, this test of `{namespace}`")),
        _ => Err(format!("`{text}` is no rule: write policy/rule")),
    }
}

pub(super) fn reason(word: &str) -> Result<Reason, String> {
    let found = Reason::ALL.iter().find(|reason| reason.as_str() == word);
    found.copied().ok_or_else(|| format!("`{word}` is no reason: see the table of reasons"))
}

pub(super) fn rule_name(rule: RuleId, snapshot: &Snapshot) -> Option<String> {
    let name = snapshot.rules.get(rule.0)?;
    let policy = name.policy.split_once('/').map_or(name.policy.as_str(), |(_, policy)| policy);
    Some(format!("{policy}/{}", name.rule))
}
