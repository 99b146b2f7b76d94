//! What if the road between two parts is ill? A TCP proxy for any pair of them that does one thing wrong for as long as a test says so.

use std::future::pending;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
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

/// What befalls the next exchange of each connection: what a client says, after an answer or at first, and the answer. It befalls
/// what one of them says, [`FaultProxy::switch`] the server and [`FaultProxy::switch_requests`] the client. Over HTTP/1.1 a server whose
/// answer something befalls has heard the request in any case but that of [`Fault::Refuse`], so that it can be seen how often it came.
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
    /// It never comes, nor an end, on this connection, whatever befalls others then.
    HalfOpen,
    /// Neither what follows nor an end of it ever comes, and nothing comes back: who said it is gone without a word.
    Gone(At),
    /// FIN in place of what would follow.
    Truncate(At),
    /// [`GARBAGE`] before what follows.
    Garbage(At),
    /// A byte after each pause.
    Drip(Duration),
    /// [`OTHER`] right behind a whole answer of HTTP/1.1 that has a length.
    Surplus,
}

/// A place in what is said.
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
    state: Arc<State>,
    commands: commands::UnboundedSender<Command>,
}

#[derive(Debug)]
struct State {
    to: SocketAddr,
    now: Mutex<Now>,
    /// Connections end when it changes.
    cut: watch::Sender<()>,
    /// Connections so far.
    accepted: AtomicUsize,
}

/// What befalls whose words, and how many faults there were before.
#[derive(Clone, Copy, Debug)]
struct Now {
    epoch: usize,
    fault: Fault,
    side: Side,
}

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

#[derive(Debug)]
struct Command {
    fault: Fault,
    side: Side,
    done: mpsc::Sender<()>,
}

/// What one connection is in the middle of.
#[derive(Debug)]
struct Exchange {
    now: Now,
    /// What that side has said.
    said: Vec<u8>,
    has_befallen: bool,
    is_gone: bool,
}

// === impl FaultProxy ===

impl FaultProxy {
    /// Before this server, without a fault.
    pub(crate) fn before(to: SocketAddr) -> Self {
        let port = Port::lease();
        let now = Mutex::new(Now { epoch: 0, fault: Fault::None, side: Side::Server });
        let state = Arc::new(State { to, now, cut: watch::channel(()).0, accepted: AtomicUsize::new(0) });
        let (commands, heard) = commands::unbounded_channel();
        let proxy = Self { port, state: Arc::clone(&state), commands };
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

    /// From now on this befalls the answer of whatever begins. It holds when this returns.
    pub(crate) fn switch(&self, fault: Fault) {
        self.befall(fault, Side::Server);
    }

    /// The same of what a client says.
    pub(crate) fn switch_requests(&self, fault: Fault) {
        self.befall(fault, Side::Client);
    }

    fn befall(&self, fault: Fault, side: Side) {
        let (done, is_done) = mpsc::channel();
        self.commands.send(Command { fault, side, done }).expect("the proxy runs");
        is_done.recv().expect("the proxy runs");
    }

    /// How many connections it has taken so far.
    pub(crate) fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::Relaxed)
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
                let Some(Command { fault, side, done }) = command else { return };
                state.begin(fault, side);
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
                state.accepted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(converse(stream, Arc::clone(state)));
            }
        }
    }
}

/// One connection. An error of either direction says that it ends with a reset.
async fn converse(mut client: TcpStream, state: Arc<State>) {
    let mut cut = state.cut.subscribe();
    let exchange = Mutex::new(state.exchange());
    let Ok(mut server) = TcpStream::connect(state.to).await else { return reset(&client) };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    let carried = async {
        tokio::try_join!(
            up(from_client, to_server, &state, &exchange),
            carry(from_server, to_client, Side::Server, &exchange)
        )
    };
    let ended = tokio::select! { ended = carried => ended.is_err(), _ = cut.changed() => true };
    if ended {
        reset(&client);
        if lock(&exchange).now.side == Side::Client {
            reset(&server);
        }
    }
}

