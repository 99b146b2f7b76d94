//! Which failure was it? Upstreams that fail in each of the ways that RFC 9209 has a word for: the answer's status and reason, and the
//! word in `Proxy-Status` and in the access log.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use socket2::SockRef;

use crate::support::authority::{Authority, Pair};
use crate::support::client::{Answer, Connection, get, raw};
use crate::support::frames::{Frames, INTERNAL_ERROR, head, reset};
use crate::support::policy::{Folder, document, open_policy, open_policy_with};
use crate::support::ports::Port;
use crate::support::proxy::{Proxy, Settings};
use crate::support::scripted::{Scripted, Served};
use crate::support::upstream::Upstream;

/// Of a rule: time enough, however slow the machine is, but for the limits that a test waits for.
fn timeouts(awaited: &[&str]) -> Value {
    let mut timeouts = json!({"connect": "10s", "firstByte": "10s", "idle": "10s"});
    for limit in awaited {
        timeouts[limit] = json!("500ms");
    }
    timeouts
}

/// A workload that may go to `localhost` on one port, by a rule with these fields, and to all others without.
struct World {
    port: u16,
    proxy: Proxy,
    _folder: Folder,
}

impl World {
    fn new(port: u16, more: &Value) -> Self {
        Self::with(port, more, &[])
    }

    fn with(port: u16, more: &Value, files: &[(&str, &str)]) -> Self {
        let mut rule = json!({
            "name": "orders", "to": {"hosts": ["localhost"], "ports": [port]}, "tls": "none",
            "timeouts": timeouts(&[]),
        });
        for (name, value) in more.as_object().expect("an object") {
            rule.as_object_mut().expect("an object").insert(name.clone(), value.clone());
        }
        let spec = json!({"workloads": {"labels": {"app": "checkout"}}, "egress": "pass", "rules": [rule]});
        let policy = document("OutboundPolicy", "checkout", &spec);
        let folder = Folder::with(&[&[("policy.yaml", policy.as_str())], files].concat());
        Self { port, proxy: Settings::policies(folder.path(), "checkout").start(), _folder: folder }
    }

    fn get(&self) -> Answer {
        get(self.proxy.outbound(), "/a", &[("Host", &self.authority())])
    }

    fn authority(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// It is this failure, and everybody hears so.
    fn assert_fails(&self, status: u16, reason: &str, error: &str) {
        self.assert_failed(&self.get(), status, reason, error);
    }

    fn assert_failed(&self, answer: &Answer, status: u16, reason: &str, error: &str) {
        assert_said(answer, status, reason, error);
        assert_eq!(self.proxy.logged(answer)["cause"], error);
    }
}

/// Says so to the caller, and nothing more.
fn assert_said(answer: &Answer, status: u16, reason: &str, error: &str) {
    assert_eq!((answer.status, answer.reason().as_str()), (status, reason), "{answer:?}");
    assert_eq!(answer.header("proxy-status"), Some(format!("countersign; error={error}").as_str()));
}

/// A server that hears a head, and says this.
fn saying(said: &'static str) -> Scripted {
    Scripted::start(move |mut served: Served| {
        if served.head().is_some() {
            served.say(said);
        }
    })
}

/// One that says this to whoever comes, and hears the sidecar out: a reset would be another failure.
fn at_once(said: &'static str) -> Scripted {
    Scripted::start(move |mut served: Served| {
        served.say(said);
        let _ = io::copy(served.stream(), &mut io::sink());
    })
}

/// One that never says a word, and never goes.
fn silent() -> Scripted {
    Scripted::start(|_served: Served| thread::sleep(Duration::from_secs(60)))
}

#[test]
fn nobody_listens() {
    let port = Port::lease();
    World::new(port.number(), &json!({})).assert_fails(502, "upstream_unreachable", "connection_refused");
}

#[test]
fn the_connection_ends_without_a_word() {
    let server = saying("");
    let world = World::new(server.address().port(), &json!({}));
    world.assert_fails(502, "upstream_unreachable", "connection_terminated");
    let server = Scripted::start(|mut served: Served| {
        served.head();
        SockRef::from(served.stream().get_ref()).set_linger(Some(Duration::ZERO)).expect("a socket");
    });
    let world = World::new(server.address().port(), &json!({}));
    world.assert_fails(502, "upstream_unreachable", "connection_terminated");
}

#[test]
fn the_answer_breaks_off() {
    for said in ["HTTP/1.1 200 OK\r\nContent-Ty", "HTTP/1.1 200 OK\r\n"] {
        let server = saying(said);
        let world = World::new(server.address().port(), &json!({}));
        world.assert_fails(502, "upstream_unreachable", "http_response_incomplete");
    }
}

#[test]
fn the_answer_is_no_http() {
    for said in [
        "SSH-2.0-OpenSSH_9.9\r\n",
        "HTTP/1.1 200 OK\r\nA b: c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let server = saying(said);
        let world = World::new(server.address().port(), &json!({}));
        world.assert_fails(502, "upstream_unreachable", "http_protocol_error");
    }
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(300_000));
    let server = saying(long.leak());
    let world = World::new(server.address().port(), &json!({}));
    world.assert_fails(502, "upstream_unreachable", "http_response_header_section_size");
}

