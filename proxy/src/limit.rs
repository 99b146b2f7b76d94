//! How often is the same thing done? A token bucket for lines of the log and for explanations: what is left out is counted, and
//! told with the next one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// So many at once, and one more in each interval. Without a lock, and without a task that refills it: the time says how full
/// it is.
#[derive(Debug)]
pub struct Limit {
    /// Microseconds in which one more may come.
    interval: u64,
    /// Microseconds in which all that may come at once would come one by one.
    capacity: u64,
    /// When the bucket is full again, in microseconds since the epoch.
    full_at: AtomicU64,
    /// What was left out since the last one.
    suppressed: AtomicU64,
}

// === impl Limit ===

impl Limit {
    /// So many at once, and so many in a second.
    pub const fn new(burst: u64, a_second: u64) -> Self {
        let interval = 1_000_000 / a_second;
        let (full_at, suppressed) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { interval, capacity: burst * interval, full_at, suppressed }
    }

    /// A hundred lines at once, then ten a second.
    pub const fn of_lines() -> Self {
        Self::new(100, 10)
    }

    /// May one more come at this time since the epoch? If so, how many were left out before it.
    pub fn admit(&self, now: Duration) -> Option<u64> {
        let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX / 2);
        let latest = now + self.capacity;
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            // Later than it can be: the clock was set back, which must not silence us.
            let before = if full_at > latest { now } else { full_at.max(now) };
            Some(before + self.interval).filter(|after| *after <= latest)
        });
        if taken.is_err() {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.suppressed.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of these many lines at this time are written.
    fn written(limit: &Limit, at: Duration, lines: usize) -> usize {
        (0..lines).filter(|_| limit.admit(at).is_some()).count()
    }

    #[test]
    fn a_burst_then_ten_a_second_and_never_more_than_a_burst() {
        let (limit, start) = (Limit::of_lines(), Duration::from_secs(1_800_000_000));
        assert_eq!(written(&limit, start, 1000), 100);
        assert_eq!(written(&limit, start + Duration::from_millis(99), 1000), 0);
        assert_eq!(written(&limit, start + Duration::from_secs(1), 1000), 10);
        assert_eq!(written(&limit, start + Duration::from_secs(86_400), 1000), 100);
    }

    #[test]
    fn what_was_left_out_is_told_once_when_there_is_room_again() {
        let (limit, start) = (Limit::of_lines(), Duration::from_secs(1_800_000_000));
        assert_eq!(limit.admit(start), Some(0));
        assert_eq!(written(&limit, start, 142), 99);
        let later = start + Duration::from_secs(60);
        assert_eq!(limit.admit(later), Some(43));
        assert_eq!(limit.admit(later), Some(0));
    }

    #[test]
    fn a_clock_that_is_set_back_silences_nobody() {
        let (limit, start) = (Limit::of_lines(), Duration::from_secs(1_800_000_000));
        assert_eq!(written(&limit, start, 1000), 100);
        assert_eq!(written(&limit, start - Duration::from_secs(3600), 1000), 100);
        assert_eq!(written(&limit, Duration::MAX, 1000), 100, "nor does one that makes no sense");
    }

    #[test]
    fn threads_together_get_no_more_than_one() {
        let (limit, start) = (Limit::of_lines(), Duration::from_secs(1_800_000_000));
        let total: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| written(&limit, start, 1000))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(total, 100);
        assert_eq!(limit.admit(start + Duration::from_secs(1)), Some(3900));
    }
}
