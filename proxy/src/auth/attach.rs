//! What do we show to a destination? The outbound door: from the rule that names it to the credential that goes along.

use countersign_policy::Reason;
use countersign_policy::outbound::{ExistingAuthorization, OnFailure, OutboundRule};
use http::header::{AUTHORIZATION, HeaderMap};

use super::active::Active;
use super::credentials::DPOP;
use super::tokens::{Shown, TokenSlot};
use crate::rejection::Refusal;

/// What goes along.
#[derive(Debug)]
pub enum Attached<'a> {
    /// A token of ours.
    Token(Attachment<'a>),
    /// The application's own credential.
    Existing,
    /// Nothing: the rule asks for no token.
    Nothing,
    /// Nothing, since no token could be had and the rule says that the request goes all the same.
    Failed,
}

/// A token of ours that goes along: who keeps it, and what it shows.
#[derive(Debug)]
pub struct Attachment<'a> {
    pub slot: &'a TokenSlot,
    pub shown: Shown,
}

/// Attaches what the rule says. There is exactly one `Authorization` field afterwards, or none (security OUT-5).
pub async fn attach<'a>(
    headers: &mut HeaderMap,
    rule: &OutboundRule,
    active: &'a Active,
) -> Result<Attached<'a>, Refusal> {
    let Some(request) = rule.token else { return Ok(Attached::Nothing) };
    if headers.contains_key(AUTHORIZATION) {
        match rule.existing_authorization {
            ExistingAuthorization::Keep => return Ok(Attached::Existing),
            ExistingAuthorization::Reject => return Err(Reason::MultipleTokens.into()),
            ExistingAuthorization::Replace => {
                headers.remove(AUTHORIZATION);
                // The proof of what was there before (RFC 9449 §7.1).
                headers.remove(DPOP);
            }
        }
    }
    let slot = active.tokens.get(request.0).ok_or(Reason::Internal)?;
    let value = match slot.ready() {
        Some(value) => Ok(value),
        None => Box::pin(slot.token()).await,
    };
    match value {
        Ok(shown) => {
            headers.insert(AUTHORIZATION, shown.authorization.clone());
            Ok(Attached::Token(Attachment { slot, shown }))
        }
        Err(_) if rule.on_failure == OnFailure::Pass => Ok(Attached::Failed),
        Err(unavailable) => {
            Err(Refusal { retry_after: Some(unavailable.retry_after), ..Reason::TokenUnavailable.into() })
        }
    }
}

#[cfg(test)]
mod tests;
