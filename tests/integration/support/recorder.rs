//! Which requests do an upstream's connections carry, read by a parser that forgives nothing? A server that accounts for every
//! byte that it gets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::ports::Port;
use super::strict;

/// Answers 200 to each request, over connections that stay open: what is left over of one would be the beginning of the next.
/// Its threads end with the test process.
#[derive(Debug)]
pub(crate) struct Recorder {
    port: Port,
    state: Arc<Mutex<State>>,
}

/// What has come since somebody last asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// Whole requests, as [`strict::Message`] writes them.
    pub(crate) requests: Vec<String>,
    /// What is wrong with others.
    pub(crate) wrong: Vec<String>,
    /// The beginnings of those that broke off.
    pub(crate) cut: Vec<String>,
}

#[derive(Debug, Default)]
struct State {
    recorded: Recorded,
    /// Connections in the middle of a request.
    busy: usize,
}

impl Recorder {
    pub(crate) fn start() -> Self {
        let port = Port::lease();
        let listener = TcpListener::bind(port.address()).expect("a leased port");
        let state = Arc::<Mutex<State>>::default();
        let record = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let record = Arc::clone(&record);
                thread::spawn(move || converse(stream, &record));
            }
        });
        Self { port, state }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// What has come, once no connection is in the middle of a request, or after a moment.
    pub(crate) fn take(&self) -> Recorded {
        let start = Instant::now();
        while lock(&self.state).busy > 0 && start.elapsed() < MOMENT {
            thread::sleep(Duration::from_millis(1));
        }
        std::mem::take(&mut lock(&self.state).recorded)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no test panics with it")
}

fn converse(mut stream: TcpStream, state: &Mutex<State>) {
    let (mut bytes, mut some) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let count = stream.read(&mut some).unwrap_or(0);
        let mut state = lock(state);
        state.busy -= usize::from(!bytes.is_empty());
        if count == 0 {
            if !bytes.is_empty() {
                state.recorded.cut.push(strict::latin(&bytes));
            }
            return;
        }
        bytes.extend(&some[..count]);
        loop {
            match strict::read(&bytes) {
                Ok(strict::Read::Whole(message, used)) => {
                    state.recorded.requests.push(message.to_string());
                    bytes.drain(..used);
                    let body: &[u8] = if message.line.starts_with("HEAD ") { b"" } else { b"ok" };
                    let answer = [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", body].concat();
                    if stream.write_all(&answer).is_err() {
                        return;
                    }
                }
                Ok(strict::Read::Begun) => break,
                Err(error) => {
                    state.recorded.wrong.push(format!("{error} in {:?}", strict::latin(&bytes)));
                    return;
                }
            }
        }
        state.busy += usize::from(!bytes.is_empty());
    }
}

const MOMENT: Duration = Duration::from_secs(2);
