//! When is the time for all of an answer over? Before its head or in the middle of it, whatever moves meanwhile, inbound and outbound;
//! and what ends in time is as it would be without a limit.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use crate::support::client::{Answer, Connection, get};
use crate::support::frames::{Frames, data, head};
use crate::support::policy::{self, Folder, document, inbound_with, issuer_with_file};
use crate::support::proxy::{Proxy, Settings};
use crate::support::scripted::{Scripted, Served};
use crate::support::upstream::Upstream;
use crate::support::wait_until;

pub(crate) const TOTAL: Duration = Duration::from_millis(800);
/// For machines that are busy.
pub(crate) const LATE: Duration = Duration::from_secs(4);

/// A sidecar before a server and on the way to it, with this limit for both.
pub(crate) struct World {
    proxy: Proxy,
    pub(crate) host: String,
    _folder: Folder,
}

impl World {
    pub(crate) fn new(target: SocketAddr, rule: &Value) -> Self {
        let timeouts = json!({"total": "800ms"});
        let rules = json!([{"name": "all", "public": true, "to": {"paths": ["/*"]}}]);
        let mut out = json!({
            "name": "out", "to": {"hosts": ["localhost"], "ports": [target.port()]}, "tls": "none", "timeouts": timeouts,
        });
        for (name, value) in rule.as_object().unwrap() {
            out[name] = value.clone();
        }
        let outbound = json!({"workloads": {"labels": {"app": "orders"}}, "rules": [out]});
        let folder = Folder::with(&[
            ("issuer.yaml", &issuer_with_file("keys.jwks")),
            ("in.yaml", &inbound_with(&rules, &json!({"timeouts": timeouts}))),
            ("out.yaml", &document("OutboundPolicy", "out", &outbound)),
            ("keys.jwks", r#"{"keys":[]}"#),
        ]);
        // One worker, so that a kept connection is found again.
        let settings = Settings::policies(folder.path(), "orders").before(target).with(&["--workers", "1"]);
        let host = format!("localhost:{}", target.port());
        Self { proxy: settings.start(), host, _folder: folder }
    }

    pub(crate) fn ways(&self) -> [SocketAddr; 2] {
        [self.proxy.inbound(), self.proxy.outbound()]
    }

    /// A connection on which this has been asked for.
    fn asked(&self, way: SocketAddr, path: &str) -> Connection {
        let mut connection = Connection::open(way).unwrap();
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host).as_bytes()).unwrap();
        connection
    }

    fn assert_late(&self, answer: &Answer, began: Instant) {
        assert_eq!((answer.status, answer.reason().as_str()), (504, "upstream_timeout"), "{answer:?}");
        assert_eq!(answer.header("proxy-status"), Some("countersign; error=http_response_timeout"));
        assert_in_time(began);
        assert_eq!(self.proxy.logged(answer)["cause"], "http_response_timeout");
    }
}

/// No sooner and not much later.
fn assert_in_time(began: Instant) {
    let took = began.elapsed();
    assert!(took >= TOTAL && took < LATE, "{took:?}");
}

/// A server that says this to whoever asks, then hears until the connection ends; and how many have.
fn saying(said: &'static str) -> (Scripted, Arc<AtomicUsize>) {
    let ended = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&ended);
    let server = Scripted::start(move |mut served: Served| {
        if served.head().is_none() {
            return;
        }
        served.say(said);
        while matches!(served.stream().read(&mut [0; 1024]), Ok(1..)) {}
        count.fetch_add(1, Ordering::Relaxed);
    });
    (server, ended)
}

fn assert_ended(ended: &AtomicUsize, count: usize) {
    wait_until("the end of its connection", LATE, || ended.load(Ordering::Relaxed) == count);
}

