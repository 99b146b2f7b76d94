//! What do we ask a token endpoint, and what does its answer mean? One grant, one proof of who we are; the answer is read
//! strictly: what is not exactly what RFC 6749 §5.1 says is no token.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_policy::snapshot::{TokenBinding, TokenRequest};
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use zeroize::Zeroize;

use crate::auth::tokens::client::Proof;
use crate::auth::tokens::exchange::Subject;
use crate::auth::tokens::failure::{Cause, Failure};
use crate::auth::tokens::form::Form;
use crate::auth::tokens::http_date;
use crate::auth::tokens::lifetime::DEFAULT_LIFE;
use crate::auth::tokens::secret::Secret;

/// Of an access token, in bytes: more does not fit into a header field anywhere.
pub(crate) const LONGEST_TOKEN: usize = 16 * 1024;

/// Types of tokens (RFC 8693 §3).
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// What a token is asked for with.
#[derive(Debug)]
pub(crate) enum Grant {
    /// RFC 6749 §4.4.
    ClientCredentials,
    /// RFC 7523 §2.1.
    JwtBearer { assertion: Secret },
    /// RFC 8693 §2.1.
    TokenExchange { subject: Arc<Subject> },
}

/// A token as it was granted.
#[derive(Debug)]
pub(crate) struct Granted {
    pub access_token: Secret,
    /// From when the request was sent.
    pub life: Duration,
    /// What was granted, where that is less than was asked for (RFC 6749 §3.3).
    pub narrowed: Option<Vec<String>>,
}

/// The token request (RFC 6749 §4.4.2, RFC 8707 §2). The endpoint keeps its query. No parameter goes twice: the names that
/// are ours cannot be written as `parameters` in policy (RFC 6749 §3.2).
pub(crate) fn request(
    endpoint: &str,
    asked: &TokenRequest,
    grant: &Grant,
    proof: Proof,
) -> Result<Request<Bytes>, Failure> {
    if endpoint.contains('#') {
        return Err(Failure::new(Cause::Address, "the token endpoint's URL has a fragment; remove it"));
    }
    let request = Request::builder()
        .method(Method::POST)
        .uri(endpoint)
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(ACCEPT, "application/json");
    let mut form = Form::with_room_for(grant.token().len());
    match grant {
        Grant::ClientCredentials => form.add("grant_type", "client_credentials"),
        Grant::JwtBearer { assertion } => {
            form.add("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer");
            form.add("assertion", assertion.expose());
        }
        Grant::TokenExchange { subject } => {
            form.add("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange");
            form.add("subject_token", subject.token());
            form.add("subject_token_type", ACCESS_TOKEN);
            form.add("requested_token_type", ACCESS_TOKEN);
        }
    }
    form.add("scope", &asked.scopes.join(" "));
    form.add("audience", asked.audience.as_deref().unwrap_or_default());
    form.add("resource", asked.resource.as_deref().unwrap_or_default());
    for (name, value) in &asked.parameters {
        form.add(name, value);
    }
    let mut headers = HeaderMap::new();
    proof.put(&mut form, &mut headers);
    let mut request = request
        .body(form.into_bytes())
        .map_err(|_| Failure::new(Cause::Address, "the token endpoint's URL is not valid"))?;
    request.headers_mut().extend(headers);
    Ok(request)
}

// === impl Grant ===

impl Grant {
    /// What goes into the request; nothing where the client asks for itself.
    fn token(&self) -> &str {
        match self {
            Self::ClientCredentials => "",
            Self::JwtBearer { assertion } => assertion.expose(),
            Self::TokenExchange { subject } => subject.token(),
        }
    }

    /// With these codes an issuer refuses the token that was to be exchanged (RFC 8693 §2.2.2; `invalid_grant` is what many
    /// write, by RFC 6749 §5.2). The first is also for a malformed request, which ours is not.
    fn blame(&self, failure: Failure) -> Failure {
        match (self, failure.cause) {
            (Self::TokenExchange { .. }, Cause::InvalidRequest | Cause::InvalidGrant) => Failure {
                cause: Cause::Subject,
                text: format!(
                    "the issuer does not exchange the application's token: it answered {}",
                    failure.cause.as_str()
                ),
                ..failure
            },
            _ => failure,
        }
    }
}

