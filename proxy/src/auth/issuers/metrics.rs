//! What do we count of an issuer's key set? Series that live exactly as long as someone keeps that issuer's keys.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{Gauge, IntCounter};

use crate::metrics::{MAX_SERIES, Metrics, OTHER};

/// How many there are of an issuer's name: while one is replaced by the next, there are two.
pub(crate) type Names = Arc<Mutex<HashMap<String, usize>>>;

/// An issuer's name as a label, shared by all who have it.
#[derive(Debug)]
pub(crate) struct Label {
    names: Names,
    name: String,
}

/// The series of one issuer, removed with the last of its name.
#[derive(Debug)]
pub(crate) struct IssuerMetrics {
    metrics: Arc<Metrics>,
    label: Label,
    pub(crate) counters: Counters,
}

/// Handles, looked up once.
#[derive(Clone, Debug)]
pub(crate) struct Counters {
    pub(crate) success: IntCounter,
    pub(crate) unchanged: IntCounter,
    pub(crate) failure: IntCounter,
    /// Seconds since the epoch.
    pub(crate) last_success: Gauge,
}

const RESULTS: [&str; 3] = ["success", "unchanged", "failure"];

// === impl IssuerMetrics ===

impl IssuerMetrics {
    pub(crate) fn new(metrics: &Arc<Metrics>, names: &Names, name: &str) -> Self {
        let label = Label::new(names, name, MAX_SERIES / RESULTS.len());
        let name = label.as_str();
        let [success, unchanged, failure] =
            RESULTS.map(|result| metrics.jwks_refreshes.with_label_values(&[name, result]));
        let last_success = metrics.jwks_last_success.with_label_values(&[name]);
        let counters = Counters { success, unchanged, failure, last_success };
        Self { metrics: metrics.clone(), label, counters }
    }
}

impl Drop for IssuerMetrics {
    fn drop(&mut self) {
        self.label.release(|name| {
            for result in RESULTS {
                let _ = self.metrics.jwks_refreshes.remove_label_values(&[name, result]);
            }
            let _ = self.metrics.jwks_last_success.remove_label_values(&[name]);
        });
    }
}

// === impl Label ===

impl Label {
    /// This name, or [`OTHER`] where there are as many already as a family has room for.
    pub(crate) fn new(names: &Names, name: &str, room: usize) -> Self {
        let mut counts = names.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = counts.contains_key(name) || counts.len() < room;
        let name = if has_room { name } else { OTHER };
        let count = counts.entry(name.to_owned()).or_default();
        *count = count.saturating_add(1);
        Self { names: names.clone(), name: name.to_owned() }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.name
    }

    /// Gives it back; the last to do so has the series removed.
    pub(crate) fn release(&self, remove: impl FnOnce(&str)) {
        // Held to the end, so that a successor of the same name makes its series after these are gone.
        let mut counts = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.name).filter(|count| **count > 1) {
            *count = count.saturating_sub(1);
            return;
        }
        counts.remove(&self.name);
        remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_live_as_long_as_their_issuer_and_are_bounded() {
        let (metrics, names) = (Metrics::new().unwrap(), Names::default());
        let of = |name: &str| IssuerMetrics::new(&metrics, &names, name);
        let series = || String::from_utf8(metrics.encode().unwrap()).unwrap().matches("issuer=\"").count();
        let (first, next) = (of("corp"), of("corp"));
        assert_eq!(series(), RESULTS.len() + 1);
        drop(first);
        assert_eq!(series(), RESULTS.len() + 1, "a successor of the same name counts on");
        drop(next);
        assert_eq!(series(), 0);

        let many: Vec<_> = (0..MAX_SERIES).map(|index| of(&format!("issuer-{index}"))).collect();
        assert!(series() <= (MAX_SERIES / RESULTS.len() + 1) * (RESULTS.len() + 1));
        many[MAX_SERIES - 1].counters.failure.inc();
        assert_eq!(metrics.jwks_refreshes.with_label_values(&[OTHER, "failure"]).get(), 1);
        drop(many);
        assert_eq!(series(), 0);
    }
}
