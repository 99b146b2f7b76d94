//! Are our own connections left alone? Whom `init` was told to exempt and as whom we run are two things, and where they differ
//! every connection of ours would come back to us.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::local::{NOBODYS_V4, NOBODYS_V6};
use crate::socket;

/// What has been found out.
#[derive(Debug, Default)]
pub(super) struct Probe {
    /// Where we listen for ourselves at the moment. Nobody else is let in there: a connection that came back to us would be
    /// opened again and again.
    port: AtomicU16,
    /// What we dialled outside has arrived here.
    came_back: AtomicBool,
    leads_back: AtomicBool,
}

// === impl Probe ===

impl Probe {
    /// Looks again and again: rules may come, or be others, after we have started.
    pub(super) async fn watch(&self) {
        loop {
            // Twice, before we say that we are not ready.
            let leads_back = self.look_around().await && self.look_around().await;
            if self.leads_back.swap(leads_back, Ordering::Relaxed) != leads_back {
                if leads_back {
                    tracing::error!(
                        "the redirect leads our own connections back to us: {}",
                        super::TELL_BOTH
                    );
                } else {
                    tracing::info!("the redirect leaves our own connections alone again");
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    pub(super) fn leads_back(&self) -> bool {
        self.leads_back.load(Ordering::Relaxed)
    }

    /// Is this the port of a look that is under way?
    pub(super) fn has(&self, port: u16) -> bool {
        self.port.load(Ordering::Relaxed) == port
    }

    /// Is this what a look dials outside? Then it has come back.
    pub(super) fn is_look(&self, destination: SocketAddr) -> bool {
        let is_look = FAR.contains(&destination.ip()) && self.has(destination.port());
        if is_look {
            self.came_back.store(true, Ordering::Relaxed);
        }
        is_look
    }

    async fn look_around(&self) -> bool {
        self.look().await || self.look_outside().await.unwrap_or(false)
    }

    /// Does what we open to others come back to us? Where the way in is not redirected, or not on every port, that is not seen on
    /// addresses of ours. For listeners that are served.
    async fn look_outside(&self) -> io::Result<bool> {
        // A port that nobody else uses at the moment.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        self.came_back.store(false, Ordering::Relaxed);
        self.port.store(port, Ordering::Relaxed);
        for far in FAR.into_iter().filter(|far| speaks_from(*far).is_some()) {
            let dialled = timeout(SHORTLY, socket::open_to_nobody(SocketAddr::new(far, port))).await;
            if matches!(dialled, Ok(Ok(_))) {
                // The kernel has taken it; who serves it takes a moment.
                tokio::time::sleep(SHORTLY).await;
            }
        }
        self.port.store(0, Ordering::Relaxed);
        Ok(self.came_back.load(Ordering::Relaxed))
    }

    /// Does the redirect lead what we open back to us? Opens a connection to each address that this machine speaks from, where
    /// a redirect that does not know us turns it away to the inbound listener. Where there is no redirect yet, it does not.
    pub(super) async fn look(&self) -> bool {
        for own in FAR.into_iter().filter_map(speaks_from) {
            if let Ok(false) = self.arrives(own).await {
                return true;
            }
        }
        false
    }

    /// Does a connection that we open to this address of ours arrive there?
    async fn arrives(&self, own: IpAddr) -> io::Result<bool> {
        let listener = TcpListener::bind((own, 0)).await?;
        let address = listener.local_addr()?;
        self.port.store(address.port(), Ordering::Relaxed);
        let (dialled, accepted) =
            tokio::join!(timeout(PATIENCE, socket::open(address)), timeout(PATIENCE, listener.accept()));
        self.port.store(0, Ordering::Relaxed);
        let dialled = dialled?;
        let ours = dialled.as_ref().ok().and_then(|dialled| dialled.local_addr().ok());
        match dialled {
            // Whoever turned it away was not us: we listen.
            Err(error)
                if !matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused) =>
            {
                Err(error)
            }
            _ => Ok(matches!(accepted, Ok(Ok((_, peer))) if Some(peer) == ours)),
        }
    }
}

/// The address that this machine would speak from to another one. Nothing is sent to find out.
fn speaks_from(far: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if far.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((far, DISCARD)).ok()?;
    let own = socket.local_addr().ok()?.ip();
    let needs_scope = matches!(own, IpAddr::V6(own) if own.is_unicast_link_local());
    (!own.is_loopback() && !own.is_unspecified() && !needs_scope).then_some(own)
}

/// Addresses that nobody has.
const FAR: [IpAddr; 2] = [IpAddr::V4(NOBODYS_V4), IpAddr::V6(NOBODYS_V6)];
const DISCARD: u16 = 9;
const PATIENCE: Duration = Duration::from_millis(500);
const SHORTLY: Duration = Duration::from_millis(200);
const INTERVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_redirect_what_we_open_arrives() {
        let probe = Probe::default();
        assert!(probe.arrives(Ipv4Addr::LOCALHOST.into()).await.unwrap());
        assert!(!probe.look().await && probe.has(0));
    }
}