/// What the issuer answered.
pub(crate) fn read(
    answer: Response<Bytes>,
    asked: &TokenRequest,
    by: &Grant,
    now: i64,
) -> Result<Granted, Failure> {
    let (head, body) = answer.into_parts();
    let grant = match head.status {
        StatusCode::OK => granted(&body, asked, by),
        status => Err(by.blame(refused(status, &head.headers, &body, now))),
    };
    if let Ok(mut body) = body.try_into_mut() {
        body.as_mut().zeroize();
    }
    grant
}

/// RFC 6749 §5.1. Members that are not ours are ignored, ours may stand there once.
#[derive(Deserialize)]
struct Answer {
    access_token: Option<Secret>,
    token_type: Option<String>,
    expires_in: Option<ExpiresIn>,
    scope: Option<String>,
    /// RFC 8693 §2.2.1.
    issued_token_type: Option<String>,
}

fn granted(body: &[u8], asked: &TokenRequest, by: &Grant) -> Result<Granted, Failure> {
    // serde reads a struct from an array too.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Failure::malformed("it is not a JSON object"));
    }
    // The parser's own text would repeat what it read.
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|_| Failure::malformed("it is not JSON, or a member is repeated or of the wrong type"))?;
    let token = answer.access_token.ok_or_else(|| Failure::malformed("it has no access_token"))?;
    check_type(answer.token_type.as_deref(), &asked.binding)?;
    if matches!(by, Grant::TokenExchange { .. }) {
        check_issued_type(answer.issued_token_type.as_deref())?;
    }
    if token.expose().len() > LONGEST_TOKEN {
        return Err(Failure::malformed("its access_token is longer than 16 KiB"));
    }
    if !is_b64token(token.expose()) {
        return Err(Failure::malformed(
            "its access_token has characters that a token in a header field cannot have",
        ));
    }
    let life = answer.expires_in.map_or(DEFAULT_LIFE, |expires_in| expires_in.0);
    if life.is_zero() {
        return Err(Failure::new(Cause::Expired, "the token had expired when it arrived"));
    }
    Ok(Granted {
        access_token: token,
        life,
        narrowed: answer.scope.and_then(|scope| narrowed(&scope, &asked.scopes)),
    })
}

/// A token of the type that was asked for, and of no other (RFC 6749 §7.1): what is not bound to our key is of use to whoever
/// gets hold of it (RFC 9449 §5).
fn check_type(kind: Option<&str>, binding: &TokenBinding) -> Result<(), Failure> {
    let Some(kind) = kind else {
        return Err(Failure::new(Cause::TokenType, "the issuer's answer has no token_type"));
    };
    let (is_bearer, is_bound) = (kind.eq_ignore_ascii_case("Bearer"), kind.eq_ignore_ascii_case("DPoP"));
    match binding {
        TokenBinding::Key if is_bound => Ok(()),
        TokenBinding::None | TokenBinding::Certificate(_) if is_bearer => Ok(()),
        TokenBinding::Key if is_bearer => Err(Failure::new(
            Cause::TokenType,
            "the issuer granted a bearer token, which is not bound to our key: turn on DPoP for the client there, or remove \
             `binding: dpop` from the rule",
        )),
        TokenBinding::Key => Err(Failure::new(
            Cause::TokenType,
            "the issuer grants tokens of another type than DPoP, which `binding: dpop` asks for",
        )),
        TokenBinding::None | TokenBinding::Certificate(_) => {
            Err(Failure::new(Cause::TokenType, "the issuer grants tokens of another type than Bearer"))
        }
    }
}

/// An exchange may bring what is no access token, whatever its `token_type` (RFC 8693 §2.2.1, §3).
fn check_issued_type(issued: Option<&str>) -> Result<(), Failure> {
    match issued {
        Some(ACCESS_TOKEN | JWT) => Ok(()),
        Some(_) => {
            Err(Failure::new(Cause::TokenType, "the issuer exchanges for another kind than an access token"))
        }
        None => Err(Failure::new(Cause::TokenType, "the issuer's answer has no issued_token_type")),
    }
}

