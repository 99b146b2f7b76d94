//! Who connects? Listeners, one per worker on the same port, and the accept loop.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::clock::Clock;
use crate::config::Config;
use crate::descriptors::{Room, Spare, TooFew};
use crate::drain::Drain;
use crate::metrics::Metrics;
use crate::record::Direction;
use crate::seats::Seats;
use crate::tcp;

/// One address, with a listener for each worker (SO_REUSEPORT): the kernel spreads connections over them.
#[derive(Debug)]
pub struct Listeners {
    pub address: SocketAddr,
    pub sockets: Vec<StdListener>,
}

/// Who may connect. Each direction has places of its own, so that a flood from outside does not take the application's way out,
/// and so have our pages. Those on the health listener are for everybody in the network, so there who says nothing gives way.
#[derive(Clone, Debug)]
pub struct Seating {
    pub inbound: Arc<Seats>,
    pub outbound: Arc<Seats>,
    pub admin: Arc<Seats>,
    pub health: Arc<Seats>,
}

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}: choose another address")]
pub struct ListenError {
    pub address: SocketAddr,
    pub error: io::Error,
}

// === impl Seating ===

impl Seating {
    /// As many as this limit of descriptors carries, with listeners on so many ports.
    pub fn plan(
        config: &Config,
        limit: usize,
        ports: usize,
        metrics: &Metrics,
        clock: &Clock,
    ) -> Result<Self, TooFew> {
        let is_inbound = !config.inbound.is_empty() || config.transparent.is_some();
        let directions = usize::from(is_inbound) + usize::from(config.outbound.is_some());
        // Of the outbound one there may be two, and each listener has a spare descriptor.
        let listeners = (ports + 1) * config.workers.get() * 2;
        let (total, share) = (config.max_connections, config.max_connections_per_source);
        let room = Room::plan(limit, listeners, directions, total, share)?;
        room.tell();
        tcp::bound_pipes(room.pipes);
        let seats = |whose: &'static str, max, share| Seats::new(whose, max, share, metrics, clock.clone());
        let [inbound, outbound] = [Direction::Inbound, Direction::Outbound].map(Direction::as_str);
        Ok(Self {
            inbound: Arc::new(seats(inbound, room.connections, Some(room.per_source))),
            // All of these come from the workload.
            outbound: Arc::new(seats(outbound, room.connections, None)),
            admin: Arc::new(seats("admin", PAGES, Some(PAGES_PER_SOURCE))),
            // A host that has both families is two sources, and even so leaves a third to everybody else.
            health: Arc::new(seats("health", PAGES, Some(PAGES / 3)).that_give_way()),
        })
    }
}

// === impl ListenError ===

impl ListenError {
    /// Does the machine not speak this version of IP?
    fn lacks_family(&self) -> bool {
        self.error.kind() == io::ErrorKind::AddrNotAvailable
            || self.error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
    }
}

/// Binds an address for a number of workers. Port 0 is any free port, the same for all.
pub fn bind(address: SocketAddr, workers: usize) -> Result<Listeners, ListenError> {
    let fail = |error| ListenError { address, error };
    // SO_REUSEPORT would let a second sidecar of the same user share the port in silence: look first.
    let probe = socket(address, false).map_err(fail)?;
    let address = probe.local_addr().map_err(fail)?;
    drop(probe);
    let sockets = (0..workers).map(|_| socket(address, true)).collect::<io::Result<_>>().map_err(fail)?;
    Ok(Listeners { address, sockets })
}

/// Binds an address; `[::]` is every address of both families, or `0.0.0.0` where the machine has no IPv6.
pub fn bind_both(address: SocketAddr, workers: usize) -> Result<Listeners, ListenError> {
    match bind(address, workers) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && error.lacks_family() => {
            tracing::info!(%address, "there is no IPv6 here: listening on 0.0.0.0");
            bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())), workers)
        }
        bound => bound,
    }
}

