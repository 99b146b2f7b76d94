//! What if the road between a caller and the sidecar is ill? For each fault what curl hears, what the application hears, and whether
//! anything is left of it. Over HTTP/1.1, HTTP/2 and TLS.

use std::time::Duration;

use serde_json::json;

use crate::support::fault_proxy::{At, Fault, FaultProxy};
use crate::support::fault_rows::{Expect, HTTP1, HTTP2, Heard, SMALL, ask, each, logged, timeouts};
use crate::support::policy::{Folder, open_policy_with};
use crate::support::proxy::{Proxy, Settings};
use crate::support::tls::Ca;
use crate::support::upstream::Upstream;
use crate::support::wait_until;

/// Whose words a fault befalls, what the request is, what the caller hears, and what the application does.
type Row = (On, Sent, Hears, Reaches);

#[derive(Clone, Copy, Debug)]
enum On {
    Request(Fault),
    Answer(Fault),
}

/// A POST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Short,
    /// 40,000 bytes.
    Long,
    /// The same, of a length that is not said.
    Chunked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hears {
    /// The application's answer.
    Answer,
    /// 400 `bad_request`.
    Refusal,
    /// That, or the end of the connection.
    RefusalOrEnd,
    /// curl sees that all or some of it is missing.
    Failure,
    /// Nothing in time.
    Silence,
}

/// Never twice, in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reaches {
    All,
    /// The beginning, and that it breaks off.
    Some,
    /// The same or nothing: a reset may overtake what was said before it, and the end of a connection a request on it.
    NotAll,
    Nothing,
}

/// How curl speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    Http1,
    Http2,
    /// HTTP/1.1 over it.
    Tls1,
    /// HTTP/2 over it.
    Tls2,
}

/// curl, a road that may be ill, the sidecar, and its application.
struct World {
    spoken: Spoken,
    road: FaultProxy,
    proxy: Proxy,
    application: Upstream,
    folder: Folder,
}

const HTTP1_ROWS: &[Row] = &[
    (On::Answer(Fault::Delay(SOON)), Sent::Short, Hears::Answer, Reaches::All),
    (On::Answer(Fault::Drip(QUICK)), Sent::Short, Hears::Answer, Reaches::All),
    (On::Answer(Fault::Reset(At::Byte(0))), Sent::Short, Hears::Failure, Reaches::All),
    (On::Answer(Fault::Reset(At::Byte(20))), Sent::Short, Hears::Failure, Reaches::All),
    (On::Answer(Fault::Reset(At::Body(5))), Sent::Long, Hears::Failure, Reaches::All),
    (On::Answer(Fault::Truncate(At::Byte(0))), Sent::Short, Hears::Failure, Reaches::All),
    (On::Answer(Fault::Truncate(At::Body(5))), Sent::Long, Hears::Failure, Reaches::All),
    (On::Answer(Fault::HalfOpen), Sent::Short, Hears::Silence, Reaches::All),
    (On::Answer(Fault::Refuse), Sent::Short, Hears::Failure, Reaches::Nothing),
    (On::Request(Fault::Delay(SOON)), Sent::Short, Hears::Answer, Reaches::All),
    (On::Request(Fault::Drip(QUICK)), Sent::Short, Hears::Answer, Reaches::All),
    (On::Request(Fault::Truncate(At::Byte(20))), Sent::Short, Hears::Failure, Reaches::Nothing),
    (On::Request(Fault::Truncate(At::Body(20_000))), Sent::Long, Hears::Refusal, Reaches::Some),
    (On::Request(Fault::Truncate(At::Body(20_000))), Sent::Chunked, Hears::Refusal, Reaches::Some),
    (On::Request(Fault::Reset(At::Byte(20))), Sent::Short, Hears::Failure, Reaches::Nothing),
    (On::Request(Fault::Reset(At::Body(20_000))), Sent::Long, Hears::Failure, Reaches::NotAll),
    (On::Request(Fault::Reset(At::Body(20_000))), Sent::Chunked, Hears::Failure, Reaches::NotAll),
    (On::Request(Fault::Garbage(At::Byte(0))), Sent::Short, Hears::RefusalOrEnd, Reaches::Nothing),
    // Within the target, and within the body where a chunk's size should be.
    (On::Request(Fault::Garbage(At::Byte(10))), Sent::Short, Hears::RefusalOrEnd, Reaches::Nothing),
    (On::Request(Fault::Garbage(At::Body(0))), Sent::Chunked, Hears::RefusalOrEnd, Reaches::NotAll),
    // What the length leaves over is the beginning of no other request.
    (On::Request(Fault::Garbage(At::Body(0))), Sent::Short, Hears::Answer, Reaches::All),
    // 10 s for a head, `timeouts.idle` for a body.
    (On::Request(Fault::Gone(At::Byte(20))), Sent::Short, Hears::Silence, Reaches::Nothing),
    (On::Request(Fault::Gone(At::Body(20_000))), Sent::Long, Hears::Silence, Reaches::Some),
];

