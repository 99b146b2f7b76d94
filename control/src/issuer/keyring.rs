//! Which key signs now, and which are shown? A pure schedule: a key is published, waits, signs, and stays until no token
//! that it signed can be alive. Time is an argument.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use jsonwebtoken::jwk::{Jwk, JwkSet};

use super::options::{Algorithm, Options};
use super::signing_key::SigningKey;

/// The times of a key's life.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    rotation: Duration,
    publish_ahead: Duration,
    /// How long a key is shown after its successor began to sign.
    retention: Duration,
}

/// A key and its place in time. Times are since the epoch.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: Arc<SigningKey>,
    pub(super) signs_from: Duration,
    /// It has begun to sign while we were running: whoever fetched the set could see it long before.
    pub(super) in_use: bool,
}

/// The published keys, oldest first, never empty, and the documents that show them.
#[derive(Clone, Debug)]
pub(super) struct Keyring {
    first: Entry,
    later: Vec<Entry>,
    schedule: Schedule,
    jwks: Bytes,
    etag: String,
}

// === impl Schedule ===

impl From<&Options> for Schedule {
    fn from(options: &Options) -> Self {
        Self {
            rotation: options.rotation,
            publish_ahead: options.publish_ahead,
            // A token's lifetime, and what a verifier's cache of the set may lag behind.
            retention: options.token_lifetime.saturating_add(options.publish_ahead),
        }
    }
}

// === impl Keyring ===

impl Keyring {
    /// The very first key signs at once: no verifier can hold an older set.
    pub(super) fn start(key: SigningKey, schedule: Schedule, now: Duration) -> Self {
        Self::new(Entry { key: Arc::new(key), signs_from: now, in_use: true }, Vec::new(), schedule)
    }

    /// After a restart. A key that had not begun to sign waits its full time again, since nobody could fetch it while we
    /// were away. None if nothing was kept.
    pub(super) fn resume(kept: Vec<Entry>, schedule: Schedule, now: Duration) -> Option<Self> {
        let waits_until = now.saturating_add(schedule.publish_ahead);
        let mut entries = kept;
        entries.sort_by_key(|entry| entry.signs_from);
        let mut entries = entries.into_iter().enumerate().map(|(index, mut entry)| {
            // One must sign; the oldest is the one that verifiers know.
            entry.in_use |= index == 0;
            if !entry.in_use {
                entry.signs_from = entry.signs_from.max(waits_until);
            }
            entry
        });
        let first = entries.next()?;
        Some(Self::new(first, entries.collect(), schedule))
    }

    fn new(first: Entry, later: Vec<Entry>, schedule: Schedule) -> Self {
        let keys = std::iter::once(&first).chain(&later);
        let set = JwkSet { keys: keys.map(|entry| entry.key.public().clone()).collect::<Vec<Jwk>>() };
        // A set of strings cannot fail to be written.
        let jwks = Bytes::from(serde_json::to_vec(&set).unwrap_or_default());
        let etag = etag(&jwks);
        Self { first, later, schedule, jwks, etag }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        std::iter::once(&self.first).chain(&self.later)
    }

    /// The newest key whose time has come.
    pub(super) fn signing(&self, now: Duration) -> &SigningKey {
        let mut later = self.later.iter().rev();
        &later.find(|entry| entry.signs_from <= now).unwrap_or(&self.first).key
    }

    /// The key that is published and does not sign yet.
    pub(super) fn waiting(&self, now: Duration) -> Option<&SigningKey> {
        self.later.last().filter(|newest| newest.signs_from > now).map(|newest| &*newest.key)
    }

    /// With a new key, which waits.
    pub(super) fn publish(&self, key: Arc<SigningKey>, now: Duration) -> Self {
        let signs_from = now.saturating_add(self.schedule.publish_ahead);
        let mut later = self.later.clone();
        later.push(Entry { key, signs_from, in_use: false });
        Self::new(self.first.clone(), later, self.schedule)
    }

    /// Whether the next key should be published now, so that it can sign when the current one has signed long enough or
    /// is of another algorithm than is wanted.
    pub(super) fn is_due(&self, now: Duration, algorithm: Algorithm) -> bool {
        let newest = self.later.last().unwrap_or(&self.first);
        if newest.signs_from > now {
            return false;
        }
        let ends = newest.signs_from.saturating_add(self.schedule.rotation);
        newest.key.algorithm() != algorithm || now >= ends.saturating_sub(self.schedule.publish_ahead)
    }

    /// Without the keys that nobody needs any more, and with a note of those that have begun to sign. None if nothing
    /// changed.
    pub(super) fn advance(&self, now: Duration) -> Option<Self> {
        let mut entries: Vec<Entry> = self.entries().cloned().collect();
        let mut changed = false;
        for entry in &mut entries {
            if !entry.in_use && entry.signs_from <= now {
                entry.in_use = true;
                changed = true;
            }
        }
        // A key has retired when the one after it has signed for the time of retention.
        let retired = entries
            .iter()
            .skip(1)
            .take_while(|successor| successor.signs_from.saturating_add(self.schedule.retention) <= now)
            .count();
        changed |= retired > 0;
        let mut entries = entries.into_iter().skip(retired);
        let first = entries.next()?;
        changed.then(|| Self::new(first, entries.collect(), self.schedule))
    }

    /// The key set (RFC 7517 §5).
    pub(super) fn jwks(&self) -> &Bytes {
        &self.jwks
    }

    pub(super) fn etag(&self) -> &str {
        &self.etag
    }
}

/// A strong validator of a document.
pub(super) fn etag(document: &[u8]) -> String {
    format!("\"{}\"", URL_SAFE_NO_PAD.encode(digest(&SHA256, document).as_ref()))
}
