//! What does a MiB cost that passes as it is? Copied through a buffer and moved by the kernel (splice), side by side in one run,
//! in CPU time of the relaying thread, where the sender writes pieces of different sizes.

#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has no figure to give")]

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener as StdListener, TcpStream as StdStream};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;

use countersign_proxy::drain;
use countersign_proxy::metrics::Metrics;
use countersign_proxy::record::Direction;
use countersign_proxy::tcp::{Meters, NEVER, Relayed, Side, relay};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

const MIB: usize = 1024 * 1024;
const ROUNDS: usize = 3;

fn main() {
    println!("{:>12} {:>14} {:>14} {:>8}", "piece", "copied µs/MiB", "spliced µs/MiB", "ratio");
    for (piece, total) in
        [(512, 16 * MIB), (4096, 128 * MIB), (16 * 1024, 512 * MIB), (256 * 1024, 1024 * MIB)]
    {
        let best = |run: fn(usize, usize) -> f64| {
            (0..ROUNDS).map(|_| run(piece, total)).fold(f64::INFINITY, f64::min)
        };
        let (copied, spliced) = (best(run::<Copied>), best(run::<TcpStream>));
        println!("{piece:>12} {copied:>14.1} {spliced:>14.1} {:>8.2}", spliced / copied);
    }
}

/// CPU time of the relaying thread for each MiB, in microseconds.
fn run<S: Side + From<TcpStream>>(piece: usize, total: usize) -> f64 {
    let listener = || StdListener::bind("127.0.0.1:0").expect("a port");
    let (here, there) = (listener(), listener());
    let (here_at, there_at) =
        (here.local_addr().expect("an address"), there.local_addr().expect("an address"));
    let relaying = thread::spawn(move || {
        let near = here.accept().expect("a connection").0;
        let far = StdStream::connect(there_at).expect("a connection");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let before = cpu_nanoseconds();
        let relayed: Relayed = runtime.block_on(async {
            let side = |stream: StdStream| {
                stream.set_nonblocking(true).expect("a socket");
                S::from(TcpStream::from_std(stream).expect("a socket"))
            };
            let (_signal, drain) = drain::channel();
            let metrics = Metrics::new().expect("metrics");
            let meters = Meters::new(&metrics, Direction::Outbound);
            relay(side(near), side(far), drain, NEVER, &meters).await
        });
        assert_eq!(relayed.up, total as u64);
        cpu_nanoseconds() - before
    });
    let reading = thread::spawn(move || {
        let (mut stream, mut buffer) = (there.accept().expect("a connection").0, vec![0; 256 * 1024]);
        while stream.read(&mut buffer).expect("bytes") > 0 {}
    });
    let mut client = StdStream::connect(here_at).expect("a connection");
    let written = vec![7; piece];
    (0..total / piece).for_each(|_| client.write_all(&written).expect("room"));
    client.shutdown(Shutdown::Write).expect("an end");
    reading.join().expect("no panic");
    let nanoseconds = relaying.join().expect("no panic");
    nanoseconds as f64 / 1000.0 / (total as f64 / MIB as f64)
}

/// Of this thread (proc(5), schedstat).
fn cpu_nanoseconds() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    text.split(' ').next().and_then(|text| text.parse().ok()).expect("a number")
}

/// TCP that the kernel may not move by itself.
struct Copied(TcpStream);

impl From<TcpStream> for Copied {
    fn from(stream: TcpStream) -> Self {
        Self(stream)
    }
}

impl Side for Copied {
    const IS_BARE: bool = false;

    fn tcp(&self) -> &TcpStream {
        &self.0
    }
}

impl AsyncRead for Copied {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Copied {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
