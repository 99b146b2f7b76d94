//! How many guesses has somebody? Failed secrets are counted per client id; past a handful each further one costs a
//! growing wait (RFC 6749 §2.3.1). Assertions are not counted: a signature is not guessed, so nobody can lock them out.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Failures that cost nothing: a typo, two replicas with yesterday's secret.
const FREE: u32 = 10;

/// The longest wait: 2,880 guesses a day, against 2^128 secrets at least.
const LONGEST: Duration = Duration::from_secs(30);

/// Forgotten after this long without a failure.
const MEMORY: Duration = Duration::from_secs(15 * 60);

/// Client ids remembered at once. Ids that no client has are counted too, so that being counted tells nothing.
const CAPACITY: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Throttle {
    failures: Mutex<HashMap<String, Failures>>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Duration,
    /// No client has this id: the first to be forgotten.
    stranger: bool,
}

// === impl Throttle ===

impl Throttle {
    /// How long this id must still wait, if it must.
    pub(super) fn wait(&self, client: &str, now: Duration) -> Option<Duration> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = failures.get(client)?;
        let over = entry.count.checked_sub(FREE)?;
        let wait = Duration::from_secs(1).saturating_mul(2_u32.saturating_pow(over)).min(LONGEST);
        let until = entry.last.saturating_add(wait);
        until.checked_sub(now).filter(|left| !left.is_zero())
    }

    /// One more wrong secret.
    pub(super) fn failed(&self, client: &str, stranger: bool, now: Duration) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= CAPACITY && !failures.contains_key(client) {
            make_room(&mut failures, now);
        }
        let entry = failures.entry(client.to_owned()).or_insert(Failures { count: 0, last: now, stranger });
        if now.saturating_sub(entry.last) > MEMORY {
            entry.count = 0;
        }
        entry.count = entry.count.saturating_add(1);
        entry.last = now;
        entry.stranger = stranger;
        if entry.count == FREE && !stranger {
            tracing::warn!(client, "too many failed authentications; further ones must wait");
        }
    }

    pub(super) fn succeeded(&self, client: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(client);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Other clients, other secrets.
    pub(super) fn forget(&self) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Drops what is old; failing that the strangers, who are invented at will; failing that everything.
fn make_room(failures: &mut HashMap<String, Failures>, now: Duration) {
    failures.retain(|_, entry| now.saturating_sub(entry.last) <= MEMORY);
    if failures.len() >= CAPACITY {
        failures.retain(|_, entry| !entry.stranger);
    }
    if failures.len() >= CAPACITY {
        failures.clear();
    }
}
