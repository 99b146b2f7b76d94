use std::net::Ipv4Addr;

use super::log::MAX_LINES;
use super::*;
use crate::rejection::Explained;

struct World {
    recorder: Recorder,
    lines: mpsc::Receiver<String>,
    clock: Clock,
    metrics: std::sync::Arc<Metrics>,
}

// === impl World ===

impl World {
    fn new(which: AccessLog) -> Self {
        let metrics = Metrics::new().unwrap();
        let clock = Clock::default();
        let (recorder, lines) = Recorder::new(which, clock.clone(), metrics.clone()).unwrap();
        Self { recorder, lines, clock, metrics }
    }

    fn pass(&self, outcome: Outcome, would_refuse: Option<Reason>) {
        self.pass_of(outcome, would_refuse, false);
    }

    fn pass_of(&self, outcome: Outcome, would_refuse: Option<Reason>, is_traced: bool) {
        let passed = Passed {
            direction: Direction::Inbound,
            protocol: Protocol::Http1,
            outcome,
            would_refuse,
            is_traced,
            duration: Duration::from_millis(1),
        };
        self.recorder.passed(passed, || entry("-"));
    }

    fn refuse(&self, id: &str) {
        self.refuse_for(Reason::Expired, id);
    }

    fn refuse_for(&self, reason: Reason, id: &str) {
        self.recorder.refused(reason, entry(id));
    }

    /// The lines that wait, as JSON.
    fn read(&mut self) -> Vec<serde_json::Value> {
        let parse = |line: String| serde_json::from_str(&line).unwrap();
        std::iter::from_fn(|| self.lines.try_recv().ok()).map(parse).collect()
    }

    fn dropped(&self, cause: &str) -> u64 {
        self.metrics.access_log_dropped.with_label_values(&[cause]).get()
    }

    fn lines(&mut self) -> usize {
        self.read().len()
    }

    /// `requests_total` of inbound HTTP/1 by decision and reason.
    fn counted(&self, decision: &str, reason: &str) -> u64 {
        self.metrics.requests.with_label_values(&["inbound", "http1", decision, reason]).get()
    }
}

fn entry(id: &str) -> Entry {
    Entry {
        method: "GET".to_owned(),
        path: "/".to_owned(),
        host: "orders.shop".to_owned(),
        status: 401,
        decision_id: Some(id.to_owned()),
        duration_ms: 1.0,
        ..Entry::new(0.0, Direction::Inbound, Protocol::Http1, Ipv4Addr::LOCALHOST.into(), Outcome::Deny)
    }
}

#[test]
fn each_mode_logs_what_its_name_says() {
    for (which, passed, refused) in [
        (AccessLog::Off, 0, 0),
        (AccessLog::Denied, 0, 10),
        (AccessLog::Sampled(0.0), 0, 10),
        (AccessLog::Sampled(0.3), 30, 10),
        (AccessLog::Sampled(1.0), 100, 10),
    ] {
        let mut world = World::new(which);
        (0..100).for_each(|_| world.pass(Outcome::Allow, None));
        assert_eq!(world.lines(), passed, "{which:?}");
        (0..10).for_each(|_| world.refuse("id"));
        assert_eq!(world.lines(), refused, "{which:?}");
        // What is not logged is counted, and can be explained, all the same.
        assert_eq!((world.counted("allow", ""), world.counted("deny", "expired")), (100, 10));
        assert!(world.recorder.explain("id").is_some());
    }
}

#[test]
fn a_request_is_counted_once_whatever_becomes_of_it() {
    let world = World::new(AccessLog::Off);
    world.pass(Outcome::Allow, None);
    world.pass(Outcome::Audit, Some(Reason::MissingToken));
    world.refuse("id");
    let family = |name| {
        let families = world.metrics.gather();
        families.into_iter().find(|family| family.name() == name).unwrap()
    };
    let requests = family("countersign_requests_total");
    let total: f64 = requests.get_metric().iter().map(|metric| metric.get_counter().get_value()).sum();
    assert_eq!((total, world.counted("audit", "missing_token")), (3.0, 1));
    let durations = family("countersign_request_duration_seconds");
    let timed: u64 = durations.get_metric().iter().map(|m| m.get_histogram().get_sample_count()).sum();
    assert_eq!(timed, 3);
}

#[test]
fn a_flood_of_refusals_is_bounded_and_blocks_nobody() {
    let mut world = World::new(AccessLog::Denied);
    let flood = MAX_REFUSED + MAX_LINES;
    (0..flood).for_each(|index| world.refuse(&index.to_string()));
    assert_eq!(world.lines(), 100);
    assert_eq!(world.dropped("rate_limited"), u64::try_from(flood - 100).unwrap());
    assert!(world.recorder.explain("0").is_none());
    assert!(world.recorder.explain(&(flood - MAX_REFUSED).to_string()).is_some());
    assert!(world.recorder.explain(&(flood - 1).to_string()).is_some());
}

