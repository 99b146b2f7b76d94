//! What if an application answers in its own way? A server over raw sockets that does with each connection what a test says.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::ports::Port;

/// Runs one function for each connection, in a thread of its own. They end with the test process.
#[derive(Debug)]
pub(crate) struct Scripted {
    port: Port,
    heads: Arc<Mutex<Vec<String>>>,
}

/// A connection of the sidecar's.
#[derive(Debug)]
pub(crate) struct Served {
    stream: BufReader<TcpStream>,
    heads: Arc<Mutex<Vec<String>>>,
    /// Which connection it is, from 0.
    pub(crate) index: usize,
}

// === impl Scripted ===

impl Scripted {
    pub(crate) fn start(serve: impl Fn(Served) + Clone + Send + 'static) -> Self {
        let port = Port::lease();
        let listener = TcpListener::bind(port.address()).expect("a leased port");
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let record = Arc::clone(&heads);
        thread::spawn(move || {
            for (index, stream) in listener.incoming().flatten().enumerate() {
                let served = Served { stream: BufReader::new(stream), heads: Arc::clone(&record), index };
                let serve = serve.clone();
                thread::spawn(move || serve(served));
            }
        });
        Self { port, heads }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The heads of all requests so far, in the order of their arrival.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no test panics with it").clone()
    }

    /// How many of them were for this target.
    pub(crate) fn asked(&self, target: &str) -> usize {
        self.heads().iter().filter(|head| head.split(' ').nth(1) == Some(target)).count()
    }
}

// === impl Served ===

impl Served {
    /// The head of the next request, which is recorded; `None` at the end of the connection.
    pub(crate) fn head(&mut self) -> Option<String> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        self.heads.lock().expect("no test panics with it").push(head.clone());
        Some(head)
    }

    /// Sends these bytes; a sidecar that is gone is its own affair.
    pub(crate) fn say(&mut self, bytes: &str) {
        let _ = self.stream.get_mut().write_all(bytes.as_bytes());
    }

    /// Whatever has come and comes.
    pub(crate) fn stream(&mut self) -> &mut BufReader<TcpStream> {
        &mut self.stream
    }
}
