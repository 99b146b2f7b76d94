//! What does a caller hold who asks for a stream and does not read it? Nothing beyond its token: the application sees the end.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;

use crate::support::client::Connection;
use crate::support::jose::{Key, claims, key_set};
use crate::support::policy::{Folder, LOCAL_ISSUER, document, inbound};
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::Upstream;
use crate::support::{now, wait_until};

struct World {
    key: Key,
    _folder: Folder,
    upstream: Upstream,
    proxy: Proxy,
}

// === impl World ===

impl World {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(flags: &[&str]) -> Self {
        let (key, upstream) = (Key::new("k1"), Upstream::start());
        let issuer = json!({"issuer": LOCAL_ISSUER, "jwks": {"file": "keys.jwks"}, "leeway": "0s"});
        let rules = json!([{"name": "listen", "to": {"paths": ["/flood", "/stream"]}, "from": {}}]);
        let folder = Folder::with(&[
            ("issuer.yaml", &document("Issuer", "corp", &issuer)),
            ("orders.yaml", &inbound(&rules)),
            ("keys.jwks", &key_set(&[&key]).to_string()),
        ]);
        let proxy =
            Settings::policies(folder.path(), "orders").before(upstream.address()).with(flags).start();
        Self { key, _folder: folder, upstream, proxy }
    }

    fn bearer(&self, seconds: i64) -> String {
        format!("Bearer {}", self.key.token(&claims(LOCAL_ISSUER, &json!({"exp": now() + seconds}))))
    }

    /// The application sees the end no later than this after it began, and it is recorded.
    fn assert_ends(&self, began: Instant) {
        assert_eq!(self.upstream.flowing(), 1);
        wait_until("the end at the application", LIFE + Duration::from_secs(2), || {
            self.upstream.flowing() == 0
        });
        let lived = began.elapsed();
        assert!(lived > LIFE - Duration::from_secs(1) && lived < LIFE + Duration::from_secs(2), "{lived:?}");
        let labels = [("decision", "deny"), ("reason", "expired")];
        let ended = self.proxy.scrape().sum("countersign_streams_ended_total", &labels);
        assert!((ended - 1.0).abs() < f64::EPSILON, "{ended}");
        let line = r#""decision":"deny","reason":"expired","decision_id""#;
        wait_until("the record", Duration::from_secs(5), || self.proxy.log().contains(line));
    }
}

/// Of a token.
const LIFE: Duration = Duration::from_secs(4);
const SECONDS: i64 = 4;

#[test]
fn over_http1_it_ends_with_its_token() {
    let (world, began) = (World::new(), Instant::now());
    let mut caller = Connection::open(world.proxy.inbound()).unwrap();
    let bearer = world.bearer(SECONDS);
    let head = format!("GET /flood HTTP/1.1\r\nHost: orders.shop\r\nAuthorization: {bearer}\r\n\r\n");
    caller.send(head.as_bytes()).unwrap();
    assert_eq!(caller.head().unwrap().0, 200);
    world.assert_ends(began);
    // What was on its way arrives, and then the end is missing.
    while let Ok(chunk) = caller.chunk() {
        assert!(chunk.is_some(), "it ended as if it were whole");
    }
}

