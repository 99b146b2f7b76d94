//! What became of a request? Counted for all, logged for some, kept to be explained for those that were refused.

mod entry;
mod log;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand;
use countersign_policy::Reason;
use prometheus::{Histogram, IntCounter};
use serde::Serialize;
use tokio::sync::mpsc;

use self::log::Log;
use crate::clock::Clock;
use crate::config::AccessLog;
use crate::metrics::Metrics;

pub use self::entry::Entry;

/// Which door a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Inbound,
    Outbound,
}

/// What a request was spoken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Http1,
    Http2,
    Grpc,
    /// A connection that is not looked into, decided as a whole.
    Tcp,
}

/// How a request went on: the values of the label `decision`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Inbound, let through.
    Allow,
    /// Inbound, let through although policy in audit mode would refuse.
    Audit,
    /// Inbound, refused by what was shown or by policy.
    Deny,
    /// Either direction: the fault is ours or the upstream's.
    Error,
    /// Outbound, with a token of ours.
    Attach,
    /// Outbound, with the application's own credential.
    Keep,
    /// Outbound, without a token.
    Bypass,
    /// Outbound, refused.
    Reject,
}

/// A request that went on to its upstream.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    pub direction: Direction,
    pub protocol: Protocol,
    pub outcome: Outcome,
    /// Why policy in audit mode would have refused it.
    pub would_refuse: Option<Reason>,
    /// The caller says that it samples the trace that this request is part of.
    pub is_traced: bool,
    pub duration: Duration,
}

/// Records requests; shared by all workers.
#[derive(Debug)]
pub struct Recorder {
    instance: String,
    next: AtomicU64,
    refused: Mutex<Refused>,
    log: Log,
    counters: [Counters; 4],
    clock: Clock,
    metrics: std::sync::Arc<Metrics>,
}

/// The last requests that were refused, as many as there is room for.
#[derive(Debug, Default)]
struct Refused {
    entries: VecDeque<Entry>,
    /// What their explanations take, about.
    bytes: usize,
}

/// The handles of one protocol, so that a request that passes looks no label up.
#[derive(Debug)]
struct Counters {
    allow: IntCounter,
    attach: IntCounter,
    keep: IntCounter,
    bypass: IntCounter,
    inbound: Histogram,
    outbound: Histogram,
}

// === impl Recorder ===

impl Recorder {
    /// A recorder, and the access-log lines that somebody is to write.
    pub fn new(
        which: AccessLog,
        clock: Clock,
        metrics: std::sync::Arc<Metrics>,
    ) -> Result<(Self, mpsc::Receiver<String>), aws_lc_rs::error::Unspecified> {
        let mut instance = [0; 4];
        rand::fill(&mut instance)?;
        let instance = instance.iter().map(|byte| format!("{byte:02x}")).collect();
        let (log, lines) = Log::new(which, clock.clone(), &metrics);
        let protocols = [Protocol::Http1, Protocol::Http2, Protocol::Grpc, Protocol::Tcp];
        let counters = protocols.map(|protocol| Counters::new(&metrics, protocol));
        let recorder = Self {
            instance,
            next: AtomicU64::new(1),
            refused: Mutex::default(),
            log,
            counters,
            clock,
            metrics,
        };
        Ok((recorder, lines))
    }

