//! How do bytes pass that we do not look into? As they come, both ways: the end of a direction, a reset and backpressure are
//! carried over, and a connection on which nothing moves holds no buffer and no pipe.

mod flow;
pub mod hello;
mod splice;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::OnceLock;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use prometheus::IntCounter;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::{client, server};

use self::flow::Flow;
use crate::drain::{self, Drain};
use crate::metrics::Metrics;
use crate::record::Direction;

/// One end of a relay: TCP, or TLS that ends here.
pub trait Side: AsyncRead + AsyncWrite + Unpin {
    /// What is read is what is on the wire, so that the kernel can move it without us (splice(2)).
    const IS_BARE: bool;

    fn tcp(&self) -> &TcpStream;
}

/// What passed, and how it came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// Bytes from near to far, and back.
    pub up: u64,
    pub down: u64,
    pub end: End,
}

/// How a relay ends. In all but the first both sides see a reset: what was cut off must not look complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides have said all (FIN).
    Finished,
    /// One side broke off.
    Broken,
    /// Nothing had moved for as long as is allowed.
    Idle,
    /// We end.
    Draining,
}

/// Counts bytes while they pass, so that a connection of days is seen before it ends. Each has a clone, which keeps the first one.
#[derive(Clone, Debug)]
pub struct Meters {
    up: IntCounter,
    down: IntCounter,
    first: OnceLock<u8>,
}

/// The idle limit of connections whose protocol we do not know: none. A database's pool is silent for hours and in order;
/// that a peer has vanished is what keep-alive finds out.
pub const NEVER: Duration = Duration::MAX;

/// Carries everything from one side to the other until both have ended, one broke off, nothing has moved for `idle`, or the
/// time of a drain is over. `near` asked for the connection, and comes from [`crate::listen`]. Dropped before its end, it
/// resets both.
pub async fn relay<N: Side, F: Side>(
    near: N,
    far: F,
    drain: Drain,
    idle: Duration,
    meters: &Meters,
) -> Relayed {
    relay_after(Bytes::new(), near, far, drain, idle, meters).await
}

/// As [`relay`], where `said` has been read from `near` already.
pub async fn relay_after<N: Side, F: Side>(
    said: Bytes,
    near: N,
    far: F,
    drain: Drain,
    idle: Duration,
    meters: &Meters,
) -> Relayed {
    keep_alive(far.tcp());
    Relay { near, far, up: Flow::after(said), down: Flow::default(), is_finished: false }
        .run(drain, idle, meters)
        .await
}

/// Both sides, and what is on its way between them.
#[derive(Debug)]
struct Relay<N: Side, F: Side> {
    near: N,
    far: F,
    up: Flow,
    down: Flow,
    is_finished: bool,
}

// === impl Relay ===

impl<N: Side, F: Side> Relay<N, F> {
    async fn run(mut self, drain: Drain, idle: Duration, meters: &Meters) -> Relayed {
        let end = self.carry(drain, idle, meters).await;
        self.is_finished = end == End::Finished;
        Relayed { up: self.up.moved, down: self.down.moved, end }
    }

    async fn carry(&mut self, drain: Drain, idle: Duration, meters: &Meters) -> End {
        let mut over = pin!(over(drain));
        let mut silence = pin!(sleep(idle));
        let mut glance = pin!(sleep(GLANCE));
        poll_fn(|context| {
            if let Poll::Ready(end) = self.poll_flows(meters, context) {
                return Poll::Ready(end);
            }
            if over.as_mut().poll(context).is_ready() {
                return Poll::Ready(End::Draining);
            }
            if self.is_deaf() && self.poll_broken(glance.as_mut(), context).is_ready() {
                return Poll::Ready(End::Broken);
            }
            if idle != NEVER {
                ready!(self.poll_idle(silence.as_mut(), idle, context));
                return Poll::Ready(End::Idle);
            }
            Poll::Pending
        })
        .await
    }

    fn poll_flows(&mut self, meters: &Meters, context: &mut Context<'_>) -> Poll<End> {
        let Self { near, far, up, down, .. } = self;
        let before = (up.moved, down.moved);
        let polled = (up.poll(near, far, context), down.poll(far, near, context));
        if let (None, Some(first)) = (meters.first.get(), up.first) {
            let _ = meters.first.set(first);
        }
        // An atomic each, and only where something moved.
        for (meter, moved) in [(&meters.up, up.moved - before.0), (&meters.down, down.moved - before.1)] {
            if moved > 0 {
                meter.inc_by(moved);
            }
        }
        match polled {
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => {
                tracing::debug!(%error, "a connection broke off");
                Poll::Ready(End::Broken)
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Finished),
            _ => Poll::Pending,
        }
    }

    /// A side is not read while the other does not take what it said, nor when it has said all: a reset of it wakes nobody.
    fn is_deaf(&self) -> bool {
        [&self.up, &self.down].into_iter().any(Flow::is_deaf)
    }

    /// Looks for such a reset now and then.
    fn poll_broken(&self, mut glance: Pin<&mut Sleep>, context: &mut Context<'_>) -> Poll<()> {
        while glance.as_mut().poll(context).is_ready() {
            let errors = [self.near.tcp(), self.far.tcp()].map(TcpStream::take_error);
            if errors.iter().any(|error| !matches!(error, Ok(None))) {
                return Poll::Ready(());
            }
            glance.as_mut().reset(Instant::now() + GLANCE);
        }
        Poll::Pending
    }

    /// The timer is looked at when it rings, not set with every byte.
    fn poll_idle(
        &mut self,
        mut silence: Pin<&mut Sleep>,
        idle: Duration,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        while silence.as_mut().poll(context).is_ready() {
            if !self.up.is_busy && !self.down.is_busy {
                return Poll::Ready(());
            }
            (self.up.is_busy, self.down.is_busy) = (false, false);
            silence.as_mut().reset(Instant::now() + idle);
        }
        Poll::Pending
    }
}

impl<N: Side, F: Side> Drop for Relay<N, F> {
    fn drop(&mut self) {
        if !self.is_finished {
            reset(self.near.tcp());
            reset(self.far.tcp());
        }
    }
}

/// There are descriptors for so many pipes; bytes are copied where there is none.
pub fn bound_pipes(pipes: usize) {
    splice::bound(pipes);
}

/// Lets the other side see a reset instead of an end, once the connection is dropped.
pub fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// A peer that vanished is noticed.
fn keep_alive(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

/// Resolves when we end and the time for it is nearly over. What it says is not ours to know, so that nobody can tell when it
/// might be cut: it gets all the time there is.
async fn over(mut drain: Drain) {
    drain.signaled().await;
    sleep(drain::LIMIT.saturating_sub(MARGIN)).await;
}

// === impl Meters ===

impl Meters {
    pub fn new(metrics: &Metrics, direction: Direction) -> Self {
        let of = |flow| metrics.tcp_bytes.with_label_values(&[direction.as_str(), flow]);
        Self { up: of("sent"), down: of("received"), first: OnceLock::new() }
    }

    /// The first byte that `near` said, once it has.
    pub fn first(&self) -> Option<u8> {
        self.first.get().copied()
    }
}

// === impl Side ===

impl Side for TcpStream {
    const IS_BARE: bool = true;

    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Side for Box<server::TlsStream<TcpStream>> {
    const IS_BARE: bool = false;

    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

impl Side for client::TlsStream<TcpStream> {
    const IS_BARE: bool = false;

    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

const KEEPALIVE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_secs(1);
/// Before the drain gives up on us.
const MARGIN: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
