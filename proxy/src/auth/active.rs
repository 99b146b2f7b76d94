//! What is in force? A snapshot of policy with all that it takes to run it: keys, token slots, counters.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_policy::Snapshot;
use countersign_policy::snapshot::{Effect, RuleName};
use prometheus::IntCounter;

use super::issuers::{IssuerKeys, Issuers, Services};
use super::tokens::{TokenSlot, Tokens};
use crate::metrics::Metrics;

/// A snapshot, armed. The vectors are parallel to the snapshot's, so a request looks nothing up by name.
#[derive(Debug)]
pub struct Active {
    pub snapshot: Snapshot,
    pub keys: Vec<Arc<IssuerKeys>>,
    pub tokens: Vec<Arc<TokenSlot>>,
    /// Decisions by inbound rule.
    pub decisions: Vec<IntCounter>,
}

/// Arms snapshots. What one snapshot and the next have in common (keys, tokens, counters) goes on.
#[derive(Debug)]
pub struct Armory {
    issuers: Issuers,
    pub tokens: Tokens,
    metrics: Arc<Metrics>,
    /// The rules that have series of metrics.
    counted: Mutex<HashSet<[String; 3]>>,
}

// === impl Armory ===

impl Armory {
    pub fn new(services: Services) -> Self {
        Self {
            metrics: services.metrics.clone(),
            issuers: Issuers::new(services.clone()),
            tokens: Tokens::new(services),
            counted: Mutex::default(),
        }
    }

    pub fn arm(&self, snapshot: Snapshot) -> Active {
        Active {
            keys: self.issuers.arm(&snapshot.issuers),
            tokens: self.tokens.arm(&snapshot),
            decisions: self.count(&snapshot.rules),
            snapshot,
        }
    }

    /// A counter for each rule; the series of rules that are gone are removed.
    fn count(&self, rules: &[RuleName]) -> Vec<IntCounter> {
        let family = &self.metrics.policy_decisions;
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let labels: Vec<[String; 3]> = rules.iter().map(labels).collect();
        let kept: HashSet<[String; 3]> = labels.iter().take(MAX_SERIES).cloned().collect();
        for gone in counted.difference(&kept) {
            // It was there, or was never incremented: either way it is gone now.
            let _ = family.remove_label_values(&gone.each_ref().map(String::as_str));
            for would in ["allow", "deny"] {
                let [policy, rule, _] = gone;
                let _ = self.metrics.shadow_decisions.remove_label_values(&[policy, rule, would]);
            }
        }
        let counters = labels
            .iter()
            .enumerate()
            .map(|(index, labels)| match labels.each_ref().map(String::as_str) {
                labels if index < MAX_SERIES => family.with_label_values(&labels),
                [_, _, effect] => family.with_label_values(&["other", "other", effect]),
            })
            .collect();
        *counted = kept;
        counters
    }
}

fn labels(name: &RuleName) -> [String; 3] {
    let effect = match name.effect {
        Effect::Allow => "allow",
        Effect::Deny => "deny",
    };
    [name.policy.clone(), name.rule.clone(), effect.to_owned()]
}

/// The most series of one family; what is beyond counts as `other`.
const MAX_SERIES: usize = 2000;
