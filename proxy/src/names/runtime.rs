//! By which sockets are nameservers asked? Datagrams as they are, and TCP as all that we open, so that redirect rules leave
//! it alone.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::runtime::{RuntimeProvider, TokioHandle, TokioRuntimeProvider, TokioTime};
use tokio::net::{TcpStream, UdpSocket};

use crate::socket;

/// The runtime that questions are put on.
#[derive(Clone, Default)]
pub(super) struct Runtime(TokioRuntimeProvider);

type Opening<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

// === impl Runtime ===

impl RuntimeProvider for Runtime {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> TokioHandle {
        self.0.create_handle()
    }

    /// For answers that are too long for a datagram. Our configuration names no address to speak from.
    fn connect_tcp(
        &self,
        server: SocketAddr,
        _speak_from: Option<SocketAddr>,
        limit: Option<Duration>,
    ) -> Opening<Self::Tcp> {
        Box::pin(async move {
            let opened = tokio::time::timeout(limit.unwrap_or(LIMIT), socket::open(server)).await;
            let stream = opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
            stream.set_nodelay(true)?;
            Ok(AsyncIoTokioAsStd(stream))
        })
    }

    fn bind_udp(&self, local: SocketAddr, server: SocketAddr) -> Opening<Self::Udp> {
        self.0.bind_udp(local, server)
    }
}

const LIMIT: Duration = Duration::from_secs(5);