/// With a window of one KiB that it never opens, on a connection that others use.
#[test]
fn over_http2_it_ends_with_its_token_and_no_other_stream_does() {
    let world = World::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut sender = runtime.block_on(connect(&world));
    let mut other = runtime.block_on(open(&mut sender, &world, "/stream", 300));
    let began = Instant::now();
    let mut unread = runtime.block_on(open(&mut sender, &world, "/flood", SECONDS));
    world.assert_ends(began);
    runtime.block_on(async {
        let error = loop {
            match unread.frame().await.expect("it ended as if it were whole") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(format!("{error:?}").contains("INTERNAL_ERROR"), "{error:?}");
        for _ in 0..10 {
            other.frame().await.unwrap().unwrap();
        }
    });
}

/// However long its token is good for.
#[test]
fn in_24_who_takes_nothing_for_half_a_minute_is_cut_off() {
    let world = World::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut sender = runtime.block_on(connect(&world));
    let mut unread = runtime.block_on(open(&mut sender, &world, "/flood", 300));
    let mut caller = Connection::open(world.proxy.inbound()).unwrap();
    let bearer = world.bearer(300);
    let head = format!("GET /flood HTTP/1.1\r\nHost: orders.shop\r\nAuthorization: {bearer}\r\n\r\n");
    caller.send(head.as_bytes()).unwrap();
    assert_eq!(caller.head().unwrap().0, 200);
    // Of the same connection, which moves all the while.
    let mut other = runtime.block_on(open(&mut sender, &world, "/stream", 300));
    let began = Instant::now();
    assert_eq!(world.upstream.flowing(), 2);
    while world.upstream.flowing() > 0 {
        assert!(began.elapsed() < Duration::from_secs(45), "it holds the application");
        runtime.block_on(other.frame()).unwrap().unwrap();
    }
    assert!(began.elapsed() > Duration::from_secs(25), "{:?}", began.elapsed());
    for cause in ["write", "stream"] {
        let labels = [("direction", "inbound"), ("cause", cause)];
        let cut = || world.proxy.scrape().sum("countersign_connections_timed_out_total", &labels);
        wait_until("it to be counted", Duration::from_secs(5), || cut() == 1.0);
    }
    let error = runtime.block_on(async {
        loop {
            match unread.frame().await.expect("it ended as if it were whole") {
                Ok(_) => {}
                Err(error) => break error,
            }
        }
    });
    assert!(format!("{error:?}").contains("CANCEL"), "{error:?}");
    runtime.block_on(other.frame()).unwrap().unwrap();
}

/// Each of these callers asks for so many answers and takes not one byte of them; others are answered all the same.
fn assert_holds_up_nobody(callers: usize, streams: usize) {
    // All on the same upstream connections.
    let world = World::with(&["--workers", "1"]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut unread = Vec::new();
        for _ in 0..callers {
            let mut sender = connect_with(&world, 0).await;
            for _ in 0..streams {
                let answer = open(&mut sender, &world, "/flood", 300);
                unread.push(tokio::time::timeout(SOON, answer).await.expect("they hold up each other"));
            }
        }
        // So that what they are sent has come.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(world.upstream.flowing(), callers * streams);
        for _ in 0..3 {
            let answered = async {
                let mut sender = connect(&world).await;
                let mut other = open(&mut sender, &world, "/stream", 300).await;
                for _ in 0..10 {
                    other.frame().await.unwrap().unwrap();
                }
            };
            tokio::time::timeout(SOON, answered).await.expect("others wait for those who read nothing");
        }
    });
}

const SOON: Duration = Duration::from_secs(10);

#[test]
fn in_24_who_opens_no_window_holds_up_nobody_else() {
    assert_holds_up_nobody(1, 10);
}

/// More streams than the application allows on one connection, which are 200.
#[test]
fn in_24_who_holds_many_streams_leaves_some_to_others() {
    assert_holds_up_nobody(3, 90);
}

/// Thousands of windows, opened one after the other: honest, if slow.
#[test]
fn who_takes_little_at_a_time_gets_all_of_it() {
    let world = World::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut sender = connect_with(&world, 64).await;
        let (mut answer, mut read) = (open(&mut sender, &world, "/flood", 300).await, 0);
        while read < 512 * 1024 {
            read += answer.frame().await.unwrap().unwrap().into_data().unwrap().len();
        }
    });
}

async fn connect(world: &World) -> SendRequest<Empty<Bytes>> {
    connect_with(world, 1024).await
}

async fn connect_with(world: &World, window: u32) -> SendRequest<Empty<Bytes>> {
    let stream = tokio::net::TcpStream::connect(world.proxy.inbound()).await.unwrap();
    let mut http2 = Builder::new(TokioExecutor::new());
    http2.initial_stream_window_size(window).initial_connection_window_size(1024 * 1024);
    let (sender, connection) = http2.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn open(sender: &mut SendRequest<Empty<Bytes>>, world: &World, path: &str, seconds: i64) -> Incoming {
    let request = Request::get(format!("http://orders.shop{path}"))
        .header("authorization", world.bearer(seconds))
        .body(Empty::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body()
}
