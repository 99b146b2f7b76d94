//! How long is a token good, and how long do we wait after a failure? The arithmetic, without a clock.

use std::time::Duration;

use crate::state::backoff;

/// Life of a token whose issuer does not say (`expires_in` is only RECOMMENDED, RFC 6749 §5.1).
pub(crate) const DEFAULT_LIFE: Duration = Duration::from_secs(300);
/// Nothing lives longer; it keeps sums in range.
const LONGEST_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// The longest `Retry-After` that is obeyed.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(600);
/// What will not mend by itself is tried again after this, or when the credential's file changes.
const PERMANENT: Duration = Duration::from_secs(30);
/// A token that may come to its end on its way is not sent.
pub(crate) const MARGIN: Duration = Duration::from_secs(5);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
const LEAST_PAUSE: Duration = Duration::from_millis(100);
/// The time that the last attempt before a token's end is given.
const LAST_ATTEMPT: Duration = Duration::from_secs(1);
/// How long one request for a token may take.
pub(crate) const FETCH_LIMIT: Duration = Duration::from_secs(10);
const LEAST_FETCH_LIMIT: Duration = Duration::from_secs(3);

/// Ages of a token, counted from before its request was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime {
    /// From here on the token is still sent, and another one is fetched.
    pub soft: Duration,
    /// From here on the token is never sent.
    pub hard: Duration,
    /// Its expiry.
    pub life: Duration,
}

impl Lifetime {
    /// Soft: life − max(10 %, min(300 s, 25 %)), less `random` × 10 %. Hard: life − min(5 s, 10 %). `random` is in 0..1.
    pub(crate) fn new(life: Duration, random: f64) -> Self {
        let life = life.min(LONGEST_LIFE);
        let tenth = life / 10;
        let ahead = tenth.max((life / 4).min(Duration::from_secs(300)));
        Self {
            soft: life.saturating_sub(ahead).saturating_sub(tenth.mul_f64(random)),
            hard: life.saturating_sub(tenth.min(MARGIN)),
            life,
        }
    }

    /// The same for a token that must not outlive what is left of another one. Where the next one would gain no more than the
    /// margin, none is fetched ahead.
    pub(crate) fn within(self, left: Duration) -> Self {
        let hard = self.hard.min(left);
        let soft = if hard.saturating_add(MARGIN) >= left { hard } else { self.soft };
        Self { soft, hard, life: self.life.min(left) }
    }
}

/// How long to wait after the `failures`th failure in a row (from 1): full jitter below 1 s, 2 s, 4 s ... 60 s, or what the
/// issuer asked for, if that is longer.
pub(crate) fn pause(failures: u32, permanent: bool, retry_after: Option<Duration>, random: f64) -> Duration {
    let backoff = backoff::pause(failures, FIRST_BACKOFF, LONGEST_BACKOFF, random);
    let asked = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
    backoff.max(asked).max(if permanent { PERMANENT } else { Duration::ZERO })
}

/// The same while a token is in hand that may be sent for so much longer: whatever went wrong, it is tried once more before
/// that ends, unless the issuer asked for a longer pause.
pub(crate) fn pause_within(pause: Duration, retry_after: Option<Duration>, left: Duration) -> Duration {
    match left.checked_sub(LAST_ATTEMPT) {
        Some(room) => pause.min(room.max(LEAST_PAUSE).max(retry_after.unwrap_or_default())),
        None => pause,
    }
}

