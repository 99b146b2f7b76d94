//! Are our own connections left alone? Whom `init` was told to exempt and as whom we run are two things, and where they differ
//! every connection of ours would come back to us.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use tokio::net::TcpListener;

use crate::socket;

/// Does the redirect lead what we open back to us? Opens a connection to each address that this machine speaks from, where a
/// redirect that does not know us turns it away to the inbound listener. Where there is no redirect yet, it does not.
pub(super) async fn leads_back() -> bool {
    let far: [IpAddr; 2] = [Ipv4Addr::new(192, 0, 2, 1).into(), DOCUMENTATION_V6.into()];
    for own in far.into_iter().filter_map(speaks_from) {
        if let Ok(false) = arrives(own).await {
            return true;
        }
    }
    false
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

/// Does a connection that we open to this address of ours arrive there?
async fn arrives(own: IpAddr) -> io::Result<bool> {
    let listener = TcpListener::bind((own, 0)).await?;
    let address = listener.local_addr()?;
    let (dialled, accepted) =
        tokio::join!(socket::open(address), tokio::time::timeout(PATIENCE, listener.accept()));
    dialled?;
    Ok(accepted.is_ok())
}

/// For documentation (RFC 3849): nobody's, like 192.0.2.0/24 (RFC 5737).
pub(super) const DOCUMENTATION_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const DISCARD: u16 = 9;
const PATIENCE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_redirect_what_we_open_arrives() {
        assert!(arrives(Ipv4Addr::LOCALHOST.into()).await.unwrap());
        assert!(!leads_back().await);
    }
}
