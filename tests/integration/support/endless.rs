//! What if an application never comes to an end? Answers that go on for as long as somebody holds their connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::ports::Port;

/// An application whose answers do not end: `/stream` has a chunk every 50 ms, `/quiet` one at the beginning, and `/upload` gets
/// no answer.
#[derive(Debug)]
pub(crate) struct Endless {
    port: Port,
    open: Arc<AtomicUsize>,
}

// === impl Endless ===

impl Endless {
    pub(crate) fn start() -> Self {
        let (port, open) = (Port::lease(), Arc::<AtomicUsize>::default());
        let listener = TcpListener::bind(port.address()).expect("a leased port");
        let counted = open.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let open = counted.clone();
                open.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    converse(stream);
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { port, open }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Connections that somebody still holds.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

fn converse(mut stream: TcpStream) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut some = [0; 1024];
        match stream.read(&mut some) {
            Ok(read @ 1..) => head.extend(&some[..read]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let begin = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ntick\r\n";
    if head.contains(" /stream ") && stream.write_all(begin).is_ok() {
        while stream.write_all(b"4\r\ntick\r\n").is_ok() {
            thread::sleep(Duration::from_millis(50));
        }
        return;
    }
    if head.contains(" /quiet ") {
        let _ = stream.write_all(begin);
    } else if !head.contains(" /upload ") {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
    }
    // Until the other side is gone.
    while stream.read(&mut [0; 64 * 1024]).is_ok_and(|read| read > 0) {}
}
