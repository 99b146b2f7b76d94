//! What would be decided otherwise? Shadow rules and audit policies beside enforced ones: counted, and logged where they differ.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_policy::Reason;
use countersign_policy::inbound::{Decision, Policies};
use countersign_policy::request::AccessRequest;
use countersign_policy::snapshot::{RuleId, RuleName};
use prometheus::IntCounter;

use super::enforce::Door;
use crate::clock::Clock;
use crate::limit::Limit;
use crate::metrics::{MAX_SERIES, Metrics, OTHER};

/// What the shadow rules of one snapshot count with, and how often they and audit policies may speak.
#[derive(Debug)]
pub(super) struct Shadows {
    /// Parallel to the snapshot's rules; `None` for those that are live.
    rules: Vec<Option<ShadowRule>>,
    /// Of audit policies that would refuse what is let in, by reason, and of those that would let in what is refused.
    would_refuse: [Limit; Reason::ALL.len()],
    would_allow: Limit,
    clock: Clock,
}

#[derive(Debug)]
struct ShadowRule {
    would_allow: IntCounter,
    would_deny: IntCounter,
    limit: Limit,
}

/// Makes the counters of shadow rules, and removes the series of those that policy no longer has.
#[derive(Debug)]
pub(super) struct ShadowSeries {
    metrics: Arc<Metrics>,
    clock: Clock,
    /// The rules that have series: policy and name.
    counted: Mutex<HashSet<[String; 2]>>,
}

// === impl Door ===

impl Door<'_> {
    /// Records what the shadow rules that match would have changed.
    pub(super) fn shadow(self, policies: &Policies, request: &AccessRequest<'_>, enforced: &Decision) {
        if !policies.has_shadows() {
            return;
        }
        let Shadows { rules, clock, .. } = &self.active.shadows;
        for shadow in policies.shadows(request) {
            let RuleId(index) = shadow.rule;
            let (Some(name), Some(Some(rule))) = (self.active.snapshot.rules.get(index), rules.get(index))
            else {
                continue;
            };
            let (would, enforced) = (word(&shadow.would), word(enforced));
            rule.counter(&shadow.would).inc();
            if would == enforced {
                continue;
            }
            if let Some(suppressed) = rule.limit.admit(clock.now()) {
                tracing::info!(
                    policy = name.policy,
                    rule = name.rule,
                    would,
                    enforced,
                    method = beginning(request.method),
                    path = beginning(request.path.as_str()),
                    suppressed,
                    "a shadow rule would decide otherwise"
                );
            }
        }
    }

    /// Tells where the audit policies of a port that is enforced would have decided otherwise.
    pub(super) fn audit_beside(self, audited: &Decision, request: &AccessRequest<'_>, enforced: &Decision) {
        let (would, enforced) = (word(audited), word(enforced));
        if would == enforced {
            return;
        }
        let shadows = &self.active.shadows;
        let (limit, reason, rule) = match audited {
            Decision::Allow { rule, .. } => (Some(&shadows.would_allow), None, Some(*rule)),
            Decision::Deny { reason, rule } => {
                (shadows.would_refuse.get(*reason as usize), Some(reason.as_str()), *rule)
            }
        };
        if let Some(suppressed) = limit.and_then(|limit| limit.admit(shadows.clock.now())) {
            let name = rule.and_then(|RuleId(index)| self.active.snapshot.rules.get(index));
            tracing::info!(
                policy = name.map(|name| &name.policy),
                rule = name.map(|name| &name.rule),
                would,
                reason,
                enforced,
                method = beginning(request.method),
                path = beginning(request.path.as_str()),
                suppressed,
                "an audit policy would decide otherwise"
            );
        }
    }
}

fn word(decision: &Decision) -> &'static str {
    match decision {
        Decision::Allow { .. } => ALLOW,
        Decision::Deny { .. } => DENY,
    }
}

/// Enough to find a request again. A method and a canonical path are ASCII, and the caller's to make long.
fn beginning(text: &str) -> &str {
    text.get(..MAX_BYTES).unwrap_or(text)
}

const MAX_BYTES: usize = 256;

/// The values of the label `would`.
const ALLOW: &str = "allow";
const DENY: &str = "deny";
const WOULD: [&str; 2] = [ALLOW, DENY];

// === impl ShadowRule ===

impl ShadowRule {
    fn counter(&self, would: &Decision) -> &IntCounter {
        match would {
            Decision::Allow { .. } => &self.would_allow,
            Decision::Deny { .. } => &self.would_deny,
        }
    }
}

