//! What is said of one request or connection, in the access log and by `/explain`?

use std::net::IpAddr;

use serde::Serialize;

use super::{Direction, Outcome, Protocol};
use crate::rejection::{Cause, Explained, Refusal};

/// One request or connection, as the access log and `/explain` show it. Never a query, header or token.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Seconds since the epoch.
    pub time: f64,
    pub direction: Direction,
    pub protocol: Protocol,
    /// Of connections that are not looked into nothing, like the path.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    pub host: String,
    pub source: IpAddr,
    /// 0: a connection that passes, which hears none, or a request whose caller has not waited for it.
    #[serde(skip_serializing_if = "is_unheard")]
    pub status: u16,
    pub decision: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// What went wrong on the way to the upstream (RFC 9209 §2.3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision_id: Option<String>,
    /// `namespace/name` of the policy, and its rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Of the caller's `traceparent`: the trace, and the caller's span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub span_id: Option<String>,
    pub duration_ms: f64,
    /// For `/explain` alone, not for the log.
    #[serde(skip)]
    pub explained: Explained,
}

// === impl Entry ===

impl Entry {
    /// Of which nothing else is known. The time is in seconds since the epoch.
    pub fn new(
        time: f64,
        direction: Direction,
        protocol: Protocol,
        source: IpAddr,
        decision: Outcome,
    ) -> Self {
        Self {
            time,
            direction,
            protocol,
            method: String::new(),
            path: String::new(),
            host: String::new(),
            source,
            status: 0,
            decision,
            reason: None,
            cause: None,
            decision_id: None,
            policy: None,
            rule: None,
            client: None,
            trace_id: None,
            span_id: None,
            duration_ms: 0.0,
            explained: Explained::Nothing,
        }
    }

    /// Why it was refused, and by which rule where one decided.
    pub fn explain(&mut self, refusal: &Refusal, decision_id: String) {
        if let Some(name) = &refusal.rule {
            self.policy = Some(name.policy.clone());
            self.rule = Some(name.rule.clone());
        }
        self.reason = Some(refusal.reason.as_str());
        self.cause = refusal.cause.map(Cause::as_str);
        self.decision_id = Some(decision_id);
        self.explained = refusal.explained.clone();
    }
}

fn is_unheard(status: &u16) -> bool {
    *status == 0
}
