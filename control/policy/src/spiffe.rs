//! Is this a SPIFFE ID? The grammar of SPIFFE-ID §2, for `sub` of a JWT-SVID, certificates and rules.

/// Longest SPIFFE ID, in bytes (SPIFFE-ID §2.3).
const MAX_ID: usize = 2048;
/// Longest trust domain name, in bytes (SPIFFE-ID §2.1).
const MAX_TRUST_DOMAIN: usize = 255;

/// Is `text` a valid SPIFFE ID: `spiffe://`, a trust domain in lower case, and a path without empty or dot segments and
/// without a trailing slash? Nothing is normalised; no port, user, query or escape is allowed.
pub fn is_id(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("spiffe://") else { return false };
    let mut parts = rest.split('/');
    text.len() <= MAX_ID && parts.next().is_some_and(is_trust_domain) && parts.all(is_segment)
}

/// Does a SPIFFE ID name a workload, rather than its trust domain alone?
pub fn has_path(id: &str) -> bool {
    id.strip_prefix("spiffe://").is_some_and(|rest| rest.contains('/'))
}

fn is_trust_domain(name: &str) -> bool {
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_');
    (1..=MAX_TRUST_DOMAIN).contains(&name.len()) && name.bytes().all(plain)
}

fn is_segment(segment: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !matches!(segment, "" | "." | "..") && segment.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_ids() {
        for id in [
            "spiffe://cluster.local/ns/shop/sa/orders",
            "spiffe://a",
            "spiffe://a-b_c.d/X.y-z_0",
            "spiffe://1/...",
        ] {
            assert!(is_id(id), "{id}");
        }
        assert!(is_id(&format!("spiffe://{}/a", "d".repeat(255))));
    }

    #[test]
    fn invalid_ids() {
        for id in [
            "",
            "spiffe:",
            "spiffe://",
            "spiffe:///a",
            "spiffe://a/",
            "spiffe://a//b",
            "spiffe://a/./b",
            "spiffe://a/..",
            "spiffe://A/b",
            "SPIFFE://a/b",
            "https://a/b",
            "spiffe://a:80/b",
            "spiffe://u@a/b",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a/%62",
            "spiffe://a/b ",
            " spiffe://a/b",
            "spiffe://a/ü",
            "spiffe://ü/a",
            "spiffe://a/b\n",
            "system:serviceaccount:shop:orders",
        ] {
            assert!(!is_id(id), "{id:?}");
        }
        assert!(!is_id(&format!("spiffe://{}/a", "d".repeat(256))));
        assert!(!is_id(&format!("spiffe://a/{}", "b".repeat(2048))));
    }
}
