//! What is in force? A snapshot of policy with all that it takes to run it: keys, token slots, counters.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use countersign_policy::Snapshot;
use countersign_policy::snapshot::{Effect, InboundTls, RuleName};
use prometheus::IntCounter;

use super::introspect::{Introspections, Introspector};
use super::issuers::{IssuerKeys, Issuers, Services};
use super::shadow::{ShadowSeries, Shadows};
use super::tokens::{Exchange, TokenSlot, Tokens};
use crate::metrics::{MAX_SERIES, Metrics, OTHER};
use crate::state::server_tls::{TlsServer, TlsServers};

/// A snapshot, armed. The vectors are parallel to the snapshot's, so a request looks nothing up by name.
#[derive(Debug)]
pub struct Active {
    pub snapshot: Snapshot,
    /// Of the issuers whose tokens are accepted, which are the snapshot's first.
    pub keys: Vec<Arc<IssuerKeys>>,
    /// Of the issuers that are asked about opaque tokens.
    pub introspectors: Vec<Arc<Introspector>>,
    pub tokens: Vec<Arc<TokenSlot>>,
    pub exchanges: Vec<Arc<Exchange>>,
    /// Decisions by inbound rule.
    pub decisions: Vec<IntCounter>,
    pub(super) shadows: Shadows,
    /// What ports serve TLS with, by fingerprint: looked up once per connection.
    servers: HashMap<[u8; 32], Arc<TlsServer>>,
}

/// Arms snapshots. What one snapshot and the next have in common (keys, tokens, certificates, counters) goes on.
#[derive(Debug)]
pub struct Armory {
    issuers: Issuers,
    pub introspections: Introspections,
    pub tokens: Tokens,
    servers: TlsServers,
    metrics: Arc<Metrics>,
    shadows: ShadowSeries,
    /// The rules that have series of metrics.
    counted: Mutex<HashSet<[String; 3]>>,
}

// === impl Active ===

impl Active {
    /// What a port with this `tls` serves it with.
    pub(crate) fn server(&self, tls: &InboundTls) -> Option<&TlsServer> {
        self.servers.get(&tls.fingerprint).map(Arc::as_ref)
    }
}

// === impl Armory ===

impl Armory {
    pub fn new(services: Services) -> Self {
        Self {
            metrics: services.metrics.clone(),
            shadows: ShadowSeries::new(services.metrics.clone(), services.clock.clone()),
            servers: TlsServers::new(services.files.clone(), services.background.clone()),
            issuers: Issuers::new(services.clone()),
            introspections: Introspections::new(services.clone()),
            tokens: Tokens::new(services),
            counted: Mutex::default(),
        }
    }

    pub fn arm(&self, snapshot: Snapshot) -> Active {
        let keys = self.issuers.arm(snapshot.accepted_issuers());
        Active {
            introspectors: self.introspections.arm(&snapshot, &keys),
            keys,
            tokens: self.tokens.arm(&snapshot),
            exchanges: self.tokens.arm_exchanges(&snapshot),
            decisions: self.count(&snapshot.rules),
            shadows: self.shadows.arm(&snapshot.rules),
            servers: self.servers.arm(&snapshot),
            snapshot,
        }
    }

    /// A counter for each rule; the series of rules that are gone are removed.
    fn count(&self, rules: &[Arc<RuleName>]) -> Vec<IntCounter> {
        let family = &self.metrics.policy_decisions;
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let labels: Vec<[String; 3]> = rules.iter().map(|name| labels(name)).collect();
        let kept: HashSet<[String; 3]> = labels.iter().take(MAX_SERIES).cloned().collect();
        for gone in counted.difference(&kept) {
            // It was there, or was never incremented: either way it is gone now.
            let _ = family.remove_label_values(&gone.each_ref().map(String::as_str));
        }
        let counters = labels
            .iter()
            .enumerate()
            .map(|(index, labels)| match labels.each_ref().map(String::as_str) {
                labels if index < MAX_SERIES => family.with_label_values(&labels),
                [_, _, effect] => family.with_label_values(&[OTHER, OTHER, effect]),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::testing::services;

    fn rules(range: std::ops::Range<usize>) -> Vec<Arc<RuleName>> {
        let name = |index| RuleName {
            policy: "shop/orders".to_owned(),
            rule: format!("r{index}"),
            effect: Effect::Deny,
            shadow: false,
        };
        range.map(name).map(Arc::new).collect()
    }

    #[tokio::test]
    async fn rules_have_series_for_as_long_as_policy_names_them() {
        let services = services();
        let metrics = services.metrics.clone();
        let armory = Armory::new(services);
        let series = || String::from_utf8(metrics.encode().unwrap()).unwrap().matches("rule=\"r").count();
        armory.count(&rules(0..3)).iter().for_each(IntCounter::inc);
        assert_eq!(series(), 3);
        let next = armory.count(&rules(2..4));
        assert_eq!(series(), 2);
        assert_eq!(
            next.iter().map(IntCounter::get).collect::<Vec<_>>(),
            [1, 0],
            "what stays goes on counting"
        );
    }

    #[tokio::test]
    async fn a_family_is_bounded_and_the_rest_is_other() {
        let services = services();
        let metrics = services.metrics.clone();
        let counters = Armory::new(services).count(&rules(0..MAX_SERIES + 100));
        counters.iter().for_each(IntCounter::inc);
        assert_eq!(counters.len(), MAX_SERIES + 100);
        let families = metrics.gather();
        let family = families.iter().find(|f| f.name() == "countersign_policy_decisions_total").unwrap();
        assert_eq!(family.get_metric().len(), MAX_SERIES + 1);
        assert_eq!(metrics.policy_decisions.with_label_values(&[OTHER, OTHER, "deny"]).get(), 100);
    }
}
