//! What does a caller hear of an answer that breaks off? A refusal where nothing of the body came, and else all that did: never
//! nothing at all.

use std::io::{self, BufRead, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use socket2::SockRef;

use crate::support::policy::{Folder, inbound, issuer_with_file};
use crate::support::ports::Port;
use crate::support::proxy::{Proxy, Settings};

const TRIES: usize = 20;
const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// How an application closes its connection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Close {
    Fin,
    Rst,
}

/// An application that says this, all at once, to whoever asks, and closes the connection.
fn saying(said: Vec<u8>, hear: fn(&TcpStream) -> io::Result<()>, close: Close) -> Port {
    let port = Port::lease();
    let listener = TcpListener::bind(port.address()).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // Who only looks whether somebody listens asks nothing.
            if hear(&stream).is_err() || stream.write_all(&said).is_err() {
                continue;
            }
            if close == Close::Rst {
                SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            }
        }
    });
    port
}

fn before(target: SocketAddr) -> (Proxy, Folder) {
    let rules = json!([{"name": "all", "public": true, "to": {"paths": ["/*"]}}]);
    let folder = Folder::with(&[
        ("policy.yaml", &(issuer_with_file("keys.jwks") + &inbound(&rules))),
        ("keys.jwks", r#"{"keys":[]}"#),
    ]);
    (Settings::policies(folder.path(), "orders").before(target).start(), folder)
}

/// All that a caller hears until the end.
fn heard(to: SocketAddr) -> String {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    stream.write_all(b"GET /a HTTP/1.1\r\nHost: orders.shop\r\nConnection: close\r\n\r\n").unwrap();
    let mut heard = Vec::new();
    // A reset after it is an end as well.
    let _ = stream.read_to_end(&mut heard);
    String::from_utf8_lossy(&heard).into_owned()
}

#[test]
fn over_http1_an_answer_that_breaks_off_at_once_is_refused() {
    for (said, close) in [("zz\r\n", Close::Fin), ("", Close::Fin), ("", Close::Rst)] {
        let application = saying(format!("{HEAD}{said}").into(), hear_head, close);
        let (proxy, _folder) = before(application.address());
        for _ in 0..TRIES {
            let heard = heard(proxy.inbound());
            let refused = heard.starts_with("HTTP/1.1 502 ")
                && heard.to_ascii_lowercase().contains("x-countersign-reason: upstream_unreachable\r\n");
            // The end may come a moment after the head, which then is on its way.
            let cut = said.is_empty() && heard.starts_with("HTTP/1.1 200 ") && !heard.ends_with("0\r\n\r\n");
            assert!(refused || cut, "{said:?} {close:?}: {heard:?}");
        }
    }
}

#[test]
fn over_http1_what_came_before_an_answer_breaks_off_is_heard() {
    for (said, close) in
        [("4\r\nhalf\r\nzz\r\n", Close::Fin), ("64\r\nhalf", Close::Fin), ("4\r\nhalf\r\n", Close::Rst)]
    {
        let application = saying(format!("{HEAD}{said}").into(), hear_head, close);
        let (proxy, _folder) = before(application.address());
        for _ in 0..TRIES {
            let heard = heard(proxy.inbound());
            assert!(heard.starts_with("HTTP/1.1 200 "), "{said:?} {close:?}: {heard:?}");
            assert!(heard.contains("half") && !heard.ends_with("0\r\n\r\n"), "{said:?} {close:?}: {heard:?}");
        }
    }
}

#[test]
fn over_http2_an_answer_that_breaks_off_at_once_is_refused() {
    for said in [[head(), reset()].concat(), head()] {
        let application = saying([SETTINGS, &said].concat(), hear_frames, Close::Fin);
        let (proxy, _folder) = before(application.address());
        for answer in answers(proxy.inbound()) {
            let refused = answer.status == Some(502) && answer.body.contains("upstream_unreachable");
            // The end may come a moment after the head, which then is on its way.
            let cut = said == head() && answer.status == Some(200) && !answer.is_whole;
            assert!(refused || cut, "{answer:?}");
        }
    }
}

#[test]
fn over_http2_what_came_before_an_answer_breaks_off_is_heard() {
    let data = frame(0, 0, 1, b"half");
    let application = saying([SETTINGS, &head(), &data, &reset()].concat(), hear_frames, Close::Fin);
    let (proxy, _folder) = before(application.address());
    for answer in answers(proxy.inbound()) {
        assert_eq!((answer.status, answer.body.as_str(), answer.is_whole), (Some(200), "half", false));
    }
}

/// What came of an answer.
#[derive(Debug, Default)]
struct Heard {
    status: Option<u16>,
    body: String,
    is_whole: bool,
}

/// One answer after another, over one connection.
fn answers(to: SocketAddr) -> Vec<Heard> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(to).await.unwrap();
        let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut answers = Vec::new();
        for _ in 0..TRIES {
            answers.push(answer(&mut sender).await);
        }
        answers
    })
}

async fn answer(sender: &mut SendRequest<Empty<Bytes>>) -> Heard {
    let request = Request::get("http://orders.shop/a").body(Empty::new()).unwrap();
    let Ok(answer) = sender.send_request(request).await else { return Heard::default() };
    let (status, mut incoming) = (Some(answer.status().as_u16()), answer.into_body());
    let mut body = String::new();
    loop {
        match incoming.frame().await {
            Some(Ok(frame)) => body += &String::from_utf8_lossy(frame.data_ref().unwrap()),
            end => return Heard { status, body, is_whole: end.is_none() },
        }
    }
}

/// Reads the head of a request.
fn hear_head(stream: &TcpStream) -> io::Result<()> {
    let mut reader = io::BufReader::with_capacity(1, stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Reads what an HTTP/2 client says, to the head of its first request.
fn hear_frames(mut stream: &TcpStream) -> io::Result<()> {
    stream.read_exact(&mut [0; PREFACE])?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let [_, high, low, kind, ..] = head;
        stream.read_exact(&mut vec![0; usize::from(u16::from_be_bytes([high, low]))])?;
        if kind == HEADERS {
            return Ok(());
        }
    }
}

/// RFC 9113 §4.1.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// `:status: 200` (RFC 7541 Appendix A), and more to come.
fn head() -> Vec<u8> {
    frame(HEADERS, 4, 1, &[0x88])
}

/// INTERNAL_ERROR.
fn reset() -> Vec<u8> {
    frame(3, 0, 1, &[0, 0, 0, 2])
}

/// None that differs from the defaults.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const HEADERS: u8 = 1;
/// Bytes of the client's preface (RFC 9113 §3.4).
const PREFACE: usize = 24;
