//! Have we seen this token before? Verdicts by connection and by token, bounded in bytes, read without waiting for long.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use aws_lc_rs::digest::{SHA256, digest};
use countersign_policy::{Reason, Token};
use prometheus::{Histogram, IntCounter};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::metrics::Metrics;

/// What verification said of one token.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// Whose keys and settings it rests on.
    pub(crate) issuer: Arc<str>,
    /// The fingerprint of these keys and settings. Under another one it is void.
    pub(crate) tag: [u8; 32],
    /// Seconds since the epoch; void from then on.
    pub(crate) until: i64,
    pub(crate) outcome: Result<Arc<Token>, Reason>,
}

/// Where verdicts were found, and how long it takes to reach one. Handles, looked up once.
#[derive(Debug)]
pub(crate) struct Lookups {
    pub(crate) connection: IntCounter,
    pub(crate) hit: IntCounter,
    pub(crate) miss: IntCounter,
    pub(crate) negative: IntCounter,
    pub(crate) duration: Histogram,
}

/// SHA-256 of a token.
pub(crate) type TokenHash = [u8; 32];

/// The last verdict of one connection, with the token's bytes.
#[derive(Default)]
pub struct LastVerdict(Mutex<Option<(Zeroizing<String>, Arc<Verdict>)>>);

/// Verdicts of all connections by the token's hash. Sharded; a read takes no lock that a writer holds for longer than one
/// insertion. What is seen once only passes through a tenth of the space (the first two queues of S3-FIFO), so a flood of
/// new tokens does not push out those that are in use.
#[derive(Debug)]
pub(crate) struct Verdicts {
    shards: Box<[RwLock<Shard>]>,
}

#[derive(Debug)]
struct Shard {
    entries: HashMap<TokenHash, Entry>,
    /// Seen once, in the order of arrival.
    probation: Queue,
    /// Seen again.
    protected: Queue,
    /// In bytes.
    limit: usize,
}

#[derive(Debug)]
struct Entry {
    verdict: Arc<Verdict>,
    bytes: usize,
    protected: bool,
    /// Read since it was last looked at for eviction.
    used: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    order: VecDeque<TokenHash>,
    bytes: usize,
}

const SHARDS: usize = 16;
/// What an entry takes beside the claims: the verdict, the token's fields, keys in the map and in a queue.
const ENTRY_OVERHEAD: usize =
    size_of::<Verdict>() + size_of::<Token>() + size_of::<Entry>() + 3 * size_of::<TokenHash>();

pub(crate) fn hash(token: &str) -> TokenHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

/// Compares in a time that tells nothing but the lengths: a token is a secret, and others' requests may share the
/// connection. By words, since this is on the path of every request: the library's compares by bytes.
fn same(a: &[u8], b: &[u8]) -> bool {
    let (a_words, a_rest) = a.as_chunks::<8>();
    let (b_words, b_rest) = b.as_chunks::<8>();
    let words = a_words
        .iter()
        .zip(b_words)
        .fold(0, |difference, (a, b)| difference | (u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b)));
    let rest = a_rest.iter().zip(b_rest).fold(0, |difference, (a, b)| difference | (a ^ b));
    a.len() == b.len() && std::hint::black_box(words | u64::from(rest)) == 0
}

// === impl Lookups ===

impl Lookups {
    /// `step` is the label of its durations.
    pub(crate) fn new(metrics: &Metrics, step: &str) -> Self {
        let count = |result| metrics.verified_token_cache.with_label_values(&[result]);
        Self {
            connection: count("connection"),
            hit: count("hit"),
            miss: count("miss"),
            negative: count("negative"),
            duration: metrics.auth_duration.with_label_values(&[step]),
        }
    }
}

// === impl LastVerdict ===

impl LastVerdict {
    /// The connection's last verdict, if it is on this very token. Does not wait: a miss is a question to the shared cache.
    pub(crate) fn recall(&self, token: &str) -> Option<Arc<Verdict>> {
        let last = self.0.try_lock().ok()?;
        let (known, verdict) = last.as_ref()?;
        same(known.as_bytes(), token.as_bytes()).then(|| verdict.clone())
    }

