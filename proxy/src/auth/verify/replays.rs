//! Has this proof been used before? The proofs of the time for which they are good, bounded, shared by all workers.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use countersign_policy::Reason;

use crate::auth::verify::dpop;

/// Proofs that were used. Nothing is forgotten while its proof is good: where there is no more room, new ones are refused.
#[derive(Debug)]
pub(crate) struct Replays {
    shards: Box<[Mutex<Shard>]>,
    /// Chooses the shard, in a way that nobody can aim at.
    chooser: RandomState,
    /// Of proofs, in each shard.
    limit: usize,
}

/// Two generations: what is in the older one has outlived its proofs once the younger one is a period old.
#[derive(Debug, Default)]
struct Shard {
    young: HashSet<ProofId>,
    old: HashSet<ProofId>,
    /// When the younger one began, in seconds since the epoch.
    began: i64,
}

/// The first half of SHA-256 over key and `jti`: two proofs with the same are the same.
type ProofId = [u8; 16];

const SHARDS: usize = 16;
/// A proof is good for so many seconds from when it is first seen, and for some more a worker may be held up between looking
/// at the clock and looking in here.
const PERIOD: i64 = dpop::AHEAD + dpop::LIFE + 10;

// === impl Replays ===

impl Replays {
    /// Room for so many proofs.
    pub(crate) fn new(proofs: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, chooser: RandomState::new(), limit: proofs / SHARDS }
    }

    /// Admits the proof with this `jti` by the key with this thumbprint, once (RFC 9449 §11.1). Under any URI: a `jti` is as
    /// unique as that. Fails with `proof_replayed`, or `overloaded` where there is no room, which is not the caller's fault.
    pub(crate) fn admit(&self, key: &str, jti: &str, now: i64) -> Result<(), Reason> {
        let id = identify(key, jti);
        let choice = self.chooser.hash_one(id).to_ne_bytes().first().copied().unwrap_or(0);
        let shard = self.shards.get(usize::from(choice) % SHARDS).ok_or(Reason::Internal)?;
        shard.lock().unwrap_or_else(PoisonError::into_inner).admit(id, now, self.limit)
    }
}

/// A thumbprint is always as long as any other, so nothing need stand between.
fn identify(key: &str, jti: &str) -> ProofId {
    let mut context = Context::new(&SHA256);
    context.update(key.as_bytes());
    context.update(jti.as_bytes());
    let mut id = [0; 16];
    id.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    id
}

// === impl Shard ===

impl Shard {
    fn admit(&mut self, id: ProofId, now: i64, limit: usize) -> Result<(), Reason> {
        self.turn(now);
        if self.young.contains(&id) || self.old.contains(&id) {
            return Err(Reason::ProofReplayed);
        }
        if self.young.len().saturating_add(self.old.len()) >= limit {
            return Err(Reason::Overloaded);
        }
        self.young.insert(id);
        Ok(())
    }

    /// Forgets what is too old to be good for anything.
    fn turn(&mut self, now: i64) {
        let age = now.saturating_sub(self.began);
        if age < 0 {
            // The clock was set back: the proofs of before may be good for longer than was thought.
            self.began = now;
        } else if age >= PERIOD {
            self.old = std::mem::take(&mut self.young);
            self.began = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs";
    const NOW: i64 = 1_800_000_000;

    fn count(replays: &Replays) -> usize {
        let shards = replays.shards.iter().map(|shard| shard.lock().unwrap());
        shards.map(|shard| shard.young.len() + shard.old.len()).sum()
    }

    #[test]
    fn v33_a_proof_is_admitted_once() {
        let replays = Replays::new(1000);
        assert_eq!(replays.admit(KEY, "1", NOW), Ok(()));
        assert_eq!(replays.admit(KEY, "1", NOW), Err(Reason::ProofReplayed));
        assert_eq!(replays.admit(KEY, "2", NOW), Ok(()));
        let other = KEY.replace('N', "M");
        assert_eq!(replays.admit(&other, "1", NOW), Ok(()));
        assert_eq!(replays.admit(KEY, "1", NOW), Err(Reason::ProofReplayed));
    }

    /// Whenever it was first seen in a period, and whatever came meanwhile: for as long as its `iat` will do.
    #[test]
    fn v33_nothing_is_forgotten_while_it_is_good() {
        for first in 0..PERIOD {
            let replays = Replays::new(1_000_000);
            replays.shards.iter().for_each(|shard| shard.lock().unwrap().turn(NOW));
            let seen = NOW + first;
            assert_eq!(replays.admit(KEY, "proof", seen), Ok(()));
            let (last, mut others) = (seen + dpop::AHEAD + dpop::LIFE, 0..);
            for now in seen..=last {
                replays.admit(KEY, &format!("other {:?}", others.next()), now).unwrap();
                assert_eq!(replays.admit(KEY, "proof", now), Err(Reason::ProofReplayed), "{first} {now}");
            }
        }
    }

    #[test]
    fn v33_a_full_store_refuses_and_forgets_nothing() {
        let replays = Replays::new(SHARDS * 100);
        let admitted: Vec<String> = (0..10_000)
            .map(|jti| jti.to_string())
            .filter(|jti| match replays.admit(KEY, jti, NOW) {
                Ok(()) => true,
                Err(reason) => {
                    assert_eq!(reason, Reason::Overloaded);
                    false
                }
            })
            .collect();
        assert_eq!((admitted.len(), count(&replays)), (SHARDS * 100, SHARDS * 100));
        for jti in &admitted {
            assert_eq!(replays.admit(KEY, jti, NOW + dpop::LIFE), Err(Reason::ProofReplayed), "{jti}");
        }
        // There is room again once they are good for nothing.
        let later = NOW + PERIOD;
        for shard in &replays.shards {
            shard.lock().unwrap().turn(later);
        }
        assert_eq!(replays.admit(KEY, "new", later), Err(Reason::Overloaded));
        let later = later + PERIOD;
        assert_eq!(replays.admit(KEY, "new", later), Ok(()));
    }

    #[test]
    fn a_clock_that_is_set_back_forgets_nothing_and_fills_nothing() {
        let replays = Replays::new(1000);
        assert_eq!(replays.admit(KEY, "1", NOW), Ok(()));
        let back = NOW - 3600;
        assert_eq!(replays.admit(KEY, "1", back), Err(Reason::ProofReplayed));
        assert_eq!(replays.admit(KEY, "1", back + PERIOD), Err(Reason::ProofReplayed));
        assert_eq!(replays.admit(KEY, "1", back + 2 * PERIOD), Ok(()));
    }

    #[test]
    fn of_many_workers_one_is_the_first() {
        let replays = Replays::new(1000);
        let firsts: usize = std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..8).map(|_| scope.spawn(|| usize::from(replays.admit(KEY, "1", NOW).is_ok()))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(firsts, 1);
    }
}
