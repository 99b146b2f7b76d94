//! Which bytes reach the application? A server that keeps every byte of a request head and its body, and answers 200.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::ports::Port;

/// Records raw HTTP/1.1 messages, one connection at a time per thread. Its threads end with the test process.
#[derive(Debug)]
pub(crate) struct RawUpstream {
    port: Port,
    messages: Arc<Mutex<Vec<String>>>,
}

impl RawUpstream {
    pub(crate) fn start() -> Self {
        let port = Port::lease();
        let listener = TcpListener::bind(port.address()).expect("a leased port");
        let messages = Arc::<Mutex<Vec<String>>>::default();
        let record = Arc::clone(&messages);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let record = Arc::clone(&record);
                thread::spawn(move || converse(&stream, &record));
            }
        });
        Self { port, messages }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Head and body of every message so far, as they came.
    pub(crate) fn messages(&self) -> Vec<String> {
        self.messages.lock().expect("no test panics with it").clone()
    }
}

fn converse(stream: &TcpStream, messages: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream);
    while let Some(message) = message(&mut reader) {
        messages.lock().expect("no test panics with it").push(message);
        if (&*stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
            return;
        }
    }
}

fn message(reader: &mut BufReader<&TcpStream>) -> Option<String> {
    let mut text = Vec::new();
    let mut length = 0;
    let mut chunked = false;
    loop {
        let start = text.len();
        if reader.read_until(b'\n', &mut text).ok()? == 0 {
            return None;
        }
        let line = String::from_utf8_lossy(&text[start..]).to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        chunked |= line.starts_with("transfer-encoding:") && line.contains("chunked");
        if line == "\r\n" {
            break;
        }
    }
    if chunked {
        while !text.ends_with(b"0\r\n\r\n") {
            reader.read_until(b'\n', &mut text).ok()?;
        }
    } else {
        let start = text.len();
        text.resize(start + length, 0);
        reader.read_exact(&mut text[start..]).ok()?;
    }
    Some(String::from_utf8_lossy(&text).into_owned())
}
