//! Which addresses belong to nobody we know? Traffic that is none of our business shall ask about it but now and then.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Addresses that were found to belong to none of some hosts, for a few seconds; and how many questions strangers may
/// still cause.
#[derive(Debug)]
pub(super) struct Strangers {
    met: Mutex<HashMap<(IpAddr, u64), Instant>>,
    hasher: RandomState,
    budget: Mutex<Budget>,
}

#[derive(Debug)]
struct Budget {
    left: f64,
    at: Instant,
}

// === impl Strangers ===

impl Strangers {
    pub(super) fn new() -> Self {
        let budget = Budget { left: BURST, at: Instant::now() };
        Self { met: Mutex::default(), hasher: RandomState::new(), budget: Mutex::new(budget) }
    }

    /// Is it known that this address is none of these hosts'?
    pub(super) fn knows(&self, address: IpAddr, hosts: &[Arc<str>]) -> bool {
        let met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        met.get(&self.key(address, hosts)).is_some_and(|until| *until > Instant::now())
    }

    pub(super) fn remember(&self, address: IpAddr, hosts: &[Arc<str>]) {
        let now = Instant::now();
        let key = self.key(address, hosts);
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        if met.len() >= MAX_STRANGERS {
            met.retain(|_, until| *until > now);
        }
        // A flood of addresses: what was known of earlier ones is learned again, within the budget.
        if met.len() >= MAX_STRANGERS {
            met.clear();
        }
        met.insert(key, now + MEMORY);
    }

    fn key(&self, address: IpAddr, hosts: &[Arc<str>]) -> (IpAddr, u64) {
        (address, self.hasher.hash_one(hosts))
    }

    /// How many of so many questions may be asked now?
    pub(super) fn afford(&self, wanted: usize) -> usize {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        budget.take(wanted, Instant::now())
    }
}

// === impl Budget ===

impl Budget {
    fn take(&mut self, wanted: usize, now: Instant) -> usize {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * PER_SECOND;
        (self.left, self.at) = ((self.left + earned).min(BURST), now);
        let mut taken = 0;
        while taken < wanted && self.left >= 1.0 {
            self.left -= 1.0;
            taken += 1;
        }
        taken
    }
}

const MEMORY: Duration = Duration::from_secs(5);
const MAX_STRANGERS: usize = 4096;
/// Names that strangers may have us ask for, at once and then each second.
const BURST: f64 = 128.0;
const PER_SECOND: f64 = 64.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_is_remembered_for_some_seconds_and_to_the_hosts_that_were_asked_for() {
        let strangers = Strangers::new();
        let hosts: [Arc<str>; 2] = ["a".into(), "b".into()];
        strangers.remember(address(1), &hosts);
        assert!(strangers.knows(address(1), &hosts));
        assert!(!strangers.knows(address(2), &hosts));
        assert!(!strangers.knows(address(1), &hosts[..1]));
        tokio::time::advance(MEMORY).await;
        assert!(!strangers.knows(address(1), &hosts));
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_is_bounded() {
        let strangers = Strangers::new();
        for number in 0..3 * 4096 {
            strangers.remember(address(number), &[]);
        }
        assert!(strangers.met.lock().unwrap().len() <= MAX_STRANGERS);
        assert!(strangers.knows(address(3 * 4096 - 1), &[]));
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_have_a_budget_of_questions() {
        let strangers = Strangers::new();
        assert_eq!(strangers.afford(1000), 128);
        assert_eq!(strangers.afford(1), 0);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(strangers.afford(1000), 64);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(strangers.afford(1000), 128);
    }
}