    /// A new decision id; begins with this instance's.
    pub fn decision_id(&self) -> String {
        format!("{}-{}", self.instance, self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Counts a request that went on to its upstream. `describe` is called only if it is to be logged.
    pub fn passed(&self, passed: Passed, describe: impl FnOnce() -> Entry) {
        let Passed { direction, protocol, outcome, would_refuse, is_traced, duration } = passed;
        let counters = self.counters(protocol);
        counters.duration(direction).observe(duration.as_secs_f64());
        match outcome {
            Outcome::Allow => counters.allow.inc(),
            Outcome::Attach => counters.attach.inc(),
            Outcome::Keep => counters.keep.inc(),
            Outcome::Bypass => counters.bypass.inc(),
            outcome => self.count(direction, protocol, outcome, would_refuse.map_or("", Reason::as_str)),
        }
        if let Some(place) = self.log.passed(would_refuse, is_traced) {
            self.log.write(&describe(), place);
        }
    }

    /// Counts, logs and keeps a request that was refused or failed.
    pub fn refused(&self, reason: Reason, entry: Entry) {
        self.count(entry.direction, entry.protocol, entry.decision, reason.as_str());
        self.counters(entry.protocol).duration(entry.direction).observe(entry.duration_ms / 1000.0);
        self.keep(reason, entry);
    }

    /// Counts, logs and keeps an exchange that was let in and may not go on.
    pub fn ended(&self, reason: Reason, entry: Entry) {
        self.count_ended(entry.decision, reason);
        self.keep(reason, entry);
    }

    /// Counts one that would not if policy in audit mode were enforced. `describe` is called only if it is to be logged.
    pub fn would_end(&self, reason: Reason, describe: impl FnOnce() -> Entry) {
        self.count_ended(Outcome::Audit, reason);
        if let Some(place) = self.log.audited(reason) {
            self.log.write(&describe(), place);
        }
    }

    /// Counts and logs what was refused before it was a request. Nobody has heard of an id to ask for it by.
    pub fn unread(&self, reason: Reason, entry: &Entry) {
        self.count(entry.direction, entry.protocol, entry.decision, reason.as_str());
        if let Some(place) = self.log.refused(entry.direction, reason) {
            self.log.write(entry, place);
        }
    }

    fn keep(&self, reason: Reason, mut entry: Entry) {
        entry.time = self.now();
        if let Some(place) = self.log.refused(entry.direction, reason) {
            self.log.write(&entry, place);
        }
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    /// The refused request of this decision id, if it is still remembered.
    pub fn explain(&self, decision_id: &str) -> Option<Entry> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.entries.iter().rev().find(|entry| entry.decision_id.as_deref() == Some(decision_id)).cloned()
    }

    /// Seconds since the epoch.
    pub fn now(&self) -> f64 {
        self.clock.now().as_secs_f64()
    }

    fn count(&self, direction: Direction, protocol: Protocol, outcome: Outcome, reason: &str) {
        let labels = [direction.as_str(), protocol.as_str(), outcome.as_str(), reason];
        self.metrics.requests.with_label_values(&labels).inc();
    }

    fn count_ended(&self, outcome: Outcome, reason: Reason) {
        self.metrics.streams_ended.with_label_values(&[outcome.as_str(), reason.as_str()]).inc();
    }

    fn counters(&self, protocol: Protocol) -> &Counters {
        let [http1, http2, grpc, tcp] = &self.counters;
        match protocol {
            Protocol::Http1 => http1,
            Protocol::Http2 => http2,
            Protocol::Grpc => grpc,
            Protocol::Tcp => tcp,
        }
    }
}

// === impl Refused ===

impl Refused {
    fn push(&mut self, entry: Entry) {
        self.bytes = self.bytes.saturating_add(entry.explained.weight());
        self.entries.push_back(entry);
        while self.entries.len() > MAX_REFUSED || self.bytes > MAX_EXPLAINED {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.bytes = self.bytes.saturating_sub(oldest.explained.weight());
        }
    }
}

// === impl Counters ===

impl Counters {
    fn new(metrics: &Metrics, protocol: Protocol) -> Self {
        let protocol = protocol.as_str();
        let count = |direction, outcome: Outcome| {
            metrics.requests.with_label_values(&[direction, protocol, outcome.as_str(), ""])
        };
        Self {
            allow: count("inbound", Outcome::Allow),
            attach: count("outbound", Outcome::Attach),
            keep: count("outbound", Outcome::Keep),
            bypass: count("outbound", Outcome::Bypass),
            inbound: metrics.request_duration.with_label_values(&["inbound", protocol]),
            outbound: metrics.request_duration.with_label_values(&["outbound", protocol]),
        }
    }

    fn duration(&self, direction: Direction) -> &Histogram {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Audit => "audit",
            Self::Deny => "deny",
            Self::Error => "error",
            Self::Attach => "attach",
            Self::Keep => "keep",
            Self::Bypass => "bypass",
            Self::Reject => "reject",
        }
    }

    /// How a refusal for this reason counts.
    pub fn of(direction: Direction, reason: Reason) -> Self {
        match direction {
            _ if reason.status() >= 500 && reason != Reason::TokenUnavailable => Self::Error,
            Direction::Inbound => Self::Deny,
            Direction::Outbound => Self::Reject,
        }
    }
}

/// Refused requests that `/explain` remembers.
const MAX_REFUSED: usize = 1000;
/// What their explanations may take, in bytes.
const MAX_EXPLAINED: usize = 2 * 1024 * 1024;

#[cfg(test)]
mod tests;
