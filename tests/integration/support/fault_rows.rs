//! What does a caller hear when the road is ill, and what when it is well again? One row of a table of faults, with curl as the
//! caller: what it hears is held against what is to be expected, and so are the access log and the application.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::fault_proxy::{Fault, FaultProxy};
use super::proxy::Proxy;
use super::tools::curl_to_the_end;
use super::upstream::Upstream;
use super::wait_until;

/// Long against the pauses of a busy machine, and short against a test.
pub(crate) fn timeouts() -> Value {
    json!({"connect": "1s", "firstByte": "1s", "idle": "1s"})
}

pub(crate) const HTTP1: &str = "--http1.1";
pub(crate) const HTTP2: &str = "--http2-prior-knowledge";

/// A path of 200 without a length over HTTP/1.1, in chunks; anything else has one.
pub(crate) const LARGE: &str = "/orders/bytes/40000";
pub(crate) const SMALL: &str = "/orders/small";

/// What the caller hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// The application's answer.
    Whole,
    /// Of the length that was said, with bytes that nobody can tell from the application's.
    Foreign,
    /// The application's 200, some of its body, and an end that nobody takes for its own: over HTTP/1.1 the connection closes
    /// before the last chunk or the length, over HTTP/2 the stream is reset; whether curl shows what it had before a reset is its own
    /// affair (RFC 9113 §8.1).
    Cut,
    /// Status and reason, and the word of RFC 9209.
    Refused(u16, &'static str, &'static str),
}

/// No connection, or no answer on it.
pub(crate) const fn unreachable(error: &'static str) -> Expect {
    Expect::Refused(502, "upstream_unreachable", error)
}

/// Not in time.
pub(crate) const fn late(error: &'static str) -> Expect {
    Expect::Refused(504, "upstream_timeout", error)
}

/// Caller, sidecar, a road that may be ill, and the application at its end.
pub(crate) struct Way<'a> {
    pub(crate) version: &'a str,
    /// Where the caller dials, and whom it asks for.
    pub(crate) dial: SocketAddr,
    pub(crate) host: String,
    /// Whose access log counts.
    pub(crate) sidecar: &'a Proxy,
    pub(crate) road: &'a FaultProxy,
    pub(crate) application: &'a Upstream,
}

/// What curl got.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) code: Option<i32>,
    pub(crate) status: u16,
    pub(crate) head: String,
    body: String,
}

