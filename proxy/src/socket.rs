//! How do we open TCP, so that redirect rules leave it alone? Every connection of this process that leaves it begins here.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

/// Puts this mark on every socket that this process opens from now on, so that redirect rules leave its connections alone. `false`:
/// it may not (that takes `CAP_NET_ADMIN`), and they know it by its user or group.
pub fn mark_all(mark: u32) -> bool {
    let permitted = [Domain::IPV4, Domain::IPV6]
        .into_iter()
        .filter_map(|domain| Socket::new(domain, Type::STREAM, None).ok())
        .any(|socket| socket.set_mark(mark).is_ok());
    MARK.store(if permitted { mark } else { 0 }, Ordering::Relaxed);
    permitted
}

/// Opens TCP to an address.
pub async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    marked(address)?.connect(address).await
}

/// The same to an address that nobody has, in packets that no router passes on.
pub async fn open_to_nobody(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = marked(address)?;
    match address {
        SocketAddr::V4(_) => SockRef::from(&socket).set_ttl_v4(1)?,
        SocketAddr::V6(_) => SockRef::from(&socket).set_unicast_hops_v6(1)?,
    }
    socket.connect(address).await
}

/// A socket for this address, with our mark where there is one.
fn marked(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    let mark = MARK.load(Ordering::Relaxed);
    if mark != 0 {
        SockRef::from(&socket).set_mark(mark)?;
    }
    Ok(socket)
}

/// What every socket of this process is marked with; 0 is no mark. One process has one network namespace, and one answer.
static MARK: AtomicU32 = AtomicU32::new(0);
