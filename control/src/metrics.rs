//! What do we count? Every metric of the control plane, in one registry of its own; labels are closed sets.

use prometheus::{
    Encoder, Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::versions::now;

/// Every metric of one control plane. Those that sidecars have too have the same names.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) policy_reloads: IntCounterVec,
    policy_info: IntGaugeVec,
    policy_last_reload: Gauge,
    pub(crate) join_token_reloads: IntCounterVec,
    pub(crate) policy_requests: IntCounterVec,
    pub(crate) acknowledgements: IntCounterVec,
    pub(crate) connections: IntGauge,
    pub(crate) connections_refused: IntCounterVec,
    pub(crate) panics: IntCounter,
}

// === impl Metrics ===

impl Metrics {
    /// A fresh registry with every metric in it.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let counters = |name, help, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let metrics = Self {
            registry: Registry::new(),
            policy_reloads: counters(
                "countersign_policy_reloads_total",
                "Policy updates: applied, rejected.",
                &["result"],
            )?,
            policy_info: IntGaugeVec::new(
                Opts::new("countersign_policy_info", "The published version of policy; always 1."),
                &["version"],
            )?,
            policy_last_reload: Gauge::new(
                "countersign_policy_last_reload_timestamp_seconds",
                "When policy was last published.",
            )?,
            join_token_reloads: counters(
                "countersign_control_join_token_reloads_total",
                "Updates of the join tokens: applied, rejected.",
                &["result"],
            )?,
            policy_requests: counters(
                "countersign_control_policy_requests_total",
                "Requests for policy: bundle, unchanged, unauthorized, unavailable.",
                &["result"],
            )?,
            acknowledgements: counters(
                "countersign_control_acknowledgements_total",
                "What sidecars made of their bundles: applied, rejected.",
                &["result"],
            )?,
            connections: IntGauge::new("countersign_control_connections", "Open connections to the API.")?,
            connections_refused: counters(
                "countersign_control_connections_refused_total",
                "Connections that were closed at once: total, peer, handshake.",
                &["reason"],
            )?,
            panics: IntCounter::new("countersign_control_panics_total", "Connections that a panic ended.")?,
        };
        metrics.register()?;
        Ok(metrics)
    }

    fn register(&self) -> Result<(), prometheus::Error> {
        self.registry.register(Box::new(self.policy_reloads.clone()))?;
        self.registry.register(Box::new(self.policy_info.clone()))?;
        self.registry.register(Box::new(self.policy_last_reload.clone()))?;
        self.registry.register(Box::new(self.join_token_reloads.clone()))?;
        self.registry.register(Box::new(self.policy_requests.clone()))?;
        self.registry.register(Box::new(self.acknowledgements.clone()))?;
        self.registry.register(Box::new(self.connections.clone()))?;
        self.registry.register(Box::new(self.connections_refused.clone()))?;
        self.registry.register(Box::new(self.panics.clone()))?;
        let build = IntGaugeVec::new(
            Opts::new("countersign_build_info", "The version of the build; always 1."),
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        self.registry.register(Box::new(build))
    }

    /// This version is published now.
    // Times of this century are exact in a gauge.
    pub(crate) fn version(&self, version: &str) {
        self.policy_info.reset();
        self.policy_info.with_label_values(&[version]).set(1);
        self.policy_last_reload.set(now() as f64);
    }

    /// The text format of Prometheus.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
