//! What if the road between sidecar and application is ill? For each fault what curl hears, over HTTP/1.1 and HTTP/2 on either side.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::fault_proxy::{At, Fault, FaultProxy};
use crate::support::fault_rows::{
    Expect, HTTP1, HTTP2, LARGE, SMALL, Way, ask, each, late, timeouts, unreachable,
};
use crate::support::policy::{Folder, document};
use crate::support::proxy::{Proxy, Settings};
use crate::support::tools::curl_to_the_end;
use crate::support::upstream::Upstream;
use crate::support::wait_until;

/// A fault, what is asked for while it is there, and what the caller hears.
type Row = (Fault, &'static str, Expect);

/// A destination that is spoken to in one version of HTTP.
struct World {
    application: Upstream,
    road: FaultProxy,
    proxy: Proxy,
    folder: Folder,
}

// === impl World ===

impl World {
    fn new(protocol: &str) -> Self {
        let application = Upstream::start();
        let road = FaultProxy::before(application.address());
        let rule = json!({
            "name": "orders", "to": {"hosts": ["localhost"], "ports": [road.address().port()]},
            "tls": "none", "protocol": protocol, "timeouts": timeouts(),
        });
        let spec = json!({"workloads": {"labels": {"app": "checkout"}}, "rules": [rule]});
        let folder = Folder::with(&[("policy.yaml", &document("OutboundPolicy", "checkout", &spec))]);
        // One worker, whose connections they are.
        let settings = Settings::policies(folder.path(), "checkout");
        let proxy = settings.with(&["--workers", "1", "--access-log", "all"]).start();
        Self { application, road, proxy, folder }
    }

    fn way<'a>(&'a self, version: &'a str) -> Way<'a> {
        Way {
            version,
            dial: self.proxy.outbound(),
            host: format!("localhost:{}", self.road.address().port()),
            sidecar: &self.proxy,
            road: &self.road,
            application: &self.application,
        }
    }
}

/// Each fault befalls a new connection, then two that are kept: of a request that may be sent twice, and of one that may not.
fn befall(protocol: &str, version: &str, rows: &[Row]) {
    each(rows, |row| befall_one(protocol, version, row));
}

fn befall_one(protocol: &str, version: &str, (fault, path, expect): Row) {
    let world = World::new(protocol);
    let way = world.way(version);
    // One of HTTP/2 is not there before the server's settings are.
    let is_late = protocol == "http2" && expect == late("connection_read_timeout");
    let on_new = if is_late { late("connection_timeout") } else { expect };
    way.befalls("a new connection", fault, "POST", path, on_new);
    // It takes a moment until the sidecar has heard of the end of those that it keeps.
    let kept = if fault == Fault::Refuse { &[][..] } else { &["POST", "GET"] };
    for method in kept {
        way.befalls("a kept connection", fault, method, path, expect);
    }
}

/// From README, "What the application sees" and "Proxy-Status"; what breaks off, from RFC 9112 §8 and RFC 9113 §8.1.1. An answer is late
/// by its head: half of one is none (RFC 9209 §2.3.10).
const OVER_HTTP1: &[Row] = &[
    (Fault::Delay(SOON), SMALL, Expect::Whole),
    (Fault::Delay(LATE), SMALL, late("connection_read_timeout")),
    (Fault::Reset(At::Byte(0)), SMALL, unreachable("connection_terminated")),
    (Fault::Refuse, SMALL, unreachable("connection_refused")),
    (Fault::HalfOpen, SMALL, late("connection_read_timeout")),
    (Fault::Truncate(At::Byte(0)), SMALL, unreachable("connection_terminated")),
    (Fault::Truncate(At::Byte(20)), SMALL, unreachable("http_response_incomplete")),
    (Fault::Truncate(At::Body(5)), SMALL, Expect::Cut),
    (Fault::Truncate(At::Body(20_000)), LARGE, Expect::Cut),
    (Fault::Garbage(At::Byte(0)), SMALL, unreachable("http_protocol_error")),
    (Fault::Garbage(At::Byte(17)), SMALL, unreachable("http_protocol_error")),
    // Where the second chunk's size should be; for the first, see `cut_answers`.
    (Fault::Garbage(At::Body(6 + 16_384 + 2)), LARGE, Expect::Cut),
    // What the length leaves over is nobody's answer.
    (Fault::Garbage(At::Body(0)), SMALL, Expect::Foreign),
    (Fault::Drip(QUICK), SMALL, Expect::Whole),
    (Fault::Drip(SLOW), SMALL, late("connection_read_timeout")),
    (Fault::Surplus, SMALL, Expect::Whole),
];

/// The same over HTTP/2. Garbage in the middle of a frame is somebody's body there, and behind an answer is the beginning of another frame.
const OVER_HTTP2: &[Row] = &[
    (Fault::Delay(SOON), SMALL, Expect::Whole),
    (Fault::Delay(LATE), SMALL, late("connection_read_timeout")),
    (Fault::Reset(At::Byte(0)), SMALL, unreachable("connection_terminated")),
    (Fault::Refuse, SMALL, unreachable("connection_refused")),
    (Fault::HalfOpen, SMALL, late("connection_read_timeout")),
    (Fault::Truncate(At::Byte(0)), SMALL, unreachable("connection_terminated")),
    (Fault::Truncate(At::Byte(20_000)), LARGE, Expect::Cut),
    (Fault::Garbage(At::Byte(0)), SMALL, unreachable("http_protocol_error")),
    (Fault::Drip(QUICK), SMALL, Expect::Whole),
    (Fault::Drip(SLOW), SMALL, late("connection_read_timeout")),
];

#[test]
fn http1_caller_http1_application() {
    befall("http1", HTTP1, OVER_HTTP1);
}

#[test]
fn http2_caller_http1_application() {
    befall("http1", HTTP2, OVER_HTTP1);
}

#[test]
fn http1_caller_http2_application() {
    befall("http2", HTTP1, OVER_HTTP2);
}

#[test]
fn http2_caller_http2_application() {
    befall("http2", HTTP2, OVER_HTTP2);
}

/// Of an application that is slow with one answer, what it says on the same connection beside it goes on; what begins then, begins on
/// another.
#[test]
fn a_late_answer_over_http2_ends_no_other_on_its_connection() {
    let world = World::new("http2");
    let way = world.way(HTTP2);
    let stream = format!("http://{}/orders/stream", way.dial);
    thread::scope(|scope| {
        let host = format!("Host: {}", way.host);
        let listens = scope.spawn(move || curl_to_the_end(&[HTTP2, "--max-time", "4", "-H", &host, &stream]));
        wait_until("the stream", Duration::from_secs(10), || world.application.count() == 1);
        let slow = "/orders/slow/3000";
        way.ask("GET", slow).assert("slow", HTTP2, "GET", slow, late("connection_read_timeout"));
        assert_eq!(world.road.accepted(), 1);
        way.ask("GET", SMALL).assert("then", HTTP2, "GET", SMALL, Expect::Whole);
        assert_eq!(world.road.accepted(), 2);
        let heard = listens.join().expect("curl runs");
        // CURLE_OPERATION_TIMEDOUT: by its own limit. A line each 20 ms.
        assert_eq!(heard.code, Some(28), "{}", heard.stderr);
        assert!(heard.stdout.lines().count() > 100, "{}", heard.stdout.lines().count());
    });
}

/// More than windows and buffers take, on a connection that is dead.
#[test]
fn an_upload_that_stands_still_over_http2_keeps_no_other_request() {
    let world = World::new("http2");
    let way = world.way(HTTP2);
    way.ask("GET", SMALL).assert("the first", HTTP2, "GET", SMALL, Expect::Whole);
    world.road.switch(Fault::HalfOpen);
    let (url, host) = (format!("http://{}{SMALL}", way.dial), format!("Host: {}", way.host));
    world.folder.write("upload", &"x".repeat(3_000_000));
    let upload = format!("@{}", world.folder.file("upload").display());
    let heard = ask(&[HTTP2, "-H", "Expect:", "-H", &host, "--data-binary", &upload, &url]);
    world.road.switch(Fault::None);
    heard.assert("the upload", HTTP2, "POST", SMALL, late("connection_write_timeout"));
    way.ask("GET", SMALL).assert("the next", HTTP2, "GET", SMALL, Expect::Whole);
    assert_eq!((world.road.accepted(), world.application.count()), (2, 2));
}

/// Against a limit of a second for the head of an answer.
const SOON: Duration = Duration::from_millis(200);
const LATE: Duration = Duration::from_secs(3);
const QUICK: Duration = Duration::from_millis(1);
/// Not even the head of a frame comes in time.
const SLOW: Duration = Duration::from_millis(300);
