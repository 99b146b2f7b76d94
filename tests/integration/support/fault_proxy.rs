//! What if the road between two parts is ill? A TCP proxy for any pair of them that does one thing wrong for as long as a test says so.

use std::future::pending;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc as commands, watch};
use tokio::time::sleep;

use super::ports::Port;

/// What befalls the next exchange of each connection: what a client says, after an answer or at first, and the answer. The server
/// has heard the request in any case but that of [`Fault::Refuse`], so that it can be seen how often it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// All passes.
    None,
    /// The answer comes so much later.
    Delay(Duration),
    /// RST in place of what would follow.
    Reset(At),
    /// Nobody listens, and what is open is reset.
    Refuse,
    /// The answer never comes, nor an end, on this connection, whatever befalls others then.
    HalfOpen,
    /// FIN in place of what would follow.
    Truncate(At),
    /// [`GARBAGE`] before what follows.
    Garbage(At),
    /// A byte after each pause.
    Drip(Duration),
    /// [`OTHER`] right behind a whole answer of HTTP/1.1 that has a length.
    Surplus,
}

/// A place in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// Behind so many bytes.
    Byte(usize),
    /// Behind so many bytes of the body, which begins behind a head of HTTP/1.1.
    Body(usize),
}

/// Neither HTTP/1.1 nor a chunk's size, nor a frame of HTTP/2 (it would be too long) nor a record of TLS.
pub(crate) const GARBAGE: &[u8] =
    b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8 garbage \r\n of the road \xff\xfe\r\n\r\n";
pub(crate) const OTHER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 24\r\n\r\nthe answer of no request";

/// Stands before one server. Ends on drop, with every connection.
#[derive(Debug)]
pub(crate) struct FaultProxy {
    port: Port,
    commands: commands::UnboundedSender<Command>,
}

#[derive(Debug)]
struct State {
    to: SocketAddr,
    now: Mutex<(usize, Fault)>,
    /// Connections end when it changes.
    cut: watch::Sender<()>,
}

#[derive(Debug)]
struct Command {
    fault: Fault,
    done: mpsc::Sender<()>,
}

/// What one connection is in the middle of.
#[derive(Debug)]
struct Exchange {
    epoch: usize,
    fault: Fault,
    answer: Vec<u8>,
    has_befallen: bool,
}

/// The connection ends with a reset.
#[derive(Debug)]
struct Ended;

// === impl FaultProxy ===

impl FaultProxy {
    /// Before this server, without a fault.
    pub(crate) fn before(to: SocketAddr) -> Self {
        let port = Port::lease();
        let state = Arc::new(State { to, now: Mutex::new((0, Fault::None)), cut: watch::channel(()).0 });
        let (commands, heard) = commands::unbounded_channel();
        let proxy = Self { port, commands };
        let address = proxy.address();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(serve(address, &state, heard));
        });
        proxy.switch(Fault::None);
        proxy
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// From now on this befalls whatever begins. It holds when this returns.
    pub(crate) fn switch(&self, fault: Fault) {
        let (done, is_done) = mpsc::channel();
        self.commands.send(Command { fault, done }).expect("the proxy runs");
        is_done.recv().expect("the proxy runs");
    }
}

async fn serve(address: SocketAddr, state: &Arc<State>, mut heard: commands::UnboundedReceiver<Command>) {
    let mut listener: Option<TcpListener> = None;
    loop {
        let accepted = async {
            match &listener {
                None => pending().await,
                Some(listener) => TcpListener::accept(listener).await,
            }
        };
        tokio::select! {
            command = heard.recv() => {
                let Some(Command { fault, done }) = command else { return };
                state.begin(fault);
                if fault == Fault::Refuse {
                    // A child process that another thread is just starting has it as well, until it runs its program.
                    if let Some(listener) = listener.take() {
                        let _ = SockRef::from(&listener).shutdown(Shutdown::Both);
                    }
                    state.cut.send_replace(());
                } else if listener.is_none() {
                    listener = Some(TcpListener::bind(address).await.expect("a leased port"));
                }
                let _ = done.send(());
            }
            Ok((stream, _)) = accepted => {
                tokio::spawn(converse(stream, Arc::clone(state)));
            }
        }
    }
}

async fn converse(mut client: TcpStream, state: Arc<State>) {
    let mut cut = state.cut.subscribe();
    let exchange = Mutex::new(state.exchange());
    if let Ok(mut server) = TcpStream::connect(state.to).await {
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let carried = async {
            tokio::try_join!(
                up(from_client, to_server, &state, &exchange),
                down(from_server, to_client, &exchange)
            )
        };
        let ended = tokio::select! { ended = carried => ended.is_err(), _ = cut.changed() => true };
        if !ended {
            return;
        }
    }
    // An error says that it is reset already.
    let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
}

