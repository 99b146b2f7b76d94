//! On which header fields may no decision rest? What anybody can write and others believe, and what has a word of its own
//! (security IN-23).

/// Written by proxies for those who trust them, and by callers for those who should not.
const HEARSAY: [&str; 9] = [
    "cf-connecting-ip",
    "client-ip",
    "forwarded",
    "true-client-ip",
    "user-agent",
    "via",
    "x-client-ip",
    "x-real-ip",
    "x-rewrite-url",
];
const HEARSAY_PREFIXES: [&str; 3] = ["x-forwarded-", "x-original-", "x-countersign-"];

/// Of one connection (RFC 9110 §7.6.1), or about the frame of a message.
const OF_THE_CONNECTION: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
];

/// Why no decision rests on the header of this name (lower case), and what to write instead. `None`: one may.
pub(crate) fn why_not(name: &str) -> Option<&'static str> {
    let normal = name.replace('_', "-");
    match &*normal {
        "host" => Some("is the host: write request.host"),
        "authorization" | "cookie" | "dpop" => {
            Some("is a credential: what it shows is verified first, and judged by `from` and `claims`")
        }
        name if OF_THE_CONNECTION.contains(&name) => {
            Some("is of one connection, and not judged: the application never sees it as it came")
        }
        name if HEARSAY.contains(&name) || HEARSAY_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) => {
            Some(
                "can be written by anybody, so nothing is decided by it: write source.ip, request.host or a claim",
            )
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_23_no_decision_rests_on_what_anybody_can_write() {
        for name in [
            "x-forwarded-for",
            "x_forwarded_for",
            "x-original-url",
            "user-agent",
            "x-real-ip",
            "authorization",
            "cookie",
            "host",
            "transfer-encoding",
        ] {
            assert!(why_not(name).is_some(), "{name}");
        }
        for name in ["x-tenant", "accept", "content-type", "x-forward", "origin", "forwarded-by", "upgrade"] {
            assert_eq!(why_not(name), None, "{name}");
        }
    }
}
