//! A path and a pattern, and a host. There is one form of each, nothing in it can be read in two ways, and whoever writes it
//! otherwise means the same and matches the same.

use countersign_policy::host;
use countersign_policy::path::{CanonicalPath, PathPattern};

/// A line each: path, pattern, host.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.splitn(3, '\n');
    let (path, pattern, authority) = (lines.next(), lines.next(), lines.next());
    one_host(authority.unwrap_or_default());
    let Some(canonical) = path.and_then(CanonicalPath::parse) else { return };
    one_path(&canonical);
    let respelled = respelled(canonical.as_str());
    let again = CanonicalPath::parse(&respelled).expect("escapes of unreserved characters are fine");
    assert_eq!(again, canonical, "{respelled}");
    if let Some(Ok(pattern)) = pattern.map(PathPattern::parse) {
        assert_eq!(pattern.matches(&canonical, None), pattern.matches(&again, None));
        // A `*` takes in all that is below what it takes in.
        let below = format!("{}/x", canonical.as_str().trim_end_matches('/'));
        let below = CanonicalPath::parse(&below).expect("one more segment");
        let is_open = pattern.as_str().ends_with('*');
        assert!(!is_open || !pattern.matches(&canonical, None) || pattern.matches(&below, None), "{below:?}");
    }
    assert!(PathPattern::parse("/*").expect("a pattern").matches(&canonical, None));
    matches_itself(&canonical);
}

fn one_path(canonical: &CanonicalPath<'_>) {
    let text = canonical.as_str();
    assert_eq!(CanonicalPath::parse(text).as_ref(), Some(canonical), "idempotent");
    assert!(text.starts_with('/') && !text.contains("//"), "{text}");
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && !b";\\#?".contains(&byte)), "{text}");
    // Decoded once more, as a lenient server does, it has the same segments, and none that leads elsewhere.
    let decoded = decode(text);
    let slashes = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'/').count();
    assert_eq!(slashes(&decoded), slashes(text.as_bytes()), "{text}");
    assert!(!decoded.iter().any(|byte| byte.is_ascii_control() || b"%;\\#".contains(byte)), "{text}");
    assert!(
        !decoded.split(|byte| *byte == b'/').any(|segment| [&b"."[..], b".."].contains(&segment)),
        "{text}"
    );
}

fn decode(text: &str) -> Vec<u8> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, literal) = part.split_at_checked(2).expect("two digits after each %");
        bytes.push(u8::from_str_radix(digits, 16).expect("hex digits"));
        bytes.extend_from_slice(literal.as_bytes());
    }
    bytes
}

/// Every letter and digit escaped, in lower case, but for those of escapes.
fn respelled(text: &str) -> String {
    let mut parts = text.split('%');
    let escape = |text: &str| -> String {
        let spell =
            |c: char| if c.is_ascii_alphanumeric() { format!("%{:02x}", u32::from(c)) } else { c.into() };
        text.chars().map(spell).collect()
    };
    let mut respelled = escape(parts.next().unwrap_or_default());
    for part in parts {
        let (digits, literal) = part.split_at_checked(2).expect("two digits after each %");
        respelled += &format!("%{}{}", digits.to_ascii_lowercase(), escape(literal));
    }
    respelled
}

/// A pattern that is this path, its special characters escaped, matches it and not the path with more behind it.
fn matches_itself(canonical: &CanonicalPath<'_>) {
    let written = canonical.as_str().replace('*', "%2A").replace('{', "%7B").replace('}', "%7D");
    let pattern = PathPattern::parse(&written).expect("a canonical path is a pattern");
    assert!(pattern.matches(canonical, None), "{written}");
    let longer = format!("{}x", canonical.as_str());
    let longer = CanonicalPath::parse(&longer).expect("one more letter");
    assert!(!pattern.matches(&longer, None), "{written} and {longer:?}");
}

fn one_host(authority: &str) {
    let Some((host, port)) = host::normalize(authority) else { return };
    assert!(!host.is_empty() && !host.bytes().any(|byte| byte.is_ascii_uppercase()), "{host}");
    assert!(!host.contains(['@', '/', '?', '#', '\\', '%', ' ']), "{host}");
    let written = port.map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
    let again = host::normalize(&written).expect("the normal form is a host");
    assert_eq!((&*again.0, again.1), (&*host, port), "idempotent");
}
