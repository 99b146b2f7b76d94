//! Which addresses are this machine's? Only those can be bound to, and the kernel is asked anew after a while.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use countersign_policy::Reason;
use rustix::io::Errno;

/// What was found out lately.
#[derive(Debug, Default)]
pub struct Local(Mutex<HashMap<SocketAddr, Known>>);

#[derive(Clone, Copy, Debug)]
struct Known {
    is_local: bool,
    since: Instant,
}

// === impl Local ===

impl Local {
    /// May addresses be bound to that are nobody's (RFC 5737, RFC 3849), so that this says nothing (`ip_nonlocal_bind`, which each
    /// family has for itself)?
    pub fn takes_all() -> bool {
        let nobodys: [IpAddr; 2] = [NOBODYS_V4.into(), NOBODYS_V6.into()];
        nobodys.into_iter().any(|address| UdpSocket::bind((address, 0)).is_ok())
    }

    /// Is this one of ours, loopback among them? The port does not matter. Whoever cannot be told is refused, with this
    /// reason: taken for somebody else's, our own address would be dialled past the policy of its ports.
    pub fn has(&self, mut address: SocketAddr) -> Result<bool, Reason> {
        // An IPv4 address that is written as IPv6 is an IPv4 address.
        address.set_ip(address.ip().to_canonical());
        if address.ip().is_loopback() {
            return Ok(true);
        }
        if address.ip().is_unspecified() || address.ip().is_multicast() {
            return Ok(false);
        }
        address.set_port(0);
        let now = Instant::now();
        let is_fresh = |known: &Known| now.duration_since(known.since) < MAX_AGE;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&address).filter(|known| is_fresh(known)) {
            return Ok(known.is_local);
        }
        let is_local = match UdpSocket::bind(address) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => false,
            // We do not know, and ask again.
            Err(error) => return Err(unknown(&error)),
        };
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(address, Known { is_local, since: now });
        Ok(is_local)
    }
}

/// Nobody is told that a destination is ambiguous because we have no socket left to ask with.
fn unknown(error: &io::Error) -> Reason {
    let short = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    if short.iter().any(|short| error.raw_os_error() == Some(short.raw_os_error())) {
        Reason::Overloaded
    } else {
        Reason::AmbiguousDestination
    }
}

/// For documentation (RFC 5737), so nobody's.
pub const NOBODYS_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The same (RFC 3849).
pub const NOBODYS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
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
            ("[::ffff:127.0.0.1]:80", true),
            ("[::ffff:192.0.2.1]:80", false),
            ("192.0.2.1:80", false),
            ("[2001:db8::1]:80", false),
            ("0.0.0.0:80", false),
            ("[::]:80", false),
            ("224.0.0.1:80", false),
            ("[ff02::1]:80", false),
        ] {
            for _ in 0..2 {
                assert_eq!(local.has(address.parse().unwrap()), Ok(expected), "{address}");
            }
        }
    }

    #[test]
    fn os_5_without_a_descriptor_we_are_overloaded_and_nothing_is_taken_for_somebody_elses() {
        for (errno, reason) in [
            (Errno::MFILE, Reason::Overloaded),
            (Errno::NFILE, Reason::Overloaded),
            (Errno::ACCESS, Reason::AmbiguousDestination),
        ] {
            assert_eq!(unknown(&errno.into()), reason);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let local = Local::default();
        for last in 0..=u16::MAX >> 4 {
            let [a, b] = last.to_be_bytes();
            assert_eq!(local.has(SocketAddr::from(([198, 18, a, b], 1))), Ok(false));
        }
        assert!(local.0.lock().unwrap().len() <= MAX_KNOWN);
    }
}
