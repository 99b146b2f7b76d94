//! What does an upstream see? A server of HTTP/1.1 that reads its requests with a parser that forgives nothing, and answers each
//! with its number.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{How, Manner, Way, upstream_http2};
use crate::strict;

/// What has come.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// Whole requests.
    pub(crate) requests: Vec<Request>,
    /// What no upstream should ever get.
    pub(crate) wrong: Vec<String>,
    /// Requests that were given a number, for each that was or will be answered.
    pub(crate) numbered: usize,
}

/// A request, in whichever version of HTTP it came.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// Names in lower case. The host is among them.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
}

/// What all connections of an upstream write to.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared(Arc<Mutex<Record>>);

/// Takes connections until it is aborted.
pub(super) async fn serve(listener: TcpListener, how: How, record: Shared) {
    while let Ok((stream, _)) = listener.accept().await {
        // So many connections would leave no port free, if each were remembered by the kernel for a minute.
        stream.set_zero_linger().expect("a socket");
        tokio::spawn(converse(stream, how, record.clone()));
    }
}

async fn converse(mut stream: TcpStream, how: How, record: Shared) {
    let mut first = [0; 4];
    // Outbound, where a caller of HTTP/2 names a host of no rule.
    if matches!(stream.peek(&mut first).await, Ok(4)) && &first == b"PRI " {
        return upstream_http2::converse(stream, how.manner, record).await;
    }
    let read = |bytes: &[u8]| match how.way {
        Way::Inbound => strict::read(bytes),
        Way::Outbound => strict::read_by(bytes, any_line),
    };
    let (mut bytes, mut some, mut early) = (Vec::new(), vec![0; 16 * 1024], None);
    loop {
        match read(&bytes) {
            Ok(strict::Read::Whole(message, used)) => {
                bytes.drain(..used);
                let number = early.take();
                let is_answered = number.is_some();
                let number = number.unwrap_or_else(|| record.number());
                let is_head = message.line.starts_with("HEAD ");
                let accept = accept(&message);
                record.came(Request::from(*message));
                if !is_answered && write(&mut stream, how.manner, number, is_head, accept).await.is_none() {
                    return silent(stream).await;
                }
            }
            Ok(strict::Read::Begun) => {
                let has_head = bytes.windows(4).any(|window| window == b"\r\n\r\n");
                if how.manner == Manner::Early && has_head && early.is_none() {
                    let number = *early.insert(record.number());
                    let is_head = bytes.starts_with(b"HEAD ");
                    if write(&mut stream, Manner::Plain, number, is_head, None).await.is_none() {
                        return;
                    }
                }
                match stream.read(&mut some).await {
                    Ok(0) | Err(_) => return,
                    Ok(count) => bytes.extend(some.get(..count).unwrap_or_default()),
                }
            }
            Err(error) => return record.broke(format!("{error} in {:?}", strict::latin(&bytes))),
        }
    }
}

/// `None`: this was the last request of the connection.
async fn write(
    stream: &mut TcpStream,
    manner: Manner,
    number: usize,
    is_head: bool,
    accept: Option<String>,
) -> Option<()> {
    let served = format!("x-served: {number}\r\n");
    let whole = body(number);
    let length = format!("{served}content-length: {}\r\n\r\n", whole.len());
    let body = if is_head { "" } else { &whole };
    let text = match manner {
        Manner::Plain | Manner::Early => format!("HTTP/1.1 200 OK\r\n{length}{body}"),
        Manner::Chunked if is_head => {
            format!("HTTP/1.1 200 OK\r\n{served}transfer-encoding: chunked\r\n\r\n")
        }
        Manner::Chunked => format!(
            "HTTP/1.1 200 OK\r\n{served}trailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\nx-sum: 1\r\n\r\n",
            body.len(),
        ),
        Manner::Last => format!("HTTP/1.1 200 OK\r\n{served}connection: close\r\n\r\n{body}"),
        Manner::Silent => String::new(),
        Manner::Broken => format!("HTTP/1.1 200 OK\r\n{served}content-length: 100\r\n\r\n{body}"),
        Manner::Interim => {
            format!(
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n{length}{body}"
            )
        }
        Manner::Switching => format!(
            "HTTP/1.1 101 Switching Protocols\r\n{served}upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {}\r\n\r\n",
            accept.unwrap_or_default(),
        ),
    };
    stream.write_all(text.as_bytes()).await.ok()?;
    if manner == Manner::Switching {
        // A frame with one word.
        stream.write_all(b"\x81\x02hi").await.ok()?;
    }
    match manner {
        Manner::Last | Manner::Broken => {
            let _ = stream.shutdown().await;
            None
        }
        Manner::Silent | Manner::Switching => None,
        Manner::Plain | Manner::Chunked | Manner::Early | Manner::Interim => Some(()),
    }
}

/// What every answer has for a body: it finds its way to the caller where header fields are compressed.
pub(super) fn body(number: usize) -> String {
    format!("served {number};")
}

/// Hears the other side out.
async fn silent(mut stream: TcpStream) {
    let mut some = vec![0; 16 * 1024];
    while !matches!(stream.read(&mut some).await, Ok(0) | Err(_)) {}
}

/// Outbound, no path is judged: it passes as the application wrote it.
fn any_line(line: &str) -> Result<(), String> {
    let parts: Vec<&str> = line.split(' ').collect();
    match parts[..] {
        [method, target, "HTTP/1.1"]
            if !method.is_empty() && target.starts_with('/') && !target.contains('#') =>
        {
            Ok(())
        }
        _ => Err(format!("the request line {line:?}")),
    }
}

/// The one answer to the key of a WebSocket (RFC 6455 §4.2.2).
fn accept(message: &strict::Message) -> Option<String> {
    let key = *message.all("sec-websocket-key").first()?;
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    Some(BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes())))
}

// === impl Shared ===

impl Shared {
    /// The number of a request.
    pub(super) fn number(&self) -> usize {
        let mut record = self.lock();
        record.numbered += 1;
        record.numbered
    }

    pub(super) fn came(&self, request: Request) {
        self.lock().requests.push(request);
    }

    pub(super) fn broke(&self, wrong: String) {
        self.lock().wrong.push(wrong);
    }

    pub(super) fn take(&self) -> Record {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Request ===

impl From<strict::Message> for Request {
    fn from(message: strict::Message) -> Self {
        let strict::Message { line, fields, body, trailers } = message;
        let mut words = line.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        Self { method, target, fields, body, trailers }
    }
}
