//! What do we tell of the issuers that we ask about tokens? Never a token, and nothing of those whom they are about.

use crate::auth::introspect::Introspector;

/// What `/tokens` shows of an issuer that is asked about opaque tokens.
#[derive(Clone, Debug, serde::Serialize)]
pub struct IntrospectionReport {
    /// `metadata.name`.
    pub issuer: String,
    /// `namespace/name`.
    pub credential: String,
    /// Questions under way, with those that wait for their turn.
    pub in_flight: usize,
    /// Where it cannot be asked: when it is tried again.
    pub retry_in_seconds: Option<u64>,
    /// Why it could not be asked last. It stays when it answers again.
    pub last_error: Option<String>,
    pub last_error_cause: Option<&'static str>,
    /// Since the epoch.
    pub last_error_at: Option<u64>,
}

// === impl Introspector ===

impl Introspector {
    pub(super) fn report(&self) -> IntrospectionReport {
        let last = self.trouble().last.clone();
        IntrospectionReport {
            issuer: self.question.issuer.name.clone(),
            credential: self.question.credential.name.clone(),
            in_flight: self.flights.count(),
            retry_in_seconds: self.retry_after().map(|left| left.as_secs()),
            last_error_cause: last.as_ref().map(|(_, failure)| failure.cause.as_str()),
            last_error_at: last.as_ref().map(|(at, _)| at.wall.as_secs()),
            last_error: last.map(|(_, failure)| failure.text),
        }
    }
}