/// Binds a loopback address, and the same port on that of the other family: connections that are redirected on this machine
/// arrive at the one of their own. Nobody outside reaches either.
pub fn bind_loopbacks(address: SocketAddr, workers: usize) -> Result<Vec<Listeners>, ListenError> {
    let other = |port| match address.ip() {
        IpAddr::V4(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
        IpAddr::V6(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
    };
    let first = bind(address, workers)?;
    let second = other(first.address.port());
    match bind(second, workers) {
        Ok(second) => Ok(vec![first, second]),
        Err(error) if error.lacks_family() => {
            tracing::info!(address = %second, "there is no such address here: its family is left out");
            Ok(vec![first])
        }
        Err(error) => Err(error),
    }
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        // Whatever the machine's default is.
        socket.set_only_v6(false)?;
    }
    tune(&socket)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until it is time to end, and then what has already arrived in the queue. Each connection gets a drain of its
/// own to hold, and with it its place; one for which there is none is reset before anything is read.
pub async fn accept<F>(
    listener: StdListener,
    seats: Arc<Seats>,
    mut drain: Drain,
    mut serve: impl FnMut(TcpStream, SocketAddr, Drain) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let spare = Spare::hold();
    let mut seat = |stream: TcpStream, peer: SocketAddr, drain: &Drain| match seats.take(peer.ip()) {
        Ok(seat) => {
            tokio::spawn(serve(stream, peer, drain.seated(seat)));
        }
        Err(_) => tcp::reset(&stream),
    };
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot accept connections"),
    };
    while !drain.is_draining() {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.signaled() => break,
        };
        match accepted {
            Ok((stream, peer)) if !spare.is_whole() => {
                // It came with one that another listener had let go of for a moment, which it gets back.
                tcp::reset(&stream);
                drop(stream);
                spare.is_whole();
                seats.turned_away(peer.ip());
            }
            Ok((stream, peer)) => {
                seat(stream, peer, &drain);
                if seats.gives_way() {
                    // Who has been let in is heard before the next one is, or a flood would push out who asks at once.
                    tokio::task::yield_now().await;
                }
            }
            // The peer is gone already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            // Out of file descriptors or memory: it passes when connections end.
            Err(error) => {
                if let Some(peer) = spare.lend(|| turn_away(&listener)) {
                    seats.turned_away(peer.ip());
                    continue;
                }
                tracing::debug!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    // What the kernel has queued was promised a connection; what comes meanwhile was not.
    let Ok(listener) = listener.into_std() else { return };
    for _ in 0..BACKLOG {
        let Ok((stream, peer)) = listener.accept() else { return };
        if let Ok(stream) = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
            seat(stream, peer, &drain);
        }
    }
}

/// Resets the connection that has waited longest, and says whose it was. `None`: none did, or there is no descriptor for it.
fn turn_away(listener: &TcpListener) -> Option<SocketAddr> {
    let (stream, peer) = listener.accept().now_or_never()?.ok()?;
    tcp::reset(&stream);
    Some(peer)
}

/// What each connection has from the listener that it comes by: small answers leave at once, and a peer that vanished is noticed.
fn tune(listener: &Socket) -> io::Result<()> {
    listener.set_tcp_nodelay(true)?;
    listener.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))
}

/// Connections to our pages, on each of the two listeners.
const PAGES: usize = 48;
const PAGES_PER_SOURCE: usize = 32;
const BACKLOG: i32 = 1024;
const PAUSE: Duration = Duration::from_millis(50);
const KEEPALIVE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_a_port_and_a_stranger_is_refused() {
        let listeners = bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        assert_eq!(listeners.sockets.len(), 2);
        assert_ne!(listeners.address.port(), 0);
        let error = bind(listeners.address, 1).unwrap_err();
        assert_eq!(error.error.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn both_loopback_addresses_have_one_port() {
        let mut listeners = bind_loopbacks("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let port = listeners[0].address.port();
        for listeners in &listeners {
            assert!(listeners.address.ip().is_loopback() && listeners.address.port() == port);
            TcpStream::connect(listeners.address).await.unwrap();
        }
        assert_eq!(listeners.pop().map(|l| l.address.is_ipv6()), Some(bind_v6().is_ok()));
        let taken = bind_loopbacks(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), 1).unwrap_err();
        assert_eq!(taken.error.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn the_unspecified_address_is_that_of_both_families() {
        let listeners = bind_both("[::]:0".parse().unwrap(), 1).unwrap();
        let port = listeners.address.port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        assert_eq!(TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.is_ok(), bind_v6().is_ok());
    }

    fn bind_v6() -> io::Result<StdListener> {
        StdListener::bind("[::1]:0")
    }

    #[tokio::test]
    async fn a_connection_is_tuned_as_its_listener() {
        let mut listeners = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let _peer = TcpStream::connect(listeners.address).await.unwrap();
        let listener = TcpListener::from_std(listeners.sockets.pop().unwrap()).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let socket = socket2::SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE);
    }

    #[tokio::test]
    async fn what_is_in_the_queue_is_accepted_before_the_end() {
        let mut listeners = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let (mut signal, drain) = crate::drain::channel();
        let _queued = TcpStream::connect(listeners.address).await.unwrap();
        signal.start();
        let (sender, mut accepted) = tokio::sync::mpsc::unbounded_channel();
        let listener = listeners.sockets.pop().unwrap();
        let (metrics, clock) = (Metrics::new().unwrap(), Clock::default());
        let seats = Arc::new(Seats::new("inbound", 1, None, &metrics, clock));
        accept(listener, seats, drain, move |_, peer, _| {
            sender.send(peer).unwrap();
            async {}
        })
        .await;
        assert!(accepted.recv().await.is_some());
        assert!(signal.wait(Duration::from_secs(1)).await);
    }
}
