//! What do we count of tokens? Handles made once, and series that go when policy does not mention their credential any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_policy::snapshot::Issuer;
use prometheus::IntCounter;

use crate::auth::tokens::failure::Cause;
use crate::metrics::{MAX_SERIES, Metrics, OTHER};

/// The counters of all slots.
#[derive(Debug)]
pub(crate) struct TokenMetrics {
    metrics: Arc<Metrics>,
    /// Served from the cache.
    pub hit: IntCounter,
    /// Served from the cache, past the soft limit.
    pub refresh: IntCounter,
    /// Waited for a request of its own.
    pub miss: IntCounter,
    /// Waited for a request that was already under way.
    pub coalesced: IntCounter,
    /// Brought no token.
    pub failed: IntCounter,
    /// A destination refused it: dropped, and another fetched.
    pub dropped: IntCounter,
    /// A destination refused it, and meanwhile there was another one.
    pub superseded: IntCounter,
    /// A destination refused it, and it stays: the last one was dropped just now, or the issuer cannot be asked.
    pub kept: IntCounter,
    replays: [IntCounter; Replay::ALL.len()],
    credentials: Mutex<HashMap<String, Expiries>>,
    /// The labels of the issuers that policy mentions, by their fingerprints.
    issuers: Mutex<HashMap<[u8; 32], String>>,
}

/// What became of a request whose token a destination refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// The destination took it with another token.
    Accepted,
    /// It refused that one too.
    Refused,
    /// There was no other token, or no answer.
    Failed,
    /// Its body was too much to keep, or had not all been sent.
    Unfit,
}

/// The expiry of a credential's tokens, by the key of their slots: none before there was one.
type Expiries = HashMap<[u8; 32], Option<Duration>>;

// === impl Replay ===

impl Replay {
    const ALL: [Self; 4] = [Self::Accepted, Self::Refused, Self::Failed, Self::Unfit];

    fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Unfit => "unfit",
        }
    }
}

// === impl TokenMetrics ===

