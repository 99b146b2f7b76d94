//! When is that? A date in a header field, in the one form that is still sent (IMF-fixdate, RFC 9110 §5.6.7).

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Seconds since the epoch of e.g. `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(crate) fn parse(date: &str) -> Option<i64> {
    let (_weekday, date) = date.strip_suffix(" GMT")?.split_once(", ")?;
    let mut parts = date.split(' ');
    let day = number(parts.next()?, 2, 1..=31)?;
    let month = parts.next()?;
    let month = i64::try_from(MONTHS.iter().position(|name| *name == month)?).ok()? + 1;
    let year = number(parts.next()?, 4, 1970..=9999)?;
    let mut time = parts.next()?.split(':');
    let hour = number(time.next()?, 2, 0..=23)?;
    let minute = number(time.next()?, 2, 0..=59)?;
    let second = number(time.next()?, 2, 0..=60)?;
    if parts.next().is_some() || time.next().is_some() {
        return None;
    }
    Some(((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

fn number(digits: &str, width: usize, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
    let well_formed = digits.len() == width && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|number| well_formed && range.contains(number))
}

/// Days from 1970-01-01, in the calendar whose year begins in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(parse("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(parse("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        assert_eq!(parse("Fri, 31 Dec 2100 12:00:00 GMT"), Some(4_133_937_600));
    }

    #[test]
    fn what_is_no_date() {
        for text in [
            "",
            "soon",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nix 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 25:49:37 GMT",
            "Sun, 06 Nov -994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 08 GMT",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