#[test]
fn the_answer_to_an_upgrade_is_another() {
    let server = saying("HTTP/1.1 101 Yes\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    let world = World::new(server.address().port(), &json!({}));
    let authority = world.authority();
    let asks = [
        ("Host", authority.as_str()),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let answer = get(world.proxy.outbound(), "/a", &asks);
    world.assert_failed(&answer, 502, "upstream_unreachable", "http_upgrade_failed");
}

#[test]
fn no_answer_comes() {
    let server = silent();
    let world = World::new(server.address().port(), &json!({"timeouts": timeouts(&["firstByte"])}));
    world.assert_fails(504, "upstream_timeout", "connection_read_timeout");
}

#[test]
fn the_request_is_not_taken() {
    let server = silent();
    let world = World::new(server.address().port(), &json!({"timeouts": timeouts(&["firstByte", "idle"])}));
    let mut connection = Connection::open(world.proxy.outbound()).expect("a connection");
    let mut sender = connection.plain().try_clone().expect("a socket");
    let head =
        format!("POST /a HTTP/1.1\r\nHost: {}\r\nContent-Length: 100000000\r\n\r\n", world.authority());
    thread::spawn(move || {
        let _ = sender.write_all(head.as_bytes());
        // It ends when the sidecar has heard enough.
        while sender.write_all(&[b'x'; 65_536]).is_ok() {}
    });
    let answer = connection.answer("POST").expect("an answer");
    world.assert_failed(&answer, 504, "upstream_timeout", "connection_write_timeout");
}

#[test]
fn tls_fails() {
    let originate = |port: u16| json!({"tls": "originate", "originate": {"caFile": "ca.crt", "port": port}});
    let authority = Authority::new();
    let pem = authority.pem();
    let begin = |port: u16| World::with(port, &originate(port), &[("ca.crt", &pem)]);

    // Neither by whom nor for whom it should be.
    let (stranger, stranger_pem) = Upstream::start_tls("other.test");
    begin(stranger.port()).assert_fails(502, "upstream_unreachable", "tls_certificate_error");
    let port = stranger.port();
    let world = World::with(port, &originate(port), &[("ca.crt", &stranger_pem)]);
    world.assert_fails(502, "upstream_unreachable", "tls_certificate_error");

    let mut config = authority.demanding();
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let choosy = Upstream::start_with(config);
    begin(choosy.port()).assert_fails(502, "upstream_unreachable", "tls_alert_received");

    let plain = at_once("HTTP/1.1 400 Bad Request\r\n\r\n");
    begin(plain.address().port()).assert_fails(502, "upstream_unreachable", "tls_protocol_error");

    let gone = Scripted::start(drop::<Served>);
    begin(gone.address().port()).assert_fails(502, "upstream_unreachable", "connection_terminated");

    let mute = silent();
    let mut more = originate(mute.address().port());
    more["timeouts"] = timeouts(&["connect"]);
    let world = World::with(mute.address().port(), &more, &[("ca.crt", &pem)]);
    world.assert_fails(504, "upstream_timeout", "connection_timeout");

    let port = stranger.port();
    let world = World::with(port, &originate(port), &[("ca.crt", "-----BEGIN CERTIF")]);
    world.assert_fails(502, "upstream_unreachable", "proxy_configuration_error");
}

#[test]
fn out_8_a_server_that_wants_a_certificate_of_ours_ends_tls() {
    let authority = Authority::new();
    let mut config = authority.demanding();
    // With TLS 1.3 the handshake is over for the client before the server has looked.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let upstream = Upstream::start_with(config);
    let ours = Pair::self_signed("checkout");
    let originate =
        json!({"caFile": "ca.crt", "certFile": "a.crt", "keyFile": "a.key", "port": upstream.port()});
    let files =
        [("ca.crt", authority.pem()), ("a.crt", ours.certificate.clone()), ("a.key", ours.key.clone())];
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let more = json!({"tls": "originate", "originate": originate});
    let world = World::with(upstream.port(), &more, &files);
    let answer = world.get();
    let said = answer.header("proxy-status").expect("it says which").to_owned();
    // As its alert comes while the request waits, or after the end of the connection.
    let ends = ["countersign; error=tls_alert_received", "countersign; error=connection_terminated"];
    assert!(answer.reason() == "upstream_unreachable" && ends.contains(&said.as_str()), "{said}");
    assert_eq!(upstream.count(), 0);
}

#[test]
fn http2_is_not_spoken_or_ends_the_stream() {
    let resetting = Scripted::start(|mut served: Served| {
        let stream = served.stream().get_ref().try_clone().expect("a socket");
        let Ok(mut frames) = Frames::accept(stream) else { return };
        let Ok(stream) = frames.request() else { return };
        let _ = frames.say(&reset(stream, INTERNAL_ERROR));
        frames.hear_out();
    });
    let world = World::new(resetting.address().port(), &json!({"protocol": "http2"}));
    world.assert_fails(502, "upstream_unreachable", "http_response_incomplete");

    let garbled = at_once("HTTP/1.1 505 HTTP Version Not Supported\r\n\r\n");
    let world = World::new(garbled.address().port(), &json!({"protocol": "http2"}));
    world.assert_fails(502, "upstream_unreachable", "http_protocol_error");
}

#[test]
fn the_destination_is_the_sidecar() {
    let port = Port::lease();
    let world = World::new(port.number(), &json!({}));
    let own = world.proxy.outbound().to_string();
    let answer = get(world.proxy.outbound(), "/a", &[("Host", &own)]);
    world.assert_failed(&answer, 403, "ambiguous_destination", "proxy_loop_detected");
}

#[test]
fn os_5_no_socket_is_left() {
    let (upstream, other) = (Upstream::start(), Upstream::start());
    let world = World::new(upstream.port(), &json!({}));
    let mut connection = Connection::open(world.proxy.outbound()).expect("a connection");
    let mut ask = |port: u16| {
        let authority = format!("localhost:{port}");
        connection.request("GET", "/a", &[("Host", &authority)], b"").expect("an answer")
    };
    // The sidecar has taken our connection then.
    assert_eq!(ask(upstream.port()).status, 200);
    let pid = world.proxy.process.id().to_string();
    let limit = |files: u32| {
        let done = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={files}:")]).status();
        assert!(done.expect("prlimit runs").success());
    };
    // Its own three are open for as long as it runs, so that there is no other.
    limit(3);
    world.assert_failed(&ask(other.port()), 503, "overloaded", "connection_limit_reached");
    limit(1024);
    assert_eq!(ask(other.port()).status, 200);
}

#[test]
fn in_1_a_refusal_says_no_more_than_that_it_is_one() {
    let upstream = Upstream::start();
    let folder = open_policy_with(&json!({"rules": [{"name": "none", "from": {"scopes": ["orders:read"]}}]}));
    let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
    let missing = get(proxy.inbound(), "/a", &[("Host", "orders.shop")]);
    assert_said(&missing, 401, "missing_token", "http_request_denied");
    let garbled =
        get(proxy.inbound(), "/a", &[("Host", "orders.shop"), ("Authorization", "Bearer e30.e30.e30")]);
    assert_eq!(garbled.header("proxy-status"), Some("countersign; error=http_request_denied"));
    let crooked =
        raw(proxy.inbound(), b"GET /a/../b HTTP/1.1\r\nHost: orders.shop\r\n\r\n").expect("an answer");
    assert_said(&crooked, 400, "ambiguous_path", "http_request_error");
    assert_eq!(upstream.count(), 0);
}

/// The application is asked over HTTP/2, for gRPC and for anything else.
#[test]
fn grpc_hears_it_in_the_one_block_that_there_is() {
    let port = Port::lease();
    let (proxy, _folder) = before(port.address());
    for (kind, status) in [("application/grpc", 200), ("text/plain", 502)] {
        let (heard, headers) = ask_http2(proxy.inbound(), kind);
        assert_eq!(heard, status);
        assert_eq!(headers["proxy-status"], "countersign; error=connection_refused");
        assert_eq!(headers["x-countersign-reason"], "upstream_unreachable");
        let grpc = headers.get("grpc-status").map(|status| status.as_bytes());
        assert_eq!(grpc, (kind == "application/grpc").then_some(&b"14"[..]));
    }
    // A head with which the stream does not begin well.
    let listener = TcpListener::bind(port.address()).expect("a leased port");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let Ok(mut frames) = Frames::accept(stream) else { continue };
            let Ok(stream) = frames.request() else { continue };
            let _ = frames.say(&[head(stream), reset(stream, INTERNAL_ERROR)].concat());
            frames.hear_out();
        }
    });
    let (_, headers) = ask_http2(proxy.inbound(), "application/grpc");
    assert_eq!(headers["proxy-status"], "countersign; error=http_response_incomplete");
}

