//! Which host is it? The normal form of host names, and patterns with one wildcard label (semantics 9).

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// Longest host name without its trailing dot, in bytes (RFC 1035 §2.3.4).
const MAX_NAME: usize = 253;
/// Longest label, in bytes (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;

/// The normal form of a `Host` value or URI authority: lower case, one trailing dot and the port removed; and the port
/// where one is written. `None` where it is no valid authority (user info, bad port, empty host, zone id).
///
/// Addresses are hosts too, IPv6 in brackets and as RFC 5952 writes it; no pattern matches them.
pub fn normalize(authority: &str) -> Option<(Cow<'_, str>, Option<u16>)> {
    if let Some(literal) = authority.strip_prefix('[') {
        let (address, rest) = literal.split_once(']')?;
        let port = if rest.is_empty() { None } else { Some(parse_port(rest.strip_prefix(':')?)?) };
        return Some((normal_ipv6(authority, address)?, port));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(parse_port(port)?)),
        None => (authority, None),
    };
    Some((normal_name(host)?, port))
}

/// Decimal digits without a leading zero, 1 to 65535.
fn parse_port(text: &str) -> Option<u16> {
    if text.starts_with('0') || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// `address` is what stands between the brackets at the start of `authority`.
fn normal_ipv6<'a>(authority: &'a str, address: &str) -> Option<Cow<'a, str>> {
    let normal = format!("[{}]", address.parse::<Ipv6Addr>().ok()?);
    Some(match authority.get(..normal.len()) {
        Some(written) if written == normal => Cow::Borrowed(written),
        _ => Cow::Owned(normal),
    })
}

/// A name or IPv4 address of letters, digits, `-`, `_` and single dots.
fn normal_name(host: &str) -> Option<Cow<'_, str>> {
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.len() > MAX_NAME || !name.split('.').all(is_label) {
        return None;
    }
    Some(if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    })
}

/// Letters, digits and hyphens, and the underscore, which names of containers have.
fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// A host of a rule: exact, or `*.` for exactly one label. Never an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPattern {
    /// In normal form, the `*.` of a wildcard included.
    text: String,
}

// === impl HostPattern ===

impl HostPattern {
    /// Reads a pattern, in any case and with or without a trailing dot. Fails with what to write instead.
    pub fn parse(written: &str) -> Result<Self, String> {
        if !written.is_ascii() {
            return Err("a host is ASCII: write the A-label (`xn--...`) of an internationalised name".into());
        }
        if written.contains(['[', ']']) || written.parse::<Ipv6Addr>().is_ok() {
            return Err("addresses are not hosts that a rule can name: write the DNS name".into());
        }
        if written.contains(['/', '@']) {
            return Err("a host is a name alone: no scheme, user or path".into());
        }
        if written.contains(':') {
            return Err("a host is a name alone: write the port under `ports`".into());
        }
        let (name, wildcard) = match written.strip_prefix("*.") {
            Some(name) => (name, "*."),
            None => (written, ""),
        };
        if name.contains('*') {
            return Err("`*.` stands only at the start, for exactly one label, as in `*.example.com`".into());
        }
        let Some(name) = normal_name(name) else {
            return Err(format!(
                "`{}` is not a host name: labels of letters, digits, `-` and `_` with dots between are expected",
                written.escape_debug()
            ));
        };
        if ends_in_number(&name) {
            return Err(
                "addresses, in whatever spelling, are not hosts that a rule can name: write the DNS name"
                    .into(),
            );
        }
        let text = format!("{wildcard}{name}");
        if text.len() > MAX_NAME {
            return Err("a host name has at most 253 characters".into());
        }
        Ok(Self { text })
    }

    /// The pattern in normal form, e.g. `*.example.com`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn is_wildcard(&self) -> bool {
        self.suffix().is_some()
    }

    /// Of a wildcard what follows its `*.`, e.g. `example.com`: the key for a host's part after its first dot.
    pub fn suffix(&self) -> Option<&str> {
        self.text.strip_prefix("*.")
    }

    /// Does it name every host that the other does?
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self == other || (!other.is_wildcard() && self.matches(&other.text))
    }

    /// Does it name this host, in normal form ([`normalize`])?
    pub fn matches(&self, host: &str) -> bool {
        match self.suffix() {
            Some(suffix) => host.split_once('.').is_some_and(|(_, rest)| rest == suffix),
            None => host == self.text,
        }
    }
}

