//! Which addresses are this machine's? Only those can be bound to, and the kernel is asked anew after a while.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What was found out lately.
#[derive(Debug, Default)]
pub(super) struct Local(Mutex<HashMap<SocketAddr, Known>>);

#[derive(Clone, Copy, Debug)]
struct Known {
    is_local: bool,
    since: Instant,
}

// === impl Local ===

impl Local {
    /// May addresses be bound to that are nobody's (RFC 5737, RFC 3849), so that this says nothing (`ip_nonlocal_bind`, which each
    /// family has for itself)?
    pub(super) fn takes_all() -> bool {
        let nobodys: [IpAddr; 2] =
            [Ipv4Addr::new(192, 0, 2, 1).into(), super::probe::DOCUMENTATION_V6.into()];
        nobodys.into_iter().any(|address| UdpSocket::bind((address, 0)).is_ok())
    }

    /// Is this one of ours, loopback among them? The port does not matter.
    pub(super) fn has(&self, mut address: SocketAddr) -> bool {
        if address.ip().is_loopback() {
            return true;
        }
        if address.ip().is_unspecified() || address.ip().is_multicast() {
            return false;
        }
        address.set_port(0);
        let now = Instant::now();
        let is_fresh = |known: &Known| now.duration_since(known.since) < MAX_AGE;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&address).filter(|known| is_fresh(known)) {
            return known.is_local;
        }
        let is_local = match UdpSocket::bind(address) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => false,
            // We do not know, and ask again.
            Err(_) => return false,
        };
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(address, Known { is_local, since: now });
        is_local
    }
}

const MAX_AGE: Duration = Duration::from_secs(5);
const MAX_KNOWN: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_12_loopback_is_ours_and_the_address_of_somebody_else_is_not() {
        let local = Local::default();
        for (address, expected) in [
            ("127.0.0.1:80", true),
            ("127.9.9.9:80", true),
            ("[::1]:80", true),
            ("192.0.2.1:80", false),
            ("[2001:db8::1]:80", false),
            ("0.0.0.0:80", false),
            ("[::]:80", false),
            ("224.0.0.1:80", false),
            ("[ff02::1]:80", false),
        ] {
            for _ in 0..2 {
                assert_eq!(local.has(address.parse().unwrap()), expected, "{address}");
            }
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let local = Local::default();
        for last in 0..=u16::MAX >> 4 {
            let [a, b] = last.to_be_bytes();
            assert!(!local.has(SocketAddr::from(([198, 18, a, b], 1))));
        }
        assert!(local.0.lock().unwrap().len() <= MAX_KNOWN);
    }
}