/// What the client says.
async fn up(
    mut client: ReadHalf<'_>,
    mut server: WriteHalf<'_>,
    state: &State,
    exchange: &Mutex<Exchange>,
) -> Result<(), Ended> {
    let mut some = vec![0; CHUNK];
    loop {
        let count = client.read(&mut some).await?;
        let is_dead = {
            let mut exchange = lock(exchange);
            let is_dead = exchange.fault == Fault::HalfOpen;
            if !is_dead && exchange.epoch != state.lock().0 {
                *exchange = state.exchange();
            }
            is_dead
        };
        match count {
            0 if is_dead => return Err(Ended),
            0 => return Ok(server.shutdown().await?),
            // A server that has gone is heard of below.
            _ => drop(server.write_all(&some[..count]).await),
        }
    }
}

/// What the server says.
async fn down(
    mut server: ReadHalf<'_>,
    mut client: WriteHalf<'_>,
    exchange: &Mutex<Exchange>,
) -> Result<(), Ended> {
    let mut some = vec![0; CHUNK];
    loop {
        let count = server.read(&mut some).await?;
        let data = &some[..count];
        let (fault, begun) = lock(exchange).hear(data);
        match fault {
            Fault::HalfOpen if count == 0 => pending().await,
            Fault::HalfOpen => {}
            _ if count == 0 => return Ok(client.shutdown().await?),
            Fault::None | Fault::Refuse => client.write_all(data).await?,
            Fault::Delay(pause) => {
                sleep(pause).await;
                client.write_all(data).await?;
                lock(exchange).has_befallen = true;
            }
            Fault::Drip(pause) => {
                for byte in data {
                    client.write_all(&[*byte]).await?;
                    sleep(pause).await;
                }
            }
            Fault::Surplus => {
                let mut answer = lock(exchange).whole();
                if !answer.is_empty() {
                    answer.extend(OTHER);
                }
                client.write_all(&answer).await?;
            }
            Fault::Reset(at) | Fault::Truncate(at) | Fault::Garbage(at) => {
                let point = at.of(&lock(exchange).answer).and_then(|point| point.checked_sub(begun));
                let Some(point) = point.filter(|point| *point <= count) else {
                    client.write_all(data).await?;
                    continue;
                };
                client.write_all(&data[..point]).await?;
                match fault {
                    Fault::Reset(_) => return Err(Ended),
                    Fault::Truncate(_) => return Ok(client.shutdown().await?),
                    _ => client.write_all(&[GARBAGE, &data[point..]].concat()).await?,
                }
                lock(exchange).has_befallen = true;
            }
        }
    }
}

// === impl State ===

impl State {
    fn begin(&self, fault: Fault) {
        let mut now = self.lock();
        *now = (now.0 + 1, fault);
    }

    fn exchange(&self) -> Exchange {
        let (epoch, fault) = *self.lock();
        Exchange { epoch, fault, answer: Vec::new(), has_befallen: false }
    }

    fn lock(&self) -> MutexGuard<'_, (usize, Fault)> {
        self.now.lock().expect("no test panics with it")
    }
}

// === impl Exchange ===

impl Exchange {
    /// More of the answer: what befalls it, and how much came before.
    fn hear(&mut self, data: &[u8]) -> (Fault, usize) {
        if self.has_befallen {
            return (Fault::None, 0);
        }
        let begun = self.answer.len();
        self.answer.extend(data);
        (self.fault, begun)
    }

    /// The answer, once it is whole; until then nothing.
    fn whole(&mut self) -> Vec<u8> {
        let text = String::from_utf8_lossy(&self.answer).to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let end = length.and_then(|length: usize| At::Body(length).of(&self.answer));
        if end.is_none_or(|end| end > self.answer.len()) {
            return Vec::new();
        }
        self.has_befallen = true;
        std::mem::take(&mut self.answer)
    }
}

fn lock(exchange: &Mutex<Exchange>) -> MutexGuard<'_, Exchange> {
    exchange.lock().expect("no test panics with it")
}

// === impl At ===

impl At {
    fn of(self, answer: &[u8]) -> Option<usize> {
        match self {
            Self::Byte(count) => Some(count),
            Self::Body(count) => {
                let head = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
                Some(head + 4 + count)
            }
        }
    }
}

// === impl Ended ===

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self
    }
}

const CHUNK: usize = 64 * 1024;