#[test]
fn when_a_flood_is_over_the_next_line_says_what_was_left_out() {
    let mut world = World::new(AccessLog::Sampled(1.0));
    (0..130).for_each(|_| world.refuse("flood"));
    // Another reason, another direction and what passes have room of their own.
    world.refuse_for(Reason::NoRule, "other");
    world.recorder.refused(Reason::Expired, Entry { direction: Direction::Outbound, ..entry("outbound") });
    world.pass(Outcome::Allow, None);
    let lines = world.read();
    assert_eq!(lines.len(), 103);
    assert!(lines.iter().all(|line| line.get("suppressed").is_none()), "nothing was left out before them");
    world.clock.advance(Duration::from_secs(60));
    world.refuse("later");
    world.refuse("last");
    let lines = world.read();
    assert_eq!((&lines[0]["decision_id"], &lines[0]["suppressed"]), (&"later".into(), &30.into()));
    assert!(lines[1].get("suppressed").is_none(), "it is said once");
    let explained = serde_json::to_string(&world.recorder.explain("later")).unwrap();
    assert!(!explained.contains("suppressed"), "the log's own matter: {explained}");
}

#[test]
fn lines_that_nobody_reads_are_lost_and_counted() {
    let mut world = World::new(AccessLog::Sampled(1.0));
    (0..MAX_LINES + 7).for_each(|_| world.pass(Outcome::Allow, None));
    assert_eq!((world.dropped("full"), world.dropped("rate_limited")), (7, 0));
    assert_eq!(world.lines(), MAX_LINES);
}

#[test]
fn what_audit_mode_would_refuse_is_logged_as_if_it_were() {
    for (which, lines) in [(AccessLog::Off, 0), (AccessLog::Denied, 100), (AccessLog::Sampled(1.0), 300)] {
        let mut world = World::new(which);
        (0..300).for_each(|_| world.pass(Outcome::Audit, Some(Reason::MissingToken)));
        assert_eq!(world.lines(), lines, "{which:?}");
        assert_eq!(world.counted("audit", "missing_token"), 300);
        let left_out = if which == AccessLog::Denied { 200 } else { 0 };
        assert_eq!(world.dropped("rate_limited"), left_out, "{which:?}");
    }
}

#[test]
fn a_trace_that_the_caller_samples_is_logged_but_sets_no_pace() {
    for (which, few, many) in [
        (AccessLog::Off, 0, 0..=0),
        (AccessLog::Denied, 0, 0..=0),
        (AccessLog::Sampled(0.0), 0, 0..=0),
        // One of ten by itself, and of the others a hundred, or a few more if this test takes long.
        (AccessLog::Sampled(0.1), 50, 1100..=1400),
        (AccessLog::Sampled(1.0), 50, 10_000..=10_000),
    ] {
        let mut world = World::new(which);
        (0..50).for_each(|_| world.pass_of(Outcome::Allow, None, true));
        assert_eq!(world.lines(), few, "{which:?}");
        world.clock.advance(Duration::from_secs(3600));
        let mut written = 0;
        for _ in 0..10 {
            (0..1000).for_each(|_| world.pass_of(Outcome::Allow, None, true));
            written += world.lines();
        }
        assert!(many.contains(&written), "{which:?}: {written}");
        assert_eq!(world.dropped("rate_limited"), 0, "they are as any other that is not sampled");
    }
}

/// However much there is to say of each.
#[test]
fn explanations_are_bounded_in_bytes() {
    let world = World::new(AccessLog::Off);
    let policy = |name: usize| countersign_policy::explain::PolicyExplained {
        policy: "x".repeat(100_000 + name),
        file: String::new(),
        mode: "enforce",
        accepts_token: None,
        not_accepted: None,
        rules: Vec::new(),
        more_rules: 0,
    };
    let request = countersign_policy::explain::Requested {
        method: "GET".to_owned(),
        path: "/".to_owned(),
        host: "h".to_owned(),
        grpc: false,
        source: Ipv4Addr::LOCALHOST.into(),
    };
    let explanation = countersign_policy::Explanation::refused(request, Reason::NoRule);
    for index in 0..MAX_REFUSED {
        let explanation =
            countersign_policy::Explanation { policies: vec![policy(index)], ..explanation.clone() };
        let explained = Explained::Fully(std::sync::Arc::new(explanation));
        world.recorder.refused(Reason::NoRule, Entry { explained, ..entry(&index.to_string()) });
        let refused = world.recorder.refused.lock().unwrap();
        let weighed: usize = refused.entries.iter().map(|entry| entry.explained.weight()).sum();
        assert!(refused.bytes == weighed && weighed <= MAX_EXPLAINED, "{weighed}");
    }
    assert!(world.recorder.explain("980").is_some() && world.recorder.explain("970").is_none());
    // Those that say nothing take no room, and go by number.
    (0..MAX_REFUSED).for_each(|_| world.refuse("id"));
    assert_eq!(world.recorder.refused.lock().unwrap().bytes, 0);
}
