//! What does the client get? Scope and audience by its entry, and the token that says so (RFC 9068 §2).

use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::answer::Refusal;
use super::client::{Client, is_scope};
use super::form::Form;
use super::options::IssuerUrl;
use super::signing_key::SigningKey;

/// What was granted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// Space-delimited (RFC 6749 §3.3); none for a client without scopes.
    pub(super) scope: Option<String>,
    pub(super) audience: String,
}

// === impl Grant ===

impl Grant {
    pub(super) fn judge(client: &Client, form: &Form) -> Result<Self, Refusal> {
        match form.grant_type.as_deref() {
            None => return Err(Refusal::InvalidRequest("grant_type is missing")),
            Some("client_credentials") => {}
            Some(_) => return Err(Refusal::UnsupportedGrantType),
        }
        Ok(Self { scope: scope(client, form)?, audience: audience(client, form)? })
    }
}

/// Omitted: all that the client may have. Asked: that, or nothing at all.
fn scope(client: &Client, form: &Form) -> Result<Option<String>, Refusal> {
    let Some(asked) = &form.scope else {
        let all = client.scopes().join(" ");
        return Ok((!all.is_empty()).then_some(all));
    };
    let mut granted: Vec<&str> = Vec::new();
    for token in asked.split(' ') {
        if !is_scope(token) {
            return Err(Refusal::InvalidScope("scope is not a list of tokens, each separated by one space"));
        }
        if !client.scopes().iter().any(|allowed| allowed == token) {
            return Err(Refusal::InvalidScope("the client may not have every scope that it asks for"));
        }
        if !granted.contains(&token) {
            granted.push(token);
        }
    }
    Ok(Some(granted.join(" ")))
}

/// One audience for a token (RFC 9700 §2.3): the one asked for, or the client's only one.
fn audience(client: &Client, form: &Form) -> Result<String, Refusal> {
    let asked = match form.targets.as_slice() {
        [] => match client.audiences() {
            [only] => return Ok(only.clone()),
            _ => {
                return Err(Refusal::InvalidTarget("the client has several audiences: name one as resource"));
            }
        },
        [first, rest @ ..] if rest.iter().all(|other| other == first) => first,
        _ => return Err(Refusal::InvalidTarget("a token has one audience: ask for one at a time")),
    };
    if !client.audiences().contains(asked) {
        return Err(Refusal::InvalidTarget("the client may not have this audience"));
    }
    Ok(asked.clone())
}

/// A signed access token.
pub(super) fn mint(
    url: &IssuerUrl,
    client: &Client,
    grant: &Grant,
    key: &SigningKey,
    now: Duration,
    lifetime: Duration,
) -> Result<String, Refusal> {
    let mut jti = [0; 20];
    rand::fill(&mut jti).map_err(|_| Refusal::Internal)?;
    // The client's own claims first: should one ever bear a registered name, ours wins.
    let mut claims = client.claims().clone();
    claims.insert("iss".into(), url.identifier.as_str().into());
    claims.insert("sub".into(), client.id().into());
    claims.insert("client_id".into(), client.id().into());
    claims.insert("aud".into(), grant.audience.as_str().into());
    claims.insert("iat".into(), now.as_secs().into());
    claims.insert("exp".into(), now.as_secs().saturating_add(lifetime.as_secs()).into());
    claims.insert("jti".into(), URL_SAFE_NO_PAD.encode(jti).into());
    if let Some(scope) = &grant.scope {
        claims.insert("scope".into(), scope.as_str().into());
    }
    key.sign_access_token(&Value::Object(claims)).map_err(|error| {
        tracing::error!(%error, "signing failed");
        Refusal::Internal
    })
}
