//! What if the road between two sidecars is ill? The one of the caller originates TLS and shows a certificate, the other demands it: for
//! each fault within handshake, head and body what curl hears, over HTTP/1.1 and HTTP/2 between them.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::{ServerConnection, StreamOwned};
use serde_json::json;

use crate::support::authority::Authority;
use crate::support::fault_proxy::{At, Fault, FaultProxy};
use crate::support::fault_rows::{self, Expect, HTTP1, HTTP2, LARGE, SMALL, Way, late, unreachable};
use crate::support::policy::{Folder, document, open_policy_with};
use crate::support::ports::Port;
use crate::support::proxy::{Proxy, Settings};
use crate::support::tools::curl_to_the_end;
use crate::support::upstream::Upstream;
use crate::support::wait_until;

/// A fault, what is asked for while it is there, and what the caller hears.
type Row = (Fault, &'static str, Expect);

/// Caller's sidecar, road, the application's sidecar, application.
struct World {
    application: Upstream,
    road: FaultProxy,
    ours: Proxy,
    theirs: Proxy,
    _folders: [Folder; 2],
}

// === impl World ===

impl World {
    fn new(protocol: &str) -> Self {
        let (authority, application) = (Authority::new(), Upstream::start());
        let tls = json!({"certFile": "tls.crt", "keyFile": "tls.key", "clientCaFile": "ca.crt"});
        let inbound = open_policy_with(&json!({ "tls": tls }));
        let server = authority.server();
        for (name, text) in
            [("tls.crt", &server.certificate), ("tls.key", &server.key), ("ca.crt", &authority.pem())]
        {
            inbound.write(name, text);
        }
        let theirs = Settings::policies(inbound.path(), "orders").before(application.address()).start();
        let road = FaultProxy::before(theirs.inbound());
        let outbound = originating(&authority, road.address().port(), protocol);
        let settings = Settings::policies(outbound.path(), "checkout");
        let ours = settings.with(&["--workers", "1", "--access-log", "all"]).start();
        Self { application, road, ours, theirs, _folders: [inbound, outbound] }
    }

    fn way<'a>(&'a self, version: &'a str) -> Way<'a> {
        Way {
            version,
            dial: self.ours.outbound(),
            host: format!("localhost:{}", self.road.address().port()),
            sidecar: &self.ours,
            road: &self.road,
            application: &self.application,
        }
    }
}

/// A policy that reaches `localhost` on this port by TLS, with a certificate of ours.
fn originating(authority: &Authority, port: u16, protocol: &str) -> Folder {
    let ours = authority.client("spiffe://shop.test/checkout");
    let rule = json!({
        "name": "orders", "to": {"hosts": ["localhost"], "ports": [port]}, "tls": "originate",
        "originate": {"caFile": "ca.crt", "certFile": "tls.crt", "keyFile": "tls.key", "port": port},
        "protocol": protocol, "timeouts": {"connect": "2s", "firstByte": "2s", "idle": "2s"},
    });
    let spec = json!({"workloads": {"labels": {"app": "checkout"}}, "rules": [rule]});
    Folder::with(&[
        ("policy.yaml", &document("OutboundPolicy", "checkout", &spec)),
        ("ca.crt", &authority.pem()),
        ("tls.crt", &ours.certificate),
        ("tls.key", &ours.key),
    ])
}

/// The fault befalls the handshake, of which the application hears nothing. The next request is answered at once.
fn befall_handshake(protocol: &str, version: &str, (fault, path, expect): Row) {
    for method in ["POST", "GET"] {
        let world = World::new(protocol);
        let way = world.way(version);
        let case = format!("{fault:?} in the handshake of {method} {path}, curl {version}, {protocol}");
        world.road.switch(fault);
        let heard = way.ask(method, path);
        world.road.switch(Fault::None);
        heard.assert(&case, version, method, path, expect);
        let times = usize::from(expect == Expect::Whole);
        assert_eq!(world.application.count(), times, "{case}");
        way.ask(method, path).assert(&format!("after {case}"), version, method, path, Expect::Whole);
        assert_eq!(world.application.count(), times + 1, "after {case}");
    }
}

/// The fault befalls an answer, on a connection that is there already.
fn befall_answer(protocol: &str, version: &str, (fault, path, expect): Row) {
    for method in ["POST", "GET"] {
        let world = World::new(protocol);
        let way = world.way(version);
        way.ask(method, path).assert("before", version, method, path, Expect::Whole);
        wait_until("the line of the log", Duration::from_secs(10), || {
            world.ours.process.stdout().contains(&format!("\"path\":\"{path}\""))
        });
        way.befalls(&format!("{protocol} between the sidecars"), fault, method, path, expect);
        // The other sidecar has taken no harm.
        assert!(world.theirs.is_ready(), "{fault:?}");
    }
}

/// RFC 9209 §2.3: a connection that is not there in time, one that ends, and what is no TLS.
const HANDSHAKE: &[Row] = &[
    (Fault::Delay(SOON), SMALL, Expect::Whole),
    (Fault::Delay(LATE), SMALL, late("connection_timeout")),
    (Fault::Drip(SLOW), SMALL, late("connection_timeout")),
    (Fault::HalfOpen, SMALL, late("connection_timeout")),
    (Fault::Refuse, SMALL, unreachable("connection_refused")),
    (Fault::Reset(At::Byte(0)), SMALL, unreachable("connection_terminated")),
    (Fault::Reset(FIRST_RECORD), SMALL, unreachable("connection_terminated")),
    (Fault::Truncate(At::Byte(0)), SMALL, unreachable("connection_terminated")),
    (Fault::Truncate(FIRST_RECORD), SMALL, unreachable("connection_terminated")),
    (Fault::Truncate(CERTIFICATE), SMALL, unreachable("connection_terminated")),
    (Fault::Garbage(At::Byte(0)), SMALL, unreachable("tls_protocol_error")),
    (Fault::Garbage(FIRST_RECORD), SMALL, unreachable("tls_protocol_error")),
    (Fault::Garbage(CERTIFICATE), SMALL, unreachable("tls_protocol_error")),
];

/// Whatever the version: of half a record nothing is believed, and a connection that ends without `close_notify` is cut (RFC 8446 §6.1).
const ANSWER: &[Row] = &[
    (Fault::Delay(SOON), SMALL, Expect::Whole),
    (Fault::Drip(QUICK), SMALL, Expect::Whole),
    (Fault::Reset(At::Byte(0)), SMALL, unreachable("connection_terminated")),
    (Fault::Reset(FIRST_RECORD), SMALL, unreachable("connection_terminated")),
    (Fault::Truncate(At::Byte(0)), SMALL, unreachable("connection_terminated")),
    (Fault::Truncate(FIRST_RECORD), SMALL, unreachable("connection_terminated")),
    (Fault::Truncate(BODY), LARGE, Expect::Cut),
    (Fault::Garbage(At::Byte(0)), SMALL, unreachable("tls_protocol_error")),
    (Fault::Garbage(FIRST_RECORD), SMALL, unreachable("tls_protocol_error")),
    (Fault::Garbage(BODY), LARGE, Expect::Cut),
];

/// An answer that is not there in time, and a connection that says nothing any more.
const SILENCE: &[Row] = &[
    (Fault::Delay(LATE), SMALL, late("connection_read_timeout")),
    (Fault::Drip(SLOW), SMALL, late("connection_read_timeout")),
    (Fault::HalfOpen, SMALL, late("connection_read_timeout")),
];

#[test]
fn a_handshake_over_an_ill_road_of_http1() {
    fault_rows::each(HANDSHAKE, |row| befall_handshake("http1", HTTP1, row));
}

#[test]
fn a_handshake_over_an_ill_road_of_http2() {
    fault_rows::each(HANDSHAKE, |row| befall_handshake("http2", HTTP2, row));
}

#[test]
fn an_answer_over_an_ill_road_of_http1() {
    fault_rows::each(ANSWER, |row| befall_answer("http1", HTTP1, row));
    fault_rows::each(SILENCE, |row| befall_answer("http1", HTTP1, row));
}

#[test]
fn an_answer_over_an_ill_road_of_http2() {
    fault_rows::each(ANSWER, |row| befall_answer("http2", HTTP1, row));
    fault_rows::each(SILENCE, |row| befall_answer("http2", HTTP1, row));
}

/// Only the end of TLS says that an answer without a length is whole (RFC 9112 §9.8).
#[test]
fn an_answer_without_a_length_that_tls_does_not_end_is_cut() {
    for (notifies, code) in [(true, 0), (false, 18)] {
        let authority = Authority::new();
        let server = closing(&authority, notifies);
        let folder = originating(&authority, server.number(), "http1");
        let ours = Settings::policies(folder.path(), "checkout").with(&["--access-log", "all"]).start();
        let (url, host) =
            (format!("http://{}/a", ours.outbound()), format!("Host: localhost:{}", server.number()));
        let done = curl_to_the_end(&["--http1.1", "--include", "-H", &host, &url]);
        assert!(done.stdout.starts_with("HTTP/1.1 200 "), "{notifies}: {done:?} {}", ours.log());
        assert!(done.stdout.ends_with("all or half"), "{notifies}: {done:?}");
        assert_eq!(done.code, Some(code), "{notifies}: {done:?}");
    }
}

/// A server whose answer ends with its connection: as TLS demands, or just so.
fn closing(authority: &Authority, notifies: bool) -> Port {
    let (port, config) = (Port::lease(), Arc::new(authority.demanding()));
    let listener = TcpListener::bind(port.address()).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = BufReader::new(StreamOwned::new(tls, stream));
            let mut line = String::from(" ");
            while !line.trim_end().is_empty() || line == " " {
                line.clear();
                if stream.read_line(&mut line).is_err() {
                    break;
                }
            }
            let stream = stream.get_mut();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nall or half");
            if notifies {
                stream.conn.send_close_notify();
            }
            let _ = stream.flush();
        }
    });
    port
}

/// Within the first record.
const FIRST_RECORD: At = At::Byte(20);
/// Within what is encrypted of a handshake.
const CERTIFICATE: At = At::Byte(400);
const BODY: At = At::Byte(30_000);
/// Against limits of two seconds.
const SOON: Duration = Duration::from_millis(200);
const LATE: Duration = Duration::from_secs(5);
const QUICK: Duration = Duration::from_millis(1);
const SLOW: Duration = Duration::from_millis(100);
