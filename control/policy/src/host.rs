//! Which host is it? The normal form of host names, and patterns with one wildcard label (semantics 9).

use std::borrow::Cow;

/// The normal form of a `Host` value or URI authority: lower case, one trailing dot and the port removed; and the port
/// where one is written. `None` where it is no valid authority (user info, bad port, empty host, zone id).
pub fn normalize(_authority: &str) -> Option<(Cow<'_, str>, Option<u16>)> {
    todo!()
}