/// What ends so from now on ends with a reset.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// What the client says, each time from the beginning of an exchange.
async fn up(
    mut client: ReadHalf<'_>,
    mut server: WriteHalf<'_>,
    state: &State,
    exchange: &Mutex<Exchange>,
) -> io::Result<()> {
    let mut some = vec![0; CHUNK];
    loop {
        let count = client.read(&mut some).await?;
        let has_given_up = {
            let mut exchange = lock(exchange);
            let is_dead = exchange.now.fault == Fault::HalfOpen || exchange.is_gone;
            if !is_dead && exchange.now.epoch != state.lock().epoch {
                *exchange = state.exchange();
            }
            is_dead && count == 0 && exchange.now.side == Side::Server
        };
        if has_given_up {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if !hand_on(&some[..count], &mut server, Side::Client, exchange).await? {
            return Ok(());
        }
    }
}

/// What one of them says.
async fn carry(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    side: Side,
    exchange: &Mutex<Exchange>,
) -> io::Result<()> {
    let mut some = vec![0; CHUNK];
    loop {
        let count = from.read(&mut some).await?;
        if !hand_on(&some[..count], &mut to, side, exchange).await? {
            return Ok(());
        }
    }
}

/// Hands on what one of them says, of which nothing is the end, or does what befalls it. Is there more to come?
async fn hand_on(
    data: &[u8],
    to: &mut WriteHalf<'_>,
    side: Side,
    exchange: &Mutex<Exchange>,
) -> io::Result<bool> {
    let (fault, point) = lock(exchange).hear(side, data);
    match (fault, point) {
        (Fault::HalfOpen, _) if data.is_empty() => {
            if side == Side::Server && lock(exchange).is_gone {
                // Nobody else would end it.
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            pending().await
        }
        (Fault::HalfOpen, _) => {}
        (Fault::Reset(_) | Fault::Truncate(_) | Fault::Gone(_), Some(point)) => {
            say(&data[..point], to, side).await?;
            match fault {
                Fault::Reset(_) => return Err(io::ErrorKind::ConnectionReset.into()),
                Fault::Gone(_) => lock(exchange).is_gone = true,
                _ => {
                    let _ = to.shutdown().await;
                    return Ok(false);
                }
            }
        }
        (Fault::Garbage(_), Some(point)) => {
            say(&[&data[..point], GARBAGE, &data[point..]].concat(), to, side).await?;
            lock(exchange).has_befallen = true;
        }
        _ if data.is_empty() => {
            let _ = to.shutdown().await;
            return Ok(false);
        }
        (Fault::Delay(pause), _) => {
            sleep(pause).await;
            say(data, to, side).await?;
            lock(exchange).has_befallen = true;
        }
        (Fault::Drip(pause), _) => {
            for byte in data {
                say(&[*byte], to, side).await?;
                sleep(pause).await;
            }
        }
        (Fault::Surplus, _) => {
            let mut answer = lock(exchange).whole();
            if !answer.is_empty() {
                answer.extend(OTHER);
            }
            say(&answer, to, side).await?;
        }
        _ => say(data, to, side).await?,
    }
    Ok(true)
}

/// That a server has gone is heard by what it says.
async fn say(data: &[u8], to: &mut WriteHalf<'_>, side: Side) -> io::Result<()> {
    let said = to.write_all(data).await;
    if side == Side::Client { Ok(()) } else { said }
}

// === impl State ===

impl State {
    fn begin(&self, fault: Fault, side: Side) {
        let mut now = self.lock();
        *now = Now { epoch: now.epoch + 1, fault, side };
    }

    fn exchange(&self) -> Exchange {
        Exchange { now: *self.lock(), said: Vec::new(), has_befallen: false, is_gone: false }
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().expect("no test panics with it")
    }
}

// === impl Exchange ===

impl Exchange {
    /// More of what one of them says: what befalls it, and where in it, if there is a place.
    fn hear(&mut self, side: Side, data: &[u8]) -> (Fault, Option<usize>) {
        if self.is_gone {
            return (Fault::HalfOpen, None);
        }
        if self.has_befallen || self.now.side != side {
            return (Fault::None, None);
        }
        let before = self.said.len();
        self.said.extend(data);
        let fault = self.now.fault;
        let point = match fault {
            Fault::Reset(at) | Fault::Truncate(at) | Fault::Gone(at) | Fault::Garbage(at) => {
                at.of(&self.said)
            }
            _ => None,
        };
        let point = point.and_then(|point| point.checked_sub(before));
        (fault, point.filter(|point| *point <= data.len()))
    }

    /// The answer, once it is whole; until then nothing.
    fn whole(&mut self) -> Vec<u8> {
        let text = String::from_utf8_lossy(&self.said).to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let end = length.and_then(|length: usize| At::Body(length).of(&self.said));
        if end.is_none_or(|end| end > self.said.len()) {
            return Vec::new();
        }
        self.has_befallen = true;
        std::mem::take(&mut self.said)
    }
}

fn lock(exchange: &Mutex<Exchange>) -> MutexGuard<'_, Exchange> {
    exchange.lock().expect("no test panics with it")
}

// === impl At ===

impl At {
    fn of(self, said: &[u8]) -> Option<usize> {
        match self {
            Self::Byte(count) => Some(count),
            Self::Body(count) => {
                let head = said.windows(4).position(|window| window == b"\r\n\r\n")?;
                Some(head + 4 + count)
            }
        }
    }
}

const CHUNK: usize = 64 * 1024;
