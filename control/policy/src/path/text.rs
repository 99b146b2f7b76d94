//! What do the characters of a path mean? The text for those who compare it with what was never escaped.

use std::borrow::Cow;

use super::decoded;

/// A canonical path, or a segment of one, without its escapes, so that `a@b` and `a%40b` are one text. Escapes of `/`, `%` and
/// `;` stay, since without them a text would have two meanings. `None`: what is escaped is no UTF-8.
pub(crate) fn text(canonical: &str) -> Option<Cow<'_, str>> {
    if !canonical.contains('%') {
        return Some(Cow::Borrowed(canonical));
    }
    let mut bytes = Vec::with_capacity(canonical.len());
    let mut parts = canonical.split('%');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        let (digits, literal) = part.split_at_checked(2)?;
        if matches!(digits, "2F" | "25" | "3B") {
            bytes.push(b'%');
            bytes.extend_from_slice(digits.as_bytes());
        } else {
            let escape = ["%", digits].concat();
            bytes.extend(decoded(&escape));
        }
        bytes.extend_from_slice(literal.as_bytes());
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escape_and_its_character_are_one_text() {
        for (canonical, meant) in [
            ("/orders/17", Some("/orders/17")),
            ("/a@b", Some("/a@b")),
            ("/a%40b", Some("/a@b")),
            ("/a%20b%3Fc", Some("/a b?c")),
            ("/%C3%BC", Some("/ü")),
            ("/%FF", None),
            ("/a%2Fb%25c%3B", Some("/a%2Fb%25c%3B")),
            ("%40", Some("@")),
            ("", Some("")),
        ] {
            assert_eq!(text(canonical).as_deref(), meant, "{canonical}");
        }
    }
}
