//! Why was a request refused? The closed list of reasons, one word each, with what the wire says for it.

use std::fmt;

/// Declares the reasons once: variant, word, HTTP status, gRPC status, one sentence for the person who reads it.
macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident $word:literal $status:literal $grpc:literal $title:literal;)*) => {
        /// A reason for refusing a request. The words are part of the product's interface.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason, in the order of the table in README.md.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// The word, as in the header `X-Countersign-Reason`, metrics and policy tests.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$variant => $word,)* }
            }

            /// The HTTP status code.
            pub fn status(self) -> u16 {
                match self { $(Reason::$variant => $status,)* }
            }

            /// The gRPC status code, for trailers-only answers.
            pub fn grpc_status(self) -> u8 {
                match self { $(Reason::$variant => $grpc,)* }
            }

            /// What it means, in one sentence without any detail of the request.
            pub fn title(self) -> &'static str {
                match self { $(Reason::$variant => $title,)* }
            }
        }
    };
}

reasons! {
    /// The caller's fault: it showed nothing.
    MissingToken "missing_token" 401 16 "A token is required";
    MalformedToken "malformed_token" 401 16 "The token is not a well-formed JWT";
    UnsupportedAlgorithm "unsupported_algorithm" 401 16 "The token is signed with an algorithm that is not accepted";
    UnknownIssuer "unknown_issuer" 401 16 "The token's issuer is not accepted here";
    UnknownKey "unknown_key" 401 16 "The token is signed with a key that its issuer does not publish";
    BadSignature "bad_signature" 401 16 "The token's signature is wrong";
    Expired "expired" 401 16 "The token has expired";
    NotYetValid "not_yet_valid" 401 16 "The token is not valid yet";
    WrongAudience "wrong_audience" 401 16 "The token is meant for another audience";
    WrongType "wrong_type" 401 16 "The token is not an access token of the expected type";
    MissingClaim "missing_claim" 401 16 "The token lacks a required claim, or a claim has the wrong type";
    Inactive "inactive" 401 16 "The token is not active";
    Revoked "revoked" 401 16 "The token has been revoked";
    BindingMismatch "binding_mismatch" 401 16 "The token is not bound to a certificate or key that the caller has shown";
    ProofInvalid "proof_invalid" 401 16 "The DPoP proof is not valid";
    ProofReplayed "proof_replayed" 401 16 "The DPoP proof has been used before";
    MultipleTokens "multiple_tokens" 400 13 "The request carries more than one credential";
    BadRequest "bad_request" 400 13 "The request is not well-formed";
    AmbiguousPath "ambiguous_path" 400 13 "The request path can be read in more than one way";
    HeadTooLarge "head_too_large" 431 13 "The request head is too large";
    UriTooLong "uri_too_long" 414 13 "The request target is too long";
    MethodNotAllowed "method_not_allowed" 405 13 "TRACE and PRI are not supported, and CONNECT only to what a rule lets pass: send http:// requests, the sidecar speaks TLS";
    UnsupportedProtocol "unsupported_protocol" 501 12 "CONNECT asks for a protocol that is not supported, or not there";
    InsufficientScope "insufficient_scope" 403 7 "The token lacks a required scope";
    NoRule "no_rule" 403 7 "No rule allows the request";
    DeniedByRule "denied_by_rule" 403 7 "A rule denies the request";
    PeerRequired "peer_required" 403 7 "A client certificate is required";
    AmbiguousDestination "ambiguous_destination" 403 7 "The destination of the request is ambiguous";
    EgressDenied "egress_denied" 403 7 "No rule names the destination, and policy denies others";
    UpstreamUnreachable "upstream_unreachable" 502 14 "The upstream could not be reached";
    UpstreamTimeout "upstream_timeout" 504 14 "The upstream did not answer in time";
    KeysUnavailable "keys_unavailable" 503 14 "The issuer's keys, or its word on the token, are not available now";
    TokenUnavailable "token_unavailable" 503 14 "No token could be obtained for the destination";
    PolicyUnavailable "policy_unavailable" 503 14 "There is no policy yet";
    Overloaded "overloaded" 503 14 "The sidecar is overloaded";
    Internal "internal" 500 13 "The sidecar failed";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What callers and dashboards rely on: words and statuses may be added to, never changed.
    const PROMISED: &[(u16, u8, &str)] = &[
        (401, 16, "missing_token"),
        (401, 16, "malformed_token unsupported_algorithm unknown_issuer unknown_key bad_signature expired"),
        (401, 16, "not_yet_valid wrong_audience wrong_type missing_claim inactive revoked binding_mismatch"),
        (401, 16, "proof_invalid proof_replayed"),
        (400, 13, "multiple_tokens bad_request ambiguous_path"),
        (431, 13, "head_too_large"),
        (414, 13, "uri_too_long"),
        (405, 13, "method_not_allowed"),
        (501, 12, "unsupported_protocol"),
        (
            403,
            7,
            "insufficient_scope no_rule denied_by_rule peer_required ambiguous_destination egress_denied",
        ),
        (502, 14, "upstream_unreachable"),
        (504, 14, "upstream_timeout"),
        (503, 14, "keys_unavailable token_unavailable policy_unavailable overloaded"),
        (500, 13, "internal"),
    ];

    #[test]
    fn every_reason_has_the_statuses_that_were_promised() {
        let promised = PROMISED
            .iter()
            .flat_map(|&(http, grpc, words)| words.split(' ').map(move |word| (word.to_owned(), http, grpc)));
        let actual = Reason::ALL.iter().map(|r| (r.to_string(), r.status(), r.grpc_status()));
        assert_eq!(actual.collect::<Vec<_>>(), promised.collect::<Vec<_>>());
    }
}
