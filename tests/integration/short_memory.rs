//! What if there is no memory for one more request? It is refused, those under way go on, and it is over when they are.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpStream;

use crate::floods::resident;
use crate::support::client::{Connection, get};
use crate::support::policy::{Folder, inbound_with};
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::Upstream;
use crate::support::wait_until;

const CONNECTIONS: usize = 10;
/// As many as a connection may have.
const STREAMS: usize = 100;

fn start(mebibytes: &str, upstream: &Upstream) -> (Proxy, Folder) {
    let rules = json!([{"name": "all", "to": {"paths": ["/*"]}, "public": true}]);
    let folder = Folder::with(&[("orders.yaml", &inbound_with(&rules, &json!({"tokens": []})))]);
    let settings = Settings::policies(folder.path(), "orders").before(upstream.address());
    (settings.with(&["--workers", "1", "--max-memory", mebibytes]).start(), folder)
}

/// Answers without an end, that are not taken; and the statuses of those that were refused.
async fn ask(proxy: &Proxy) -> (Vec<SendRequest<Empty<Bytes>>>, Vec<Incoming>, Vec<StatusCode>) {
    let (mut senders, mut open, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(proxy.inbound()).await.unwrap();
        let (mut sender, connection) = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1024)
            .initial_connection_window_size(1024 * 1024)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        for _ in 0..STREAMS {
            let request = Request::get("http://orders.shop/flood").body(Empty::new()).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            match answer.status() {
                StatusCode::OK => open.push(answer.into_body()),
                status => refused.push(status),
            }
        }
        senders.push(sender);
    }
    (senders, open, refused)
}

#[test]
fn os_5_without_memory_requests_are_shed_and_those_under_way_go_on() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let upstream = Upstream::start();

    let (proxy, _folder) = start("4096", &upstream);
    let (_senders, open, refused) = runtime.block_on(ask(&proxy));
    assert_eq!((open.len(), refused.len()), (CONNECTIONS * STREAMS, 0));
    let all = resident(&proxy);
    drop(proxy);

    let most = 24;
    let (proxy, _folder) = start(&most.to_string(), &upstream);
    let (senders, open, refused) = runtime.block_on(ask(&proxy));
    let some = resident(&proxy);
    println!("{all} KiB with {} open answers, {some} KiB with {}", CONNECTIONS * STREAMS, open.len());
    assert!(all > (most + 24) * 1024, "all of it takes no more than {all} KiB: this test shows nothing");
    assert!(some < (most + 24) * 1024, "{some} KiB");
    assert!(open.len() > 32 && refused.len() > 100, "{} and {}", open.len(), refused.len());
    assert!(refused.iter().all(|status| *status == StatusCode::SERVICE_UNAVAILABLE), "{refused:?}");
    let scrape = proxy.scrape();
    let count = |name, labels: &[_]| scrape.sum(name, labels);
    assert!((count("countersign_memory_short", &[]) - 1.0).abs() < f64::EPSILON);
    assert!((count("countersign_max_memory_bytes", &[]) - 25_165_824.0).abs() < f64::EPSILON);
    let shed = count("countersign_requests_total", &[("decision", "error"), ("reason", "overloaded")]);
    assert!((shed - f64::from(u32::try_from(refused.len()).unwrap())).abs() < f64::EPSILON, "{shed}");
    let log = proxy.process.stderr();
    assert!(log.contains("memory is short"), "{log}");

    // Nobody was cut off for it; when they have gone there is room, whether the allocator gives back what it has or not.
    assert_eq!(upstream.flowing(), open.len());
    drop((open, senders));
    wait_until("room for others", Duration::from_secs(10), || {
        get(proxy.inbound(), "/orders", &[]).status == 200
    });
}

/// What follows on the connection may be part of what was refused, so nobody reads it for a request when there is room again.
#[test]
fn in_15_without_memory_framing_that_is_refused_closes_all_the_same() {
    let upstream = Upstream::start();
    let (proxy, _folder) = start("1", &upstream);
    let outbound = format!("Host: localhost:{}\r\n", upstream.port());
    let mut held = Vec::new();
    for _ in 0..40 {
        let mut connection = Connection::open(proxy.inbound()).unwrap();
        connection.send(b"GET /slow/15000 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        held.push(connection);
    }
    let status = |to| get(to, "/orders", &[("Host", &outbound[6..outbound.len() - 2])]).status;
    wait_until("memory to be short", Duration::from_secs(10), || status(proxy.inbound()) == 503);
    for (to, host) in [(proxy.inbound(), "Host: a\r\n"), (proxy.outbound(), &outbound)] {
        assert_eq!(status(to), 503);
        for (head, reason) in [
            (format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: gzip, chunked\r\n\r\n"), "bad_request"),
            (format!("GET / HTTP/1.1\r\n{host}Host: b\r\n\r\n"), "bad_request"),
            (format!("GET / HTTP/1.1\r\n{host}Connection: authorization\r\n\r\n"), "bad_request"),
            (format!("GET http://b/ HTTP/1.1\r\n{host}\r\n"), "ambiguous_destination"),
            (format!("CONNECT b:443 HTTP/1.1\r\n{host}Content-Length: 3\r\n\r\n"), ""),
            // Who asks to go on as something else may have begun to.
            (format!("GET / HTTP/1.1\r\n{host}{WEBSOCKET}\r\n"), "overloaded"),
        ] {
            let mut connection = Connection::open(to).unwrap();
            connection.send(head.as_bytes()).unwrap();
            let answer = connection.answer("GET").unwrap();
            assert!(
                answer.reason() == reason || reason.is_empty() && answer.status < 500,
                "{head:?}: {answer:?}"
            );
            assert_eq!(answer.header("connection"), Some("close"), "{head:?}");
            assert!(connection.is_closed(), "{head:?}");
        }
    }
    drop(held);
}

const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