/// Would a resolver read it as an IPv4 address? By the last label, as the URL Standard does (host parsing, "ends in a
/// number"): `127.1`, `0x7f.1` and `2130706433` are addresses too.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    match last.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => last.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(authority: &str) -> Option<(String, Option<u16>)> {
        normalize(authority).map(|(host, port)| (host.into_owned(), port))
    }

    #[test]
    fn a_pattern_covers_what_it_names_and_no_more() {
        for (wide, narrow, expected) in [
            ("a.example", "A.Example.", true),
            ("a.example", "b.example", false),
            ("*.example", "a.example", true),
            ("*.example", "*.example", true),
            ("*.example", "example", false),
            ("*.example", "a.b.example", false),
            // Names below names, of which the wildcard has one label alone.
            ("*.example", "*.a.example", false),
            ("a.example", "*.example", false),
        ] {
            let pattern = |written: &str| HostPattern::parse(written).unwrap();
            assert_eq!(pattern(wide).covers(&pattern(narrow)), expected, "{wide} over {narrow}");
        }
    }

    #[test]
    fn a_pattern_is_as_long_as_a_name_may_be_its_wildcard_counted() {
        let name = |length: usize| {
            let labels = "a.".repeat(length / 2);
            labels[..length - 1].to_owned() + "b"
        };
        for (written, fine) in [
            (name(253), true),
            (name(255), false),
            (format!("*.{}", name(251)), true),
            (format!("*.{}", name(253)), false),
        ] {
            assert_eq!(HostPattern::parse(&written).is_ok(), fine, "{} bytes", written.len());
        }
    }

    #[test]
    fn what_is_normal_is_not_copied() {
        for authority in [
            "orders",
            "orders.shop:80",
            "orders.shop.",
            "127.0.0.1:8080",
            "[::1]:80",
            "[2001:db8::1]",
            "a_b-c",
        ] {
            assert!(matches!(normalize(authority), Some((Cow::Borrowed(_), _))), "{authority}");
        }
    }

    #[test]
    fn case_port_and_one_trailing_dot_go() {
        for (authority, host, port) in [
            ("Orders.Shop", "orders.shop", None),
            ("orders.shop.", "orders.shop", None),
            ("ORDERS.shop.:8080", "orders.shop", Some(8080)),
            ("a:1", "a", Some(1)),
            ("a:65535", "a", Some(65535)),
            ("127.0.0.1:80", "127.0.0.1", Some(80)),
            ("[::1]:80", "[::1]", Some(80)),
            ("[::1]", "[::1]", None),
            ("[0:0:0:0:0:0:0:1]", "[::1]", None),
            ("[2001:DB8::A]:443", "[2001:db8::a]", Some(443)),
            ("xn--Mller-KVA.example", "xn--mller-kva.example", None),
        ] {
            assert_eq!(normal(authority), Some((host.into(), port)), "{authority}");
        }
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        for authority in [
            "",
            ".",
            "..",
            "a..",
            ".a",
            "a..b",
            ":80",
            ".:80",
            "a:",
            "a:0",
            "a:080",
            "a:65536",
            "a:-1",
            "a:+80",
            "a: 80",
            "a:8x",
            "a:80:80",
            "user@a",
            "user:pw@a:80",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "a b",
            " a",
            "a ",
            "a\t",
            "a\0",
            "a,b",
            "a%2eb",
            "*",
            "*.a",
            "ü.example",
            "::1",
            "[]",
            "[",
            "[::1",
            "::1]",
            "[::1]x",
            "[::1]:",
            "[::1]:x",
            "[::1%25eth0]",
            "[fe80::1%eth0]:80",
            "[127.0.0.1]",
            "[v1.x]",
            "[::1].",
            "a$",
            "a'b",
            "(a)",
        ] {
            assert_eq!(normal(authority), None, "{authority:?}");
        }
        assert_eq!(normal(&"a".repeat(64)), None);
        assert!(normal(&"a".repeat(63)).is_some());
        assert_eq!(normal(&["a"; 128].join(".")), None);
        assert!(normal(&["a"; 127].join(".")).is_some());
    }

    #[test]
    fn patterns_match_exactly_or_one_label() {
        let matches = |pattern: &str, host: &str| HostPattern::parse(pattern).unwrap().matches(host);
        assert!(matches("orders.shop", "orders.shop"));
        assert!(matches("Orders.Shop.", "orders.shop"));
        assert!(!matches("orders.shop", "orders.shop.evil"));
        assert!(!matches("orders.shop", "xorders.shop"));
        assert!(matches("*.shop", "orders.shop"));
        assert!(!matches("*.shop", "shop"));
        assert!(!matches("*.shop", "a.orders.shop"));
        assert!(!matches("*.shop", "orders.xshop"));
        assert!(!matches("*.shop", "orders-shop"));
        assert!(matches("xn--mller-kva.example", "xn--mller-kva.example"));
    }

    #[test]
    fn a_wildcard_tells_its_suffix() {
        let wildcard = HostPattern::parse("*.Example.com").unwrap();
        assert_eq!(
            (wildcard.as_str(), wildcard.suffix(), wildcard.is_wildcard()),
            ("*.example.com", Some("example.com"), true)
        );
        let exact = HostPattern::parse("example.com.").unwrap();
        assert_eq!((exact.as_str(), exact.suffix(), exact.is_wildcard()), ("example.com", None, false));
    }

    #[test]
    fn patterns_that_name_no_host_are_errors_that_say_what_to_write() {
        for (pattern, message) in [
            ("127.0.0.1", "write the DNS name"),
            ("127.1", "write the DNS name"),
            ("0x7f.1", "write the DNS name"),
            ("0X7F000001", "write the DNS name"),
            ("0x", "write the DNS name"),
            ("2130706433", "write the DNS name"),
            ("0177.0.0.01", "write the DNS name"),
            ("1.2.3.4.", "write the DNS name"),
            ("a.1", "write the DNS name"),
            ("*.0.0.1", "write the DNS name"),
            ("*.1", "write the DNS name"),
            ("::1", "write the DNS name"),
            ("[::1]", "write the DNS name"),
            ("[::1]:80", "write the DNS name"),
            ("müller.example", "write the A-label"),
            ("orders:80", "under `ports`"),
            ("*.shop:80", "under `ports`"),
            ("https://orders.shop", "no scheme"),
            ("orders.shop/a", "no scheme"),
            ("user@orders", "no scheme"),
            ("*", "exactly one label"),
            ("*.*", "exactly one label"),
            ("*.*.shop", "exactly one label"),
            ("a.*.shop", "exactly one label"),
            ("*shop", "exactly one label"),
            ("o*.shop", "exactly one label"),
            ("*.", "not a host name"),
            ("", "not a host name"),
            (".", "not a host name"),
            ("a..b", "not a host name"),
            ("a b", "not a host name"),
            ("a\nb", "a\\nb"),
        ] {
            let error = HostPattern::parse(pattern).unwrap_err();
            assert!(error.contains(message), "{pattern}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn normalizing_is_idempotent(authority in prop_oneof!["[a-zA-Z0-9_.:-]{0,12}", "\\[[0-9a-fA-F:.]{0,12}\\](:[0-9]{1,5})?", "\\PC{0,8}"]) {
            if let Some((host, _)) = normalize(&authority) {
                prop_assert_eq!(normal(&host), Some((host.clone().into_owned(), None)));
                prop_assert!(!host.ends_with('.') && !host.bytes().any(|byte| byte.is_ascii_uppercase()));
            }
        }

        #[test]
        fn no_pattern_matches_an_address(pattern in prop_oneof!["(\\*\\.)?[0-9a-fx]{1,4}(\\.[0-9a-fx]{1,3}){0,3}", "[a-f0-9.x]{1,15}"], address: std::net::IpAddr) {
            if let Ok(pattern) = HostPattern::parse(&pattern) {
                prop_assert!(!pattern.matches(&address.to_string()));
                prop_assert!(pattern.as_str().parse::<std::net::Ipv4Addr>().is_err());
            }
        }

        #[test]
        fn an_exact_pattern_matches_the_host_it_was_written_as(name in "[A-Za-z][A-Za-z0-9_-]{0,8}(\\.[A-Za-z][A-Za-z0-9-]{0,8}){0,3}\\.?") {
            let (host, _) = normalize(&name).unwrap();
            prop_assert!(HostPattern::parse(&name).unwrap().matches(&host));
            let wildcard = HostPattern::parse(&format!("*.{name}")).unwrap();
            prop_assert!(!wildcard.matches(&host));
            let below = format!("x.{host}");
            prop_assert!(wildcard.matches(&below));
        }
    }
}