#[test]
fn no_answer_is_504_and_the_upstream_hears_no_more() {
    let (server, ended) = saying("");
    let world = World::new(server.address(), &json!({}));
    for (index, way) in world.ways().into_iter().enumerate() {
        let began = Instant::now();
        world.assert_late(&get(way, "/a", &[("Host", &world.host)]), began);
        assert_ended(&ended, index + 1);
    }
}

/// Whose request never ends gets no more time by that: not for the first byte, nor by being busy.
#[test]
fn a_request_that_drips_is_no_longer() {
    let (server, ended) = saying("");
    let world = World::new(server.address(), &json!({}));
    for (index, way) in world.ways().into_iter().enumerate() {
        let began = Instant::now();
        let mut connection = Connection::open(way).unwrap();
        let open = format!("POST /a HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n", world.host);
        connection.send(open.as_bytes()).unwrap();
        let mut sender = connection.plain().try_clone().unwrap();
        thread::spawn(move || {
            while sender.write_all(b"1\r\na\r\n").is_ok() {
                thread::sleep(Duration::from_millis(50));
            }
        });
        world.assert_late(&connection.answer("POST").unwrap(), began);
        assert_ended(&ended, index + 1);
    }
}

#[test]
fn an_answer_that_stops_breaks_off() {
    let (server, ended) = saying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ntick\r\n");
    let world = World::new(server.address(), &json!({}));
    for (index, way) in world.ways().into_iter().enumerate() {
        let began = Instant::now();
        let mut connection = world.asked(way, "/a");
        assert_eq!(connection.head().unwrap().0, 200);
        assert_eq!(connection.chunk().unwrap().unwrap(), b"tick");
        assert!(connection.chunk().is_err(), "it has an end");
        assert_in_time(began);
        assert_ended(&ended, index + 1);
    }
}

/// Something is always at hand, so that no timer between two frames is ever set.
#[test]
fn an_answer_that_never_rests_breaks_off() {
    let upstream = Upstream::start();
    let world = World::new(upstream.address(), &json!({}));
    for way in world.ways() {
        let began = Instant::now();
        let mut connection = world.asked(way, "/flood");
        assert_eq!(connection.head().unwrap().0, 200);
        let mut read = 0;
        while let Ok(chunk) = connection.chunk() {
            read += chunk.expect("it has an end").len();
        }
        assert!(read > 1 << 20, "{read} bytes");
        assert_in_time(began);
        wait_until("the application to be free", LATE, || upstream.flowing() == 0);
    }
}

/// Whoever takes nothing holds nothing of the application's for longer than that.
#[test]
fn an_answer_that_nobody_takes_is_let_go_of() {
    let upstream = Upstream::start();
    let world = World::new(upstream.address(), &json!({}));
    for way in world.ways() {
        let began = Instant::now();
        let mut connection = world.asked(way, "/flood");
        wait_until("the answer to begin", LATE, || upstream.flowing() == 1);
        wait_until("the application to be free", LATE, || upstream.flowing() == 0);
        assert_in_time(began);
        assert_eq!(connection.head().unwrap().0, 200);
        // What had been handed over is heard, and that there is no end.
        while let Ok(chunk) = connection.chunk() {
            chunk.expect("it has an end");
        }
    }
}

#[test]
fn what_ends_in_time_is_whole_and_its_connection_is_kept() {
    let server = Scripted::start(|mut served: Served| {
        while served.head().is_some() {
            served.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ntick\r\n");
            thread::sleep(TOTAL / 4);
            served.say("4\r\ntock\r\n0\r\n\r\n");
        }
    });
    let world = World::new(server.address(), &json!({}));
    for way in world.ways() {
        let mut connection = Connection::open(way).unwrap();
        for _ in 0..3 {
            let answer = connection.request("GET", "/a", &[("Host", &world.host)], b"").unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, "ticktock"));
            // Between requests nothing counts.
            thread::sleep(TOTAL);
        }
    }
    assert_eq!(server.asked("/a"), 6);
}