/// Behind 24 bytes of the preface there are frames.
const HTTP2_ROWS: &[Row] = &[
    (On::Answer(Fault::Delay(SOON)), Sent::Short, Hears::Answer, Reaches::All),
    (On::Answer(Fault::Drip(QUICK)), Sent::Short, Hears::Answer, Reaches::All),
    // Behind the server's settings.
    (On::Answer(Fault::Reset(At::Byte(100))), Sent::Short, Hears::Failure, Reaches::All),
    (On::Answer(Fault::Truncate(At::Byte(100))), Sent::Short, Hears::Failure, Reaches::All),
    (On::Answer(Fault::Refuse), Sent::Short, Hears::Failure, Reaches::Nothing),
    (On::Request(Fault::Delay(SOON)), Sent::Short, Hears::Answer, Reaches::All),
    (On::Request(Fault::Drip(QUICK)), Sent::Short, Hears::Answer, Reaches::All),
    (On::Request(Fault::Truncate(At::Byte(10))), Sent::Short, Hears::Failure, Reaches::Nothing),
    (On::Request(Fault::Truncate(At::Byte(20_000))), Sent::Long, Hears::Failure, Reaches::NotAll),
    (On::Request(Fault::Reset(At::Byte(10))), Sent::Short, Hears::Failure, Reaches::Nothing),
    (On::Request(Fault::Reset(At::Byte(20_000))), Sent::Long, Hears::Failure, Reaches::NotAll),
    (On::Request(Fault::Garbage(At::Byte(10))), Sent::Short, Hears::Failure, Reaches::Nothing),
    (On::Request(Fault::Garbage(At::Byte(24))), Sent::Short, Hears::Failure, Reaches::Nothing),
    (On::Request(Fault::Gone(At::Byte(10))), Sent::Short, Hears::Silence, Reaches::Nothing),
    (On::Request(Fault::Gone(At::Byte(20_000))), Sent::Long, Hears::Silence, Reaches::Some),
];

/// Over HTTP/1.1 and over HTTP/2: within the handshake and within records. A record that is not whole, and an end without close_notify, end
/// no request.
const TLS_ROWS: &[Row] = &[
    (On::Answer(Fault::Delay(SOON)), Sent::Short, Hears::Answer, Reaches::All),
    (On::Answer(Fault::Refuse), Sent::Short, Hears::Failure, Reaches::Nothing),
    (On::Request(Fault::Delay(SOON)), Sent::Short, Hears::Answer, Reaches::All),
    (On::Request(Fault::Drip(QUICK)), Sent::Short, Hears::Answer, Reaches::All),
    (On::Answer(Fault::Reset(At::Byte(100))), Sent::Short, Hears::Failure, Reaches::Nothing),
    (On::Answer(Fault::Truncate(At::Byte(100))), Sent::Short, Hears::Failure, Reaches::Nothing),
    (On::Request(Fault::Truncate(At::Byte(100))), Sent::Short, Hears::Failure, Reaches::Nothing),
    (On::Request(Fault::Reset(At::Byte(20_000))), Sent::Long, Hears::Failure, Reaches::NotAll),
    (On::Request(Fault::Garbage(At::Byte(0))), Sent::Short, Hears::Failure, Reaches::Nothing),
    (On::Request(Fault::Garbage(At::Byte(20_000))), Sent::Long, Hears::Failure, Reaches::NotAll),
    (On::Request(Fault::Gone(At::Byte(20_000))), Sent::Long, Hears::Silence, Reaches::Some),
];

/// The end of the road within the body: what came before is a body of HTTP/1.1 that breaks off, and an unfinished frame of HTTP/2.
const TLS1_ROWS: &[Row] =
    &[(On::Request(Fault::Truncate(At::Byte(20_000))), Sent::Long, Hears::Refusal, Reaches::Some)];
const TLS2_ROWS: &[Row] =
    &[(On::Request(Fault::Truncate(At::Byte(20_000))), Sent::Long, Hears::Failure, Reaches::NotAll)];

#[test]
fn over_http1_a_fault_harms_one_request_and_leaves_nothing() {
    each(HTTP1_ROWS, |row| befall(Spoken::Http1, row));
}

#[test]
fn over_http2_a_fault_harms_one_request_and_leaves_nothing() {
    each(HTTP2_ROWS, |row| befall(Spoken::Http2, row));
}

#[test]
fn over_tls_a_fault_harms_one_request_and_leaves_nothing() {
    for (spoken, own) in [(Spoken::Tls1, TLS1_ROWS), (Spoken::Tls2, TLS2_ROWS)] {
        each(&[TLS_ROWS, own].concat(), |row| befall(spoken, row));
    }
}

