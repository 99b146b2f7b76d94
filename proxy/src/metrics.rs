//! What do we count? Every metric of the sidecar, in one registry of its own; labels are closed sets.

use std::sync::Arc;

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Name, type, labels and help of a metric, as README.md lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    pub name: &'static str,
    pub kind: &'static str,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

/// Declares every metric once: field, type, name, labels, help.
macro_rules! metrics {
    ($($field:ident: $type:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        /// Every metric of one sidecar.
        #[derive(Clone, Debug)]
        pub struct Metrics {
            registry: Registry,
            $(#[doc = $help] pub $field: $type,)*
        }

        /// Every metric, for the README's table and the test that holds it to this list.
        pub const METRICS: &[Description] = &[$(Description {
            name: $name, kind: kind!($type), labels: &[$($label),*], help: $help,
        },)*];

        impl Metrics {
            /// A fresh registry with every metric in it.
            pub fn new() -> Result<Arc<Self>, prometheus::Error> {
                let registry = Registry::new();
                $(let $field = make!($type, $name, [$($label),*], $help);
                registry.register(Box::new($field.clone()))?;)*
                let metrics = Self { registry, $($field,)* };
                metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
                Ok(Arc::new(metrics))
            }
        }
    };
}

macro_rules! kind {
    (IntCounterVec) => {
        "counter"
    };
    (IntCounter) => {
        "counter"
    };
    (HistogramVec) => {
        "histogram"
    };
    (Histogram) => {
        "histogram"
    };
    ($gauge:ident) => {
        "gauge"
    };
}

macro_rules! make {
    (HistogramVec, $name:literal, $labels:tt, $help:literal) => {
        HistogramVec::new(HistogramOpts::new($name, $help).buckets(SECONDS.to_vec()), &$labels)?
    };
    (Histogram, $name:literal, $labels:tt, $help:literal) => {
        Histogram::with_opts(HistogramOpts::new($name, $help).buckets(SECONDS.to_vec()))?
    };
    (IntCounter, $name:literal, $labels:tt, $help:literal) => {
        IntCounter::new($name, $help)?
    };
    (IntGauge, $name:literal, $labels:tt, $help:literal) => {
        IntGauge::new($name, $help)?
    };
    (Gauge, $name:literal, $labels:tt, $help:literal) => {
        Gauge::new($name, $help)?
    };
    ($vec:ident, $name:literal, $labels:tt, $help:literal) => {
        $vec::new(Opts::new($name, $help), &$labels)?
    };
}

/// Buckets of every duration, in seconds: from a cache hit to a slow upstream.
const SECONDS: &[f64] = &[
    0.000_01, 0.000_1, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    60.0,
];

metrics! {
    requests: IntCounterVec "countersign_requests_total" ["direction", "protocol", "decision", "reason"]
        "Requests by what was decided and why.";
    request_duration: HistogramVec "countersign_request_duration_seconds" ["direction", "protocol"]
        "Time from the request head to the response head.";
    auth_duration: HistogramVec "countersign_auth_duration_seconds" ["step"]
        "Time of an authentication step that was not answered from a cache.";
    streams_ended: IntCounterVec "countersign_streams_ended_total" ["decision", "reason"]
        "Open streams that were ended since their token expired or policy no longer allows them: deny, error, or audit (would have been), outbound reject; and tunnels whose TLS is for another host than was asked for: reject.";
    connections: IntGaugeVec "countersign_connections" ["direction", "protocol"]
        "Open downstream connections.";
    connections_timed_out: IntCounterVec "countersign_connections_timed_out_total" ["direction", "cause"]
        "Downstream connections that were closed since they took too long: head (a request's head, 10 s from its first byte), idle (60 s without a request), write (nothing was taken for 30 s), stream (the same of one of HTTP/2, which is reset while the connection goes on); or too much: frames (of HTTP/2, that ask for nothing).";
    max_connections: IntGaugeVec "countersign_max_connections" ["direction"]
        "How many downstream connections may be open at once.";
    connections_refused: IntCounterVec "countersign_connections_refused_total" ["direction", "cause"]
        "Connections (inbound, outbound, admin, health) that were reset when they were accepted: total (too many are open), source (too many of this source), descriptors (no file descriptor was left). On the health listener one that has waited ends in the place of the new one.";
    max_memory: IntGauge "countersign_max_memory_bytes" []
        "Resident memory above which requests are shed; 0: there is no limit.";
    memory_short: IntGauge "countersign_memory_short" []
        "1 while more is resident, and requests are shed (503 overloaded).";
    tcp_bytes: IntCounterVec "countersign_tcp_bytes_total" ["direction", "flow"]
        "Bytes that passed as they are: sent to the server (the application inbound, the destination outbound) or received from it.";
    tls_handshakes: IntCounterVec "countersign_tls_handshakes_total" ["result"]
        "TLS handshakes with callers: success, failure, timeout, no_certificate.";
    policy_decisions: IntCounterVec "countersign_policy_decisions_total" ["policy", "rule", "effect"]
        "Decisions by the rule that made them.";
    shadow_decisions: IntCounterVec "countersign_shadow_decisions_total" ["policy", "rule", "would"]
        "Requests that a shadow rule matched, by what would have been decided.";
    token_requests: IntCounterVec "countersign_token_requests_total" ["result"]
        "Outbound token look-ups: hit, refresh, miss, coalesced, failed.";
    token_refusals: IntCounterVec "countersign_token_refusals_total" ["result"]
        "Tokens that a destination refused as invalid: dropped (and another fetched), superseded (there was another already), kept (dropped just now, or the issuer cannot be asked).";
    token_replays: IntCounterVec "countersign_token_replays_total" ["result"]
        "Requests that a destination refused for their token, or for a DPoP proof without its nonce: accepted or refused with another one, failed, unfit (not to be sent again).";
    token_fetch_duration: Histogram "countersign_token_fetch_duration_seconds" []
        "Time of a request to a token endpoint.";
    token_expiry: GaugeVec "countersign_token_expiry_timestamp_seconds" ["credential"]
        "When the earliest token of a credential expires.";
    token_fetch_failures: IntCounterVec "countersign_token_fetch_failures_total" ["credential", "cause"]
        "Requests to a token endpoint that brought no token, by cause.";
    token_scope_narrowed: IntCounterVec "countersign_token_scope_narrowed_total" ["credential"]
        "Tokens that were granted for fewer scopes than asked for.";
    issuer_clock_skew: IntGaugeVec "countersign_issuer_clock_skew_seconds" ["issuer"]
        "The issuer's clock less ours, by the Date of its last answer to a token request.";
    verified_token_cache: IntCounterVec "countersign_verified_token_cache_total" ["result"]
        "Inbound token look-ups: connection, hit, miss, negative.";
    introspection_requests: IntCounterVec "countersign_introspection_requests_total" ["issuer", "result"]
        "Questions to an issuer about opaque tokens: active, inactive, refused (active, but not to be used here), failed, shed (not asked: too many).";
    introspection_duration: Histogram "countersign_introspection_duration_seconds" []
        "Time of a question about an opaque token.";
    jwks_refreshes: IntCounterVec "countersign_jwks_refreshes_total" ["issuer", "result"]
        "Fetches of an issuer's key set: success, unchanged, failure.";
    jwks_last_success: GaugeVec "countersign_jwks_last_success_timestamp_seconds" ["issuer"]
        "When an issuer's key set was last fetched.";
    policy_reloads: IntCounterVec "countersign_policy_reloads_total" ["result"]
        "Policy updates: applied, rejected.";
    policy_polls: IntCounterVec "countersign_policy_polls_total" ["result"]
        "Questions to the control plane for another policy: bundle (there was one), unchanged, failure (no answer, or none of use).";
    policy_info: IntGaugeVec "countersign_policy_info" ["version"]
        "The running version of policy; always 1.";
    policy_last_reload: Gauge "countersign_policy_last_reload_timestamp_seconds" []
        "When policy was last applied.";
    identity_expiry: Gauge "countersign_identity_expiry_timestamp_seconds" []
        "When the workload certificate expires; 0 without one.";
    outbound_bypassed: IntCounterVec "countersign_outbound_bypassed_total" ["reason"]
        "Outbound requests forwarded without a token (no_rule, no_token, token_unavailable), and redirected connections that pass without being looked into (no_rule, tls, tcp, passthrough).";
    name_lookups: IntCounterVec "countersign_name_lookups_total" ["result"]
        "Questions to nameservers for the addresses of a name: found, partial (one family of addresses failed), absent (a server says that there is none), failed (nobody answers), shed (not asked: too many at once).";
    names_unanswered: Gauge "countersign_names_unanswered" []
        "Hosts of outbound rules for which no nameserver answers now; those that had addresses keep them.";
    underscore_headers_dropped: IntCounter "countersign_underscore_headers_dropped_total" []
        "Header fields of callers that were removed for the _ in their names.";
    access_log_dropped: IntCounterVec "countersign_access_log_dropped_total" ["cause"]
        "Access-log lines that were not written: rate_limited (too many for one reason), full (stdout does not keep up), unwritable.";
    build_info: IntGaugeVec "countersign_build_info" ["version"]
        "The version of the sidecar; always 1.";
}

/// The most series of one family. What is beyond counts as [`OTHER`].
pub const MAX_SERIES: usize = 2000;
/// The label of what a family has no room for.
pub const OTHER: &str = "other";

impl Metrics {
    /// The text format of Prometheus.
    pub fn encode(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// Counts a connection that was closed since it took too long or too much, if it was.
    pub fn timed_out(&self, direction: &str, cause: Option<&str>) {
        if let Some(cause) = cause {
            self.connections_timed_out.with_label_values(&[direction, cause]).inc();
        }
    }

    #[cfg(test)]
    pub(crate) fn gather(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.registry.gather()
    }
}
