//! Can anything be smuggled through by HTTP/2? Fields and frames that break its rules, to an application that speaks HTTP/2, and
//! to a destination that speaks HTTP/1.1.

use std::net::SocketAddr;

use serde_json::json;

use super::frames::{self, Said};
use super::table::{comparable, rows};
use super::written::{self, BEHIND};
use crate::support::policy::{self, Folder};
use crate::support::proxy::Settings;
use crate::support::recorder::Recorder;
use crate::support::upstream::{Seen, Upstream};

const BEHIND_SEEN: [&str; 2] = ["GET http://HOST/behind¶¶", "GET /behind HTTP/1.1¶host: HOST¶¶"];

/// What the client hears, and what the upstream sees.
#[derive(Debug)]
enum Outcome<'a> {
    /// The connection ends with this code.
    GoAway(u32),
    /// It ends without a word.
    Closed,
    /// The stream ends with this code; the connection goes on, as in all that follow.
    Reset(u32),
    /// Refused by us for this reason.
    Refused(&'a str),
    /// Refused by the HTTP library, which has no more to say than a status.
    Unparsed,
    /// Nobody says a word about it.
    Ignored,
    /// The upstream sees this, and what is behind it.
    Passes(&'a str),
}

#[test]
fn in_16_18_20_22_nothing_is_smuggled_to_the_application_by_http2() {
    let upstream = Upstream::start();
    let (proxy, _folder) = super::open(upstream.address());
    let seen = || {
        let seen = upstream.seen().iter().map(shown).collect();
        upstream.forget();
        seen
    };
    run("a.test", proxy.inbound(), "inbound", seen);
}

/// Where HTTP/2 becomes HTTP/1.1, a line end in a field or a length that is wrong would begin another request.
#[test]
fn in_16_18_20_22_nothing_is_smuggled_from_http2_to_http1() {
    let upstream = Recorder::start();
    let port = upstream.address().port();
    let rule = json!({
        "name": "all", "to": {"hosts": ["localhost"], "ports": [port]}, "tls": "none", "protocol": "http1",
    });
    let spec = json!({"workloads": {"labels": {"app": "checkout"}}, "rules": [rule]});
    let folder = Folder::with(&[("policy.yaml", &policy::document("OutboundPolicy", "checkout", &spec))]);
    let proxy = Settings::policies(folder.path(), "checkout").start();
    let seen = || {
        let recorded = upstream.take();
        assert!(recorded.wrong.is_empty(), "{recorded:?}");
        recorded.requests
    };
    run(&format!("localhost:{port}"), proxy.outbound(), "http1", seen);
}

fn run(host: &str, to: SocketAddr, expected: &str, seen: impl Fn() -> Vec<String>) {
    let (mut ran, mut wrong) = (0, Vec::new());
    for row in ["http2-fields", "http2-frames"].into_iter().flat_map(rows) {
        let (sent, outcome) = (row.get("sent").expect("sent"), row.get(expected).or(row.get("inbound")));
        let Some(outcome) = outcome.filter(|outcome| *outcome != "-") else { continue };
        let outcome = Outcome::read(outcome);
        let said =
            frames::talk(to, &written::bytes(sent, host), |said| outcome.is_all(said)).expect("a connection");
        if let Err(error) = outcome.judge(host, &said, seen()) {
            wrong.push(format!("{}: {sent}\n    {error}", row.name));
        }
        ran += 1;
    }
    assert!(ran >= 150, "{ran} attacks");
    assert!(wrong.is_empty(), "{} of {ran}:\n{}", wrong.len(), wrong.join("\n"));
}

/// In place of what follows the four pseudo fields of a CONNECT for WebSocket, or of such a field. All come before we know that our
/// SETTINGS have arrived.
const EXTENDED: &[(&str, &str)] = &[
    (":protocol: websocket", "refused bad_request"),
    (":protocol: websocket¶sec-websocket-version: 8", "refused bad_request"),
    (":protocol: websocket¶sec-websocket-version: 13¶sec-websocket-version: 13", "refused bad_request"),
    (":protocol: websocket¶sec-websocket-version: 13¶content-length: 0", "refused bad_request"),
    (":protocol: websocket¶sec-websocket-version: 13¶host: b.test", "refused ambiguous_destination"),
    (":protocol: websocket¶:protocol: websocket¶sec-websocket-version: 13", "reset 1"),
    (":protocol: websocket¶:protocol: connect-udp¶sec-websocket-version: 13", "reset 1"),
    (":protocol: websocket¶sec-websocket-version: 13¶:protocol: websocket", "reset 1"),
    (":protocol: websocket¶sec-websocket-version: 13¶upgrade: websocket", "reset 1"),
    (":protocol: websocket¶sec-websocket-version: 13¶connection: upgrade", "reset 1"),
    (":protocol: WebSocket¶sec-websocket-version: 13", "refused unsupported_protocol"),
    (":protocol: websocket, h2c¶sec-websocket-version: 13", "refused unsupported_protocol"),
    (":protocol: connect-udp", "refused unsupported_protocol"),
    (":protocol: webtransport¶content-type: application/json", "refused unsupported_protocol"),
    (":protocol: ", "refused unsupported_protocol"),
];

#[test]
fn in_21_22_no_protocol_is_smuggled_by_an_extended_connect() {
    let upstream = Upstream::start();
    let (proxy, _folder) = super::open(upstream.address());
    let judge = |sent: &str, expected: &str| {
        let outcome = Outcome::read(expected);
        let bytes = written::bytes(sent, "a.test");
        let said = frames::talk(proxy.inbound(), &bytes, |said| outcome.is_all(said)).expect("a connection");
        let seen = upstream.seen().iter().map(shown).collect();
        upstream.forget();
        outcome.judge("a.test", &said, seen).unwrap_or_else(|error| panic!("{sent}\n    {error}"));
    };
    let head = ":method: CONNECT¶:scheme: http¶:authority: HOST¶:path: /";
    for (fields, expected) in EXTENDED {
        judge(&format!("HEADERS EH 1 {head}¶{fields}"), expected);
    }
    for (from, to, expected) in [
        ("CONNECT", "GET", "reset 1"),
        ("CONNECT", "PUT", "reset 1"),
        ("¶:scheme: http", "", "reset 1"),
        ("¶:path: /", "", "reset 1"),
        ("¶:scheme: http¶:authority: HOST¶:path: /", "¶:authority: HOST", "reset 1"),
        ("¶:authority: HOST", "", "refused bad_request"),
        (":scheme: http", ":scheme: ws", "refused bad_request"),
        (":path: /", ":path: *", "refused bad_request"),
        (":path: /", ":path: /a/../b", "refused ambiguous_path"),
    ] {
        let head = head.replacen(from, to, 1);
        judge(&format!("HEADERS EH 1 {head}¶:protocol: websocket¶sec-websocket-version: 13"), expected);
    }
}

/// As the tables write it.
fn shown(seen: &Seen) -> String {
    let field = |name: &str, value: &http::HeaderValue| {
        format!("{name}: {}", crate::support::strict::latin(value.as_bytes()))
    };
    let fields = seen.headers.iter().map(|(name, value)| field(name.as_str(), value) + "¶");
    let trailers = seen.trailers.iter().map(|(name, value)| "¶".to_owned() + &field(name.as_str(), value));
    let (fields, trailers): (String, String) = (fields.collect(), trailers.collect());
    format!("{} {}¶{fields}¶{}{trailers}", seen.method, seen.uri, crate::support::strict::latin(&seen.body))
}

// === impl Outcome ===

impl<'a> Outcome<'a> {
    fn read(text: &'a str) -> Self {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match word {
            "goaway" => Self::GoAway(rest.parse().expect("a code")),
            "closed" => Self::Closed,
            "reset" => Self::Reset(rest.parse().expect("a code")),
            "refused" => Self::Refused(rest),
            "unparsed" => Self::Unparsed,
            "ignored" => Self::Ignored,
            "passes" => Self::Passes(rest),
            word => panic!("the outcome {word}"),
        }
    }

    /// Has the server said all that it will? If so nobody waits for more.
    fn is_all(&self, said: &Said) -> bool {
        match self {
            // The end of the connection.
            Self::GoAway(_) | Self::Closed => false,
            Self::Ignored => said.is_over(BEHIND),
            _ => said.is_over(BEHIND) && said.is_over(1),
        }
    }

    fn judge(&self, host: &str, said: &Said, mut seen: Vec<String>) -> Result<(), String> {
        let behind = BEHIND_SEEN.map(|behind| comparable(behind, host));
        for seen in &mut seen {
            *seen = seen.replace("\r\n", "¶");
        }
        let came_through = seen.iter().position(|seen| behind.contains(seen));
        if let Some(at) = came_through {
            seen.remove(at);
        }
        let goes_on = said.has_ended(BEHIND).is_some()
            && came_through.is_some()
            && said.goaway.iter().all(|code| *code == 0);
        let is_refused = |reason: &str| {
            said.has_ended(1).is_some_and(|text| text.contains(&format!("\"reason\":\"{reason}\"")))
        };
        // What was in order before the error may be on its way.
        let is_over =
            said.is_closed && came_through.is_none() && !seen.iter().any(|seen| seen.contains("/hidden"));
        let is_right = match self {
            Self::GoAway(code) => is_over && said.goaway == [*code],
            Self::Closed => is_over && said.goaway.is_empty(),
            Self::Reset(code) => goes_on && seen.is_empty() && said.resets.contains(&(1, *code)),
            Self::Refused(reason) => goes_on && seen.is_empty() && is_refused(reason),
            Self::Unparsed => goes_on && seen.is_empty() && said.has_ended(1) == Some(""),
            Self::Ignored => goes_on && seen.is_empty() && !said.is_over(1),
            Self::Passes(expected) => {
                goes_on && seen == [comparable(expected, host)] && said.has_ended(1).is_some()
            }
        };
        if is_right {
            Ok(())
        } else {
            Err(format!("expected {self:?}\n    said {said:?}\n    seen {seen:?}"))
        }
    }
}
