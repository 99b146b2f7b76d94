//! Which connection carries the request? The open connections to each upstream of one worker, last in first out.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use countersign_policy::Reason;
use hyper::client::conn::http2;

use super::body::Body;
use super::dial::{Client, Dial, Sender, Version};
use super::exchange::Exchange;
use super::line::Line;
use crate::auth::tokens::NewestNonce;
use crate::connect::Connector;
use crate::state::certificate::Certificate;
use crate::state::files::PolicyFiles;

/// Connections to one upstream. Belongs to one worker, so its locks are never contended.
pub(crate) struct Upstream {
    dial: Dial,
    connector: Connector,
    /// Our own listener, which is never a destination.
    own: Option<SocketAddr>,
    http1: Mutex<Vec<Idle>>,
    http2: Mutex<Option<http2::SendRequest<Body>>>,
    /// One HTTP/2 connection is opened at a time: whoever comes meanwhile uses it.
    opening: tokio::sync::Mutex<()>,
    /// For proofs that go there (RFC 9449 §9).
    pub(crate) nonce: NewestNonce,
}

struct Idle {
    line: Line,
    since: Instant,
}

/// A connection that carries a request.
pub(crate) enum Carrier {
    Http1(Lease),
    Http2(http2::SendRequest<Body>),
}

/// An HTTP/1 connection in use. It goes back to its pool only by [`Lease::give_back`]; dropped, it is closed.
pub(crate) struct Lease {
    upstream: Arc<Upstream>,
    pub(crate) line: Line,
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
    pub(crate) fn new(dial: Dial, connector: Connector, own: Option<SocketAddr>) -> Arc<Self> {
        Arc::new(Self {
            dial,
            connector,
            own,
            http1: Mutex::default(),
            http2: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
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
        if self.dial.version != Version::Http1 {
            let mut kept = self.http2.lock().unwrap_or_else(PoisonError::into_inner);
            match kept.as_ref() {
                Some(sender) if !sender.is_closed() => return Some(Carrier::Http2(sender.clone())),
                _ => *kept = None,
            }
        }
        if self.dial.version == Version::Http2 {
            return None;
        }
        let mut idle = self.http1.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(Idle { line, since }) = idle.pop() {
            if since.elapsed() > MAX_IDLE {
                idle.clear();
                return None;
            }
            if line.sender.is_ready() {
                return Some(Carrier::Http1(self.lease(line)));
            }
        }
        None
    }

    /// A connection: one that is ready, else a new one, within this time or it is `upstream_timeout`.
    pub(crate) async fn connection(self: &Arc<Self>, limit: Duration) -> Result<Carrier, Reason> {
        match self.ready() {
            Some(carrier) => Ok(carrier),
            // The limit holds for the wait for others' attempts too. Boxed, here and on other rare paths: TLS and
            // handshakes would make the future of every request large.
            None => Box::pin(tokio::time::timeout(limit, self.new_connection(limit)))
                .await
                .unwrap_or(Err(Reason::UpstreamTimeout)),
        }
    }

    /// A connection that has carried no request.
    pub(crate) async fn fresh(self: &Arc<Self>, limit: Duration) -> Result<Carrier, Reason> {
        Box::pin(tokio::time::timeout(limit, self.open(limit))).await.unwrap_or(Err(Reason::UpstreamTimeout))
    }

    async fn new_connection(self: &Arc<Self>, limit: Duration) -> Result<Carrier, Reason> {
        if self.dial.version == Version::Http2 {
            let _one_at_a_time = self.opening.lock().await;
            match self.ready() {
                Some(carrier) => Ok(carrier),
                None => self.open(limit).await,
            }
        } else {
            self.open(limit).await
        }
    }

    async fn open(self: &Arc<Self>, limit: Duration) -> Result<Carrier, Reason> {
        Ok(match self.dial.connect(&self.connector, self.own, limit).await? {
            Sender::Http1(mut line) => {
                line.sender.ready().await.map_err(|_| Reason::UpstreamUnreachable)?;
                Carrier::Http1(self.lease(line))
            }
            Sender::Http2(sender) => {
                *self.http2.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender.clone());
                Carrier::Http2(sender)
            }
        })
    }

    fn lease(self: &Arc<Self>, line: Line) -> Lease {
        Lease { upstream: self.clone(), line, exchange: None }
    }

    /// Closes what has been idle for long. Is anything of it left?
    pub(crate) fn sweep(self: &Arc<Self>) -> bool {
        let mut idle = self.http1.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| idle.since.elapsed() <= MAX_IDLE && !idle.line.sender.is_closed());
        let http2 = self.http2.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::strong_count(self) > 1
            || !idle.is_empty()
            || http2.as_ref().is_some_and(|sender| !sender.is_closed())
    }

    /// Was it made with a CA or a certificate that has been replaced since?
    fn is_outdated(&self, files: &PolicyFiles) -> bool {
        self.dial.tls.as_ref().is_some_and(|tls| tls.is_outdated(files, &self.connector))
    }

    fn keep(&self, line: Line) {
        let mut idle = self.http1.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE_CONNECTIONS {
            idle.push(Idle { line, since: Instant::now() });
        }
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("dial", &self.dial).finish_non_exhaustive()
    }
}

// === impl Lease ===

impl Lease {
    /// The answer has been read to its end: the connection may carry another request.
    pub(crate) fn give_back(self) {
        let Self { upstream, mut line, exchange } = self;
        if exchange.is_some_and(|exchange| !exchange.is_sent()) || line.sender.is_closed() {
            return;
        }
        line.rest();
        if line.sender.is_ready() {
            return upstream.keep(line);
        }
        // The connection's own task has a last step to make.
        tokio::spawn(async move {
            if let Ok(Ok(())) = tokio::time::timeout(SETTLE, line.sender.ready()).await {
                upstream.keep(line);
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
        make: impl FnOnce() -> Result<Arc<Upstream>, Reason>,
    ) -> Result<Arc<Upstream>, Reason> {
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
    pub(crate) fn sweep(&self, files: &PolicyFiles) {
        let mut upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        upstreams.retain(|_, upstream| !upstream.is_outdated(files) && upstream.sweep());
    }
}

/// Idle connections are closed after this long: shorter than what most servers grant.
const MAX_IDLE: Duration = Duration::from_secs(30);
const MAX_IDLE_CONNECTIONS: usize = 1024;
const SETTLE: Duration = Duration::from_secs(1);
