//! Where was a connection going before it was redirected to us? What both directions of `--transparent` know of it, and how it
//! passes or ends if nobody looks into it.

pub mod inbound;
mod local;
pub mod outbound;
mod probe;
mod said;
mod verdict;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use countersign_policy::Reason;
use countersign_policy::snapshot::Timeouts;
use rustix::process::{getgid, getuid};
use socket2::SockRef;
use tokio::net::TcpStream;

use self::local::Local;
use crate::drain::Drain;
use crate::http::sidecar::Worker;
use crate::names::Names;
use crate::record::{Direction, Entry, Outcome, Passed, Protocol};
use crate::rejection::{Explained, Refusal};
use crate::socket;
use crate::tcp::{self, Side};

/// What redirected connections are judged by beside policy; shared by all workers.
#[derive(Debug)]
pub struct Redirect {
    /// No way in leads to these, though they are open on the workload's addresses.
    own_ports: Vec<u16>,
    /// But where one of them is that of `--inbound ADDR=TARGET`: who means ADDR is led to TARGET.
    ways_in: Vec<(SocketAddr, SocketAddr)>,
    local: Local,
    /// When somebody first asked whether we are ready, and whether we were.
    asked_since: OnceLock<Instant>,
    prepared: AtomicBool,
}

/// A connection that was redirected to us, or that is led on like one, but for its socket.
struct Redirected {
    worker: Arc<Worker>,
    peer: SocketAddr,
    /// Where it was going, or what it is led to.
    destination: SocketAddr,
    since: Instant,
    drain: Drain,
}

/// How bytes pass.
#[derive(Clone, Copy, Debug)]
struct Passing {
    direction: Direction,
    outcome: Outcome,
    /// Why policy in audit mode would have refused it.
    would_refuse: Option<Reason>,
    timeouts: Timeouts,
}

/// Why connections cannot be told apart.
#[derive(Debug, thiserror::Error)]
pub enum CannotTell {
    /// The redirect would lead our own connections back to us.
    #[error(
        "--transparent: run the sidecar as user or group {OWN_ID} (and as `init` was told, if with --uid or --gid), or give it \
         CAP_NET_ADMIN, or its own connections would be redirected to it"
    )]
    OurOwn,
    /// Every address would be taken for ours.
    #[error(
        "--transparent: net.ipv4.ip_nonlocal_bind or net.ipv6.ip_nonlocal_bind is set here, so the addresses of this machine cannot \
         be told from others: set it to 0"
    )]
    Addresses,
}

// === impl Redirect ===

impl Redirect {
    /// The ports that we listen on; and the addresses among them that lead to an application each.
    pub async fn new(
        own_ports: Vec<u16>,
        ways_in: Vec<(SocketAddr, SocketAddr)>,
    ) -> Result<Self, CannotTell> {
        let is_exempt = socket::mark_all() || getuid().as_raw() == OWN_ID || getgid().as_raw() == OWN_ID;
        if !is_exempt || probe::leads_back().await {
            return Err(CannotTell::OurOwn);
        }
        if Local::takes_all() {
            return Err(CannotTell::Addresses);
        }
        Ok(Self {
            own_ports,
            ways_in,
            local: Local::default(),
            asked_since: OnceLock::new(),
            prepared: AtomicBool::new(false),
        })
    }

    /// Where a listener of `--inbound ADDR=TARGET` leads that is open at this address.
    fn way_in(&self, destination: SocketAddr) -> Option<SocketAddr> {
        let is_open = |at: SocketAddr| match at.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => destination.is_ipv4(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => true,
            ip => ip.to_canonical() == destination.ip(),
        };
        let leads = |(at, _): &&(SocketAddr, SocketAddr)| at.port() == destination.port() && is_open(*at);
        self.ways_in.iter().find(leads).map(|(_, target)| *target)
    }

