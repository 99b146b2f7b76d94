//! What becomes of an attempt to connect that many may wait for? It succeeds, or fails, or hangs beside others that are made meanwhile.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::Upstream;
use super::http2::{Scope, Width};
use super::opening::slow;
use crate::rejection::Cause;

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
    /// How many in a row have failed.
    failures: u32,
}

#[derive(Debug)]
struct Known {
    number: u64,
    width: Width,
    stage: Stage,
    task: Option<AbortHandle>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It has yet to begin, maybe after a pause, since one before it failed at once.
    Paused,
    Connecting,
    /// Nobody counts on it any more.
    Slow,
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
    pub(super) fn begin(&self, width: Width) -> u64 {
        let mut underway = self.lock();
        let number = underway.begun;
        underway.begun += 1;
        underway.attempts.push_back(Known { number, width, stage: Stage::Paused, task: None });
        number
    }

    /// By this it is ended, should others be wanted more.
    pub(super) fn may_end(&self, number: u64, task: AbortHandle) {
        self.lock().known(number, |known| known.task = Some(task));
    }

    pub(super) fn are_none(&self) -> bool {
        self.lock().attempts.is_empty()
    }

    /// How many are not slow.
    pub(super) fn counted_on(&self) -> usize {
        self.lock().counted_on()
    }

    /// Is one of them for a wide connection?
    pub(super) fn count_on_wide(&self) -> bool {
        self.lock().attempts.iter().any(|known| known.stage != Stage::Slow && known.width == Width::Wide)
    }

    /// How many should be made where nobody knows how many are needed: the oftener they are slow, the more.
    pub(super) fn at_once(&self) -> usize {
        1 << self.lock().steps.min(MAX_STEPS)
    }

    /// May another be made? Where there are as many as may be and none is counted on, in the place of the oldest but one, at each step:
    /// the oldest is the nearest to its end, on a road on which all are slow.
    pub(super) fn have_room(&self) -> bool {
        let mut underway = self.lock();
        if underway.attempts.len() < MAX_ATTEMPTS {
            return true;
        }
        if underway.counted_on() > 0 {
            return false;
        }
        if let Some(task) = underway.attempts.remove(1).and_then(|known| known.task) {
            task.abort();
        }
        true
    }

    fn connects(&self, number: u64) {
        self.lock().known(number, |known| known.stage = Stage::Connecting);
    }

    /// It takes long.
    fn slow(&self, number: u64) {
        let mut underway = self.lock();
        underway.known(number, |known| known.stage = Stage::Slow);
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
            underway.begin_anew();
        }
    }

    fn succeed(&self) {
        self.lock().begin_anew();
    }

    /// One has failed for this. Is there nothing to hope for any more, by others? There is by those that are just being made, and by
    /// those that take long, where whoever is there has closed this one: it may have been one too many.
    fn fail(&self, cause: Cause) -> bool {
        let mut underway = self.lock();
        underway.failures += 1;
        let is_any = |stage| underway.attempts.iter().any(|known| known.stage == stage);
        let slow_may_do = cause == Cause::ConnectionTerminated && is_any(Stage::Slow);
        let is_over = !slow_may_do && (underway.failures >= MAX_FAILURES || !is_any(Stage::Connecting));
        if is_over {
            underway.begin_anew();
        }
        is_over
    }

    fn lock(&self) -> MutexGuard<'_, Underway> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Underway ===

impl Underway {
    fn counted_on(&self) -> usize {
        self.attempts.iter().filter(|known| known.stage != Stage::Slow).count()
    }

    fn known(&mut self, number: u64, change: impl FnOnce(&mut Known)) {
        if let Some(known) = self.attempts.iter_mut().find(|known| known.number == number) {
            change(known);
        }
    }

    fn begin_anew(&mut self) {
        (self.steps, self.failures) = (0, 0);
    }
}

// === impl Attempt ===

