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

/// Why no decision may rest on a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Untrusted {
    /// It is the host, which has a word of its own.
    Host,
    /// What it shows is verified first.
    Credential,
    /// The application never sees it as it came.
    OfTheConnection,
    /// Anybody can write it.
    Hearsay,
}

/// What keeps decisions from resting on the header of this name. `None`: one may.
pub(crate) fn why_not(name: &str) -> Option<Untrusted> {
    let normal = normal(name);
    match &*normal {
        "host" => Some(Untrusted::Host),
        "authorization" | "cookie" | "dpop" => Some(Untrusted::Credential),
        name if OF_THE_CONNECTION.contains(&name) => Some(Untrusted::OfTheConnection),
        name if HEARSAY.contains(&name) || HEARSAY_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) => {
            Some(Untrusted::Hearsay)
        }
        _ => None,
    }
}

/// Lower case, with `-` for `_`: two names that are alike so are one header to many servers.
pub(crate) fn normal(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_23_no_decision_rests_on_what_anybody_can_write() {
        for name in [
            "x-forwarded-for",
            "X_Forwarded_For",
            "x-original-url",
            "user-agent",
            "x-real-ip",
            "cf-connecting-ip",
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
