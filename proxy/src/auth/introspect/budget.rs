//! How much may an issuer be asked? So many questions at once, and not on and on about tokens that nobody has issued: what
//! anybody may send must not become a flood at the issuer, nor hold up those whom it knows.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

/// Questions to one issuer at once.
const AT_ONCE: usize = 8;
/// How many of them may be about tokens that it has not called active before.
const STRANGERS_AT_ONCE: usize = 6;
/// So many questions may be about nothing in a row,
const BURST: f64 = 100.0;
/// and so many in each second from then on.
const PER_SECOND: f64 = 20.0;

/// The questions under way.
#[derive(Debug)]
pub(super) struct Turns {
    all: Semaphore,
    strangers: Semaphore,
}

/// One question may be under way, until this is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    _among_all: SemaphorePermit<'a>,
    _among_strangers: Option<SemaphorePermit<'a>>,
}

/// Questions about nothing that may still be asked: a bucket that fills by time. What turns out to be a token costs nothing.
#[derive(Debug)]
pub(super) struct Budget(Mutex<Level>);

#[derive(Clone, Copy, Debug)]
struct Level {
    left: f64,
    at: Duration,
}

// === impl Turns ===

impl Turns {
    pub(super) fn new() -> Self {
        Self { all: Semaphore::new(AT_ONCE), strangers: Semaphore::new(STRANGERS_AT_ONCE) }
    }

    /// Waits for a turn. None when everything shuts down.
    pub(super) async fn take(&self, is_familiar: bool) -> Option<Turn<'_>> {
        let among_strangers = match is_familiar {
            true => None,
            false => Some(self.strangers.acquire().await.ok()?),
        };
        Some(Turn { _among_all: self.all.acquire().await.ok()?, _among_strangers: among_strangers })
    }
}

// === impl Budget ===

impl Budget {
    pub(super) fn new(now: Duration) -> Self {
        Self(Mutex::new(Level { left: BURST, at: now }))
    }

    pub(super) fn is_spent(&self, now: Duration) -> bool {
        self.at(now, 0.0) < 1.0
    }

    /// A question was about nothing.
    pub(super) fn spend(&self, now: Duration) {
        self.at(now, 1.0);
    }

    /// Takes so much out, and says what is left.
    fn at(&self, now: Duration, cost: f64) -> f64 {
        let mut level = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that is set back fills nothing.
        let filled = now.saturating_sub(level.at).as_secs_f64() * PER_SECOND;
        let left = ((level.left + filled).min(BURST) - cost).max(0.0);
        *level = Level { left, at: now };
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_nothing_is_bounded_and_comes_back_with_time() {
        let mut now = Duration::from_secs(1000);
        let budget = Budget::new(now);
        for _ in 0..100 {
            assert!(!budget.is_spent(now));
            budget.spend(now);
        }
        assert!(budget.is_spent(now));
        budget.spend(now);
        now += Duration::from_millis(60);
        assert!(!budget.is_spent(now));
        budget.spend(now);
        assert!(budget.is_spent(now));
        // However long nobody asked, and whatever the clock did.
        now += Duration::from_secs(86_400);
        (0..100).for_each(|_| budget.spend(now));
        assert!(budget.is_spent(now) && budget.is_spent(Duration::ZERO));
    }

    #[tokio::test]
    async fn strangers_leave_room_for_those_who_are_known() {
        let turns = Turns::new();
        let mut taken = Vec::new();
        for _ in 0..STRANGERS_AT_ONCE {
            taken.push(turns.take(false).await.unwrap());
        }
        let soon = Duration::from_millis(20);
        assert!(tokio::time::timeout(soon, turns.take(false)).await.is_err());
        for _ in STRANGERS_AT_ONCE..AT_ONCE {
            taken.push(turns.take(true).await.unwrap());
        }
        assert!(tokio::time::timeout(soon, turns.take(true)).await.is_err());
        taken.clear();
        assert!(turns.take(false).await.is_some());
    }
}