    /// Remembers a verdict instead of the last one, in the same buffer where the token fits into it.
    pub(crate) fn remember(&self, token: &str, verdict: Arc<Verdict>) {
        let Ok(mut last) = self.0.try_lock() else { return };
        let mut buffer = match last.take() {
            Some((buffer, _)) if buffer.capacity() >= token.len() => buffer,
            // Growing would leave a copy of the old token behind.
            _ => Zeroizing::new(String::with_capacity(token.len())),
        };
        buffer.clear();
        buffer.push_str(token);
        *last = Some((buffer, verdict));
    }
}

impl std::fmt::Debug for LastVerdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LastVerdict([redacted])")
    }
}

// === impl Verdicts ===

impl Verdicts {
    /// A cache of at most this many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::new(Shard::new(bytes / SHARDS))).collect() }
    }

    pub(crate) fn find(&self, hash: &TokenHash) -> Option<Arc<Verdict>> {
        let shard = self.shard(hash)?.read().unwrap_or_else(PoisonError::into_inner);
        let entry = shard.entries.get(hash)?;
        // Written only once per round, so that readers of one entry do not fight over it.
        if !entry.used.load(Ordering::Relaxed) {
            entry.used.store(true, Ordering::Relaxed);
        }
        Some(entry.verdict.clone())
    }

    pub(crate) fn insert(&self, hash: TokenHash, verdict: Arc<Verdict>) {
        let Some(shard) = self.shard(&hash) else { return };
        shard.write().unwrap_or_else(PoisonError::into_inner).insert(hash, verdict);
    }

    fn shard(&self, hash: &TokenHash) -> Option<&RwLock<Shard>> {
        let [first, ..] = hash;
        self.shards.get(usize::from(*first) % SHARDS)
    }
}

// === impl Shard ===

impl Shard {
    fn new(limit: usize) -> Self {
        Self { entries: HashMap::new(), probation: Queue::default(), protected: Queue::default(), limit }
    }

    fn insert(&mut self, hash: TokenHash, verdict: Arc<Verdict>) {
        let bytes = weigh(&verdict);
        let known = self.entries.get_mut(&hash);
        let (protected, before) = known.as_ref().map_or((false, None), |e| (e.protected, Some(e.bytes)));
        let queue = if protected { &mut self.protected } else { &mut self.probation };
        queue.bytes = queue.bytes.saturating_sub(before.unwrap_or(0)).saturating_add(bytes);
        match known {
            Some(entry) => (entry.verdict, entry.bytes) = (verdict, bytes),
            None => {
                queue.order.push_back(hash);
                let used = AtomicBool::new(false);
                self.entries.insert(hash, Entry { verdict, bytes, protected: false, used });
            }
        }
        while self.probation.bytes.saturating_add(self.protected.bytes) > self.limit && self.evict() {}
    }

    /// Takes one step towards less: false where there is nothing left.
    fn evict(&mut self) -> bool {
        let from_probation = self.probation.bytes > self.limit / 10 || self.protected.order.is_empty();
        let queue = if from_probation { &mut self.probation } else { &mut self.protected };
        let Some(hash) = queue.order.pop_front() else { return false };
        let Some(entry) = self.entries.get_mut(&hash) else { return true };
        queue.bytes = queue.bytes.saturating_sub(entry.bytes);
        if std::mem::take(entry.used.get_mut()) {
            entry.protected = true;
            self.protected.bytes = self.protected.bytes.saturating_add(entry.bytes);
            self.protected.order.push_back(hash);
        } else {
            self.entries.remove(&hash);
        }
        true
    }
}

/// What a verdict takes in memory, about.
fn weigh(verdict: &Verdict) -> usize {
    let claims = verdict.outcome.as_ref().map_or(0, |token| {
        // Claims are held twice at most: as signed, and as fields.
        object(&token.claims).saturating_mul(2)
    });
    ENTRY_OVERHEAD.saturating_add(claims)
}

fn object(members: &Map<String, Value>) -> usize {
    let member = |(name, value): (&String, &Value)| {
        // A node of the map is allocated for eleven members at once, half of them empty at worst.
        name.len().saturating_add(2 * (size_of::<String>() + size_of::<Value>())).saturating_add(heap(value))
    };
    members.iter().map(member).fold(0, usize::saturating_add)
}

