//! What does `/tokens` tell of a slot? Everything but the token.

use std::time::Duration;

use countersign_policy::snapshot::{Authentication, TokenBinding, WorkloadTokenUse};

use crate::auth::tokens::slot::TokenSlot;
use crate::auth::tokens::source::TokenSource;

/// What `/tokens` shows of a slot. Never the token. Points in time are seconds since the epoch.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TokenReport {
    /// `namespace/name`.
    pub credential: String,
    /// `metadata.name`.
    pub issuer: String,
    /// `client_credentials` or `jwt_bearer`.
    pub grant: &'static str,
    /// `client_secret_basic`, `client_secret_post`, `private_key_jwt`, `tls_client_auth`, or `workload_token`.
    pub authentication: &'static str,
    /// What the token is bound to: `none`, `mtls` (our certificate) or `dpop` (a key of ours).
    pub binding: &'static str,
    /// Thumbprint of the key that it is bound to by DPoP: its `cnf.jkt` (RFC 9449 §6.1).
    pub key_thumbprint: Option<String>,
    pub scopes: Vec<String>,
    /// What was granted, where that is less.
    pub granted_scopes: Option<Vec<String>>,
    pub audience: Option<String>,
    pub resource: Option<String>,
    /// `fresh`, `refresh_due` (good, and another is fetched), `pending` (the first is fetched), `unavailable`, or `idle`
    /// (unused for a lifetime).
    pub state: &'static str,
    /// Since the token was asked for.
    pub age_seconds: Option<i64>,
    pub expires_at: Option<i64>,
    pub expires_in_seconds: Option<i64>,
    /// When the next token is fetched. Below zero: it is due.
    pub refresh_in_seconds: Option<i64>,
    /// Why the last token request that failed did so. It stays when tokens come again.
    pub last_error: Option<String>,
    /// The same, as the label `cause` of `countersign_token_fetch_failures_total`.
    pub last_error_cause: Option<&'static str>,
    pub last_error_at: Option<i64>,
    /// When the next request may go out after a failure.
    pub retry_in_seconds: Option<i64>,
    pub in_flight: bool,
    /// Token requests so far that brought a token.
    pub fetched: u64,
    /// Token requests so far that brought none.
    pub failed: u64,
    /// Callers that shared another's request, so far.
    pub coalesced: u64,
    /// Callers that wait for a token right now.
    pub waiting: usize,
    /// The issuer's clock less ours, as its last answer to a token request told; none before there was one.
    pub clock_skew_seconds: Option<i64>,
}

// === impl TokenReport ===

impl TokenReport {
    pub(crate) fn of(slot: &TokenSlot) -> Self {
        let TokenSource { services, issuer, credential, request, endpoint, key, .. } = slot.source();
        let status = slot.status();
        let held = status.held.as_deref();
        let age = held.map(|held| seconds(held.sent.elapsed(&services.clock)));
        let until = |limit: Option<Duration>| Some(seconds(limit?).saturating_sub(age?));
        let last_error = status.last_error;
        Self {
            credential: credential.name.clone(),
            issuer: issuer.name.clone(),
            grant: grant(&credential.authentication),
            authentication: authentication(&credential.authentication),
            binding: binding(&request.binding),
            key_thumbprint: key.as_ref().map(|key| key.thumbprint().to_owned()),
            scopes: request.scopes.clone(),
            granted_scopes: held.and_then(|held| held.narrowed.clone()),
            audience: request.audience.clone(),
            resource: request.resource.clone(),
            state: status.state,
            age_seconds: age,
            expires_at: held.map(|held| seconds(held.sent.wall.saturating_add(held.lifetime.life))),
            expires_in_seconds: until(held.map(|held| held.lifetime.life)),
            refresh_in_seconds: until(held.map(|held| held.lifetime.soft)),
            last_error_cause: last_error.as_ref().map(|error| error.failure.cause.as_str()),
            last_error_at: last_error.as_ref().map(|error| seconds(error.at.wall)),
            last_error: last_error.map(|error| error.failure.text),
            retry_in_seconds: status.retry_in.map(seconds),
            in_flight: status.in_flight,
            fetched: status.fetched,
            failed: status.failed,
            coalesced: status.coalesced,
            waiting: status.waiting,
            clock_skew_seconds: endpoint.skew.seconds(),
        }
    }
}

fn grant(authentication: &Authentication) -> &'static str {
    match authentication {
        Authentication::WorkloadToken { usage: WorkloadTokenUse::AuthorizationGrant, .. } => "jwt_bearer",
        _ => "client_credentials",
    }
}

/// The names of the registry of OAuth Token Endpoint Authentication Methods, where there is one.
fn authentication(authentication: &Authentication) -> &'static str {
    match authentication {
        Authentication::ClientSecretBasic { .. } => "client_secret_basic",
        Authentication::ClientSecretPost { .. } => "client_secret_post",
        Authentication::PrivateKeyJwt { .. } => "private_key_jwt",
        Authentication::TlsClientAuth(_) => "tls_client_auth",
        Authentication::WorkloadToken { .. } => "workload_token",
    }
}

fn binding(binding: &TokenBinding) -> &'static str {
    match binding {
        TokenBinding::None => "none",
        TokenBinding::Certificate(_) => "mtls",
        TokenBinding::Key => "dpop",
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