/// What curl hears.
pub(crate) fn ask(arguments: &[&str]) -> Heard {
    let done = curl_to_the_end(&[&["--include", "--write-out", "\n%{http_code}"], arguments].concat());
    let (output, status) = done.stdout.rsplit_once('\n').expect("curl wrote a last line");
    let (head, body) = output.split_once("\r\n\r\n").unwrap_or((output, ""));
    let status = status.parse().expect("a status");
    Heard { code: done.code, status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

/// What the access log says of the requests for this path.
pub(crate) fn logged(sidecar: &Proxy, path: &str) -> Vec<Value> {
    let text = sidecar.process.stdout();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["path"] == path).collect()
}

/// Checks rows, some at once: most of their time is waiting. All that are wrong are named, by the panics of their threads.
pub(crate) fn each<R: Copy + Send + Sync>(rows: &[R], check: impl Fn(R) + Sync) {
    let check = &check;
    let some = |rows: &[R]| {
        thread::scope(|scope| {
            let running: Vec<_> = rows.iter().map(|&row| scope.spawn(move || check(row))).collect();
            running.into_iter().filter_map(|row| row.join().err()).count()
        })
    };
    let wrong: usize = rows.chunks(ROWS_AT_ONCE).map(some).sum();
    assert_eq!(wrong, 0, "rows are wrong: see above");
}

const ROWS_AT_ONCE: usize = 8;

// === impl Way ===

impl Way<'_> {
    pub(crate) fn ask(&self, method: &str, path: &str) -> Heard {
        self.ask_as("any", method, path)
    }

    fn ask_as(&self, mark: &str, method: &str, path: &str) -> Heard {
        let (url, host) = (format!("http://{}{path}", self.dial), format!("Host: {}", self.host));
        let mark = format!("X-Mark: {mark}");
        let body: &[&str] = if method == "POST" { &["--data", "order"] } else { &[] };
        ask(&[body, &[self.version, "-H", &host, "-H", &mark, "-X", method, &url]].concat())
    }

    /// How often the request with this mark came.
    fn times(&self, mark: &str) -> usize {
        self.application.seen().iter().filter(|seen| seen.all("x-mark") == [mark]).count()
    }

    /// The fault befalls one exchange; then the road is well, and so is the next request, at once.
    pub(crate) fn befalls(&self, case: &str, fault: Fault, method: &str, path: &str, expect: Expect) {
        let case = format!("{case}, {fault:?} in {method} {path} by curl {}", self.version);
        let lines = logged(self.sidecar, path).len();
        let (ill, well) = (format!("ill-{lines}"), format!("well-{lines}"));
        self.road.switch(fault);
        let heard = self.ask_as(&ill, method, path);
        self.road.switch(Fault::None);
        heard.assert(&case, self.version, method, path, expect);
        self.assert_logged(&case, path, lines, expect);
        // A new connection of HTTP/2 may end before the request is there.
        let least = usize::from(lines > 0);
        let right = if fault == Fault::Refuse { 0..=0 } else { least..=1 + usize::from(method == "GET") };
        let times = self.times(&ill);
        assert!(right.contains(&times), "{case}: it came {times} times");

        let case = format!("the next one after {case}");
        let next = self.ask_as(&well, method, path);
        next.assert(&case, self.version, method, path, Expect::Whole);
        self.assert_logged(&case, path, lines + 1, Expect::Whole);
        assert_eq!(self.times(&well), 1, "{case}");
    }

    fn assert_logged(&self, case: &str, path: &str, before: usize, expect: Expect) {
        wait_until("the line of the log", Duration::from_secs(10), || {
            logged(self.sidecar, path).len() > before
        });
        let lines = logged(self.sidecar, path);
        assert_eq!(lines.len(), before + 1, "{case}: {lines:?}");
        let line = &lines[before];
        match expect {
            Expect::Refused(status, reason, error) => {
                assert_eq!(line["status"], status, "{case}: {line}");
                assert_eq!((&line["reason"], &line["cause"]), (&json!(reason), &json!(error)), "{case}");
            }
            _ => {
                assert_eq!(line["status"], 200, "{case}: {line}");
                assert!(line["reason"].is_null() && line["cause"].is_null(), "{case}: {line}");
            }
        }
    }
}

// === impl Heard ===

impl Heard {
    pub(crate) fn assert(&self, case: &str, version: &str, method: &str, path: &str, expect: Expect) {
        let told = || format!("{case}: {:?} {} {:?} {:.200}", self.code, self.status, self.head, self.body);
        match expect {
            Expect::Whole => {
                assert_eq!((self.code, self.status), (Some(0), 200), "{}", told());
                let is_own = match path {
                    LARGE => self.body.len() == 40_000 && self.body.bytes().all(|byte| byte == b'x'),
                    _ => serde_json::from_str::<Value>(&self.body)
                        .is_ok_and(|said| said["method"] == method && said["target"] == path),
                };
                assert!(is_own, "{}", told());
            }
            Expect::Foreign => assert_eq!((self.code, self.status), (Some(0), 200), "{}", told()),
            Expect::Cut => {
                // CURLE_PARTIAL_FILE and CURLE_RECV_ERROR; CURLE_HTTP2_STREAM.
                let codes: &[i32] = if version == HTTP1 { &[18, 56] } else { &[92] };
                let is_begun = self.status == 200 && (version == HTTP2 || !self.body.is_empty());
                assert!(is_begun || (version, self.status) == (HTTP2, 0), "{}", told());
                assert!(self.code.is_some_and(|code| codes.contains(&code)), "{}", told());
            }
            Expect::Refused(status, reason, error) => {
                assert_eq!((self.code, self.status), (Some(0), status), "{}", told());
                for field in [
                    format!("x-countersign-reason: {reason}\r\n"),
                    format!("proxy-status: countersign; error={error}\r\n"),
                ] {
                    assert!(format!("{}\r\n", self.head).contains(&field), "{}", told());
                }
            }
        }
    }
}
