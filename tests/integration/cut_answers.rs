//! What does a caller hear of an answer that breaks off? A refusal where nothing of the body came, and else all that did: never
//! nothing at all.

use std::io::{self, BufRead, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use socket2::SockRef;

use crate::support::frames::{CANCEL, Frames, INTERNAL_ERROR, NO_ERROR, data, go_away, head, reset};
use crate::support::policy::{Folder, inbound, issuer_with_file};
use crate::support::ports::Port;
use crate::support::proxy::{Proxy, Settings};

const TRIES: usize = 20;
const TOGETHER: usize = 8;
const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// How an application closes its connection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Close {
    Fin,
    Rst,
}

/// An application that does this with each connection, and closes it.
fn doing(serve: impl Fn(TcpStream) -> io::Result<()> + Send + 'static) -> Port {
    let port = Port::lease();
    let listener = TcpListener::bind(port.address()).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Who only looks whether somebody listens asks nothing.
            let _ = serve(stream);
        }
    });
    port
}

/// One that says this, all at once, to whoever asks over HTTP/1.1.
fn saying(said: Vec<u8>, close: Close) -> Port {
    doing(move |mut stream| {
        hear_head(&stream)?;
        stream.write_all(&said)?;
        ended(&stream, close);
        Ok(())
    })
}

/// The same over HTTP/2, once so many requests have come. What it says of each is made for its stream.
fn saying_of_each(count: usize, say: fn(u8) -> Vec<u8>, close: Close) -> Port {
    doing(move |stream| {
        let mut frames = Frames::accept(stream)?;
        let streams = (0..count).map(|_| frames.request()).collect::<io::Result<Vec<_>>>()?;
        frames.say(&streams.into_iter().flat_map(say).collect::<Vec<_>>())?;
        ended(frames.stream(), close);
        Ok(())
    })
}

fn ended(stream: &TcpStream, close: Close) {
    if close == Close::Rst {
        SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }
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
        let application = saying(format!("{HEAD}{said}").into(), close);
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
        let application = saying(format!("{HEAD}{said}").into(), close);
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
    let head_and_reset = |stream| [head(stream), reset(stream, INTERNAL_ERROR)].concat();
    let head_and_no_error = |stream| [head(stream), reset(stream, NO_ERROR)].concat();
    for (say, is_reset) in
        [(head_and_reset as fn(u8) -> Vec<u8>, true), (head_and_no_error, true), (head, false)]
    {
        let application = saying_of_each(1, say, Close::Fin);
        let (proxy, _folder) = before(application.address());
        for answer in answers(proxy.inbound(), 1) {
            // The end may come a moment after the head, which then is on its way.
            assert!(answer.is_refused() || !is_reset && answer.is_cut(""), "{answer:?}");
        }
    }
}

/// An answer that has begun, and this.
fn half_and(stream: u8, end: Vec<u8>) -> Vec<u8> {
    [head(stream), data(stream, b"half"), end].concat()
}

#[test]
fn over_http2_what_came_before_an_answer_breaks_off_is_heard() {
    for (end, say) in [
        ("an error", (|stream| half_and(stream, reset(stream, INTERNAL_ERROR))) as fn(u8) -> Vec<u8>),
        ("CANCEL", |stream| half_and(stream, reset(stream, CANCEL))),
        // No error, but no END_STREAM either.
        ("NO_ERROR", |stream| half_and(stream, reset(stream, NO_ERROR))),
        ("GOAWAY", |stream| half_and(stream, go_away(0))),
    ] {
        let application = saying_of_each(1, say, Close::Fin);
        let (proxy, _folder) = before(application.address());
        for answer in answers(proxy.inbound(), 1) {
            assert!(answer.is_cut("half"), "{end}: {answer:?}");
        }
    }
}

/// Of eight streams over one connection, some answers have begun when it ends, and the others not. None ends without a word.
#[test]
fn over_http2_all_who_share_a_connection_that_ends_hear_what_came() {
    let say: fn(u8) -> Vec<u8> = |stream| match stream % 8 {
        1 => [head(stream), data(stream, b"half")].concat(),
        3 => [head(stream), data(stream, b"")].concat(),
        5 => head(stream),
        _ => Vec::new(),
    };
    for close in [Close::Fin, Close::Rst] {
        let application = saying_of_each(TOGETHER, say, close);
        let (proxy, _folder) = before(application.address());
        let answers = answers(proxy.inbound(), TOGETHER);
        for answer in &answers {
            assert!(
                answer.is_refused() || answer.is_cut("") || answer.is_cut("half"),
                "{close:?}: {answer:?}"
            );
        }
        let begun = answers.iter().filter(|answer| answer.is_cut("half")).count();
        let refused = answers.iter().filter(|answer| answer.is_refused()).count();
        // A reset may throw away what came before it.
        assert!(begun > 0 || close == Close::Rst, "{close:?}: {answers:?}");
        assert!(refused >= TRIES * TOGETHER / 4, "{close:?}: {answers:?}");
    }
}

/// What came of an answer.
#[derive(Debug, Default)]
struct Heard {
    status: Option<u16>,
    body: String,
    is_whole: bool,
}

// === impl Heard ===

impl Heard {
    fn is_refused(&self) -> bool {
        self.status == Some(502) && self.body.contains("upstream_unreachable") && self.is_whole
    }

    /// It ended behind this.
    fn is_cut(&self, body: &str) -> bool {
        self.status == Some(200) && self.body == body && !self.is_whole
    }
}

/// So many answers at once, again and again, over one connection.
fn answers(to: SocketAddr, together: usize) -> Vec<Heard> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(to).await.unwrap();
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut answers = Vec::new();
        for _ in 0..TRIES {
            answers.extend(join_all((0..together).map(|_| answer(sender.clone()))).await);
        }
        answers
    })
}

async fn answer(mut sender: SendRequest<Empty<Bytes>>) -> Heard {
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
