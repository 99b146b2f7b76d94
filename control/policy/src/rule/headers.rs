//! Does a header field hold what a rule demands? Every line of it counts, however its name is spelled (security IN-26).

use http::HeaderMap;
use http::header::HeaderValue;

use crate::snapshot::Effect;

use super::claims::one;

/// A header field that has one of these values.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HeaderTest {
    /// In lower case, with `-`.
    pub(crate) name: String,
    /// As they are.
    pub(crate) values: Vec<String>,
}

// === impl HeaderTest ===

impl HeaderTest {
    /// For an allow every line is one of the values, and there is one; for a deny one line is, or one item of its list. `None`:
    /// one that is no text might be for whoever reads it.
    pub(crate) fn judge(&self, headers: &HeaderMap, effect: Effect) -> Option<bool> {
        // Servers that read `_` as `-` see one field in both spellings.
        let lines = headers.iter().filter(|(name, _)| self.is_named(name.as_str()));
        match effect {
            Effect::Allow => {
                let mut is_there = false;
                for (name, value) in lines {
                    is_there |= name.as_str() == self.name;
                    if !self.holds(value) {
                        return Some(false);
                    }
                }
                Some(is_there)
            }
            Effect::Deny => one(lines.map(|(_, value)| self.holds_item(value))),
        }
    }

    /// Is there a line of it, in its own spelling?
    pub(crate) fn is_there(&self, headers: &HeaderMap) -> bool {
        headers.keys().any(|name| name.as_str() == self.name)
    }

    fn is_named(&self, name: &str) -> bool {
        let same = |(own, other)| own == other || (own == b'-' && other == b'_');
        self.name.len() == name.len() && self.name.bytes().zip(name.bytes()).all(same)
    }

    fn holds(&self, value: &HeaderValue) -> bool {
        self.values.iter().any(|wanted| wanted.as_bytes() == value.as_bytes())
    }

    /// Several lines may as well be one with commas (RFC 9110 §5.3).
    fn holds_item(&self, value: &HeaderValue) -> Option<bool> {
        let text = std::str::from_utf8(value.as_bytes()).ok()?;
        let is_wanted =
            |text: &str| self.values.iter().any(|wanted| wanted == text.trim_matches([' ', '\t']));
        Some(is_wanted(text) || text.split(',').any(is_wanted))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    #[test]
    fn in_26_for_an_allow_all_lines_match_and_for_a_deny_any() {
        let test = HeaderTest { name: "x-a".into(), values: vec!["one".into(), "two".into(), "ü".into()] };
        let (yes, no) = (Some(true), Some(false));
        for (lines, allow, deny) in [
            (&[][..], no, no),
            (&[("x-b", "one")], no, no),
            (&[("x-a", "one")], yes, yes),
            (&[("x-a", "one"), ("x-a", "two")], yes, yes),
            (&[("x-a", "one"), ("x-a", "three")], no, yes),
            (&[("x-a", "three"), ("x-a", "one")], no, yes),
            (&[("x-a", "One")], no, no),
            (&[("x-a", "")], no, no),
            (&[("x-a", "one, three")], no, yes),
            (&[("x-a", "one,two")], no, yes),
            (&[("x-a", "one;two")], no, no),
            // An application may read `_` as `-`, or the other spelling not at all.
            (&[("x-a", "one"), ("x_a", "three")], no, yes),
            (&[("x-a", "three"), ("x_a", "one")], no, yes),
            (&[("x_a", "one")], no, yes),
            // Nobody reads other characters so.
            (&[("x-a", "one"), ("x.a", "three")], yes, yes),
            (&[("x-a", "one"), ("x__", "three")], yes, yes),
            (&[("x.a", "one")], no, no),
            // No text, but for the last.
            (&[("x-a", "\u{1}")], no, None),
            (&[("x-a", "\u{1}"), ("x-a", "one")], no, yes),
            (&[("x-a", "ü")], yes, yes),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                let bytes: &[u8] = if *value == "\u{1}" { b"one\xff" } else { value.as_bytes() };
                headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(bytes).unwrap());
            }
            assert_eq!(test.judge(&headers, Effect::Allow), allow, "{lines:?}");
            assert_eq!(test.judge(&headers, Effect::Deny), deny, "{lines:?}");
        }
    }
}
