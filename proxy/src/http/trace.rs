//! Which trace does a request belong to? Its `traceparent` (W3C Trace Context) is read for the record, and passes unchanged.

use http::header::HeaderMap;

/// What a valid `traceparent` says. Nobody vouches for it: it is a hint for people who look for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceContext {
    trace_id: u128,
    /// The caller's span, which the specification calls `parent-id`.
    span_id: u64,
    /// The caller records this trace.
    pub(super) is_sampled: bool,
}

// === impl TraceContext ===

impl TraceContext {
    /// The trace of a request. More than one `traceparent`, or one that is not valid, is none (§3.2).
    pub(super) fn read(headers: &HeaderMap) -> Option<Self> {
        let mut fields = headers.get_all("traceparent").iter();
        match (fields.next(), fields.next()) {
            (Some(field), None) => Self::parse(field.as_bytes()),
            _ => None,
        }
    }

    /// `version "-" trace-id "-" parent-id "-" trace-flags`, in lower-case hex (§3.2.2). A later version may have more
    /// behind another `-` (§3.2.4).
    fn parse(field: &[u8]) -> Option<Self> {
        let version = hex(field.get(..2)?)?;
        let trace_id = hex(field.get(3..35)?)?;
        let span_id = hex(field.get(36..52)?)?;
        let flags = hex(field.get(53..55)?)?;
        let is_divided = [2, 35, 52].into_iter().all(|index| field.get(index) == Some(&b'-'));
        let ends = match field.get(55) {
            None => true,
            Some(next) => version > 0 && *next == b'-',
        };
        if version == 0xff || !is_divided || !ends || trace_id == 0 || span_id == 0 {
            return None;
        }
        Some(Self { trace_id, span_id: u64::try_from(span_id).ok()?, is_sampled: flags & 1 == 1 })
    }

    pub(super) fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    pub(super) fn span_id(&self) -> String {
        format!("{:016x}", self.span_id)
    }
}

/// At most 32 digits, none of them a capital.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// The example of the specification (§3.2.3).
    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn read(fields: &[&str]) -> Option<TraceContext> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append("traceparent", HeaderValue::from_str(field).unwrap());
        }
        TraceContext::read(&headers)
    }

    #[test]
    fn the_examples_of_the_specification() {
        let trace = read(&[EXAMPLE]).unwrap();
        assert_eq!(trace.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(trace.span_id(), "00f067aa0ba902b7");
        assert!(trace.is_sampled);
        let not_sampled = read(&["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"]).unwrap();
        assert!(!not_sampled.is_sampled);
        // Zeros in front are part of an id.
        let short = read(&["00-0000000000000000a3ce929d0e0e4736-000000000ba902b7-00"]).unwrap();
        assert_eq!(short.trace_id(), "0000000000000000a3ce929d0e0e4736");
        assert_eq!(short.span_id(), "000000000ba902b7");
    }

    #[test]
    fn flags_are_bits_and_only_the_first_says_sampled() {
        for (flags, is_sampled) in [("02", false), ("03", true), ("fe", false), ("ff", true)] {
            let trace = read(&[&format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}")]);
            assert_eq!(trace.unwrap().is_sampled, is_sampled, "{flags}");
        }
    }

    #[test]
    fn a_later_version_may_say_more() {
        for version in ["01", "cc", "fe"] {
            let base = format!("{version}{}", &EXAMPLE[2..]);
            for end in ["", "-", "-what-the-future-will-be-like", "-\u{9}"] {
                let trace = read(&[&format!("{base}{end}")]);
                assert_eq!(trace, read(&[EXAMPLE]), "{version}, {end:?}");
            }
            for end in ["0", ".", " -", "x-what"] {
                assert_eq!(read(&[&format!("{base}{end}")]), None, "{version}, {end:?}");
            }
        }
    }

    #[test]
    fn what_is_not_valid_is_none() {
        for field in [
            "",
            "00",
            "00-",
            // Version 255 is forbidden, and 0 has just these fields.
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-010",
            // Ids of zeros alone.
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            // Capitals, and what is no hex.
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00F067aa0ba902b7-01",
            "0A-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0A",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
            // Too short, too long, divided elsewhere.
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47366-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7_01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 ",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(read(&[field]), None, "{field}");
        }
    }

    #[test]
    fn two_are_none_also_where_they_agree() {
        assert_eq!(read(&[EXAMPLE, EXAMPLE]), None);
        assert_eq!(read(&[&format!("{EXAMPLE},{EXAMPLE}")]), None);
        assert_eq!(read(&[]), None);
    }
}
