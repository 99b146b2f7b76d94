use std::net::Ipv4Addr;

use super::*;

struct World {
    recorder: Recorder,
    lines: mpsc::Receiver<String>,
    metrics: std::sync::Arc<Metrics>,
}

// === impl World ===

impl World {
    fn new(which: AccessLog) -> Self {
        let metrics = Metrics::new().unwrap();
        let (recorder, lines) = Recorder::new(which, Clock::default(), metrics.clone()).unwrap();
        Self { recorder, lines, metrics }
    }

    fn pass(&self, outcome: Outcome, would_refuse: Option<Reason>) {
        let (inbound, http1) = (Direction::Inbound, Protocol::Http1);
        self.recorder.passed(inbound, http1, outcome, would_refuse, Duration::from_millis(1), || entry("-"));
    }

    fn refuse(&self, id: &str) {
        self.recorder.refused(Reason::Expired, entry(id));
    }

    fn lines(&mut self) -> usize {
        std::iter::from_fn(|| self.lines.try_recv().ok()).count()
    }

    /// `requests_total` of inbound HTTP/1 by decision and reason.
    fn counted(&self, decision: &str, reason: &str) -> u64 {
        self.metrics.requests.with_label_values(&["inbound", "http1", decision, reason]).get()
    }
}

fn entry(id: &str) -> Entry {
    Entry {
        time: 0.0,
        direction: Direction::Inbound,
        protocol: Protocol::Http1,
        method: "GET".to_owned(),
        path: "/".to_owned(),
        host: "orders.shop".to_owned(),
        source: Ipv4Addr::LOCALHOST.into(),
        status: 401,
        decision: Outcome::Deny,
        reason: None,
        decision_id: Some(id.to_owned()),
        policy: None,
        rule: None,
        client: None,
        duration_ms: 1.0,
        explained: Explained::Nothing,
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
    assert_eq!(world.lines(), MAX_LINES, "lines that nobody reads are lost");
    assert!(world.recorder.explain("0").is_none());
    assert!(world.recorder.explain(&(flood - MAX_REFUSED).to_string()).is_some());
    assert!(world.recorder.explain(&(flood - 1).to_string()).is_some());
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
