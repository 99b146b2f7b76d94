//! Why is there no token, and how is that said? The one place where a refusal becomes a response (RFC 6749 §5.2).

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, PRAGMA, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};

/// A refusal. The texts are ours, never the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The client's fault: the request is not one.
    InvalidRequest(&'static str),
    /// The client's fault: it has not shown who it is.
    InvalidClient(&'static str),
    /// The client's fault: something else than client credentials.
    UnsupportedGrantType,
    /// The client's fault: more than it may have, or no scope at all by its characters.
    InvalidScope(&'static str),
    /// The client's fault: an audience that it may not have, several, or none where it must choose (RFC 8707 §2).
    InvalidTarget(&'static str),
    /// Too many wrong secrets for this client; nothing was checked.
    Locked { retry_after: Duration },
    /// Nobody's fault: whether the assertion was used before cannot be said, and a new one is as good.
    TooEarly,
    /// The body is larger than we read.
    TooLarge,
    /// The body did not come in time.
    TooSlow,
    /// Something else than POST.
    MethodNotAllowed,
    /// Ours.
    Internal,
}

// === impl Refusal ===

impl Refusal {
    fn status(self) -> StatusCode {
        match self {
            Self::InvalidClient(_) => StatusCode::UNAUTHORIZED,
            Self::Locked { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::TooEarly => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The error code. Those of the last lines are borrowed from RFC 6749 §4.1.2.1, which names no better ones for here.
    fn code(self) -> &'static str {
        match self {
            Self::InvalidRequest(_) | Self::TooLarge | Self::TooSlow | Self::MethodNotAllowed => {
                "invalid_request"
            }
            Self::InvalidClient(_) => "invalid_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::InvalidScope(_) => "invalid_scope",
            Self::InvalidTarget(_) => "invalid_target",
            Self::Locked { .. } | Self::TooEarly => "temporarily_unavailable",
            Self::Internal => "server_error",
        }
    }

    pub(super) fn description(self) -> &'static str {
        match self {
            Self::InvalidRequest(text)
            | Self::InvalidClient(text)
            | Self::InvalidScope(text)
            | Self::InvalidTarget(text) => text,
            Self::UnsupportedGrantType => "only client_credentials is offered",
            Self::Locked { .. } => "too many failed authentications of this client; wait",
            Self::TooEarly => {
                "the client assertion was made in the second in which this issuer started; make another"
            }
            Self::TooLarge => "the body is too large",
            Self::TooSlow => "the body did not come in time",
            Self::MethodNotAllowed => "the token endpoint takes POST alone",
            Self::Internal => "the token could not be made",
        }
    }

    /// The answer. `realm` is the issuer identifier.
    pub(super) fn answer(self, realm: &str) -> Response {
        let body = serde_json::json!({ "error": self.code(), "error_description": self.description() });
        let mut response = (self.status(), body.to_string()).into_response();
        let headers = response.headers_mut();
        json_not_stored(headers);
        match self {
            // HTTP demands a challenge with each 401 (RFC 9110 §15.5.2), and Basic is the scheme that we offer.
            Self::InvalidClient(_) => {
                if let Ok(challenge) =
                    HeaderValue::from_str(&format!("Basic realm=\"{realm}\", charset=\"UTF-8\""))
                {
                    headers.insert(WWW_AUTHENTICATE, challenge);
                }
            }
            Self::Locked { retry_after } => {
                let whole_seconds = retry_after.as_millis().div_ceil(1000).max(1);
                if let Ok(seconds) = HeaderValue::from_str(&whole_seconds.to_string()) {
                    headers.insert(RETRY_AFTER, seconds);
                }
            }
            Self::TooEarly => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::MethodNotAllowed => {
                headers.insert(ALLOW, HeaderValue::from_static("POST"));
            }
            _ => {}
        }
        response
    }
}

/// Headers of every answer of the token endpoint (RFC 6749 §5.1).
pub(super) fn json_not_stored(headers: &mut HeaderMap) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
}