/// How long one request for a token may take while one is in hand that may be sent for so much longer: so that another one
/// fits before that ends, unless the issuer is just slow.
pub(crate) fn fetch_limit(left: Duration) -> Duration {
    (left / 2).clamp(LEAST_FETCH_LIMIT, FETCH_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(lifetime: Lifetime) -> (f64, f64) {
        (lifetime.soft.as_secs_f64(), lifetime.hard.as_secs_f64())
    }

    #[test]
    fn limits_of_short_and_long_tokens() {
        for (life, latest, earliest, hard) in [
            (10, 7.5, 6.5, 9.0),
            (60, 45.0, 39.0, 55.0),
            (300, 225.0, 195.0, 295.0),
            (3600, 3240.0, 2880.0, 3595.0),
            (36_000, 32_400.0, 28_800.0, 35_995.0),
        ] {
            let life = Duration::from_secs(life);
            assert_eq!(seconds(Lifetime::new(life, 0.0)), (latest, hard), "{life:?}");
            assert_eq!(seconds(Lifetime::new(life, 1.0)), (earliest, hard), "{life:?}");
        }
    }

    #[test]
    fn a_token_that_ends_with_another_one_is_not_fetched_ahead() {
        let within = |life, left| {
            let lifetime = Lifetime::new(Duration::from_secs(life), 0.0).within(Duration::from_secs(left));
            (lifetime.soft.as_secs(), lifetime.hard.as_secs(), lifetime.life.as_secs())
        };
        assert_eq!(within(300, 3600), (225, 295, 300));
        assert_eq!(within(300, 301), (225, 295, 300));
        assert_eq!(within(300, 300), (295, 295, 300));
        assert_eq!(within(300, 290), (290, 290, 290));
        assert_eq!(within(300, 100), (100, 100, 100));
        assert_eq!(within(300, 0), (0, 0, 0));
    }

    #[test]
    fn an_absurd_life_stays_in_range() {
        let lifetime = Lifetime::new(Duration::MAX, 1.0);
        assert!(lifetime.soft < lifetime.hard && lifetime.hard < lifetime.life);
        assert_eq!(Lifetime::new(Duration::ZERO, 0.5).hard, Duration::ZERO);
    }

    #[test]
    fn out_9_backoff_doubles_from_a_second_to_a_minute_with_full_jitter() {
        let longest: Vec<_> = (1..=9).map(|failures| pause(failures, false, None, 1.0).as_secs()).collect();
        assert_eq!(longest, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(pause(u32::MAX, false, None, 0.5), Duration::from_secs(30));
        assert_eq!(pause(5, false, None, 0.0), Duration::from_millis(100));
    }

    #[test]
    fn out_9_no_pause_outlasts_the_token_in_hand() {
        let within = |pause, retry_after: Option<u64>, left| {
            let [pause, left] = [pause, left].map(Duration::from_millis);
            pause_within(pause, retry_after.map(Duration::from_secs), left).as_millis()
        };
        assert_eq!(within(6600, None, 5500), 4500, "a second before its end");
        assert_eq!(within(30_000, None, 5500), 4500, "though it will hardly mend by itself");
        assert_eq!(within(2000, None, 5500), 2000);
        assert_eq!(within(2000, None, 1050), 100, "it never hurries");
        assert_eq!(within(2000, None, 900), 2000, "no other attempt fits");
        assert_eq!(within(2000, None, 0), 2000);
        assert_eq!(within(20_000, Some(20), 5500), 20_000);
        assert_eq!(within(6600, Some(2), 5500), 4500);
        assert_eq!(within(6600, Some(5), 5500), 5000);
    }

    #[test]
    fn out_9_two_attempts_fit_before_a_token_ends() {
        let within = |left| fetch_limit(Duration::from_secs(left)).as_secs_f64();
        assert_eq!([300, 20, 7, 5, 0].map(within), [10.0, 10.0, 3.5, 3.0, 3.0]);
    }

    #[test]
    fn c17_a_longer_retry_after_wins_up_to_ten_minutes() {
        let asked = |seconds| pause(1, false, Some(Duration::from_secs(seconds)), 1.0).as_secs();
        assert_eq!((asked(0), asked(20), asked(86_400)), (1, 20, 600));
        assert_eq!(pause(1, true, None, 0.0), Duration::from_secs(30));
        assert_eq!(pause(1, true, Some(Duration::from_secs(90)), 0.0), Duration::from_secs(90));
    }
}
