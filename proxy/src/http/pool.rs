//! Which connection carries the request? The open connections to each upstream of one worker: of HTTP/1 last in first out, of HTTP/2
//! several for many streams.

mod attempts;
mod http2;
mod opening;
mod stream;
mod waiting;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use hyper::client::conn::http2::SendRequest;

use super::body::Body;
use super::dial::{Address, Client, Dial, Version};
use super::exchange::Exchange;
use super::last_good::LastGood;
use super::line::Line;
use crate::auth::tokens::NewestNonce;
use crate::connect::Connector;
use crate::own::Own;
use crate::record::Direction;
use crate::rejection::Cause;
use crate::state::certificate::Certificate;
use attempts::Attempts;
use http2::Shared;
use stream::Stream;

pub(crate) use stream::Silence;

/// Connections to one upstream. Belongs to one worker, so its locks are never contended.
pub(crate) struct Upstream {
    direction: Direction,
    dial: Dial,
    connector: Connector,
    own: Own,
    http1: Mutex<Vec<Idle>>,
    http2: Arc<Shared>,
    /// Where the connections lead that are open, in use or not.
    places: Mutex<Vec<Weak<Place>>>,
    /// To connect, on behalf of all.
    attempts: Attempts,
    /// What ALPN said last. Each request needs a connection of its own then, and none waits for another's.
    is_http1: AtomicBool,
    /// For proofs that go there (RFC 9449 §9).
    pub(crate) nonce: NewestNonce,
}

struct Idle {
    line: Line,
    place: Arc<Place>,
    since: Instant,
}

/// Where a connection leads.
struct Place {
    address: IpAddr,
    /// The name is not there any more: the connection carries what it carries to its end, and nothing else.
    is_left: AtomicBool,
}

/// A connection that carries a request.
pub(crate) enum Carrier {
    Http1(Lease),
    Http2(SendRequest<Body>, Stream),
}

/// What an answer keeps of its carrier until its body has ended.
#[derive(Debug)]
pub(crate) enum Hold {
    Connection(Lease),
    /// Dropped, there is room for another.
    Stream(Stream),
}

/// An HTTP/1 connection in use. It goes back to its pool only by [`Hold::give_back`]; dropped, it is closed.
pub(crate) struct Lease {
    upstream: Arc<Upstream>,
    pub(crate) line: Line,
    place: Arc<Place>,
    /// Has the whole request been sent? An answer that comes before makes the connection unfit for another request.
    pub(crate) exchange: Option<Arc<Exchange>>,
}

/// The upstreams that outbound requests of one worker go to.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    upstreams: Mutex<HashMap<Key, Arc<Upstream>>>,
}

/// What makes two requests fit for one connection (security OUT-8).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) version: Version,
    /// Fingerprint of the rule's transport settings; zero without a rule.
    pub(crate) transport: [u8; 32],
    /// Thumbprint of the certificate that the token is bound to.
    pub(crate) certificate: Option<[u8; 32]>,
    /// Where the redirected connection was going, if that is where it goes on.
    pub(crate) destination: Option<SocketAddr>,
}

// === impl Upstream ===

impl Upstream {
    /// For requests of this direction.
    pub(crate) fn new(direction: Direction, dial: Dial, connector: Connector, own: Own) -> Arc<Self> {
        Arc::new(Self {
            direction,
            is_http1: AtomicBool::new(dial.version == Version::Http1),
            dial,
            connector,
            own,
            http1: Mutex::default(),
            http2: Arc::default(),
            places: Mutex::default(),
            attempts: Attempts::default(),
            nonce: NewestNonce::default(),
        })
    }

    /// The scheme of what is spoken, for `:scheme` (RFC 9113 §8.3.1).
    pub(crate) fn scheme(&self) -> http::uri::Scheme {
        if self.dial.tls.is_some() { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP }
    }

    /// The certificate that tokens have to be bound to here; without one, they are bound to none.
    pub(crate) fn certificate(&self) -> Option<&Arc<Certificate>> {
        match self.dial.tls.as_ref()?.client.as_ref()? {
            Client::Bound(certificate) => Some(certificate),
            Client::Files { .. } => None,
        }
    }

    /// A connection that is open and ready, if there is one.
    pub(crate) fn ready(self: &Arc<Self>) -> Option<Carrier> {
        match self.dial.version {
            Version::Http1 => self.idle(),
            Version::Http2 => self.http2.stream(),
            Version::Negotiated => self.http2.stream().or_else(|| self.idle()),
        }
    }

    fn idle(self: &Arc<Self>) -> Option<Carrier> {
        let mut idle = self.http1.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(Idle { line, place, since }) = idle.pop() {
            if since.elapsed() > MAX_IDLE {
                idle.clear();
                return None;
            }
            if line.sender.is_ready() {
                return Some(Carrier::Http1(self.lease(line, place)));
            }
        }
        None
    }

