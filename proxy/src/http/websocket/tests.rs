use http::Request;
use http_body_util::Empty;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::http::pace::{Busy, Counts, Pace};

/// The example of RFC 6455 §1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// What is said of a request, as hyper parses it.
async fn said_of(request: &str) -> Result<Option<String>, Reason> {
    let (near, mut far) = tokio::io::duplex(8 * 1024);
    far.write_all(request.as_bytes()).await.unwrap();
    far.shutdown().await.unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let service = service_fn(move |request: Request<Incoming>| {
        let (mut head, body) =
            Arriving::request(request, &Busy::on(&Pace::new(false, None, Counts::for_tests())), None)
                .into_parts();
        let _ = sender.send(asked(&mut head, &body).map(|asked| asked.map(|handshake| handshake.accept)));
        async { Ok::<_, std::convert::Infallible>(Response::new(Empty::<bytes::Bytes>::new())) }
    });
    let server = hyper::server::conn::http1::Builder::new();
    let _ = server.serve_connection(TokioIo::new(near), service).with_upgrades().await;
    receiver.try_recv().expect("hyper took it")
}

fn request(change: impl FnOnce(String) -> String) -> String {
    let fields = format!(
        "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
    );
    change(fields) + "\r\n"
}

#[tokio::test]
async fn in_21_a_request_for_websocket_is_in_order() {
    assert_eq!(said_of(&request(|fields| fields)).await, Ok(Some(ACCEPT.to_owned())));
    assert_eq!(
        said_of(&request(|fields| fields + "Content-Length: 0\r\n")).await,
        Ok(Some(ACCEPT.to_owned()))
    );
    for (from, to) in [
        ("GET", "POST"),
        ("Version: 13", "Version: 8"),
        ("Version: 13\r\n", "Version: 13\r\nSec-WebSocket-Version: 13\r\n"),
        ("Sec-WebSocket-Version: 13\r\n", ""),
        (KEY, ""),
        (KEY, "dGhlIHNhbXBsZSBub25jZQ"),
        (KEY, "dGhlIHNhbXBsZSBub25j"),
        (KEY, "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Key", "X-Key"),
        ("Host: a\r\n", "Host: a\r\nContent-Length: 3\r\n"),
        ("Host: a\r\n", "Host: a\r\nTransfer-Encoding: chunked\r\n"),
    ] {
        let changed = request(|fields| fields.replacen(from, to, 1));
        assert_eq!(said_of(&changed).await, Err(Reason::BadRequest), "{from} -> {to}");
    }
}

/// RFC 9110 §7.8: it is ignored, by us and, since it is of the hop, by the application.
#[tokio::test]
async fn in_21_what_does_not_ask_for_websocket_alone_asks_for_nothing() {
    for (from, to) in [
        ("Upgrade: WebSocket", "Upgrade: h2c"),
        ("Upgrade: WebSocket", "Upgrade: websocket, h2c"),
        ("Upgrade: WebSocket", "Upgrade: h2c\r\nUpgrade: websocket"),
        ("Upgrade: WebSocket", "Upgrade: websocket\r\nUpgrade: websocket"),
        ("Upgrade: WebSocket", "Upgrade: websocket/13"),
        ("Upgrade: WebSocket", "X-Upgrade: websocket"),
        ("Connection: keep-alive, Upgrade", "Connection: keep-alive"),
        ("Connection: keep-alive, Upgrade", "Connection: upgrades"),
        ("HTTP/1.1", "HTTP/1.0"),
    ] {
        let changed = request(|fields| fields.replacen(from, to, 1));
        assert_eq!(said_of(&changed).await, Ok(None), "{from} -> {to}");
    }
}

/// What is made of an answer, as hyper's client parses it.
async fn made_of(answer: &'static str) -> Result<Response<Body>, Cause> {
    let (near, mut far) = tokio::io::duplex(8 * 1024);
    tokio::spawn(async move {
        let _ = far.read(&mut [0; 1024]).await;
        let _ = far.write_all(answer.as_bytes()).await;
    });
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(Request::new(Empty::<bytes::Bytes>::new())).await.unwrap();
    let (near, _far) = tokio::io::duplex(64);
    let mut none = Request::new(near);
    let client = hyper::upgrade::on(&mut none);
    Handshake { accept: ACCEPT.to_owned(), client, extended: None }.answered(response)
}

#[tokio::test]
async fn in_21_only_the_answer_to_the_key_opens_the_way() {
    let good = "HTTP/1.1 101 Yes\r\nConnection: Upgrade, hop\r\nUpgrade: websocket\r\nHop: 1\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n";
    let answer = made_of(good).await.unwrap();
    assert_eq!(answer.headers()[CONNECTION], "Upgrade");
    assert_eq!(answer.headers()[UPGRADE], "websocket");
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
    assert!(!answer.headers().contains_key("hop"));
    for bad in [
        "HTTP/1.1 101 Yes\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 Yes\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOO=\r\n\r\n",
        "HTTP/1.1 101 Yes\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        "HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        "HTTP/1.1 101 Yes\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    ] {
        assert_eq!(made_of(bad).await.err(), Some(Cause::HttpUpgradeFailed), "{bad}");
    }
}