    /// Are the names of the first policy known, which tell whose a connection is? Who knows none for long is ready all the same.
    pub fn is_prepared(&self, names: &Names) -> bool {
        let since = self.asked_since.get_or_init(Instant::now);
        if !self.prepared.load(Ordering::Relaxed) && (names.are_asked() || since.elapsed() > PREPARATION) {
            self.prepared.store(true, Ordering::Relaxed);
        }
        self.prepared.load(Ordering::Relaxed)
    }
}

/// Where a connection was going before it was redirected. `None`: it was not.
fn original_destination(stream: &TcpStream) -> io::Result<Option<SocketAddr>> {
    let arrived = plain(stream.local_addr()?);
    let socket = SockRef::from(stream);
    // An IPv4 connection is tracked as such, whatever the socket that it arrives at.
    let original = if arrived.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    Ok(original
        .ok()
        .and_then(|original| original.as_socket())
        .map(plain)
        .filter(|original| *original != arrived))
}

/// An IPv4 address that is written as IPv6 is an IPv4 address.
fn plain(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::from((v4, address.port())),
        IpAddr::V6(_) => address,
    }
}

// === impl Redirected ===

impl Redirected {
    /// Lets all bytes pass, both ways, between who opened the connection and where it was going.
    async fn pass<N: Side>(&self, near: N, passing: Passing) {
        let Passing { direction, outcome, would_refuse, timeouts } = passing;
        let _connected = self.worker.carries_bytes(direction);
        let far = match tokio::time::timeout(timeouts.connect, socket::open(self.destination)).await {
            Ok(Ok(far)) => far,
            Ok(Err(error)) => {
                tracing::debug!(%error, destination = %self.destination, "cannot be reached");
                return self.refuse(near.tcp(), direction, &Reason::UpstreamUnreachable.into());
            }
            Err(_) => return self.refuse(near.tcp(), direction, &Reason::UpstreamTimeout.into()),
        };
        // Small messages are latency here; failing to say so harms nobody.
        let _ = far.set_nodelay(true);
        let passed = Passed {
            direction,
            protocol: Protocol::Tcp,
            outcome,
            would_refuse,
            is_traced: false,
            duration: self.since.elapsed(),
        };
        self.worker.sidecar.recorder.passed(passed, || {
            let mut entry = self.entry(direction, outcome);
            entry.reason = would_refuse.map(Reason::as_str);
            entry
        });
        tcp::relay(near, far, self.drain.clone(), timeouts.idle, self.worker.meters(direction)).await;
    }

    /// Counted, logged, and reset: who opened it is to see that it was refused, not that all has been said.
    fn refuse(&self, near: &TcpStream, direction: Direction, refusal: &Refusal) {
        let recorder = &self.worker.sidecar.recorder;
        let mut entry = self.entry(direction, Outcome::of(direction, refusal.reason));
        // What a request would hear.
        entry.status = refusal.reason.status();
        entry.explain(refusal, recorder.decision_id());
        recorder.refused(refusal.reason, entry);
        tcp::reset(near);
    }

    fn entry(&self, direction: Direction, decision: Outcome) -> Entry {
        Entry {
            time: self.worker.sidecar.recorder.now(),
            direction,
            protocol: Protocol::Tcp,
            method: String::new(),
            path: String::new(),
            host: self.destination.to_string(),
            source: self.peer.ip(),
            status: 0,
            decision,
            reason: None,
            decision_id: None,
            policy: None,
            rule: None,
            client: None,
            trace_id: None,
            span_id: None,
            duration_ms: self.since.elapsed().as_secs_f64() * 1000.0,
            explained: Explained::Nothing,
        }
    }
}

/// Where policy says nothing: about what applications grant themselves, and no end to silence.
fn unnamed() -> Timeouts {
    Timeouts { connect: Duration::from_secs(30), idle: tcp::NEVER, ..Timeouts::default() }
}

/// How long names may keep us from being ready.
const PREPARATION: Duration = Duration::from_secs(5);
/// Our user and group, where we have them to ourselves.
const OWN_ID: u32 = 16016;

#[cfg(test)]
mod tests;
