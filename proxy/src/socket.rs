//! How do we open TCP, so that redirect rules leave it alone? Every connection of this process that leaves it begins here.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

/// Marks every socket that this process opens from now on, so that redirect rules leave its connections alone. `false`: it
/// may not (that takes `CAP_NET_ADMIN`), and they know it by its user or group.
pub fn mark_all() -> bool {
    let permitted = [Domain::IPV4, Domain::IPV6]
        .into_iter()
        .filter_map(|domain| Socket::new(domain, Type::STREAM, None).ok())
        .any(|socket| socket.set_mark(MARK).is_ok());
    MARKED.store(permitted, Ordering::Relaxed);
    permitted
}

/// Opens TCP to an address.
pub async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    if !MARKED.load(Ordering::Relaxed) {
        return TcpStream::connect(address).await;
    }
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    SockRef::from(&socket).set_mark(MARK)?;
    socket.connect(address).await
}

/// Is every socket of this process marked? One process has one network namespace, and one answer.
static MARKED: AtomicBool = AtomicBool::new(false);
/// What redirect rules know our sockets by: 16016.
const MARK: u32 = 0x3e90;