/// Half of the time is gone when the connection turns out to be stale.
#[test]
fn a_second_attempt_has_what_is_left() {
    let server = Scripted::start(|mut served: Served| {
        let mut is_kept = false;
        while let Some(head) = served.head() {
            match head.split(' ').nth(1) {
                Some("/first") => {
                    served.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                    is_kept = true;
                }
                _ if is_kept => return thread::sleep(TOTAL / 2),
                _ => thread::sleep(LATE),
            }
        }
    });
    let world = World::new(server.address(), &json!({}));
    let mut connection = Connection::open(world.proxy.inbound()).unwrap();
    assert_eq!(connection.request("GET", "/first", &[], b"").unwrap().status, 200);
    let began = Instant::now();
    let answer = connection.request("GET", "/second", &[], b"").unwrap();
    world.assert_late(&answer, began);
    assert!(began.elapsed() < TOTAL + TOTAL / 4, "{:?}", began.elapsed());
    assert_eq!(server.asked("/second"), 2);
}

#[test]
fn the_wait_for_a_token_counts() {
    let ((issuer, _), upstream) = (saying(""), Upstream::start());
    let world = World::new(upstream.address(), &json!({}));
    let endpoint = format!("http://{}/token", issuer.address());
    let spec = json!({"issuer": "http://127.0.0.1:1", "tokenEndpoint": endpoint, "insecure": true});
    let policy = document("Issuer", "corp", &spec)
        + &policy::credential()
        + &policy::outbound(upstream.port(), &json!({"timeouts": {"total": "800ms"}}));
    let folder = Folder::with(&[("policy.yaml", &policy), ("client-secret", "s3cret")]);
    let proxy = Settings::policies(folder.path(), "checkout").start();
    let world = World { proxy, _folder: folder, ..world };
    let began = Instant::now();
    world.assert_late(&get(world.proxy.outbound(), "/a", &[("Host", &world.host)]), began);
    assert_eq!(upstream.count(), 0);
}

/// The request is open and busy in both directions; the server sees its end all the same.
#[test]
fn over_http2_streams_are_reset_on_both_sides() {
    for begins in [false, true] {
        let resets = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&resets);
        let server = Scripted::start(move |mut served: Served| {
            let stream = served.stream().get_ref().try_clone().unwrap();
            let Ok(mut frames) = Frames::accept(stream) else { return };
            let Ok(stream) = frames.request() else { return };
            if begins {
                frames.say(&[head(stream), data(stream, b"tick")].concat()).unwrap();
            }
            frames.until_reset().unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            frames.hear_out();
        });
        let world = World::new(server.address(), &json!({"protocol": "http2"}));
        for (index, way) in world.ways().into_iter().enumerate() {
            let began = Instant::now();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (status, status_of_proxy, end) = runtime.block_on(ask_open(way, &world.host));
            if begins {
                assert_eq!(status, 200);
                assert!(end.expect_err("it has no end").contains("INTERNAL_ERROR"));
            } else {
                assert_eq!(status, 504);
                assert_eq!(status_of_proxy.unwrap(), "countersign; error=http_response_timeout");
            }
            assert_in_time(began);
            wait_until("the reset", LATE, || resets.load(Ordering::Relaxed) == index + 1);
        }
    }
}

/// Asks with a body that goes on for ever: status, `Proxy-Status`, and how the answer ended.
async fn ask_open(to: SocketAddr, host: &str) -> (u16, Option<http::HeaderValue>, Result<(), String>) {
    let stream = tokio::net::TcpStream::connect(to).await.unwrap();
    let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let drip = stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Some((Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(b"a"))), ()))
    });
    let request = Request::post(format!("http://{host}/a")).body(StreamBody::new(Box::pin(drip))).unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let end = body.collect().await.map(drop).map_err(|error| format!("{error:?}"));
    connection.abort();
    (head.status.as_u16(), head.headers.get("proxy-status").cloned(), end)
}