impl Attempt {
    /// After this pause, which is for those who have something else meanwhile, connects, and tells those who wait what came of it.
    pub(super) async fn make(self, pause: Duration) {
        if !pause.is_zero() {
            tokio::select! {
                () = sleep(pause) => {}
                () = self.upstream.http2.emptied.notified() => {}
            }
            if self.upstream.http2.waiting.is_empty() {
                return;
            }
        }
        self.upstream.attempts.connects(self.number);
        let (upstream, width, limit) = (self.upstream.clone(), self.width, self.limit);
        let mut opening = pin!(timeout(limit, upstream.open(width, limit, Scope::All)));
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
        let opened = opened.unwrap_or_else(|_| Err(upstream.too_late()));
        // Where one has failed at once, the next does not go at once.
        let pause = if opened.is_err() && before.is_none() { slow(limit) } else { Duration::ZERO };
        match opened {
            Ok(carrier) => {
                upstream.attempts.succeed();
                upstream.publish(carrier);
            }
            Err(cause) => {
                // Beside other connections there is one to wait for.
                if upstream.http2.make_do() && upstream.attempts.fail(cause) {
                    upstream.http2.waiting.fail(cause, before.unwrap_or(u64::MAX));
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
/// In a row, until those who wait hear of it although others are just being made.
const MAX_FAILURES: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_each_step_twice_as_many_are_made_until_one_succeeds() {
        let attempts = Attempts::default();
        for at_once in [1, 2, 4, 8, 16, 16] {
            assert_eq!((attempts.counted_on(), attempts.at_once()), (0, at_once));
            let numbers: Vec<u64> = (0..3).map(|_| attempts.begin(Width::Wide)).collect();
            assert!(attempts.count_on_wide());
            numbers.iter().for_each(|number| attempts.slow(*number));
            assert!(!attempts.count_on_wide());
        }
        attempts.succeed();
        assert_eq!(attempts.at_once(), 1);
    }

    #[tokio::test]
    async fn of_as_many_as_may_be_the_oldest_but_one_is_given_up_at_each_step() {
        let attempts = Attempts::default();
        let tasks: Vec<_> = (0..MAX_ATTEMPTS)
            .map(|_| {
                assert!(attempts.have_room());
                let number = attempts.begin(Width::Narrow);
                let task = tokio::spawn(std::future::pending::<()>());
                attempts.may_end(number, task.abort_handle());
                (number, task)
            })
            .collect();
        assert!(!attempts.have_room(), "they are counted on");
        tasks.iter().for_each(|(number, _)| attempts.slow(*number));
        assert!(attempts.have_room());
        attempts.begin(Width::Narrow);
        assert!(!attempts.have_room(), "one at each step");
        tokio::task::yield_now().await;
        let ended: Vec<u64> =
            tasks.iter().filter(|(_, task)| task.is_finished()).map(|(number, _)| *number).collect();
        assert_eq!(ended, [1]);
    }

    #[test]
    fn those_who_wait_hear_of_a_failure_unless_another_is_just_being_made() {
        let attempts = Attempts::default();
        let (first, second) = (attempts.begin(Width::Wide), attempts.begin(Width::Narrow));
        attempts.connects(first);
        attempts.connects(second);
        attempts.slow(first);
        attempts.over(first);
        assert!(!attempts.fail(Cause::ConnectionTimeout), "the second may succeed");
        attempts.begin(Width::Narrow);
        attempts.over(second);
        assert!(attempts.fail(Cause::ConnectionTimeout), "the third has not begun");
        assert_eq!(attempts.at_once(), 1);
        attempts.connects(attempts.begin(Width::Narrow));
        let heard: Vec<bool> = (0..9).map(|_| attempts.fail(Cause::ConnectionTimeout)).collect();
        assert_eq!(heard.iter().position(|heard| *heard), Some(7), "in a row");
    }

    #[test]
    fn one_that_takes_long_is_hoped_for_where_another_is_closed() {
        let attempts = Attempts::default();
        attempts.slow(attempts.begin(Width::Wide));
        let heard = (0..9).any(|_| attempts.fail(Cause::ConnectionTerminated));
        assert!(!heard, "there may be too many of them");
        assert!(attempts.fail(Cause::ConnectionRefused), "nobody is there");
    }
}