// === impl ShadowSeries ===

impl ShadowSeries {
    pub(super) fn new(metrics: Arc<Metrics>, clock: Clock) -> Self {
        Self { metrics, clock, counted: Mutex::default() }
    }

    /// Two counters for each shadow rule, as long as the family has room; the series of rules that are gone are removed.
    pub(super) fn arm(&self, rules: &[Arc<RuleName>]) -> Shadows {
        let family = &self.metrics.shadow_decisions;
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let shadows = rules.iter().filter(|rule| rule.shadow);
        let kept: HashSet<[String; 2]> =
            shadows.take(MAX_SERIES / WOULD.len()).map(|name| labels(name)).collect();
        for [policy, rule] in counted.difference(&kept) {
            for would in WOULD {
                // It was made with the rule, so it is there.
                let _ = family.remove_label_values(&[policy, rule, would]);
            }
        }
        let rules = rules
            .iter()
            .map(|name| {
                let has_room = kept.contains(&labels(name));
                let (policy, rule) = if has_room { (&*name.policy, &*name.rule) } else { (OTHER, OTHER) };
                let counter = |would| family.with_label_values(&[policy, rule, would]);
                name.shadow.then(|| ShadowRule {
                    would_allow: counter(ALLOW),
                    would_deny: counter(DENY),
                    limit: Limit::of_lines(),
                })
            })
            .collect();
        *counted = kept;
        let would_refuse = std::array::from_fn(|_| Limit::of_lines());
        Shadows { rules, would_refuse, would_allow: Limit::of_lines(), clock: self.clock.clone() }
    }
}

fn labels(name: &RuleName) -> [String; 2] {
    [name.policy.clone(), name.rule.clone()]
}

#[cfg(test)]
mod tests {
    use countersign_policy::snapshot::Effect;

    use super::*;

    fn rules(range: std::ops::Range<usize>, shadow: bool) -> Vec<Arc<RuleName>> {
        let name = |index| RuleName {
            policy: "shop/orders".to_owned(),
            rule: format!("r{index}"),
            effect: Effect::Deny,
            shadow,
        };
        range.map(name).map(Arc::new).collect()
    }

    fn series() -> (ShadowSeries, Arc<Metrics>) {
        let metrics = Metrics::new().unwrap();
        (ShadowSeries::new(metrics.clone(), Clock::default()), metrics)
    }

    fn deny(shadows: &Shadows, index: usize) -> &IntCounter {
        &shadows.rules[index].as_ref().unwrap().would_deny
    }

    #[test]
    fn shadow_rules_have_series_for_as_long_as_policy_has_them() {
        let (series, metrics) = series();
        let exported = || String::from_utf8(metrics.encode().unwrap()).unwrap().matches("rule=\"r").count();
        let both = [rules(0..2, true), rules(2..3, false)].concat();
        let shadows = series.arm(&both);
        assert!(shadows.rules[2].is_none() && exported() == 4, "a live rule has none");
        deny(&shadows, 0).inc();
        deny(&shadows, 1).inc();
        // One is gone, one goes on counting, though it has another effect now; and one that was live is a shadow now.
        let mut next = rules(1..3, true);
        Arc::get_mut(&mut next[0]).unwrap().effect = Effect::Allow;
        let shadows = series.arm(&next);
        assert_eq!((exported(), deny(&shadows, 0).get(), deny(&shadows, 1).get()), (4, 1, 0));
        deny(&shadows, 0).inc();
        assert_eq!(metrics.shadow_decisions.with_label_values(&["shop/orders", "r1", "deny"]).get(), 2);
        // Live from now on.
        series.arm(&rules(1..3, false));
        assert_eq!(exported(), 0);
    }

    #[test]
    fn the_family_is_bounded_and_the_rest_is_other() {
        let (series, metrics) = series();
        // Rules that are live take no room.
        let all = [rules(0..5000, false), rules(5000..6100, true)].concat();
        let shadows = series.arm(&all);
        shadows.rules.iter().flatten().for_each(|rule| rule.would_deny.inc());
        let families = metrics.gather();
        let family = families.iter().find(|f| f.name() == "countersign_shadow_decisions_total").unwrap();
        assert_eq!(family.get_metric().len(), MAX_SERIES + 2);
        assert_eq!(metrics.shadow_decisions.with_label_values(&[OTHER, OTHER, DENY]).get(), 100);
        assert_eq!(deny(&shadows, 5999).get(), 1);
    }
}