impl TokenMetrics {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        let result = |name| metrics.token_requests.with_label_values(&[name]);
        let refusal = |name| metrics.token_refusals.with_label_values(&[name]);
        Self {
            hit: result("hit"),
            refresh: result("refresh"),
            miss: result("miss"),
            coalesced: result("coalesced"),
            failed: result("failed"),
            dropped: refusal("dropped"),
            superseded: refusal("superseded"),
            kept: refusal("kept"),
            replays: Replay::ALL.map(|replay| metrics.token_replays.with_label_values(&[replay.as_str()])),
            credentials: Mutex::default(),
            issuers: Mutex::default(),
            metrics,
        }
    }

    pub(crate) fn replayed(&self, replay: Replay) {
        let counter = Replay::ALL.iter().zip(&self.replays).find(|(each, _)| **each == replay);
        if let Some((_, counter)) = counter {
            counter.inc();
        }
    }

    /// Policy mentions this slot. Until then, and after [`Self::forget`], nothing of it is counted by credential.
    pub(crate) fn mention(&self, credential: &str, key: [u8; 32]) {
        let mut credentials = self.lock();
        let has_room =
            credentials.contains_key(credential) || credentials.len() < MAX_SERIES / Cause::ALL.len();
        let label = if has_room { credential } else { OTHER };
        credentials.entry(label.to_owned()).or_default().entry(key).or_default();
    }

    pub(crate) fn forget(&self, credential: &str, key: &[u8; 32]) {
        let mut credentials = self.lock();
        let Some(label) = label_of(&credentials, credential, key) else { return };
        let Some(expiries) = credentials.get_mut(label) else { return };
        expiries.remove(key);
        if !expiries.is_empty() {
            return self.show_earliest(label, expiries);
        }
        credentials.remove(label);
        // A series that never was is no error.
        let _ = self.metrics.token_expiry.remove_label_values(&[label]);
        let _ = self.metrics.token_scope_narrowed.remove_label_values(&[label]);
        for cause in Cause::ALL {
            let _ = self.metrics.token_fetch_failures.remove_label_values(&[label, cause.as_str()]);
        }
    }

    /// A token came; `expiry` is since the epoch. It stands until the next one comes, so that alerts see it pass.
    pub(crate) fn obtained(&self, credential: &str, key: [u8; 32], expiry: Duration) {
        let mut credentials = self.lock();
        let Some(label) = label_of(&credentials, credential, &key) else { return };
        let Some(expiries) = credentials.get_mut(label) else { return };
        expiries.insert(key, Some(expiry));
        self.show_earliest(label, expiries);
    }

    pub(crate) fn failed_fetch(&self, credential: &str, key: &[u8; 32], cause: Cause) {
        let credentials = self.lock();
        if let Some(label) = label_of(&credentials, credential, key) {
            self.metrics.token_fetch_failures.with_label_values(&[label, cause.as_str()]).inc();
        }
    }

    /// A token came, for fewer scopes than were asked for.
    pub(crate) fn narrowed(&self, credential: &str, key: &[u8; 32]) {
        let credentials = self.lock();
        if let Some(label) = label_of(&credentials, credential, key) {
            self.metrics.token_scope_narrowed.with_label_values(&[label]).inc();
        }
    }

    pub(crate) fn observe_fetch(&self, duration: Duration) {
        self.metrics.token_fetch_duration.observe(duration.as_secs_f64());
    }

    /// Policy mentions these issuers and no others: the series of the others go, and nothing brings them back.
    pub(crate) fn mention_issuers(&self, issuers: &[Issuer]) {
        let mut labels = self.issuers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *labels);
        for Issuer { name, fingerprint, .. } in issuers {
            let label = before.remove(fingerprint).unwrap_or_else(|| {
                let label = if labels.len() < MAX_SERIES { name } else { OTHER };
                label.to_owned()
            });
            labels.insert(*fingerprint, label);
        }
        for label in before.values() {
            // What changed under its name is asked anew. A series that never was is no error.
            let _ = self.metrics.issuer_clock_skew.remove_label_values(&[label]);
        }
    }

    /// An issuer's clock, less ours.
    pub(crate) fn skewed(&self, issuer: &[u8; 32], seconds: i64) {
        let labels = self.issuers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(label) = labels.get(issuer) {
            self.metrics.issuer_clock_skew.with_label_values(&[label]).set(seconds);
        }
    }

    fn show_earliest(&self, credential: &str, expiries: &Expiries) {
        match expiries.values().flatten().min() {
            Some(expiry) => {
                self.metrics.token_expiry.with_label_values(&[credential]).set(expiry.as_secs_f64());
            }
            None => {
                let _ = self.metrics.token_expiry.remove_label_values(&[credential]);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Expiries>> {
        self.credentials.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The label under which a slot is counted; none where policy does not mention it.
fn label_of<'a>(
    credentials: &HashMap<String, Expiries>,
    credential: &'a str,
    key: &[u8; 32],
) -> Option<&'a str> {
    let counts = |label: &str| credentials.get(label).is_some_and(|expiries| expiries.contains_key(key));
    [credential, OTHER].into_iter().find(|label| counts(label))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.encode().unwrap()).unwrap()
    }

    #[test]
    fn the_earliest_expiry_is_shown_and_goes_with_its_credential() {
        let metrics = Metrics::new().unwrap();
        let tokens = TokenMetrics::new(metrics.clone());
        for key in [1, 2] {
            tokens.mention("shop/checkout", [key; 32]);
        }
        tokens.obtained("shop/checkout", [1; 32], Duration::from_secs(500));
        tokens.obtained("shop/checkout", [2; 32], Duration::from_secs(400));
        tokens.failed_fetch("shop/checkout", &[1; 32], Cause::Timeout);
        let series = "countersign_token_expiry_timestamp_seconds{credential=\"shop/checkout\"}";
        assert!(text(&metrics).contains(&format!("{series} 400")));
        assert!(text(&metrics).contains("{cause=\"timeout\",credential=\"shop/checkout\"} 1"));
        tokens.narrowed("shop/checkout", &[2; 32]);
        let narrowed = "countersign_token_scope_narrowed_total{credential=\"shop/checkout\"} 1";
        assert!(text(&metrics).contains(narrowed));

        tokens.forget("shop/checkout", &[2; 32]);
        assert!(text(&metrics).contains(&format!("{series} 500")));
        tokens.forget("shop/checkout", &[1; 32]);
        assert!(!text(&metrics).contains("shop/checkout"));

        // What a flight brings home after that leaves no trace.
        tokens.obtained("shop/checkout", [1; 32], Duration::from_secs(600));
        tokens.failed_fetch("shop/checkout", &[1; 32], Cause::Timeout);
        tokens.narrowed("shop/checkout", &[1; 32]);
        assert!(!text(&metrics).contains("shop/checkout"));
    }

    #[test]
    fn the_family_is_bounded_and_the_rest_is_other() {
        let metrics = Metrics::new().unwrap();
        let tokens = TokenMetrics::new(metrics.clone());
        let room = MAX_SERIES / Cause::ALL.len();
        let key = |index: usize| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&index.to_le_bytes());
            key
        };
        let names: Vec<_> = (0..room + 2).map(|index| format!("shop/c{index}")).collect();
        for (index, name) in names.iter().enumerate() {
            tokens.mention(name, key(index));
            tokens.obtained(name, key(index), Duration::from_secs(1000));
            tokens.narrowed(name, &key(index));
            Cause::ALL.iter().for_each(|cause| tokens.failed_fetch(name, &key(index), *cause));
        }
        let failures = metrics.token_fetch_failures.with_label_values(&[OTHER, "timeout"]).get();
        assert_eq!(failures, 2);
        assert_eq!(metrics.token_scope_narrowed.with_label_values(&[OTHER]).get(), 2);
        assert_eq!(text(&metrics).matches("cause=\"timeout\"").count(), room + 1);
        for (index, name) in names.iter().enumerate() {
            tokens.forget(name, &key(index));
        }
        assert!(!text(&metrics).contains("credential=\""));
    }
}
