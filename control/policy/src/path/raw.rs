//! What hides behind an escape? The part of a path that `rawPaths: true` admits, as other servers may read it (semantics 8).

use super::{escapes, hex_digit, is_raw, read_escape};

/// Nobody escapes an escape more often and means well.
const MAX_DECODINGS: usize = 4;

/// Does this segment hold `%2F`, `%25` or `%3B`? Its escapes are known to be valid.
pub(super) fn is_raw_segment(segment: &str) -> bool {
    escapes(segment).any(|tail| read_escape(tail).is_some_and(|(byte, _)| is_raw(byte)))
}

/// Is there a reading of this segment, decoded before it is split or decoded again, that holds a dot segment, a backslash or a
/// control? A server that reads it so would leave the part of the tree that the rule speaks of.
pub(super) fn is_treacherous(segment: &str) -> bool {
    let mut read = segment.as_bytes().to_vec();
    for _ in 0..MAX_DECODINGS {
        let next = decode(&read);
        if next == read {
            return false;
        }
        let climbs = next.split(|byte| *byte == b'/').any(is_dots);
        if climbs || next.iter().any(|byte| *byte == b'\\' || byte.is_ascii_control()) {
            return true;
        }
        read = next;
    }
    true
}

/// `.` or `..`, also before a `;` with parameters.
fn is_dots(part: &[u8]) -> bool {
    let name = part.split(|byte| *byte == b';').next().unwrap_or_default();
    matches!(name, b"." | b"..")
}

/// Every escape decoded once; what is none stays.
fn decode(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        let escaped = match tail {
            [high, low, ..] if first == b'%' => hex_digit(*high).zip(hex_digit(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                decoded.push(high << 4 | low);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => decoded.push(first),
        }
    }
    decoded
}
