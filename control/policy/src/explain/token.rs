//! What did the caller show, and does a policy accept it?

use serde::Serialize;
use serde_json::{Value, json};

use super::condition::Condition;
use super::words::{clip, list};
use crate::inbound::{Accepted, Unfit};
use crate::request::{AccessRequest, Binding, Presented, Token};

/// The token of a request. Its text, and what nobody vouched for, is not shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ShownToken {
    None,
    /// It was decided without a look at it.
    NotLookedAt,
    Refused {
        reason: &'static str,
    },
    Verified {
        issuer: String,
        audiences: Value,
        client: Option<String>,
        subject: Option<String>,
        scopes: Value,
        roles: Value,
        /// `nothing`, `certificate` or `key`.
        bound_to: &'static str,
        /// Its issuer was asked (RFC 7662).
        opaque: bool,
    },
}

// === impl ShownToken ===

impl ShownToken {
    pub(super) fn of(request: &AccessRequest<'_>, is_screened: bool) -> Self {
        match request.principal.token {
            _ if is_screened => Self::NotLookedAt,
            Presented::Nothing => Self::None,
            Presented::Rejected(reason) => Self::Refused { reason: reason.as_str() },
            Presented::Verified(token) => Self::Verified {
                issuer: clip(&token.issuer),
                audiences: list(token.audiences.iter()),
                client: token.client.as_deref().map(clip),
                subject: token.subject.as_deref().map(clip),
                scopes: list(token.scopes.iter()),
                roles: list(token.roles.iter()),
                bound_to: match token.binding {
                    Binding::None => "nothing",
                    Binding::Certificate(_) => "certificate",
                    Binding::Key(_) => "key",
                },
                opaque: token.introspected,
            },
        }
    }
}

/// Why none of these entries accepts the token, by the one that comes closest.
pub(super) fn not_accepted(tokens: &[Accepted], token: &Token) -> Condition {
    let unfit = tokens.iter().filter_map(|accepted| Some((accepted, accepted.unfit(token)?)));
    match unfit.max_by_key(|(_, unfit)| *unfit) {
        None => Condition::new("tokens", "none", "a token"),
        Some((_, Unfit::Issuer)) => {
            let issuers = list(tokens.iter().map(|accepted| &accepted.issuer));
            Condition::new("tokens.issuer", issuers, &*token.issuer)
        }
        Some((_, Unfit::Opaque)) => Condition::new("tokens.introspect", "a JWT", "an opaque token"),
        Some((accepted, Unfit::Audience)) => {
            let (expected, found) = (list(accepted.audiences.iter()), list(token.audiences.iter()));
            Condition::new("tokens.audiences", expected, found)
        }
        Some((_, Unfit::Binding)) => {
            Condition::new("tokens.binding", json!("required"), "a token that is bound to nothing")
        }
    }
}
