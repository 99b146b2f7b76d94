//! What is served under which path? The token endpoint from first byte to answer, the key set, and the metadata.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::LengthLimitError;

use super::answer::{Refusal, json_not_stored};
use super::authenticate::authenticate;
use super::form::Form;
use super::grant::{self, Grant};
use super::public_key::ASSERTION_ALGORITHMS;
use super::{Issuer, now};
use crate::server::Caller;

/// Of a token request's body, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// For a token request's body to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn router(issuer: Issuer) -> Router {
    let metadata_path = issuer.0.url.metadata_path.clone();
    Router::new()
        .route("/oauth2/token", any(token))
        .route("/oauth2/jwks", get(jwks))
        .route(&metadata_path, get(metadata))
        .with_state(issuer)
}

// === the token endpoint ===

async fn token(State(issuer): State<Issuer>, request: Request<Body>) -> Response {
    match answer(&issuer, request).await {
        Ok(response) => response,
        Err(refusal) => {
            tracing::debug!(reason = refusal.description(), "no token");
            refusal.answer(&issuer.0.url.identifier)
        }
    }
}

/// One token request: read, who asks, what for, signed.
async fn answer(issuer: &Issuer, request: Request<Body>) -> Result<Response, Refusal> {
    if request.method() != Method::POST {
        return Err(Refusal::MethodNotAllowed);
    }
    let (head, body) = request.into_parts();
    // Read before anything is judged: over HTTP/2 some clients lose an answer that comes before they have ended.
    let body = read(body).await?;
    check_content_type(&head.headers)?;
    let form = Form::parse(&body)?;

    let now = now();
    let clients = issuer.0.clients.load_full();
    let source = head.extensions.get::<Caller>().map(|caller| caller.0);
    let client = authenticate(&issuer.0, &clients, &head.headers, &form, source, now)?;
    let grant = Grant::judge(client, &form)?;

    let keys = issuer.0.keys.load_full();
    let lifetime = issuer.0.options.token_lifetime;
    let token = grant::mint(&issuer.0.url, client, &grant, keys.signing(now), now, lifetime)?;
    tracing::info!(client = client.id(), audience = grant.audience, scope = grant.scope, "token issued");
    Ok(granted(token, &grant, lifetime))
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Ok(());
    }
    Err(Refusal::InvalidRequest("the body must be application/x-www-form-urlencoded"))
}

async fn read(body: Body) -> Result<Bytes, Refusal> {
    let read = tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, MAX_BODY));
    let Ok(read) = read.await else { return Err(Refusal::TooSlow) };
    read.map_err(|error| {
        let too_large =
            std::error::Error::source(&error).is_some_and(|source| source.is::<LengthLimitError>());
        if too_large { Refusal::TooLarge } else { Refusal::InvalidRequest("the body could not be read") }
    })
}

/// RFC 6749 §5.1. The scope is always said: the client need not compare.
fn granted(token: String, grant: &Grant, lifetime: Duration) -> Response {
    let mut body = serde_json::json!({
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": lifetime.as_secs(),
    });
    if let (Some(scope), Some(members)) = (&grant.scope, body.as_object_mut()) {
        members.insert("scope".to_owned(), scope.as_str().into());
    }
    let mut response = body.to_string().into_response();
    json_not_stored(response.headers_mut());
    response
}

// === key set and metadata ===

async fn jwks(State(issuer): State<Issuer>, headers: HeaderMap) -> Response {
    let keys = issuer.0.keys.load();
    // Asked again within half the time that a key waits, a verifier always has it before it signs.
    let max_age = (issuer.0.options.publish_ahead / 2).as_secs();
    cacheable("application/jwk-set+json", keys.jwks(), keys.etag(), max_age, &headers)
}

async fn metadata(State(issuer): State<Issuer>, headers: HeaderMap) -> Response {
    let url = &issuer.0.url;
    let document = serde_json::json!({
        "issuer": url.identifier,
        "token_endpoint": url.token_endpoint,
        "jwks_uri": url.jwks_uri,
        "grant_types_supported": ["client_credentials"],
        // There is no authorization endpoint; RFC 8414 §2 demands the member all the same.
        "response_types_supported": [],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": ASSERTION_ALGORITHMS,
    });
    let body = Bytes::from(document.to_string());
    let etag = super::keyring::etag(&body);
    cacheable("application/json", &body, &etag, 300, &headers)
}

/// A document with a validator: 304 when the asker has it already (RFC 9110 §13.1.2).
fn cacheable(
    media_type: &'static str,
    body: &Bytes,
    etag: &str,
    max_age: u64,
    asked: &HeaderMap,
) -> Response {
    let known = asked.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let is_known = known
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag);
    let mut response = match is_known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => body.clone().into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    if let Ok(value) = HeaderValue::from_str(etag) {
        headers.insert(ETAG, value);
    }
    if let Ok(value) = HeaderValue::from_str(&format!("public, max-age={max_age}")) {
        headers.insert(CACHE_CONTROL, value);
    }
    response
}
