//! Is it ourselves? Where what the application sends never goes: to our own listener, and to the workload past the policy of its
//! ports.

use std::net::SocketAddr;
use std::sync::Arc;

use countersign_policy::Reason;
use tokio::net::TcpStream;

use crate::local::Local;
use crate::rejection::Cause;

/// Ourselves, as far as it matters.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// The outbound listener: to dial it would be a loop.
    pub listener: Option<SocketAddr>,
    /// With `--transparent`: which addresses are this machine's. What is meant for them is judged on its way in, and connections
    /// of ours pass that by.
    pub local: Option<Arc<Local>>,
}

// === impl Own ===

impl Own {
    /// Those that lead to others. Loopback is left to the application, which reaches it without us.
    pub fn others(&self, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Cause> {
        let Some(local) = &self.local else { return Ok(found) };
        let (mut others, mut cause) = (Vec::with_capacity(found.len()), Cause::ProxyLoopDetected);
        for address in found {
            match local.has(address) {
                Ok(is_own) if !is_own || address.ip().to_canonical().is_loopback() => others.push(address),
                Ok(_) => {}
                // Without a descriptor nobody can tell.
                Err(Reason::Overloaded) => cause = Cause::ConnectionLimitReached,
                Err(_) => {}
            }
        }
        if others.is_empty() { Err(cause) } else { Ok(others) }
    }

    /// The connection, if it does not lead to our own listener.
    pub fn admit(&self, stream: TcpStream) -> Result<TcpStream, Cause> {
        let is_ours = |own| stream.peer_addr().is_ok_and(|peer| is_same(peer, own));
        if self.listener.is_some_and(is_ours) { Err(Cause::ProxyLoopDetected) } else { Ok(stream) }
    }
}

/// Is the destination our own listener? It may have its port on all of loopback, and an IPv4 address written as IPv6 is the same
/// place.
fn is_same(peer: SocketAddr, own: SocketAddr) -> bool {
    let (to, ours) = (peer.ip().to_canonical(), own.ip().to_canonical());
    peer.port() == own.port() && (to == ours || to.is_loopback() && ours.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn others(own: &Own, found: &[&str]) -> Result<Vec<SocketAddr>, Cause> {
        own.others(found.iter().map(|address| address.parse().unwrap()).collect())
    }

    /// An address of this machine that is not loopback, if it has one.
    fn ours() -> Option<SocketAddr> {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((crate::local::NOBODYS_V4, 9)).ok()?;
        socket.local_addr().ok()
    }

    #[test]
    fn addresses_of_ours_are_no_destination_and_those_of_others_and_loopback_are() {
        let own = Own { listener: None, local: Some(Arc::default()) };
        let free = ["192.0.2.1:80", "127.0.0.1:80", "[::1]:80", "[::ffff:127.0.0.1]:80"];
        assert_eq!(others(&own, &free).unwrap().len(), free.len());
        let Some(ours) = ours() else { return };
        let mapped = format!("[::ffff:{}]:{}", ours.ip(), ours.port());
        for alone in [&ours.to_string(), &mapped] {
            assert_eq!(others(&own, &[alone]), Err(Cause::ProxyLoopDetected), "{alone}");
            assert_eq!(others(&own, &[alone, free[0]]).unwrap().len(), 1, "{alone} is left out");
            assert_eq!(others(&Own::default(), &[alone]).unwrap().len(), 1, "nothing is redirected");
        }
    }
}
