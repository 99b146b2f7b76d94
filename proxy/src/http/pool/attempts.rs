//! What becomes of an attempt to connect that many may wait for? It succeeds, or fails, or hangs beside others that are made meanwhile.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::Upstream;
use super::http2::Width;
use super::opening::slow;

/// The attempts that are under way, oldest first. Belongs to one worker, so its lock is never contended.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<Underway>);

#[derive(Debug, Default)]
struct Underway {
    attempts: VecDeque<Known>,
    /// How many there have been.
    begun: u64,
    /// How often in a row those that were counted on turned out to be slow, and who is the first to say so next.
    steps: u32,
    next_step: u64,
}

#[derive(Debug)]
struct Known {
    number: u64,
    /// Nobody counts on it any more.
    is_slow: bool,
    task: Option<AbortHandle>,
}

/// One of them.
pub(super) struct Attempt {
    pub(super) number: u64,
    pub(super) upstream: Arc<Upstream>,
    pub(super) width: Width,
    pub(super) limit: Duration,
}

// === impl Attempts ===

impl Attempts {
    /// The number of one more.
    pub(super) fn begin(&self) -> u64 {
        let mut underway = self.lock();
        let number = underway.begun;
        underway.begun += 1;
        underway.attempts.push_back(Known { number, is_slow: false, task: None });
        number
    }

    /// By this it is ended, should others be wanted more.
    pub(super) fn may_end(&self, number: u64, task: AbortHandle) {
        if let Some(known) = self.lock().attempts.iter_mut().find(|known| known.number == number) {
            known.task = Some(task);
        }
    }

    pub(super) fn are_none(&self) -> bool {
        self.lock().attempts.is_empty()
    }

    /// How many are not slow.
    pub(super) fn counted_on(&self) -> usize {
        self.lock().counted_on()
    }

    /// How many should be made where nobody knows how many are needed: the oftener they are slow, the more.
    pub(super) fn at_once(&self) -> usize {
        1 << self.lock().steps.min(MAX_STEPS)
    }

    /// May another be made? Where there are as many as may be and none is counted on, in the place of the oldest: one at each step, so
    /// that of a road on which all are slow most come to their end.
    pub(super) fn have_room(&self) -> bool {
        let mut underway = self.lock();
        if underway.attempts.len() < MAX_ATTEMPTS {
            return true;
        }
        if underway.counted_on() > 0 {
            return false;
        }
        let oldest = underway.attempts.pop_front();
        if let Some(task) = oldest.and_then(|oldest| oldest.task) {
            task.abort();
        }
        true
    }

    /// It takes long.
    fn slow(&self, number: u64) {
        let mut underway = self.lock();
        if let Some(known) = underway.attempts.iter_mut().find(|known| known.number == number) {
            known.is_slow = true;
        }
        if number >= underway.next_step {
            underway.steps += 1;
            underway.next_step = underway.begun;
        }
    }

    /// It has come to its end.
    fn over(&self, number: u64) {
        let mut underway = self.lock();
        underway.attempts.retain(|known| known.number != number);
        if underway.attempts.is_empty() {
            underway.steps = 0;
        }
    }

    fn succeed(&self) {
        self.lock().steps = 0;
    }

    fn lock(&self) -> MutexGuard<'_, Underway> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Underway ===

impl Underway {
    fn counted_on(&self) -> usize {
        self.attempts.iter().filter(|known| !known.is_slow).count()
    }
}

// === impl Attempt ===

impl Attempt {
    /// After this pause connects, and tells those who wait what came of it.
    pub(super) async fn make(self, pause: Duration) {
        if !pause.is_zero() {
            sleep(pause).await;
        }
        let (upstream, width, limit) = (self.upstream.clone(), self.width, self.limit);
        let mut opening = pin!(timeout(limit, async {
            let (sender, address) = upstream.dial(width, limit).await?;
            upstream.share(sender, width, address).await
        }));
        let (opened, before) = match timeout(slow(limit), opening.as_mut()).await {
            Ok(opened) => (opened, None),
            Err(_) => {
                self.is_slow();
                // Whoever comes from now on counts on another.
                let before = upstream.http2.waiting.next();
                (opening.await, Some(before))
            }
        };
        // No longer under way.
        drop(self);
        // Where one has failed at once, the next does not go at once.
        let mut pause = Duration::ZERO;
        match opened.unwrap_or_else(|_| Err(upstream.too_late())) {
            Ok(carrier) => {
                upstream.attempts.succeed();
                upstream.publish(carrier);
            }
            Err(cause) => {
                let is_alone = upstream.http2.make_do();
                match before {
                    Some(before) if is_alone => upstream.http2.waiting.fail(cause, before),
                    Some(_) => {}
                    None => {
                        pause = slow(limit);
                        // Else those who wait have something to count on.
                        if is_alone && upstream.attempts.counted_on() == 0 {
                            upstream.http2.waiting.fail(cause, u64::MAX);
                        }
                    }
                }
            }
        }
        upstream.attempt_more(limit, pause);
    }

    /// It may be in vain: others are made, and meanwhile the connections that there are carry what the server allows.
    fn is_slow(&self) {
        self.upstream.attempts.slow(self.number);
        self.upstream.http2.make_do();
        self.upstream.attempt_more(self.limit, Duration::ZERO);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.upstream.attempts.over(self.number);
    }
}

/// Doubled so often at most.
const MAX_STEPS: u32 = 4;
/// At once, those that are slow among them.
const MAX_ATTEMPTS: usize = 32;
