//! Which path is it? The one canonical form that is judged and forwarded, and the patterns that match it (semantics 8).

mod head;
mod pattern;
mod raw;
mod text;

use std::borrow::Cow;
use std::iter;

use head::Head;
pub use pattern::PathPattern;
pub(crate) use text::text;

/// A path in canonical form, without the query. Starts with `/`. Borrows from the request wherever that was canonical
/// already, which is nearly always.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalPath<'a> {
    text: Cow<'a, str>,
    /// Where it is raw from: the place of the first segment with an escape that only `rawPaths` admits. Others may split and
    /// read the path otherwise from there on.
    raw_from: Option<usize>,
    /// Its first bytes, which tell it from most patterns.
    head: Head,
}

// === impl CanonicalPath ===

impl CanonicalPath<'static> {
    /// `/`.
    pub fn root() -> Self {
        Self { text: Cow::Borrowed("/"), raw_from: None, head: Head::of("/") }
    }
}

impl<'a> CanonicalPath<'a> {
    /// The canonical form of the path of a request target, or `None` where two servers could read it differently
    /// (semantics 8). `raw` is the target as it was received, cut before the `?`.
    ///
    /// Escapes of letters, digits, `-`, `_` and `~` mean the same as the character itself (RFC 3986 §2.3) and are decoded;
    /// every other escape stays, with upper-case hex digits. The dot is no exception but refused: nobody escapes it but
    /// to hide a dot segment; nor are bytes that are not UTF-8, since lenient decoders read dots and slashes in them (RFC 3629
    /// §10).
    pub fn parse(raw: &'a str) -> Option<Self> {
        Self::read(raw, |byte| !is_raw(byte))
    }

    /// The same, but `%2F`, `%25` and `%3B` are admitted, for ports where a rule says `rawPaths: true`. What would be a dot
    /// segment, a backslash or a control for a server that decodes before it splits, or more than once, is refused even so.
    pub fn parse_raw(raw: &'a str) -> Option<Self> {
        let path = Self::read(raw, |_| true)?;
        let is_treacherous = path.segments().skip(path.plain_segments()).any(raw::is_treacherous);
        (!is_treacherous).then_some(path)
    }

    fn read(raw: &'a str, admits: impl Fn(u8) -> bool) -> Option<Self> {
        let segments = raw.strip_prefix('/')?;
        if !raw.bytes().all(is_allowed) || raw.contains("//") || segments.split('/').any(is_dots) {
            return None;
        }
        let (mut changes, mut has_raw, mut wide) = (false, false, false);
        for tail in escapes(raw) {
            let (byte, canonical) = read_escape(tail)?;
            if is_refused_escaped(byte) || !admits(byte) {
                return None;
            }
            changes |= !canonical || is_unreserved(byte);
            has_raw |= is_raw(byte);
            wide |= !byte.is_ascii();
        }
        if wide && !is_utf8(raw) {
            return None;
        }
        let raw_from = has_raw.then(|| segments.split('/').position(raw::is_raw_segment)).flatten();
        let text = if changes { Cow::Owned(rewrite(raw)?) } else { Cow::Borrowed(raw) };
        Some(Self { head: Head::of(&text), text, raw_from })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Does it hold an escape that only `rawPaths: true` admits?
    pub fn is_raw(&self) -> bool {
        self.raw_from.is_some()
    }

    /// How many segments there are before the first that is raw; none is: more than there can be.
    pub(crate) fn plain_segments(&self) -> usize {
        self.raw_from.unwrap_or(usize::MAX)
    }

    /// The segments, still escaped. A trailing slash is an empty last segment; `/` is one empty segment.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.text.split('/').skip(1)
    }
}

/// May this byte stand in a path as it is? Printable ASCII, but for what parsers disagree about.
fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b';' | b'\\' | b'#' | b'?')
}

fn is_dots(segment: &str) -> bool {
    matches!(segment, "." | "..")
}

/// `%2e %5c %23` and escaped controls: what some servers decode before they split the path and others after.
fn is_refused_escaped(byte: u8) -> bool {
    matches!(byte, b'.' | b'\\' | b'#') || byte.is_ascii_control()
}

/// `%2f %25 %3b`: the same, but names may hold them, so a rule can admit them.
fn is_raw(byte: u8) -> bool {
    matches!(byte, b'/' | b'%' | b';')
}

/// Do the bytes that a path with valid escapes stands for make up UTF-8?
fn is_utf8(path: &str) -> bool {
    String::from_utf8(decoded(path).collect()).is_ok()
}

/// Unreserved characters (RFC 3986 §2.3), but for the dot.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~')
}

/// What follows each `%`.
fn escapes(raw: &str) -> impl Iterator<Item = &str> {
    raw.split('%').skip(1)
}

/// The byte that the two hex digits at the start of `tail` stand for, and whether they are in upper case.
fn read_escape(tail: &str) -> Option<(u8, bool)> {
    let mut digits = tail.bytes();
    let (high, low) = (digits.next()?, digits.next()?);
    let upper = !high.is_ascii_lowercase() && !low.is_ascii_lowercase();
    Some((hex_digit(high)? << 4 | hex_digit(low)?, upper))
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Decodes what may be decoded and writes the other escapes in upper case. All escapes are known to be valid.
fn rewrite(raw: &str) -> Option<String> {
    let mut path = String::with_capacity(raw.len());
    let mut parts = raw.split('%');
    path.push_str(parts.next()?);
    for part in parts {
        let (byte, _) = read_escape(part)?;
        let (digits, literal) = part.split_at_checked(2)?;
        if is_unreserved(byte) {
            path.push(char::from(byte));
        } else {
            path.push('%');
            path.extend(digits.chars().map(|digit| digit.to_ascii_uppercase()));
        }
        path.push_str(literal);
    }
    Some(path)
}

/// The bytes that a canonical segment stands for.
fn decoded(segment: &str) -> impl Iterator<Item = u8> {
    let mut bytes = segment.bytes();
    iter::from_fn(move || match bytes.next()? {
        b'%' => Some(hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?),
        byte => Some(byte),
    })
}

#[cfg(test)]
mod tests;
