//! Can this path match that pattern at all? Told by the first bytes of both, in one comparison and without a call: nearly all
//! rules of a policy are about other paths.

/// The most bytes that are compared so.
const LENGTH: usize = 16;

/// The first bytes of a canonical path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head(u128);

/// The bytes that a path begins with if a pattern matches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beginning {
    bytes: u128,
    mask: u128,
}

// === impl Head ===

impl Head {
    pub(super) fn of(path: &str) -> Self {
        Self(packed(path.bytes()))
    }
}

// === impl Beginning ===

impl Beginning {
    pub(super) fn of(text: &str) -> Self {
        Self { bytes: packed(text.bytes()), mask: packed(text.bytes().map(|_| 0xff)) }
    }

    /// What it refuses does not begin so; what it lets pass may not either.
    pub(super) fn may_begin(self, head: Head) -> bool {
        head.0 & self.mask == self.bytes
    }
}

fn packed(bytes: impl Iterator<Item = u8>) -> u128 {
    let mut packed = [0; LENGTH];
    packed.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
    u128::from_ne_bytes(packed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{CanonicalPath, PathPattern, decoded};

    const PARTS: [&str; 9] =
        ["a", "orders", "orders-of-the-year", "a.b~", "a@b", "a%40b", "%C3%BC", "x%20y", "A_1"];

    /// Segment by segment, as the semantics are worded.
    fn matches(pattern: &str, path: &str) -> bool {
        let (front, below) = match pattern.strip_suffix("/*") {
            Some(front) => (front, true),
            None => (pattern, false),
        };
        let wanted: Vec<_> = front.split('/').skip(1).collect();
        let parts: Vec<_> = path.split('/').skip(1).collect();
        let fits = |(wanted, part): (&&str, &&str)| match wanted.starts_with('{') {
            true => !part.is_empty(),
            false => decoded(wanted).eq(decoded(part)),
        };
        let is_long_enough = if below { parts.len() >= wanted.len() } else { parts.len() == wanted.len() };
        is_long_enough && wanted.iter().zip(&parts).all(fits)
    }

    fn path() -> impl Strategy<Value = String> {
        let parts = prop::collection::vec(prop::sample::select(&PARTS[..]), 1..4);
        (parts, any::<bool>())
            .prop_map(|(parts, slash)| format!("/{}{}", parts.join("/"), if slash { "/" } else { "" }))
    }

    /// A pattern for something like this path.
    fn pattern(path: &str, variable: usize, keep: usize, below: bool) -> String {
        let mut parts: Vec<_> = path.split('/').skip(1).map(str::to_owned).collect();
        parts.truncate(keep);
        if let Some(part) = parts.get_mut(variable).filter(|part| !part.is_empty()) {
            *part = "{x}".to_owned();
        }
        let is_slash = parts.last().is_some_and(String::is_empty);
        format!("/{}{}", parts.join("/"), if below && !is_slash { "/*" } else { "" })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn a_glance_at_the_beginning_changes_no_answer(
            path in path(), other in path(), variable in 0..6_usize, keep in 1..5_usize, below in any::<bool>()
        ) {
            for like in [&path, &other] {
                let written = pattern(like, variable, keep, below);
                let read = PathPattern::parse(&written).unwrap();
                let canonical = CanonicalPath::parse(&path).unwrap();
                prop_assert_eq!(read.matches(&canonical, None), matches(&written, &path), "{} {}", written, path);
            }
        }
    }
}
