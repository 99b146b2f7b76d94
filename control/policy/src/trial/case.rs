//! What comes of one case? It is decided as the proxy decides, and compared with what was expected.

use super::expected::{self, Expected};
use crate::asked::Asked;
use crate::inbound::{Decision, Policies, PortPolicy};
use crate::reason::Reason;
use crate::request::Presented;
use crate::snapshot::{RuleId, Snapshot};

/// A case, in order.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) asked: Asked,
    pub(super) expected: Expected,
    /// In the order of their names.
    pub(super) shadows: Option<Vec<(String, Expected)>>,
    pub(super) audit: Option<Expected>,
}

/// What came of a case.
pub(super) struct Tried {
    /// Expected and found, where they differ.
    pub(super) difference: Option<String>,
    /// Every rule that decided something, or would.
    pub(super) hit: Vec<RuleId>,
}

/// Every decision about a request.
struct Decisions {
    /// `None`: nobody decides, for the resource's own metadata is served.
    decision: Option<Decision>,
    /// Of audit policies beside those that are enforced.
    audit: Option<Decision>,
    shadows: Vec<(RuleId, Decision)>,
}

// === impl Case ===

impl Case {
    pub(super) fn run(&self, snapshot: &Snapshot, port: &PortPolicy) -> Tried {
        let decisions = self.decide(port);
        let found = match &decisions.decision {
            Some(decision) => Expected::of(decision, snapshot),
            None => Expected { allow: true, reason: None, rule: None },
        };
        let mut differences = Vec::new();
        if !self.expected.is_met_by(&found) {
            let passes = match &decisions.decision {
                None => " (the resource's own metadata)",
                Some(_) if port.enforce.is_none() => " (in audit mode: it passes)",
                Some(_) => "",
            };
            differences.push(format!("expected {}, found {found}{passes}", self.expected));
        }
        let audit = decisions.audit.as_ref().map(|audit| Expected::of(audit, snapshot));
        if let Some(expected) = &self.audit
            && !audit.as_ref().is_some_and(|audit| expected.is_met_by(audit))
        {
            let found = audit.map_or("no audit policy beside an enforced one".to_owned(), |a| a.to_string());
            differences.push(format!("audit: expected {expected}, found {found}"));
        }
        differences.extend(self.shadow_difference(&decisions, snapshot));
        let hit = decisions.hit();
        Tried { difference: (!differences.is_empty()).then(|| differences.join("; ")), hit }
    }

    fn shadow_difference(&self, decisions: &Decisions, snapshot: &Snapshot) -> Option<String> {
        let expected = self.shadows.as_ref()?;
        let name = |rule: RuleId| expected::rule_name(rule, snapshot).unwrap_or_default();
        let found = decisions.shadows.iter();
        let mut found: Vec<_> =
            found.map(|(rule, would)| (name(*rule), Expected::of(would, snapshot))).collect();
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        let is_met = expected.len() == found.len()
            && expected.iter().zip(&found).all(|((rule, expected), (found_rule, found))| {
                rule == found_rule && expected.is_met_by(found)
            });
        let list = |shadows: &[(String, Expected)]| {
            let shadows: Vec<_> = shadows.iter().map(|(rule, would)| format!("{rule}: {would}")).collect();
            if shadows.is_empty() { "none".to_owned() } else { shadows.join(", ") }
        };
        (!is_met).then(|| format!("shadows: expected {}, found {}", list(expected), list(&found)))
    }

    /// As the proxy does: framing and path first, then what needs no token, then all of it (semantics 5 and 6).
    fn decide(&self, port: &PortPolicy) -> Decisions {
        let refused = |reason| Decisions {
            decision: Some(Decision::Deny { reason, rule: None }),
            audit: None,
            shadows: Vec::new(),
        };
        let judged = match self.asked.judged(port) {
            Ok(judged) => judged,
            Err(reason) => return refused(reason),
        };
        let anonymous = judged.request(Presented::Nothing);
        match port.described(&anonymous) {
            Some(Ok(_)) => return Decisions { decision: None, audit: None, shadows: Vec::new() },
            Some(Err(denied)) => {
                return Decisions { decision: Some(denied), audit: None, shadows: Vec::new() };
            }
            None => {}
        }
        let asked = judged.request(self.asked.presented(port));
        let beside = port.enforce.as_ref().and(port.audit.as_ref());
        let Some(deciding) = port.enforce.as_ref().or(port.audit.as_ref()) else {
            return refused(Reason::NoRule);
        };
        // Nobody looks at the token where policy decides without it.
        let needs_token = |policies: &Policies| policies.screen(&anonymous).is_none();
        let seen = if needs_token(deciding) || beside.is_some_and(needs_token) { asked } else { anonymous };
        let shadows = [Some(deciding), beside].into_iter().flatten().flat_map(|group| group.shadows(&seen));
        Decisions {
            decision: Some(deciding.decide(&asked)),
            audit: beside.map(|audit| audit.decide(&seen)),
            shadows: shadows.map(|shadow| (shadow.rule, shadow.would)).collect(),
        }
    }
}

// === impl Decisions ===

impl Decisions {
    /// The rules that allowed or denied. One whose scopes are lacking did not decide.
    fn hit(&self) -> Vec<RuleId> {
        let deciding = [self.decision.as_ref(), self.audit.as_ref()].into_iter().flatten();
        let deciding = deciding.filter_map(|decision| match decision {
            Decision::Allow { rule, .. } => Some(*rule),
            Decision::Deny { reason: Reason::DeniedByRule, rule } => *rule,
            Decision::Deny { .. } => None,
        });
        deciding.chain(self.shadows.iter().map(|(rule, _)| *rule)).collect()
    }
}
