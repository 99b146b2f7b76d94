//! Which port may a server of this test listen on? Leases that no other running test is given.

use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, UdpSocket};
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};

use socket2::SockRef;

/// A TCP port on 127.0.0.1, held while this lives. The sidecar's listeners share ports with whoever asks
/// (`SO_REUSEPORT`), so two tests on one port would mix their traffic silently: the UDP socket of the same number is
/// the lock between test processes, and the range is below that of ephemeral ports.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    _lock: UdpSocket,
}

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;
static NEXT: AtomicU16 = AtomicU16::new(0);

impl Port {
    /// Leases a free port.
    pub(crate) fn lease() -> Self {
        let start = u16::try_from(process::id().wrapping_mul(37) % u32::from(COUNT)).expect("below COUNT");
        for _ in 0..COUNT {
            let number = FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
            let Ok(lock) = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)) else { continue };
            if let Ok(free) = TcpListener::bind((Ipv4Addr::LOCALHOST, number)) {
                // A child process that another thread is just starting has it as well, until it runs its program.
                let _ = SockRef::from(&free).shutdown(Shutdown::Both);
                return Self { number, _lock: lock };
            }
        }
        panic!("no free port");
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}
