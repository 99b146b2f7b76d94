//! By how much does an issuer's clock differ from ours? Seen in the `Date` of its answers (RFC 9110 §6.6.1); shown and said,
//! and no lifetime depends on it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use http::header::DATE;

use crate::auth::tokens::http_date;

/// What one issuer's clock last showed.
#[derive(Debug, Default)]
pub(crate) struct Skew(Mutex<Seen>);

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Whole seconds: the issuer's clock, less ours.
    seconds: Option<i64>,
    /// More than the issuer's leeway.
    beyond: bool,
}

/// What an answer changed, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// The clocks differ by more than is tolerated, and did not before.
    Beyond,
    /// They agree again.
    Within,
}

/// `Date` has whole seconds: a difference of one is none.
const PRECISION: Duration = Duration::from_secs(1);

// === impl Skew ===

impl Skew {
    pub(crate) fn seconds(&self) -> Option<i64> {
        self.lock().seconds
    }

    /// Takes note of an issuer's clock, and says whether it left the leeway or came back.
    pub(crate) fn note(&self, seconds: i64, leeway: Duration) -> Change {
        let mut seen = self.lock();
        let beyond = Duration::from_secs(seconds.unsigned_abs()) > leeway.max(PRECISION);
        let before = std::mem::replace(&mut *seen, Seen { seconds: Some(seconds), beyond }).beyond;
        match (before, beyond) {
            (false, true) => Change::Beyond,
            (true, false) => Change::Within,
            _ => Change::None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The clock of whoever sent this answer, less ours, which showed `midpoint` halfway between request and answer. None
/// without exactly one date that can be read.
pub(crate) fn of(headers: &HeaderMap, midpoint: Duration) -> Option<i64> {
    let mut dates = headers.get_all(DATE).iter();
    let (date, more) = (dates.next()?, dates.next());
    let date = http_date::parse(date.to_str().ok().filter(|_| more.is_none())?)?;
    Some(date.saturating_sub(i64::try_from(midpoint.as_secs()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_date_less_the_midpoint() {
        let of = |dates: &[&str], midpoint| {
            of(&dates.iter().map(|date| (DATE, date.parse().unwrap())).collect(), midpoint)
        };
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(of(&[date], after(784_111_777)), Some(0));
        assert_eq!(of(&[date], after(784_111_700)), Some(77));
        assert_eq!(of(&[date], Duration::from_millis(784_111_800_900)), Some(-23));
        for dates in [&[][..], &["soon"], &[date, date]] {
            assert_eq!(of(dates, after(784_111_777)), None, "{dates:?}");
        }
    }

    #[test]
    fn only_changes_are_told() {
        let skew = Skew::default();
        assert_eq!(skew.seconds(), None);
        let told = [0, 30, 31, 3600, -31, 30, -30, -31].map(|seconds| skew.note(seconds, after(30)));
        use Change::{Beyond, None as Same, Within};
        assert_eq!(told, [Same, Same, Beyond, Same, Same, Within, Same, Beyond]);
        assert_eq!(skew.seconds(), Some(-31));
        // Where no difference is tolerated, that of rounding is.
        assert_eq!([1, -1, 2].map(|seconds| Skew::default().note(seconds, after(0))), [Same, Same, Beyond]);
    }
}
