//! Which requests are logged? As `--access-log` says, and not so many of one kind that the log becomes the harm.

use std::sync::atomic::{AtomicU64, Ordering};

use countersign_policy::Reason;
use prometheus::IntCounter;
use serde::Serialize;
use tokio::sync::mpsc;

use super::{Direction, Entry};
use crate::clock::Clock;
use crate::config::AccessLog;
use crate::limit::Limit;
use crate::metrics::Metrics;

/// The access log.
#[derive(Debug)]
pub(super) struct Log {
    which: AccessLog,
    passed: AtomicU64,
    refused: Refused,
    traced: Limit,
    lines: mpsc::Sender<String>,
    rate_limited: IntCounter,
    full: IntCounter,
    clock: Clock,
}

/// How often a line is written for one reason: callers who are refused do not set the pace of the log.
#[derive(Debug)]
struct Refused {
    inbound: Limits,
    outbound: Limits,
    /// Let through in audit mode.
    audit: Limits,
}

/// By reason.
type Limits = [Limit; Reason::ALL.len()];

/// That a line may be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Lines for the same reason that were left out before it.
    suppressed: u64,
}

/// A line of the access log.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    entry: &'a Entry,
    #[serde(skip_serializing_if = "Option::is_none")]
    suppressed: Option<u64>,
}

// === impl Log ===

impl Log {
    /// The log, and the lines that somebody is to write.
    pub(super) fn new(which: AccessLog, clock: Clock, metrics: &Metrics) -> (Self, mpsc::Receiver<String>) {
        let (lines, receiver) = mpsc::channel(MAX_LINES);
        let dropped = |cause| metrics.access_log_dropped.with_label_values(&[cause]);
        let log = Self {
            which,
            passed: AtomicU64::new(0),
            refused: Refused::new(),
            traced: Limit::of_lines(),
            lines,
            rate_limited: dropped("rate_limited"),
            full: dropped("full"),
            clock,
        };
        (log, receiver)
    }

    /// Is this request logged, which went on? Those that policy in audit mode would have refused are logged like the refused.
    pub(super) fn passed(&self, would_refuse: Option<Reason>, is_traced: bool) -> Option<Place> {
        match would_refuse {
            _ if self.is_sampled(is_traced) => Some(Place::default()),
            Some(reason) => self.audited(reason),
            None => None,
        }
    }

    /// Is it logged that policy in audit mode would not have let this pass, or go on?
    pub(super) fn audited(&self, reason: Reason) -> Option<Place> {
        self.admit(&self.refused.audit, reason)
    }

    /// Is this request logged, which was refused?
    pub(super) fn refused(&self, direction: Direction, reason: Reason) -> Option<Place> {
        let limits = match direction {
            Direction::Inbound => &self.refused.inbound,
            Direction::Outbound => &self.refused.outbound,
        };
        self.admit(limits, reason)
    }

    pub(super) fn write(&self, entry: &Entry, Place { suppressed }: Place) {
        let suppressed = Some(suppressed).filter(|lines| *lines > 0);
        let Ok(line) = serde_json::to_string(&Line { entry, suppressed }) else { return };
        // A log that cannot keep up loses lines, never requests.
        if self.lines.try_send(line).is_err() {
            self.full.inc();
        }
    }

    /// Of those that pass this share, evenly spread; and of the others those whose caller samples their trace, if they are few.
    fn is_sampled(&self, is_traced: bool) -> bool {
        let AccessLog::Sampled(share) = self.which else { return false };
        let before = self.passed.fetch_add(1, Ordering::Relaxed);
        let taken = |count: u64| (count as f64 * share).floor();
        let is_due = taken(before.wrapping_add(1)) > taken(before);
        is_due || (is_traced && share > 0.0 && self.traced.admit(self.clock.now()).is_some())
    }

    fn admit(&self, limits: &Limits, reason: Reason) -> Option<Place> {
        if self.which == AccessLog::Off {
            return None;
        }
        match limits.get(reason as usize)?.admit(self.clock.now()) {
            Some(suppressed) => Some(Place { suppressed }),
            None => {
                self.rate_limited.inc();
                None
            }
        }
    }
}

// === impl Refused ===

impl Refused {
    fn new() -> Self {
        let limits = || std::array::from_fn(|_| Limit::of_lines());
        Self { inbound: limits(), outbound: limits(), audit: limits() }
    }
}

/// Lines that wait to be written.
pub(super) const MAX_LINES: usize = 4096;