fn befall(spoken: Spoken, (on, sent, hears, reaches): Row) {
    let (world, case) = (World::new(spoken), format!("{on:?}, {sent:?}, {spoken:?}"));
    match on {
        On::Request(fault) => world.road.switch_requests(fault),
        On::Answer(fault) => world.road.switch(fault),
    }
    let heard = world.ask(sent);
    world.assert_reached(&case, reaches);
    hears.assert(&case, &heard);
    if matches!(on, On::Request(Fault::Gone(_))) && reaches == Reaches::Some && spoken != Spoken::Http1 {
        // The request is over; its connection has a minute, for another.
        world.road.switch(Fault::Refuse);
    }
    world.road.switch(Fault::None);
    let before = world.application.count();
    world.ask(sent).assert(&format!("the next one after {case}"), HTTP2, "POST", SMALL, Expect::Whole);
    assert_eq!(world.application.count(), before + 1, "the next one after {case}");
    let open = || world.proxy.scrape().sum("countersign_connections", &[("direction", "inbound")]);
    wait_until(&format!("the end of connections after {case}"), LIMIT, || open() < 0.5);
}

// === impl World ===

impl World {
    fn new(spoken: Spoken) -> Self {
        let (ca, application) = (Ca::new("ours"), Upstream::start());
        let tls = json!({"certFile": "tls.crt", "keyFile": "tls.key"});
        let folder = open_policy_with(&match spoken {
            Spoken::Tls1 | Spoken::Tls2 => json!({"timeouts": timeouts(), "tls": tls}),
            Spoken::Http1 | Spoken::Http2 => json!({"timeouts": timeouts()}),
        });
        let pair = ca.server();
        for (name, text) in [("ca.crt", &ca.pem), ("tls.crt", &pair.cert), ("tls.key", &pair.key)] {
            folder.write(name, text);
        }
        let settings = Settings::policies(folder.path(), "orders").before(application.address());
        let proxy = settings.with(&["--workers", "1", "--access-log", "all"]).start();
        let road = FaultProxy::before(proxy.inbound());
        Self { spoken, road, proxy, application, folder }
    }

    fn ask(&self, sent: Sent) -> Heard {
        let (scheme, speaks) = match self.spoken {
            Spoken::Http1 => ("http", HTTP1),
            Spoken::Http2 => ("http", HTTP2),
            Spoken::Tls1 => ("https", HTTP1),
            Spoken::Tls2 => ("https", "--http2"),
        };
        let url = format!("{scheme}://{}{SMALL}", self.road.address());
        let ca = self.folder.file("ca.crt");
        let body = if sent == Sent::Short { "order".to_owned() } else { "x".repeat(40_000) };
        let field = if sent == Sent::Chunked { "Transfer-Encoding: chunked" } else { "X-Kind: order" };
        let ca = ca.to_str().expect("a path in Unicode");
        ask(&[speaks, "--max-time", "2", "--cacert", ca, "-H", "Expect:", "-H", field, "--data", &body, &url])
    }

    /// As far as it came, and once; what broke off is not waited for, and the log says so.
    fn assert_reached(&self, case: &str, reaches: Reaches) {
        wait_until(&format!("the end of a request: {case}"), LIMIT, || self.application.under_way() == 0);
        let lines = || {
            let lines = logged(&self.proxy, SMALL);
            lines.iter().map(|line| json!([line["status"], line["reason"]])).collect::<Vec<_>>()
        };
        let has_begun = || self.application.begun() > 0;
        wait_until(&format!("the log: {case}"), LIMIT, || !has_begun() || !lines().is_empty());
        let (begun, whole, lines) = (self.application.begun(), self.application.count(), lines());
        let (refused, unheard) = (json!([400, "bad_request"]), json!([null, null]));
        let is_right = match reaches {
            Reaches::All => (begun, whole) == (1, 1) && lines == [json!([200, null])],
            Reaches::Some => (begun, whole) == (1, 0) && lines == [refused],
            Reaches::NotAll => {
                begun <= 1 && whole == 0 && lines.iter().all(|line| [&refused, &unheard].contains(&line))
            }
            Reaches::Nothing => begun == 0 && lines.is_empty(),
        };
        assert!(is_right, "{case}: not {reaches:?}: {begun} begun, {whole} whole, {lines:?}");
    }
}

// === impl Hears ===

impl Hears {
    fn assert(self, case: &str, heard: &Heard) {
        let is_refused = heard.status == 400 && heard.head.contains("x-countersign-reason: bad_request");
        let is_right = match self {
            Self::Answer => heard.status == 200 && heard.code == Some(0),
            Self::Refusal => is_refused,
            Self::RefusalOrEnd => heard.status == 400 || heard.status == 0 && heard.code != Some(28),
            Self::Failure => !matches!(heard.code, Some(0 | 28) | None),
            Self::Silence => heard.code == Some(28) && heard.status == 0,
        };
        assert!(is_right, "{case}: not {self:?}: {heard:?}");
    }
}

/// A head that does not come to its end has 10 s.
const LIMIT: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_millis(200);
const QUICK: Duration = Duration::from_millis(1);
