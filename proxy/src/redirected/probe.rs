//! Are our own connections left alone? Whom `init` was told to exempt and as whom we run are two things, and where they differ
//! every connection of ours would come back to us.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::connect;

/// What has been found out.
#[derive(Debug, Default)]
pub(super) struct Probe {
    /// Where we listen for ourselves at the moment. Nobody else is let in there: a connection that came back to us would be
    /// opened again and again.
    port: AtomicU16,
    leads_back: AtomicBool,
}

// === impl Probe ===

impl Probe {
    /// Looks again and again: rules may come, or be others, after we have started.
    pub(super) async fn watch(&self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            // Twice, before we say that we are not ready.
            let leads_back = self.look().await && self.look().await;
            if self.leads_back.swap(leads_back, Ordering::Relaxed) == leads_back {
                continue;
            }
            if leads_back {
                tracing::error!("the redirect leads our own connections back to us: {}", super::TELL_BOTH);
            } else {
                tracing::info!("the redirect leaves our own connections alone again");
            }
        }
    }

    pub(super) fn leads_back(&self) -> bool {
        self.leads_back.load(Ordering::Relaxed)
    }

    /// Is this the port of a look that is under way?
    pub(super) fn has(&self, port: u16) -> bool {
        self.port.load(Ordering::Relaxed) == port
    }

    /// Does the redirect lead what we open back to us? Opens a connection to each address that this machine speaks from, where
    /// a redirect that does not know us turns it away to the inbound listener. Where there is no redirect yet, it does not.
    pub(super) async fn look(&self) -> bool {
        let far: [IpAddr; 2] = [Ipv4Addr::new(192, 0, 2, 1).into(), DOCUMENTATION_V6.into()];
        for own in far.into_iter().filter_map(speaks_from) {
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
            tokio::join!(timeout(PATIENCE, connect::open(address)), timeout(PATIENCE, listener.accept()));
        self.port.store(0, Ordering::Relaxed);
        match dialled? {
            // Whoever turned it away was not us: we listen.
            Err(error)
                if !matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused) =>
            {
                Err(error)
            }
            _ => Ok(accepted.is_ok()),
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

/// For documentation (RFC 3849): nobody's, like 192.0.2.0/24 (RFC 5737).
const DOCUMENTATION_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const DISCARD: u16 = 9;
const PATIENCE: Duration = Duration::from_millis(500);
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
