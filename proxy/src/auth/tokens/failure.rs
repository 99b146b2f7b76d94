//! Why did a token request bring no token? A closed list, for metrics and for what is tried next. Texts hold nothing that
//! was sent or received but an error code that a standard names.

use std::fmt;
use std::time::Duration;

use crate::connect::ConnectError;
use crate::fetch::FetchError;

/// A token request that brought no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub cause: Cause,
    /// One line: what is wrong and what to do.
    pub text: String,
    /// What the issuer asked for (RFC 9110 §10.2.3).
    pub retry_after: Option<Duration>,
    /// Another request of the same exchange found it, and the issuer was not asked again.
    pub is_known: bool,
}

/// Declares every cause once: variant, label, and for an error code of the issuer what to do about it.
macro_rules! causes {
    ($($ours:ident $label:literal,)* ; $($code:ident $error:literal $advice:literal,)*) => {
        /// What went wrong; the label `cause`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Cause { $($ours,)* $($code,)* }

        impl Cause {
            pub(crate) const ALL: &[Self] = &[$(Self::$ours,)* $(Self::$code,)*];

            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Self::$ours => $label,)* $(Self::$code => $error,)* }
            }

            /// The cause for an `error` of RFC 6749 §5.2 and its extensions, with what to do; none for an unknown one.
            pub(crate) fn of_error(error: &str) -> Option<(Self, &'static str)> {
                match error { $($error => Some((Self::$code, $advice)),)* _ => None }
            }
        }
    };
}

causes! {
    // The credential's file cannot be used.
    Credential "credential",
    // The issuer's metadata names no token endpoint, or cannot be had.
    Discovery "discovery",
    // The URL or the address behind it is not allowed.
    Address "address",
    Connect "connect",
    Tls "tls",
    Timeout "timeout",
    Redirect "redirect",
    // 429.
    RateLimited "rate_limited",
    // 5xx.
    ServerError "server_error",
    // Another status, without a known error code.
    Rejected "rejected",
    // 200, and not the answer of RFC 6749 §5.1.
    Malformed "malformed",
    TokenType "token_type",
    // The token was at its end when it arrived.
    Expired "expired",
    // What was to be exchanged is refused, or at its end: the fault of who sent it (RFC 8693 §2.2.2).
    Subject "subject",
    Internal "internal",
    ;
    InvalidRequest "invalid_request" "it does not accept the form of the request: check audience, resource and parameters, and that the client secret is printable ASCII where the issuer takes no other",
    InvalidClient "invalid_client" "check the credential's clientId, its secret or key, and its method of authentication",
    InvalidGrant "invalid_grant" "check the credential's authentication",
    UnauthorizedClient "unauthorized_client" "allow the client to use this grant there",
    UnsupportedGrantType "unsupported_grant_type" "enable this grant there",
    InvalidScope "invalid_scope" "check the rule's scopes, and what the client may ask for",
    InvalidTarget "invalid_target" "check the rule's audience and resource",
    AccessDenied "access_denied" "check what the client may ask for",
    // Most often a clock, which no credential mends (RFC 9449 §5).
    InvalidDpopProof "invalid_dpop_proof" "compare the clock of this machine with the issuer's, and tokenEndpoint with the URL that it knows itself by",
    UseDpopNonce "use_dpop_nonce" "it names no nonce, or does not take the one that it has just given",
    TemporarilyUnavailable "temporarily_unavailable" "it is tried again",
}

// === impl Cause ===

impl Cause {
    /// Will it stay so until somebody mends the credential, the policy or the issuer?
    pub(crate) fn is_permanent(self) -> bool {
        matches!(
            self,
            Self::Credential
                | Self::Subject
                | Self::InvalidRequest
                | Self::InvalidClient
                | Self::InvalidGrant
                | Self::UnauthorizedClient
                | Self::UnsupportedGrantType
                | Self::InvalidScope
                | Self::InvalidTarget
                | Self::AccessDenied
        )
    }
}

// === impl Failure ===

impl Failure {
    pub(crate) fn new(cause: Cause, text: impl Into<String>) -> Self {
        Self { cause, text: text.into(), retry_after: None, is_known: false }
    }

    pub(crate) fn malformed(text: &'static str) -> Self {
        Self::new(Cause::Malformed, format!("the answer of the token endpoint is not usable: {text}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let cause = match &error {
            FetchError::Url(_) => Cause::Address,
            FetchError::Connect(error) => of_connect(error),
            FetchError::NotAsked(_) => Cause::Tls,
            FetchError::Timeout(_) => Cause::Timeout,
            FetchError::Closed => Cause::Connect,
            FetchError::TooLarge(_) | FetchError::Protocol | FetchError::Encoding => Cause::Malformed,
        };
        Self::new(cause, format!("the issuer cannot be asked: {error}"))
    }
}

fn of_connect(error: &ConnectError) -> Cause {
    match error {
        ConnectError::ForbiddenAddress { .. } | ConnectError::ServerName(_) => Cause::Address,
        ConnectError::Resolve { .. } | ConnectError::Tcp { .. } => Cause::Connect,
        ConnectError::Tls { .. } | ConnectError::CaFile | ConnectError::NoRoots | ConnectError::Setup(_) => {
            Cause::Tls
        }
    }
}
