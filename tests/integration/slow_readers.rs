//! What waits for a slow reader? The other side, and never a heap of bytes in the sidecar: the most memory that it ever had, in
//! both directions and both versions of HTTP.

use std::convert::Infallible;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::support::policy::{Folder, open_policy};
use crate::support::proxy::{Proxy, Settings};
use crate::support::scripted::Scripted;
use crate::support::upstream::Upstream;

const MIB: usize = 1024 * 1024;
/// What flows, or would.
const MUCH: usize = 256 * MIB;
/// How long nobody reads.
const PAUSE: Duration = Duration::from_secs(2);

fn before(application: std::net::SocketAddr) -> (Proxy, Folder) {
    let folder = open_policy();
    (Settings::policies(folder.path(), "orders").before(application).start(), folder)
}

fn assert_flat(proxy: &Proxy, before: usize, limit: usize) {
    let grown = proxy.peak().saturating_sub(before);
    println!("{grown} KiB more at most");
    assert!(grown * 1024 < limit, "{grown} KiB more");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn an_answer_over_http1_waits_for_its_reader() {
    let upstream = Upstream::start();
    let (proxy, _folder) = before(upstream.address());
    let (start, mut client) = (proxy.peak(), TcpStream::connect(proxy.inbound()).unwrap());
    client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(client, "GET /bytes/{MUCH} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    thread::sleep(PAUSE);
    assert_flat(&proxy, start, 4 * MIB);
    let (mut read, mut some) = (0, vec![0; MIB]);
    loop {
        match client.read(&mut some).unwrap() {
            0 => break,
            more => read += more,
        }
    }
    assert!(read > MUCH, "{read} bytes of {MUCH} and their frames");
    assert_flat(&proxy, start, 4 * MIB);
}

#[test]
fn an_upload_over_http1_waits_for_the_application() {
    let deaf = Scripted::start(|mut served| {
        served.head();
        thread::sleep(Duration::from_secs(30));
    });
    let (proxy, _folder) = before(deaf.address());
    let (start, mut client) = (proxy.peak(), TcpStream::connect(proxy.inbound()).unwrap());
    client.set_write_timeout(Some(PAUSE)).unwrap();
    write!(client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {MUCH}\r\n\r\n").unwrap();
    let (mut sent, some) = (0, vec![b'x'; MIB]);
    let stuck = loop {
        match client.write(&some) {
            Ok(more) => sent += more,
            Err(error) => break error,
        }
        assert!(sent < MUCH, "all of it was taken");
    };
    assert!(matches!(stuck.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{stuck}");
    assert!(sent < 64 * MIB, "{sent} bytes were taken that nobody reads");
    assert_flat(&proxy, start, 4 * MIB);
}

#[test]
fn answers_over_http2_wait_for_their_reader() {
    let upstream = Upstream::start();
    let (proxy, _folder) = before(upstream.address());
    let start = proxy.peak();
    runtime().block_on(async {
        let stream = tokio::net::TcpStream::connect(proxy.inbound()).await.unwrap();
        let mut client = http2::Builder::new(TokioExecutor::new());
        // It would take all of it at once, and does not.
        client.initial_stream_window_size(1024 * 1024).initial_connection_window_size(8 * 1024 * 1024);
        let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut answers = Vec::new();
        // No more than the window of the application's connection has room for, so that none waits for another.
        for _ in 0..2 {
            let request = Request::get(format!("http://a/bytes/{}", MUCH / 2)).body(Empty::<Bytes>::new());
            answers.push(sender.send_request(request.unwrap()).await.unwrap().into_body());
        }
        tokio::time::sleep(PAUSE).await;
        assert_flat(&proxy, start, 24 * MIB);
        let mut read = 0;
        for mut answer in answers {
            while let Some(frame) = answer.frame().await {
                read += frame.unwrap().into_data().map_or(0, |data| data.len());
            }
        }
        assert_eq!(read, MUCH);
    });
    assert_flat(&proxy, start, 24 * MIB);
}

#[test]
fn uploads_over_http2_wait_for_the_application() {
    let upstream = Upstream::start();
    let (proxy, _folder) = before(upstream.address());
    let (start, sent) = (proxy.peak(), Arc::<AtomicUsize>::default());
    runtime().block_on(async {
        let stream = tokio::net::TcpStream::connect(proxy.inbound()).await.unwrap();
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..8 {
            let (mut sender, sent) = (sender.clone(), sent.clone());
            let body = stream::repeat_with(move || {
                sent.fetch_add(16 * 1024, Ordering::Relaxed);
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b'x'; 16 * 1024])))
            });
            let request = Request::post("http://a/unread").body(StreamBody::new(body)).unwrap();
            tokio::spawn(async move { sender.send_request(request).await });
        }
        tokio::time::sleep(PAUSE).await;
    });
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent > MIB, "nothing was sent");
    assert!(sent < 64 * MIB, "{sent} bytes were taken that nobody reads");
    assert_flat(&proxy, start, 24 * MIB);
}
