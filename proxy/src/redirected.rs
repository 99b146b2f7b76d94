//! Where was a connection going before it was redirected to us? What both directions of `--transparent` know of it, and how it
//! passes or ends if nobody looks into it.

pub mod inbound;
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
use rustix::process::{getegid, geteuid};
use socket2::SockRef;
use tokio::net::TcpStream;

use self::probe::Probe;
use crate::drain::Drain;
use crate::http::sidecar::Worker;
use crate::init::args::Exempt;
use crate::local::Local;
use crate::names::Names;
use crate::record::{Direction, Entry, Outcome, Passed, Protocol};
use crate::rejection::{Cause, Refusal};
use crate::socket;
use crate::tcp::{self, Meters, Side};

/// What redirected connections are judged by beside policy; shared by all workers.
#[derive(Debug)]
pub struct Redirect {
    /// No way in leads to these, though they are open on the workload's addresses.
    own_ports: Vec<u16>,
    probe: Probe,
    /// But where one of them is that of `--inbound ADDR=TARGET`: who means ADDR is led to TARGET.
    ways_in: Vec<(SocketAddr, SocketAddr)>,
    local: Arc<Local>,
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
    /// `false`: it was opened to us, so that is where it arrived.
    was_redirected: bool,
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
    /// The redirect would not know our own connections, and lead them back to us.
    #[error(
        "--transparent: this is user {user} and group {group}, neither user {} nor group {} as the redirect knows us, and \
         without CAP_NET_ADMIN, which would let us mark our connections: {TELL_BOTH}", exempt.uid, exempt.gid
    )]
    OurOwn { user: u32, group: u32, exempt: Exempt },
    /// It does.
    #[error(
        "--transparent: the redirect that is installed leads our own connections back to us: {TELL_BOTH}"
    )]
    LedBack,
    /// Every address would be taken for ours.
    #[error(
        "--transparent: net.ipv4.ip_nonlocal_bind or net.ipv6.ip_nonlocal_bind is set here, so the addresses of this machine cannot \
         be told from others: set it to 0"
    )]
    Addresses,
}

// === impl Redirect ===

impl Redirect {
    /// The ports that we listen on; the addresses among them that lead to an application each; and whom the redirect exempts.
    pub async fn new(
        own_ports: Vec<u16>,
        ways_in: Vec<(SocketAddr, SocketAddr)>,
        exempt: Exempt,
    ) -> Result<Self, CannotTell> {
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        if !socket::mark_all(exempt.mark.0) && user != exempt.uid.0 && group != exempt.gid.0 {
            return Err(CannotTell::OurOwn { user, group, exempt });
        }
        let probe = Probe::default();
        if probe.look().await {
            return Err(CannotTell::LedBack);
        }
        if Local::takes_all() {
            return Err(CannotTell::Addresses);
        }
        Ok(Self {
            own_ports,
            probe,
            ways_in,
            local: Arc::default(),
            asked_since: OnceLock::new(),
            prepared: AtomicBool::new(false),
        })
    }

    /// Looks for as long as we run whether our own connections are left alone.
    pub async fn watch(&self) {
        self.probe.watch().await;
    }

    /// Do our own connections come back to us, so that nothing can work?
    pub fn leads_back(&self) -> bool {
        self.probe.leads_back()
    }

    /// Which addresses are ours.
    pub fn local(&self) -> Arc<Local> {
        self.local.clone()
    }

    fn is_own(&self, port: u16) -> bool {
        self.own_ports.contains(&port) || self.probe.has(port)
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
    /// One that has just been accepted. `None`: it ended before it began.
    fn accepted(worker: Arc<Worker>, stream: &TcpStream, peer: SocketAddr, drain: Drain) -> Option<Self> {
        let original = original_destination(stream)
            .and_then(|original| Ok((original, plain(stream.local_addr()?))))
            .inspect_err(|error| tracing::debug!(%error, "a connection ended before it began"));
        let (original, arrived) = original.ok()?;
        Some(Self {
            worker,
            peer: plain(peer),
            destination: original.unwrap_or(arrived),
            was_redirected: original.is_some(),
            since: Instant::now(),
            drain,
        })
    }

    /// Lets all bytes pass, both ways, between who opened the connection and where it was going.
    async fn pass<N: Side>(&self, near: N, passing: Passing, meters: &Meters) {
        let Passing { direction, outcome, would_refuse, timeouts } = passing;
        let _connected = self.worker.carries_bytes(direction);
        let far = match tokio::time::timeout(timeouts.connect, socket::open(self.destination)).await {
            Ok(Ok(far)) => far,
            Ok(Err(error)) => {
                tracing::debug!(%error, destination = %self.destination, "cannot be reached");
                return self.refuse(near.tcp(), direction, &Cause::of_tcp(&error).into());
            }
            Err(_) => return self.refuse(near.tcp(), direction, &Cause::ConnectionTimeout.into()),
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
        tcp::relay(near, far, self.drain.clone(), timeouts.idle, meters).await;
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

    /// Counted and logged as an open stream that was ended.
    fn end(&self, direction: Direction, reason: Reason) {
        let recorder = &self.worker.sidecar.recorder;
        let mut entry = self.entry(direction, Outcome::of(direction, reason));
        entry.status = reason.status();
        entry.explain(&reason.into(), recorder.decision_id());
        recorder.ended(reason, entry);
    }

    fn entry(&self, direction: Direction, decision: Outcome) -> Entry {
        let time = self.worker.sidecar.recorder.now();
        Entry {
            host: self.destination.to_string(),
            duration_ms: self.since.elapsed().as_secs_f64() * 1000.0,
            ..Entry::new(time, direction, Protocol::Tcp, self.peer.ip(), decision)
        }
    }
}

/// Where policy says nothing: about what applications grant themselves, and no end to silence.
fn unnamed() -> Timeouts {
    Timeouts { connect: Duration::from_secs(30), idle: tcp::NEVER, ..Timeouts::default() }
}

/// How long names may keep us from being ready.
const PREPARATION: Duration = Duration::from_secs(5);
/// What to do where the redirect does not know us.
const TELL_BOTH: &str =
    "run the sidecar as the user or group that `init` was told, and tell both the same (--uid, --gid)";

#[cfg(test)]
mod tests;