/// RFC 6750 §2.1, and RFC 9449 §7.1 alike.
fn is_b64token(token: &str) -> bool {
    let body = token.trim_end_matches('=');
    !body.is_empty() && body.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte))
}

fn narrowed(granted: &str, asked: &[String]) -> Option<Vec<String>> {
    let granted: Vec<&str> = granted.split(' ').filter(|scope| !scope.is_empty()).collect();
    if asked.iter().all(|scope| granted.contains(&scope.as_str())) {
        return None;
    }
    // Only what was asked for: the rest is the issuer's text, and nothing of ours.
    Some(asked.iter().filter(|scope| granted.contains(&scope.as_str())).cloned().collect())
}

/// RFC 6749 §5.2.
pub(crate) fn refused(status: StatusCode, headers: &HeaderMap, body: &[u8], now: i64) -> Failure {
    let mut failure = if status.is_redirection() {
        Failure::new(Cause::Redirect, "the endpoint redirects, which is never followed; name the final URL")
    } else if status == StatusCode::TOO_MANY_REQUESTS {
        Failure::new(Cause::RateLimited, "the issuer asks for fewer requests (429)")
    } else if status.is_server_error() {
        Failure::new(Cause::ServerError, format!("the issuer failed with {}", status.as_u16()))
    } else if status.is_client_error() {
        rejected(status, body)
    } else {
        Failure::new(
            Cause::Malformed,
            format!("the issuer answered {}, which is no answer to it", status.as_u16()),
        )
    };
    failure.retry_after = headers.get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, now));
    failure
}

fn rejected(status: StatusCode, body: &[u8]) -> Failure {
    let error = error_code(body);
    // A 401 without a code is one all the same: the client was not authenticated.
    let error = error.or_else(|| (status == StatusCode::UNAUTHORIZED).then(|| "invalid_client".to_owned()));
    match error.as_deref().and_then(Cause::of_error) {
        Some((cause, advice)) => {
            Failure::new(cause, format!("the issuer answered {}: {advice}", cause.as_str()))
        }
        None => Failure::new(
            Cause::Rejected,
            format!("the issuer refused with {} and no known error", status.as_u16()),
        ),
    }
}

fn error_code(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    serde_json::from_slice::<Refusal>(body).ok().map(|refusal| refusal.error)
}

/// Is this a refusal that demands the issuer's nonce in the proof (RFC 9449 §8)?
pub(crate) fn demands_nonce(answer: &Response<Bytes>) -> bool {
    matches!(answer.status(), StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED)
        && error_code(answer.body()).as_deref() == Some(Cause::UseDpopNonce.as_str())
}

/// Seconds or an HTTP date (RFC 9110 §10.2.3).
fn retry_after(value: &str, now: i64) -> Option<Duration> {
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let at = http_date::parse(value)?;
    Some(Duration::from_secs(u64::try_from(at.saturating_sub(now)).unwrap_or(0)))
}

/// A number of seconds. Some servers write it as a string of digits, which is as clear; nothing else is.
struct ExpiresIn(Duration);

impl<'de> Deserialize<'de> for ExpiresIn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seconds;

        impl Visitor<'_> for Seconds {
            type Value = ExpiresIn;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<ExpiresIn, E> {
                Ok(ExpiresIn(Duration::from_secs(value)))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<ExpiresIn, E> {
                // Below zero: expired when it arrived.
                Ok(ExpiresIn(Duration::from_secs(u64::try_from(value).unwrap_or(0))))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<ExpiresIn, E> {
                Ok(ExpiresIn(Duration::try_from_secs_f64(value.max(0.0)).unwrap_or(Duration::MAX)))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<ExpiresIn, E> {
                let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
                let seconds = value.parse().ok().filter(|_| digits);
                seconds
                    .map(|seconds| ExpiresIn(Duration::from_secs(seconds)))
                    .ok_or_else(|| E::custom("no number"))
            }
        }

        deserializer.deserialize_any(Seconds)
    }
}

#[cfg(test)]
mod tests;
