//! What is remembered of a request while it is on its way, so that it can be recorded once its fate is known?

use std::net::IpAddr;
use std::str;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use countersign_policy::{Reason, Token, host};
use http::header::{CONNECTION, HOST, HeaderValue};
use http::request::Parts;
use http::uri::Uri;
use http::{Method, Response, StatusCode, Version};

use super::answer::answer;
use super::arriving::Arriving;
use super::body::Body;
use super::pace::Pace;
use super::trace::TraceContext;
use crate::record::{Direction, Entry, Outcome, Passed, Protocol, Recorder};
use crate::rejection::Refusal;

/// The parts of a request that its record shows. Cheap to keep: shared with the request, not copied.
#[derive(Clone)]
pub(super) struct Seen {
    direction: Direction,
    source: IpAddr,
    pub(super) started: Instant,
    pub(super) protocol: Protocol,
    pub(super) version: Version,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) host: Option<HeaderValue>,
    trace: Option<TraceContext>,
    /// How it goes on, if it does.
    pub(super) outcome: Outcome,
    /// Why it would have been refused, in audit mode.
    pub(super) would_refuse: Option<Reason>,
    pub(super) token: Option<Arc<Token>>,
    /// It asked to go on as WebSocket, in order.
    pub(super) asks_websocket: bool,
    /// It waits for a 100 before it sends its body.
    pub(super) awaits_continue: bool,
}

/// A request on its way to the upstream. Dropped before it is over its caller has gone, and what went out is recorded all the same:
/// nobody gets past the log by not waiting.
pub(super) struct Awaited<'a> {
    seen: &'a Seen,
    recorder: &'a Recorder,
    /// Of HTTP/1: what its caller is waited for depends on that.
    pace: Option<Arc<Pace>>,
    /// It has gone out, and there is no answer.
    is_out: AtomicBool,
}

// === impl Seen ===

impl Seen {
    pub(super) fn new(direction: Direction, source: IpAddr, head: &Parts, outcome: Outcome) -> Self {
        Self {
            direction,
            source,
            started: Instant::now(),
            protocol: super::protocol(head),
            version: head.version,
            method: head.method.clone(),
            uri: head.uri.clone(),
            host: head.headers.get(HOST).cloned(),
            trace: TraceContext::read(&head.headers),
            outcome,
            would_refuse: None,
            token: None,
            asks_websocket: false,
            awaits_continue: false,
        }
    }

    pub(super) fn is_grpc(&self) -> bool {
        self.protocol == Protocol::Grpc
    }

    /// Is this answer the last on its connection? Of HTTP/1, where what follows may be meant as frames, and what is in them is
    /// chosen by others; over HTTP/2 it is of one stream.
    pub(super) fn is_last(&self, response: &Response<Body>) -> bool {
        self.asks_websocket
            && self.version < Version::HTTP_2
            && response.status() != StatusCode::SWITCHING_PROTOCOLS
    }

    /// It may pass; whoever sends it says so.
    pub(super) fn goes_on<'a>(&'a self, recorder: &'a Recorder, incoming: &mut Arriving) -> Awaited<'a> {
        Awaited { seen: self, recorder, pace: incoming.take_pace(), is_out: AtomicBool::new(false) }
    }

    /// Records a request that went on.
    pub(super) fn passed(&self, recorder: &Recorder, response: &Response<Body>) {
        self.went_on(recorder, response.status().as_u16());
    }

    fn went_on(&self, recorder: &Recorder, status: u16) {
        let describe = || {
            let mut entry = self.entry(recorder, self.outcome, status);
            entry.reason = self.would_refuse.map(Reason::as_str);
            entry
        };
        let passed = Passed {
            direction: self.direction,
            protocol: self.protocol,
            outcome: self.outcome,
            would_refuse: self.would_refuse,
            is_traced: self.trace.is_some_and(|trace| trace.is_sampled),
            duration: self.started.elapsed(),
        };
        recorder.passed(passed, describe);
    }