fn heap(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => items
            .iter()
            .map(|item| size_of::<Value>().saturating_mul(2).saturating_add(heap(item)))
            .fold(0, usize::saturating_add),
        Value::Object(members) => object(members),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(until: i64) -> Arc<Verdict> {
        let issuer = Arc::from("https://issuer.example");
        Arc::new(Verdict { issuer, tag: [1; 32], until, outcome: Err(Reason::BadSignature) })
    }

    fn bytes(verdicts: &Verdicts) -> usize {
        verdicts
            .shards
            .iter()
            .map(|shard| {
                let shard = shard.read().unwrap();
                let counted: usize = shard.entries.values().map(|entry| entry.bytes).sum();
                assert_eq!(counted, shard.probation.bytes + shard.protected.bytes);
                assert_eq!(shard.entries.len(), shard.probation.order.len() + shard.protected.order.len());
                counted
            })
            .sum()
    }

    #[test]
    fn in_11_the_cache_is_bounded_in_bytes() {
        let verdicts = Verdicts::new(256 * 1024);
        for i in 0..10_000 {
            verdicts.insert(hash(&i.to_string()), refused(i));
            assert!(i % 500 != 0 || bytes(&verdicts) <= 256 * 1024);
        }
        let full = bytes(&verdicts);
        assert!(full <= 256 * 1024 && full > 200 * 1024, "{full}");
        assert!(verdicts.find(&hash("9999")).is_some());
        assert!(verdicts.find(&hash("0")).is_none());
    }

    #[test]
    fn a_flood_of_new_tokens_leaves_those_in_use() {
        let verdicts = Verdicts::new(256 * 1024);
        let used: Vec<_> = (0..100).map(|i| hash(&format!("used {i}"))).collect();
        for token in &used {
            verdicts.insert(*token, refused(1));
            assert!(verdicts.find(token).is_some());
        }
        for i in 0..20_000 {
            verdicts.insert(hash(&format!("flood {i}")), refused(1));
        }
        let kept = used.iter().filter(|token| verdicts.find(token).is_some()).count();
        assert_eq!(kept, used.len());
        assert!(bytes(&verdicts) <= 256 * 1024);
    }

    #[test]
    fn what_is_no_longer_used_makes_room() {
        let verdicts = Verdicts::new(1024 * 1024);
        for round in 0..5 {
            for i in 0..5000 {
                let token = hash(&format!("{round} {i}"));
                verdicts.insert(token, refused(1));
                assert!(verdicts.find(&token).is_some());
            }
        }
        assert!(verdicts.find(&hash("0 0")).is_none());
        assert!(bytes(&verdicts) <= 1024 * 1024);
    }

    #[test]
    fn a_verdict_replaces_the_one_before() {
        let verdicts = Verdicts::new(64 * 1024);
        for until in [1, 2, 3] {
            verdicts.insert(hash("a"), refused(until));
            assert_eq!(verdicts.find(&hash("a")).unwrap().until, until);
        }
        assert_eq!(bytes(&verdicts), weigh(&refused(1)));
    }

    #[test]
    fn the_last_verdict_is_on_exactly_one_token() {
        let last = LastVerdict::default();
        assert!(last.recall("").is_none());
        for token in ["long token", "short", "longer than both"] {
            last.remember(token, refused(1));
            assert!(last.recall(token).is_some());
            for other in ["", "shor", "short ", "long tokem"] {
                assert!(last.recall(other).is_none(), "{other}");
            }
        }
        assert_eq!(format!("{last:?}"), "LastVerdict([redacted])");
    }

    #[test]
    fn in_28_two_tokens_are_the_same_only_if_every_byte_is() {
        for length in 0..40 {
            let token = vec![b'a'; length];
            assert!(same(&token, &token.clone()));
            assert!(!same(&token, &[&token[..], b"a"].concat()));
            for i in 0..length {
                let mut other = token.clone();
                other[i] ^= 1;
                assert!(!same(&token, &other), "{length} {i}");
            }
        }
    }
}
