//! Has this assertion been used before? The `jti` of each one, until it has expired (RFC 7523 §3 (7)).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};

/// Live assertions of one client: at a lifetime of five minutes some fifty a second.
const PER_CLIENT: usize = 16 * 1024;

/// What became of a `jti`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Fresh,
    Again,
    /// The client has too many that are still alive: refused, since forgetting one would let it be replayed.
    Full,
}

/// By client, so that none can crowd out another. Only verified assertions are noted.
#[derive(Debug, Default)]
pub(super) struct Replays {
    /// Since the epoch: of what was used before, a process that is gone knew.
    since: Duration,
    clients: Mutex<HashMap<String, HashMap<[u8; 32], Duration>>>,
}

// === impl Replays ===

impl Replays {
    /// A memory that begins now.
    pub(super) fn since(now: Duration) -> Self {
        Self { since: now, clients: Mutex::default() }
    }

    pub(super) fn begin(&self) -> Duration {
        self.since
    }

    /// Notes a `jti` that is dead after `expires` (since the epoch).
    pub(super) fn note(&self, client: &str, jti: &str, expires: Duration, now: Duration) -> Seen {
        let mut name = [0; 32];
        for (to, from) in name.iter_mut().zip(digest(&SHA256, jti.as_bytes()).as_ref()) {
            *to = *from;
        }
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = clients.entry(client.to_owned()).or_default();
        if seen.get(&name).is_some_and(|expires| *expires > now) {
            return Seen::Again;
        }
        if seen.len() >= PER_CLIENT {
            seen.retain(|_, expires| *expires > now);
        }
        if seen.len() >= PER_CLIENT {
            return Seen::Full;
        }
        seen.insert(name, expires);
        Seen::Fresh
    }

    /// Forgets clients that are gone.
    pub(super) fn retain(&self, known: impl Fn(&str) -> bool) {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).retain(|client, _| known(client));
    }
}