    fn lease(self: &Arc<Self>, line: Line, place: Arc<Place>) -> Lease {
        Lease { upstream: self.clone(), line, place, exchange: None }
    }

    /// Closes what has been idle for long, and what leads to where the name is not any more. Is anything of it left?
    pub(crate) fn sweep(self: &Arc<Self>) -> bool {
        self.look_for_moves();
        let mut idle = self.http1.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| {
            idle.since.elapsed() <= MAX_IDLE && !idle.line.sender.is_closed() && !idle.place.is_left()
        });
        let is_shared = self.http2.sweep();
        if self.attempts.are_none() && self.http2.lacks_wide() {
            self.attempt(WIDEN, Duration::ZERO);
        }
        Arc::strong_count(self) > 1 || !idle.is_empty() || is_shared
    }

    /// New connections follow the name; one that is kept busy would stay where the name was.
    fn look_for_moves(&self) {
        let Address::Name { host, .. } = &self.dial.address else { return };
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let mut addresses: Vec<IpAddr> =
            places.iter().filter_map(Weak::upgrade).map(|place| place.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let left = self.connector.names.left(host, &addresses);
        for address in &left {
            tracing::debug!(host, %address, "a name has moved: connections to where it was end with what they carry");
        }
        places.retain(|place| {
            let Some(place) = place.upgrade() else { return false };
            let is_left = left.contains(&place.address);
            place.is_left.store(is_left, Ordering::Relaxed);
            !is_left
        });
    }

    /// Was it made with a CA or a certificate that has been replaced since?
    fn is_outdated(&self, last_good: &LastGood) -> bool {
        self.dial.tls.as_ref().is_some_and(|tls| tls.is_outdated(last_good))
    }

    fn keep(&self, line: Line, place: Arc<Place>) {
        if place.is_left() {
            return;
        }
        let mut idle = self.http1.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE_CONNECTIONS {
            idle.push(Idle { line, place, since: Instant::now() });
        }
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("dial", &self.dial).finish_non_exhaustive()
    }
}

// === impl Place ===

impl Place {
    fn is_left(&self) -> bool {
        self.is_left.load(Ordering::Relaxed)
    }
}

// === impl Carrier ===

impl Carrier {
    /// What others hear on it from now on; nothing, where it is for one request at a time.
    pub(crate) fn silence(&self) -> Option<Silence> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(_, stream) => Some(stream.silence()),
        }
    }
}

// === impl Hold ===

impl Hold {
    /// The answer has been read to its end.
    pub(crate) fn give_back(self) {
        match self {
            Self::Connection(lease) => lease.give_back(),
            Self::Stream(stream) => drop(stream),
        }
    }
}

// === impl Lease ===

impl Lease {
    /// The connection may carry another request.
    fn give_back(self) {
        let Self { upstream, mut line, place, exchange } = self;
        if exchange.is_some_and(|exchange| !exchange.is_sent()) || line.sender.is_closed() {
            return;
        }
        line.rest();
        if line.sender.is_ready() {
            return upstream.keep(line, place);
        }
        // The connection's own task has a last step to make.
        tokio::spawn(async move {
            if let Ok(Ok(())) = tokio::time::timeout(SETTLE, line.sender.ready()).await {
                upstream.keep(line, place);
            }
        });
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}

// === impl Pools ===

impl Pools {
    /// The upstream of this key, made on first use.
    pub(crate) fn upstream(
        &self,
        key: Key,
        make: impl FnOnce() -> Result<Arc<Upstream>, Cause>,
    ) -> Result<Arc<Upstream>, Cause> {
        let mut upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(upstream) = upstreams.get(&key) {
            return Ok(upstream.clone());
        }
        let upstream = make()?;
        upstreams.insert(key, upstream.clone());
        Ok(upstream)
    }

    /// Closes what has been idle for long, and forgets upstreams that nobody uses or that use a CA or certificate of yesterday: what is
    /// in flight there ends, and no other request begins.
    pub(crate) fn sweep(&self, last_good: &LastGood) {
        let mut upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        upstreams.retain(|_, upstream| !upstream.is_outdated(last_good) && upstream.sweep());
    }
}

/// Idle connections are closed after this long: shorter than what most servers grant, 60 s and more.
const MAX_IDLE: Duration = Duration::from_secs(50);
const MAX_IDLE_CONNECTIONS: usize = 1024;
/// For a connection that nobody waits for.
const WIDEN: Duration = Duration::from_secs(5);
const SETTLE: Duration = Duration::from_secs(1);