    /// Records a request that did not, and answers it.
    pub(super) fn refused(&self, refusal: &Refusal, recorder: &Recorder) -> Response<Body> {
        let id = recorder.decision_id();
        let challenge = self.direction == Direction::Inbound;
        let mut response = answer(refusal, &id, self.version, self.is_grpc(), challenge);
        // Who is refused before a 100 may send the body or not (RFC 9110 §10.1.1): nobody could tell it from the next request.
        if self.awaits_continue && self.version < Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let decision = Outcome::of(self.direction, refusal.reason);
        let mut entry = self.entry(recorder, decision, response.status().as_u16());
        entry.explain(refusal, id);
        recorder.refused(refusal.reason, entry);
        response
    }

    /// Records that an answer may not go on.
    pub(super) fn ended(&self, refusal: &Refusal, recorder: &Recorder) {
        let decision = Outcome::of(self.direction, refusal.reason);
        let mut entry = self.entry(recorder, decision, refusal.reason.status());
        entry.explain(refusal, recorder.decision_id());
        recorder.ended(refusal.reason, entry);
    }

    /// Records that it would not if policy were enforced.
    pub(super) fn would_end(&self, reason: Reason, recorder: &Recorder) {
        recorder.would_end(reason, || {
            let mut entry = self.entry(recorder, Outcome::Audit, reason.status());
            entry.reason = Some(reason.as_str());
            entry
        });
    }

    fn entry(&self, recorder: &Recorder, decision: Outcome, status: u16) -> Entry {
        Entry {
            method: clip(self.method.as_str()),
            path: clip(self.uri.path()),
            host: self.named().unwrap_or_default(),
            status,
            client: self.token.as_ref().and_then(|token| token.client.clone()),
            trace_id: self.trace.map(|trace| trace.trace_id()),
            span_id: self.trace.map(|trace| trace.span_id()),
            duration_ms: self.started.elapsed().as_secs_f64() * 1000.0,
            ..Entry::new(recorder.now(), self.direction, self.protocol, self.source, decision)
        }
    }

    /// The host that was named, in its normal form, and the port where one was. Nothing of what has none is shown: it may hold a
    /// password or a query, and who can tell where.
    fn named(&self) -> Option<String> {
        let field = || self.host.as_ref().and_then(|host| str::from_utf8(host.as_bytes()).ok());
        let authority = self.uri.authority().map(|authority| authority.as_str()).or_else(field)?;
        let (host, port) = host::normalize(authority)?;
        Some(port.map_or_else(|| host.to_string(), |port| format!("{host}:{port}")))
    }
}

/// Records, if there is a reason, that what came was no request of HTTP/1.1. Of it nothing else is known.
pub(super) fn unread(direction: Direction, source: IpAddr, reason: Option<Reason>, recorder: &Recorder) {
    let Some(reason) = reason else { return };
    let decision = Outcome::of(direction, reason);
    let entry = Entry {
        status: reason.status(),
        reason: Some(reason.as_str()),
        ..Entry::new(recorder.now(), direction, Protocol::Http1, source, decision)
    };
    recorder.unread(reason, &entry);
}

// === impl Awaited ===

impl Awaited<'_> {
    /// From now on it may be carried out, even if its caller does not wait for the answer.
    pub(super) fn sends(&self) {
        self.is_out.store(true, Ordering::Relaxed);
        if let Some(pace) = &self.pace {
            pace.goes_out();
        }
    }

    /// There is an answer, or a refusal, which is recorded.
    pub(super) fn over(self) {
        self.is_out.store(false, Ordering::Relaxed);
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        // A panic is a refusal.
        if *self.is_out.get_mut() && !std::thread::panicking() {
            self.seen.went_on(self.recorder, UNHEARD);
        }
    }
}

/// The beginning is enough to find a request again, and a flood of long ones costs no memory.
fn clip(text: &str) -> String {
    text.chars().take(MAX_CHARS).collect()
}

const MAX_CHARS: usize = 256;
/// In the place of a status: the caller has gone before there was one.
const UNHEARD: u16 = 0;
