//! What do we count of questions about tokens? Series that live as long as somebody asks that issuer.

use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;

use crate::auth::issuers::metrics::{Label, Names};
use crate::metrics::{MAX_SERIES, Metrics};

/// What came of a question; the label `result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Result {
    Active,
    Inactive,
    /// Active, and not to be used here.
    Refused,
    /// There was no answer, or none that could be used.
    Failed,
    /// It was not asked: too many questions, or too many about nothing.
    Shed,
}

/// The series of one issuer, removed with the last of its name.
#[derive(Debug)]
pub(super) struct IntrospectionMetrics {
    metrics: Arc<Metrics>,
    label: Label,
    counters: [IntCounter; Result::ALL.len()],
}

// === impl Result ===

impl Result {
    const ALL: [Self; 5] = [Self::Active, Self::Inactive, Self::Refused, Self::Failed, Self::Shed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Inactive => "inactive",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Shed => "shed",
        }
    }
}

// === impl IntrospectionMetrics ===

impl IntrospectionMetrics {
    pub(super) fn new(metrics: &Arc<Metrics>, names: &Names, name: &str) -> Self {
        let label = Label::new(names, name, MAX_SERIES / Result::ALL.len());
        let counter = |result: Result| {
            metrics.introspection_requests.with_label_values(&[label.as_str(), result.as_str()])
        };
        let counters = Result::ALL.map(counter);
        Self { metrics: metrics.clone(), label, counters }
    }

    pub(super) fn count(&self, result: Result) {
        if let Some((_, counter)) = Result::ALL.iter().zip(&self.counters).find(|(each, _)| **each == result)
        {
            counter.inc();
        }
    }

    pub(super) fn took(&self, duration: Duration) {
        self.metrics.introspection_duration.observe(duration.as_secs_f64());
    }
}

impl Drop for IntrospectionMetrics {
    fn drop(&mut self) {
        self.label.release(|name| {
            for result in Result::ALL {
                let _ = self.metrics.introspection_requests.remove_label_values(&[name, result.as_str()]);
            }
        });
    }
}
