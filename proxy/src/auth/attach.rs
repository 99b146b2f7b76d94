//! What do we show to a destination? The outbound door: from the rule that names it to the credential that goes along.

use std::ops::Deref;
use std::sync::Arc;

use countersign_policy::Reason;
use countersign_policy::outbound::{ExistingAuthorization, OnFailure, OutboundRule};
use http::header::{AUTHORIZATION, HeaderMap};

use super::active::Active;
use super::credentials::{self, DPOP, Shown as Credential};
use super::tokens::{LONGEST_TOKEN, Shown, TokenSlot, Unavailable};
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
    pub slot: Keeping<'a>,
    pub shown: Shown,
}

/// The slot that keeps a token.
#[derive(Debug)]
pub enum Keeping<'a> {
    /// The workload's own.
    Own(&'a TokenSlot),
    /// What the application's was exchanged for. It may be forgotten while the request is under way.
    Exchanged(Arc<TokenSlot>),
}

/// Attaches what the rule says. There is exactly one `Authorization` field afterwards, or none (security OUT-5). `query` is
/// the request's.
pub async fn attach<'a>(
    headers: &mut HeaderMap,
    query: Option<&str>,
    rule: &OutboundRule,
    active: &'a Active,
) -> Result<Attached<'a>, Refusal> {
    if let Some(exchange) = rule.exchange {
        let exchange = active.exchanges.get(exchange.0).ok_or(Reason::Internal)?;
        if let Some(token) = subject(headers, query)? {
            let slot = exchange.slot(token);
            // Whatever becomes of it, the application's token goes no further.
            headers.remove(AUTHORIZATION);
            headers.remove(DPOP);
            let slot = slot.map_err(|unavailable| refusal(&unavailable))?;
            return show(headers, Keeping::Exchanged(slot), rule).await;
        }
        if rule.token.is_none() {
            return Err(Reason::MissingToken.into());
        }
    }
    let Some(request) = rule.token else { return Ok(Attached::Nothing) };
    // One in the query is a credential too, and cannot be taken out of what the application asks for.
    let in_query = credentials::in_query(query);
    if in_query || headers.contains_key(AUTHORIZATION) {
        match rule.existing_authorization {
            ExistingAuthorization::Keep => return Ok(Attached::Existing),
            ExistingAuthorization::Replace if !in_query => drop(headers.remove(AUTHORIZATION)),
            ExistingAuthorization::Replace | ExistingAuthorization::Reject => {
                return Err(Reason::MultipleTokens.into());
            }
        }
    }
    let slot = active.tokens.get(request.0).ok_or(Reason::Internal)?;
    show(headers, Keeping::Own(slot), rule).await
}

/// The token to exchange: the one bearer token of the request. A credential of another kind is none, and must not be mistaken
/// for nothing at all.
fn subject<'h>(headers: &'h HeaderMap, query: Option<&str>) -> Result<Option<&'h str>, Reason> {
    match credentials::read(headers, query)? {
        Credential::Bearer(token) if token.len() <= LONGEST_TOKEN => Ok(Some(token)),
        Credential::Nothing if !headers.contains_key(AUTHORIZATION) => Ok(None),
        Credential::Bearer(_) | Credential::Dpop { .. } | Credential::Nothing => Err(Reason::MalformedToken),
    }
}

/// Puts the slot's token into the request.
async fn show<'a>(
    headers: &mut HeaderMap,
    slot: Keeping<'a>,
    rule: &OutboundRule,
) -> Result<Attached<'a>, Refusal> {
    let value = match slot.ready() {
        Some(value) => Ok(value),
        None => Box::pin(slot.token()).await,
    };
    match value {
        Ok(shown) => {
            headers.insert(AUTHORIZATION, shown.authorization.clone());
            // Whatever the application proves, it is not this token (RFC 9449 §7.1).
            headers.remove(DPOP);
            Ok(Attached::Token(Attachment { slot, shown }))
        }
        // That the issuer refuses the application's token is its answer, and no failure.
        Err(unavailable) if rule.on_failure == OnFailure::Pass && !unavailable.subject_refused => {
            Ok(Attached::Failed)
        }
        Err(unavailable) => Err(refusal(&unavailable)),
    }
}

fn refusal(unavailable: &Unavailable) -> Refusal {
    let retry_after = (!unavailable.subject_refused).then_some(unavailable.retry_after);
    Refusal { retry_after, ..unavailable.reason().into() }
}

// === impl Keeping ===

impl Deref for Keeping<'_> {
    type Target = TokenSlot;

    fn deref(&self) -> &TokenSlot {
        match self {
            Self::Own(slot) => slot,
            Self::Exchanged(slot) => slot,
        }
    }
}

#[cfg(test)]
mod tests;