/// An answer that is the application's own says nothing of ours, and what others say of it stays.
#[test]
fn what_others_say_passes() {
    let said = "HTTP/1.1 504 No\r\nProxy-Status: cdn.example; error=dns_timeout\r\nContent-Length: 0\r\n\r\n";
    let server = saying(said);
    let (proxy, _folder) = before(server.address());
    let answer = get(proxy.inbound(), "/a", &[("Host", "orders.shop")]);
    assert_eq!(answer.header("proxy-status"), Some("cdn.example; error=dns_timeout"));
    let plain = saying("HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n");
    let (proxy, _folder) = before(plain.address());
    assert_eq!(get(proxy.inbound(), "/a", &[("Host", "orders.shop")]).header("proxy-status"), None);
}

fn before(target: SocketAddr) -> (Proxy, Folder) {
    let folder = open_policy();
    (Settings::policies(folder.path(), "orders").before(target).start(), folder)
}

/// Status and fields of an answer over HTTP/2.
fn ask_http2(to: SocketAddr, content_type: &str) -> (u16, http::HeaderMap) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stream = TcpStream::connect(to).expect("a connection");
        stream.set_nonblocking(true).expect("a socket");
        let stream = tokio::net::TcpStream::from_std(stream).expect("a socket");
        let connected = handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut sender, connection) = connected.expect("HTTP/2");
        let connection = tokio::spawn(connection);
        let request = Request::post("http://orders.shop/a").header("content-type", content_type);
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        let (head, body) = answer.into_parts();
        let _ = body.collect().await;
        connection.abort();
        (head.status.as_u16(), head.headers)
    })
}
