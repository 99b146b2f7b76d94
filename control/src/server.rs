//! How is a connection taken and ended? Bounded in number, per peer and in age; each in a task of its own, so that a
//! panic ends one connection and nothing else.

use std::collections::HashMap;
use std::future::pending;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use hyper::rt::{Read, Write};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::metrics::Metrics;
use crate::versions::lock;

/// Connections at once, of all and of one address. A sidecar needs one, and many may come from behind one address.
const MAX_CONNECTIONS: usize = 8192;
const MAX_PER_PEER: usize = 2048;
/// Streams of one HTTP/2 connection.
const MAX_STREAMS: u32 = 16;
/// Of a request's head.
const MAX_HEAD: usize = 32 * 1024;
const MAX_HEADER_LIST: u32 = 16 * 1024;
/// For the TLS handshake; for the first request, for a request's head, and between two requests.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(10);
/// After this a connection is ended gracefully, so that one that is never read from does not live for ever.
const MAX_AGE: Duration = Duration::from_secs(60 * 60);
/// For what is in flight when a connection is to end.
const GRACE: Duration = Duration::from_secs(10);

/// Where a request came from: an extension of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller(pub(crate) IpAddr);

/// Whose certificate is shown; replaced when it is renewed.
pub(crate) type Tls = Arc<ArcSwap<ServerConfig>>;

/// A listener and what it serves.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) listener: TcpListener,
    /// None: plain HTTP, for the admin listener on loopback alone.
    pub(crate) tls: Option<Tls>,
    pub(crate) router: Router,
    pub(crate) metrics: Metrics,
    /// True once the process is to end.
    pub(crate) draining: watch::Receiver<bool>,
}

/// Counts the connections of each address.
#[derive(Clone, Debug, Default)]
struct Peers(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection of an address.
#[derive(Debug)]
struct Place {
    peers: Peers,
    address: IpAddr,
}

// === impl Server ===

impl Server {
    /// Until the process is to end, and what is in flight is done.
    pub(crate) async fn run(self) {
        let (peers, mut tasks, mut draining) = (Peers::default(), JoinSet::new(), self.draining.clone());
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => self.take(stream, peer, &peers, &mut tasks),
                    Err(error) => {
                        // Out of file descriptors, most likely: others must end first.
                        tracing::error!(%error, "no connection could be accepted");
                        sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(done) = tasks.join_next() => self.ended(&done),
                () = begun(&mut draining) => break,
            }
        }
        while let Some(done) = tasks.join_next().await {
            self.ended(&done);
        }
    }

    fn take(&self, stream: TcpStream, peer: SocketAddr, peers: &Peers, tasks: &mut JoinSet<()>) {
        let refused = |reason: &str| self.metrics.connections_refused.with_label_values(&[reason]).inc();
        if tasks.len() >= MAX_CONNECTIONS {
            return refused("total");
        }
        let Some(place) = peers.place(peer.ip()) else { return refused("peer") };
        let (tls, router, metrics) = (self.tls.clone(), self.router.clone(), self.metrics.clone());
        let draining = self.draining.clone();
        tasks.spawn(async move {
            let _place = place;
            let _ = stream.set_nodelay(true);
            let Some(tls) = tls else { return serve(TokioIo::new(stream), peer, router, draining).await };
            match timeout(HANDSHAKE, TlsAcceptor::from(tls.load_full()).accept(stream)).await {
                Ok(Ok(stream)) => {
                    metrics.connections.inc();
                    serve(TokioIo::new(stream), peer, router, draining).await;
                    metrics.connections.dec();
                }
                _ => metrics.connections_refused.with_label_values(&["handshake"]).inc(),
            }
        });
    }

    fn ended(&self, done: &Result<(), JoinError>) {
        if done.as_ref().is_err_and(JoinError::is_panic) {
            self.metrics.panics.inc();
            tracing::error!("a panic ended one connection: please report it");
        }
    }
}

/// Waits for the end to begin.
async fn begun(draining: &mut watch::Receiver<bool>) {
    let _ = draining.wait_for(|draining| *draining).await;
}

async fn serve(
    io: impl Read + Write + Unpin + Send + 'static,
    peer: SocketAddr,
    router: Router,
    mut draining: watch::Receiver<bool>,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(HEAD);
    let (router, asked) = (TowerToHyperService::new(router), AtomicBool::new(false));
    let service = service_fn(|mut request: hyper::Request<hyper::body::Incoming>| {
        asked.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(Caller(peer.ip()));
        router.call(request)
    });
    let mut connection = pin!(builder.serve_connection(io, service));
    tokio::select! {
        _ = connection.as_mut() => return,
        () = silence(&asked) => return,
        () = begun(&mut draining) => {}
        () = sleep(MAX_AGE) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, connection).await;
}

/// Waits until a connection has been open for long without one request. hyper times a head that has begun, and not what
/// comes before it.
async fn silence(asked: &AtomicBool) {
    sleep(HEAD).await;
    if asked.load(Ordering::Relaxed) {
        pending().await
    }
}

// === impl Peers ===

impl Peers {
    fn place(&self, address: IpAddr) -> Option<Place> {
        let mut peers = lock(&self.0);
        let count = peers.entry(address).or_default();
        if *count >= MAX_PER_PEER {
            return None;
        }
        *count += 1;
        Some(Place { peers: self.clone(), address })
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        let mut peers = lock(&self.peers.0);
        if let Some(count) = peers.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                peers.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    #[tokio::test]
    async fn os_1_a_panic_ends_one_connection_and_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let slow = async || {
            sleep(Duration::from_millis(300)).await;
            "slow"
        };
        let broken = async || -> &'static str { panic!("a bug") };
        let router = Router::new().route("/slow", get(slow)).route("/broken", get(broken));
        let (metrics, draining) = (Metrics::new().unwrap(), watch::Sender::new(false));
        let server =
            Server { listener, tls: None, router, metrics: metrics.clone(), draining: draining.subscribe() };
        let server = tokio::spawn(server.run());
        let (other, answer) = tokio::join!(ask(address, "/slow"), ask(address, "/broken"));
        assert!(other.ends_with("slow"), "{other}");
        assert_eq!(answer, "");
        assert!(ask(address, "/slow").await.ends_with("slow"));
        assert_eq!(metrics.panics.get(), 1);
        draining.send_replace(true);
        server.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_asks_nothing_is_ended() {
        let router = Router::new().route("/", get(async || "here"));
        let draining = watch::Sender::new(false);
        let peer = "127.0.0.1:1".parse().unwrap();
        for begins_with in [&b""[..], b"PRI", b"GET / HTTP/1.1\r\n"] {
            let (mut client, server) = tokio::io::duplex(1024);
            client.write_all(begins_with).await.unwrap();
            let serving = serve(TokioIo::new(server), peer, router.clone(), draining.subscribe());
            assert!(timeout(HEAD * 2, serving).await.is_ok(), "{begins_with:?}");
        }
    }

    #[test]
    fn an_address_has_its_share_and_no_more() {
        let peers = Peers::default();
        let (one, two) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut places: Vec<_> = (0..MAX_PER_PEER).filter_map(|_| peers.place(one)).collect();
        assert_eq!(places.len(), MAX_PER_PEER);
        assert!(peers.place(one).is_none());
        assert!(peers.place(two).is_some());
        places.pop();
        assert!(peers.place(one).is_some());
        places.clear();
        assert!(lock(&peers.0).is_empty());
    }
}
