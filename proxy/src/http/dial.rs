//! How is an upstream reached? Plain TCP or verified TLS, then HTTP/1.1 or HTTP/2 on top.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use countersign_policy::Reason;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::body::Body;
use crate::connect::{Connector, Guard};

/// Where an upstream is, and what is spoken on the way.
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    pub(crate) address: Address,
    pub(crate) tls: Option<Tls>,
    pub(crate) version: Version,
}

#[derive(Clone, Debug)]
pub(crate) enum Address {
    /// The application beside us.
    Socket(SocketAddr),
    /// What the application dials; resolved for each connection.
    Name { host: String, port: u16 },
}

/// TLS that we originate.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) server_name: String,
}

/// The HTTP version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Version {
    Http1,
    Http2,
    /// What ALPN says: TLS only.
    Negotiated,
}

/// An open connection that is ready for a request.
pub(crate) enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

// === impl Dial ===

impl Dial {
    /// Opens a connection. The caller holds it to the limit; each address gets its share. Every failure is the upstream's:
    /// `upstream_unreachable`.
    pub(crate) async fn connect(
        &self,
        connector: &Connector,
        own: Option<SocketAddr>,
        limit: Duration,
    ) -> Result<Sender, Reason> {
        let stream = match &self.address {
            Address::Socket(address) => {
                let stream = TcpStream::connect(address).await.map_err(unreachable)?;
                stream.set_nodelay(true).map_err(unreachable)?;
                stream
            }
            Address::Name { host, port } => {
                connector.tcp(host, *port, Guard::Open, limit).await.map_err(unreachable)?
            }
        };
        // A destination that is our own listener would be a loop.
        if own.is_some() && stream.peer_addr().ok() == own {
            return Err(Reason::AmbiguousDestination);
        }
        let Some(tls) = &self.tls else {
            return handshake(stream, self.version == Version::Http2).await;
        };
        let stream =
            connector.tls(stream, tls.config.clone(), &tls.server_name).await.map_err(unreachable)?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if self.version == Version::Http2 && !h2 {
            tracing::debug!(server = tls.server_name, "the upstream does not speak HTTP/2");
            return Err(Reason::UpstreamUnreachable);
        }
        handshake(stream, h2).await
    }
}

impl Version {
    /// What we offer by ALPN (RFC 7301).
    pub(crate) fn alpn(self) -> &'static [&'static [u8]] {
        match self {
            Self::Http1 => &[b"http/1.1"],
            Self::Http2 => &[b"h2"],
            Self::Negotiated => &[b"h2", b"http/1.1"],
        }
    }
}

async fn handshake<S>(stream: S, h2: bool) -> Result<Sender, Reason>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    if h2 {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(H2_WINDOW)
            .initial_connection_window_size(H2_WINDOW * 4)
            .max_header_list_size(MAX_ANSWER_HEAD)
            .keep_alive_interval(H2_PING)
            .keep_alive_while_idle(false)
            .handshake(io)
            .await
            .map_err(unreachable)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an upstream connection ended");
            }
        });
        return Ok(Sender::Http2(sender));
    }
    let (sender, connection) = http1::Builder::new()
        .writev(false)
        .max_buf_size(MAX_BUFFER)
        .handshake(io)
        .await
        .map_err(unreachable)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an upstream connection ended");
        }
    });
    Ok(Sender::Http1(sender))
}

fn unreachable(error: impl std::fmt::Display) -> Reason {
    tracing::debug!(%error, "an upstream cannot be reached");
    Reason::UpstreamUnreachable
}

const H2_WINDOW: u32 = 1024 * 1024;
const H2_PING: Duration = Duration::from_secs(20);
const MAX_ANSWER_HEAD: u32 = 64 * 1024;
/// Read buffer of a connection; an answer's head must fit.
const MAX_BUFFER: usize = 64 * 1024;
