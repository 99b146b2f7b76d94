//! What became of an update? The one place that tells: metrics, log, and the copy on disk.

use std::sync::Arc;

use countersign_policy::{Bundle, Outcome, Problem};

use super::dir::StateDir;
use crate::clock::Clock;
use crate::metrics::Metrics;

/// Name of the last good policy in the state directory.
const ENTRY: &str = "policy";

/// Keeps account of policy updates.
#[derive(Debug)]
pub(super) struct Report {
    metrics: Arc<Metrics>,
    state: Option<StateDir>,
    running: Option<String>,
}

/// What came of a poll.
#[derive(Clone, Copy, Debug)]
pub(super) enum Polled {
    Bundle,
    Unchanged,
    Failure,
}

// === impl Report ===

impl Report {
    pub(super) fn new(metrics: Arc<Metrics>, state: Option<StateDir>) -> Self {
        Self { metrics, state, running: None }
    }

    /// The version that is enforced; none before the first.
    pub(super) fn running(&self) -> Option<&str> {
        self.running.as_deref()
    }

    /// The version runs; the bundle is kept for the next start.
    pub(super) async fn applied(&mut self, version: &str, bundle: Bundle) {
        self.count(Outcome::Applied);
        self.runs(version, Clock::default().unix());
        tracing::info!(version, documents = bundle.documents.len(), "policy applied");
        let Some(state) = self.state.clone() else { return };
        let saved =
            tokio::task::spawn_blocking(move || state.save(ENTRY, &serde_json::to_vec(&bundle)?)).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!(%error, "policy could not be kept in the state directory: a restart may be without it");
        }
    }

    /// Nothing changed but this.
    pub(super) fn rejected(&self, version: Option<&str>, problems: &[Problem]) {
        self.count(Outcome::Rejected);
        let running = self.running.as_deref().unwrap_or("none");
        tracing::error!(
            version,
            running,
            problems = problems.len(),
            "policy rejected, the last good one stays"
        );
        for problem in problems {
            tracing::error!("{problem}");
        }
    }

    /// The last good policy of an earlier start runs.
    pub(super) fn restored(&mut self, version: &str, saved_at: i64) {
        self.runs(version, saved_at);
        tracing::warn!(version, saved_at, "policy from the state directory runs until there is a better one");
    }

    /// The last good policy of an earlier start, and when it was saved.
    pub(super) async fn last_good(&self) -> Option<(Bundle, i64)> {
        let state = self.state.clone()?;
        let (bytes, saved_at) = tokio::task::spawn_blocking(move || state.load(ENTRY)).await.ok()??;
        Some((serde_json::from_slice(&bytes).ok()?, saved_at))
    }

    /// The control plane was asked for another version.
    pub(super) fn polled(&self, result: Polled) {
        self.metrics.policy_polls.with_label_values(&[result.name()]).inc();
    }

    fn count(&self, outcome: Outcome) {
        self.metrics.policy_reloads.with_label_values(&[outcome.name()]).inc();
    }

    // Times of this century are exact in a gauge.
    fn runs(&mut self, version: &str, since: i64) {
        if self.running.as_deref() != Some(version) {
            if let Some(old) = self.running.replace(version.to_owned()) {
                let _ = self.metrics.policy_info.remove_label_values(&[&old]);
            }
            self.metrics.policy_info.with_label_values(&[version]).set(1);
        }
        self.metrics.policy_last_reload.set(since as f64);
    }
}

// === impl Polled ===

impl Polled {
    /// As the metric prints it.
    fn name(self) -> &'static str {
        match self {
            Self::Bundle => "bundle",
            Self::Unchanged => "unchanged",
            Self::Failure => "failure",
        }
    }
}
