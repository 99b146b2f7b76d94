//! What time is it? The wall clock for `exp` and friends, with an offset that tests can turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The wall clock. Intervals are measured with [`std::time::Instant`] instead.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Milliseconds added to the system's time: zero but in tests.
    offset: Arc<AtomicI64>,
}

impl Clock {
    /// Time since the epoch.
    pub fn now(&self) -> Duration {
        let system = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let offset = self.offset.load(Ordering::Relaxed);
        let shift = Duration::from_millis(offset.unsigned_abs());
        if offset < 0 { system.saturating_sub(shift) } else { system.saturating_add(shift) }
    }

    /// Whole seconds since the epoch, as in a NumericDate (RFC 7519 §2).
    pub fn unix(&self) -> i64 {
        i64::try_from(self.now().as_secs()).unwrap_or(i64::MAX)
    }

    /// Turns the clock forward, for tests.
    pub fn advance(&self, by: Duration) {
        let millis = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.offset.fetch_add(millis, Ordering::Relaxed);
    }
}
