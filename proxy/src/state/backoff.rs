//! How long do we wait before the next attempt? Exponential, with full jitter, so that a fleet does not come back at once.

use std::time::Duration;

/// Grows with every failure, from zero to `base`, to twice that, and so on until `most`.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    most: Duration,
    failures: u32,
}

// === impl Backoff ===

impl Backoff {
    pub fn new(base: Duration, most: Duration) -> Self {
        Self { base, most, failures: 0 }
    }

    /// The time to wait after one more failure: anything up to the present bound, but never less than a tenth of `base`.
    pub fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        pause(self.failures, self.base, self.most, random())
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// How long to wait after the `failures`th failure in a row (from 1), for whom counts them: full jitter by `random`, in
/// [0, 1], below `base`, twice that, and so on until `most`, but never less than a tenth of `base`.
pub(crate) fn pause(failures: u32, base: Duration, most: Duration, random: f64) -> Duration {
    let factor = 2_u32.saturating_pow(failures.saturating_sub(1).min(16));
    base.saturating_mul(factor).min(most).mul_f64(random).max(base / 10)
}

/// Uniform in [0, 1), for jitter.
pub(crate) fn random() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness the jitter is lost, and the whole bound is waited.
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_be_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_bound_and_starts_over() {
        let (base, most) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(base, most);
        let waits: Vec<_> = (0..200).map(|_| backoff.failed()).collect();
        assert!(waits[0] <= base && waits[1] <= base * 2);
        assert!(waits.iter().all(|wait| *wait >= base / 10 && *wait <= most));
        assert!(waits.iter().any(|wait| *wait > base * 5), "it never grew");
        assert!(waits.iter().skip(10).any(|wait| *wait < base * 5), "there is no jitter");
        assert!((0..100).map(|_| random()).all(|value| (0.0..1.0).contains(&value)));
        backoff.reset();
        assert!(backoff.failed() <= base);
    }
}
