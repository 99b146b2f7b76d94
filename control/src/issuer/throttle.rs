//! How many guesses has somebody? Failed secrets are counted per client id and address; past a handful each further one
//! costs a growing wait (RFC 6749 §2.3.1). Per address, so that a stranger who guesses does not lock the client out; what a
//! guesser with many addresses wins is nothing against 128 bits. Assertions are not counted: a signature is not guessed.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Failures that cost nothing: a typo, two replicas with yesterday's secret.
const FREE: u32 = 10;

/// The longest wait: 2,880 guesses a day, against 2^128 secrets at least.
const LONGEST: Duration = Duration::from_secs(30);

/// Forgotten after this long without a failure.
const MEMORY: Duration = Duration::from_secs(15 * 60);

/// Guessers remembered at once. Ids that no client has are counted too, so that being counted tells nothing.
const CAPACITY: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Throttle {
    failures: Mutex<HashMap<Guesser, Failures>>,
}

/// Who tries a secret of this client, and from where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Guesser {
    client: String,
    /// Of IPv6 the network, since every host has one for itself.
    source: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Duration,
    /// No client has this id: the first to be forgotten.
    stranger: bool,
}

// === impl Guesser ===

impl Guesser {
    pub(super) fn new(client: &str, source: Option<IpAddr>) -> Self {
        let network = |address: IpAddr| match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
            v4 => v4,
        };
        Self { client: client.to_owned(), source: source.map(network) }
    }
}

// === impl Throttle ===

impl Throttle {
    /// How long this one must still wait, if it must.
    pub(super) fn wait(&self, guesser: &Guesser, now: Duration) -> Option<Duration> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = failures.get(guesser)?;
        let over = entry.count.checked_sub(FREE)?;
        let wait = Duration::from_secs(1).saturating_mul(2_u32.saturating_pow(over)).min(LONGEST);
        let until = entry.last.saturating_add(wait);
        until.checked_sub(now).filter(|left| !left.is_zero())
    }

    /// One more wrong secret.
    pub(super) fn failed(&self, guesser: &Guesser, stranger: bool, now: Duration) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= CAPACITY && !failures.contains_key(guesser) {
            make_room(&mut failures, now);
        }
        let entry = failures.entry(guesser.clone()).or_insert(Failures { count: 0, last: now, stranger });
        if now.saturating_sub(entry.last) > MEMORY {
            entry.count = 0;
        }
        entry.count = entry.count.saturating_add(1);
        entry.last = now;
        entry.stranger = stranger;
        if entry.count == FREE && !stranger {
            tracing::warn!(client = guesser.client, source = ?guesser.source, "too many failed authentications; further ones must wait");
        }
    }

    pub(super) fn succeeded(&self, guesser: &Guesser) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(guesser);
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
fn make_room(failures: &mut HashMap<Guesser, Failures>, now: Duration) {
    failures.retain(|_, entry| now.saturating_sub(entry.last) <= MEMORY);
    if failures.len() >= CAPACITY {
        failures.retain(|_, entry| !entry.stranger);
    }
    if failures.len() >= CAPACITY {
        failures.clear();
    }
}
