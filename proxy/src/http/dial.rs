//! How is an upstream reached? Plain TCP or verified TLS, then HTTP/1.1 or HTTP/2 on top.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use countersign_policy::snapshot::{CertificateFiles, FileRef};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::client::ResolvesClientCert;
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::attempt::failure;
use super::body::Body;
use super::last_good::{LastGood, Pem};
use super::line::{Heard, Line};
use super::wire::{Tap, Wire};
use crate::connect::{ConnectError, Connector, Guard};
use crate::own::Own;
use crate::rejection::Cause;
use crate::socket;
use crate::state::certificate::Certificate;

/// Where an upstream is, and what is spoken on the way.
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    pub(crate) address: Address,
    pub(crate) tls: Option<Tls>,
    pub(crate) version: Version,
}

#[derive(Clone, Debug)]
pub(crate) enum Address {
    /// The application beside us, or where a redirected connection was going.
    Socket(SocketAddr),
    /// What the application dials; resolved for each connection.
    Name { host: String, port: u16 },
}

/// TLS that we originate.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) server_name: String,
    /// Whom it trusts, where a rule names a file for that.
    pub(crate) ca: Option<CaFile>,
    pub(crate) client: Option<Client>,
}

/// The certificate that we present.
#[derive(Clone, Debug)]
pub(crate) enum Client {
    /// As it was read from a rule's files.
    Files { named: CertificateFiles, certificate: Certificate },
    /// The one that the token is bound to, whatever stands in the files by now (RFC 8705 §3).
    Bound(Arc<Certificate>),
}

/// A `caFile` as it was read.
#[derive(Clone, Debug)]
pub(crate) struct CaFile {
    pub(crate) file: FileRef,
    pub(crate) pem: Pem,
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
    Http1(Line),
    /// With how many streams the server allows at once, as it says by now.
    Http2(http2::SendRequest<Body>, Arc<AtomicUsize>),
}

// === impl Dial ===

impl Dial {
    /// Opens a connection, and says to which address. The caller holds it to the limit; each address gets its share. Over HTTP/2 the
    /// server may send so many bytes of each answer before any are taken.
    pub(crate) async fn connect(
        &self,
        connector: &Connector,
        own: &Own,
        limit: Duration,
        window: u32,
    ) -> Result<(Sender, IpAddr), Cause> {
        let stream = match &self.address {
            Address::Socket(address) => {
                let stream = socket::open(*address).await.map_err(closed)?;
                stream.set_nodelay(true).map_err(closed)?;
                own.admit(stream)?
            }
            Address::Name { host, port } => tcp(connector, host, *port, own, limit).await?,
        };
        let address = stream.peer_addr().map_err(closed)?.ip();
        let Some(tls) = &self.tls else {
            let window = (self.version == Version::Http2).then_some(window);
            return Ok((handshake(stream, window).await?, address));
        };
        let stream =
            connector.tls(stream, tls.config.clone(), &tls.server_name).await.map_err(unreachable)?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if self.version == Version::Http2 && !h2 {
            tracing::debug!(server = tls.server_name, "the upstream does not speak HTTP/2");
            return Err(Cause::HttpProtocolError);
        }
        Ok((handshake(stream, h2.then_some(window)).await?, address))
    }
}

// === impl Tls ===

impl Tls {
    /// Has a file that it was made of been replaced?
    pub(crate) fn is_outdated(&self, last_good: &LastGood) -> bool {
        let other_ca = self.ca.as_ref().is_some_and(|ca| last_good.has_other_ca(&ca.file, &ca.pem));
        other_ca
            || match &self.client {
                Some(Client::Files { named, certificate }) => last_good.has_other_pair(named, certificate),
                Some(Client::Bound(_)) | None => false,
            }
    }
}

// === impl Client ===

impl Client {
    /// What presents it to servers that ask.
    pub(crate) fn resolver(&self) -> Arc<dyn ResolvesClientCert> {
        let certificate = match self {
            Self::Files { certificate, .. } => certificate,
            Self::Bound(certificate) => certificate,
        };
        Arc::new(SingleCertAndKey::from(certificate.key.clone()))
    }
}

// === impl Version ===

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

/// Opens TCP to a host. Never to ourselves.
pub(crate) async fn tcp(
    connector: &Connector,
    host: &str,
    port: u16,
    own: &Own,
    limit: Duration,
) -> Result<TcpStream, Cause> {
    let deadline = Instant::now() + limit;
    let found = connector.resolve(host, port, Guard::Open, limit).await.map_err(unreachable)?;
    let stream = connector.open(host, own.others(found)?, deadline).await.map_err(unreachable)?;
    own.admit(stream)
}

/// Of HTTP/2 where there is a window for each stream.
async fn handshake<S>(stream: S, window: Option<u32>) -> Result<Sender, Cause>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if let Some(window) = window {
        let turns = Arc::new(Notify::new());
        let stream = Wire::new(stream, Turns(Arc::downgrade(&turns)));
        let (sender, mut connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            // Until the server says how many.
            .initial_max_send_streams(0)
            .initial_stream_window_size(window)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_send_buf_size(MAX_UNTAKEN)
            .max_header_list_size(MAX_ANSWER_HEAD)
            .keep_alive_interval(H2_PING)
            .keep_alive_while_idle(false)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(no_http)?;
        settings(&mut connection, &turns).await?;
        let allowed = Arc::new(AtomicUsize::new(connection.current_max_send_streams()));
        tokio::spawn(drive(telling(connection, allowed.clone())));
        return Ok(Sender::Http2(sender, allowed));
    }
    let heard = Heard::default();
    let stream = Wire::new(stream, heard.clone());
    let (sender, connection) = http1::Builder::new()
        .writev(false)
        .max_buf_size(MAX_BUFFER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(no_http)?;
    tokio::spawn(drive(connection.with_upgrades()));
    Ok(Sender::Http1(Line::new(sender, heard)))
}

/// What hyper does for a connection goes on for as long as it lives.
async fn drive(connection: impl Future<Output = Result<(), hyper::Error>>) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "an upstream connection ended");
    }
}

/// Waits until the server has sent its settings and allows a stream: more than it allows would be refused, and nobody else has begun
/// here. The caller holds it to a limit.
async fn settings<S>(
    connection: &mut http2::Connection<TokioIo<S>, Body, TokioExecutor>,
    turns: &Notify,
) -> Result<(), Cause>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    while connection.current_max_send_streams() == 0 {
        tokio::select! {
            ended = &mut *connection => return Err(ended.map_or_else(no_http, |()| Cause::ConnectionTerminated)),
            () = turns.notified() => {}
        }
    }
    Ok(())
}

/// Tells, for as long as anybody listens, of each turn in which a connection is read from: hyper says to nobody that settings have come.
struct Turns(Weak<Notify>);

impl Tap for Turns {
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(turns) = self.0.upgrade() {
            turns.notify_one();
        }
        Pin::new(stream).poll_read(cx, buf)
    }
}

/// Says at each turn how many streams the server allows, since that may change. hyper gives this no turn for that alone, so in the
/// beginning, when settings are likeliest to follow others, it takes some.
async fn telling<S>(
    mut connection: http2::Connection<TokioIo<S>, Body, TokioExecutor>,
    allowed: Arc<AtomicUsize>,
) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut pause = FIRST_LOOK;
    let mut look = pin!(tokio::time::sleep(pause));
    poll_fn(|context| {
        while pause < LOOK_NO_MORE && look.as_mut().poll(context).is_ready() {
            pause *= 2;
            look.as_mut().reset(Instant::now() + pause);
        }
        let ended = Pin::new(&mut connection).poll(context);
        allowed.store(connection.current_max_send_streams(), Ordering::Relaxed);
        ended
    })
    .await
}

fn unreachable(error: ConnectError) -> Cause {
    tracing::debug!(%error, "an upstream cannot be reached");
    error.cause()
}

fn closed(error: io::Error) -> Cause {
    tracing::debug!(%error, "an upstream cannot be reached");
    Cause::of_tcp(&error)
}

fn no_http(error: hyper::Error) -> Cause {
    tracing::debug!(%error, "an upstream cannot be spoken to");
    failure::of(&error, false)
}

/// The most there is (RFC 9113 §6.9.1): hyper takes no more of a stream than its reader does, so that with less, few callers who read
/// nothing would use up what all streams share.
const H2_CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// What is held of a request's body that the server does not take, in bytes for each stream.
const MAX_UNTAKEN: usize = 64 * 1024;
/// For a server's other settings, and each time after twice as long.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LOOK_NO_MORE: Duration = Duration::from_secs(1);
const H2_PING: Duration = Duration::from_secs(20);
const MAX_ANSWER_HEAD: u32 = 64 * 1024;
/// Read buffer of a connection; an answer's head must fit.
const MAX_BUFFER: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::timeout;

    use super::*;

    /// How a handshake ends with a server that says so much and goes, or stays.
    async fn handshake_with(said: &[u8], goes: bool) -> (Option<Result<usize, Cause>>, DuplexStream) {
        let (near, mut far) = duplex(64 * 1024);
        far.write_all(said).await.unwrap();
        if goes {
            far.shutdown().await.unwrap();
        }
        let done = timeout(Duration::from_secs(5), handshake(near, Some(65_535))).await.ok();
        let allowed = done.map(|done| {
            done.map(|sender| match sender {
                Sender::Http2(_, allowed) => allowed.load(Ordering::Relaxed),
                Sender::Http1(_) => panic!("not asked for"),
            })
        });
        (allowed, far)
    }

    fn settings_of(streams: Option<u8>) -> Vec<u8> {
        match streams {
            Some(streams) => vec![0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, streams],
            None => vec![0, 0, 0, 4, 0, 0, 0, 0, 0],
        }
    }

    /// RFC 9113 §5.1.2
    #[tokio::test(start_paused = true)]
    async fn a_connection_is_there_once_the_server_has_said_how_many_streams_it_allows_and_no_later() {
        let began = Instant::now();
        let (allowed, _far) = handshake_with(&settings_of(Some(3)), false).await;
        assert_eq!(allowed, Some(Ok(3)));
        let (allowed, _far) = handshake_with(&settings_of(None), false).await;
        assert_eq!(allowed, Some(Ok(usize::MAX)), "as many as we like");
        assert_eq!(began.elapsed(), Duration::ZERO, "it waits for no clock");
        for said in [vec![], settings_of(Some(0)), settings_of(Some(3))[..8].to_vec()] {
            let (allowed, _far) = handshake_with(&said, false).await;
            assert_eq!(allowed, None, "{said:?}");
        }
        let later = [settings_of(Some(0)), settings_of(Some(2))].concat();
        assert_eq!(handshake_with(&later, false).await.0, Some(Ok(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_does_not_speak_http2_says_so_before_a_request_goes_out() {
        let (said, _far) =
            handshake_with(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", true).await;
        assert_eq!(said, Some(Err(Cause::HttpProtocolError)));
        let (said, _far) = handshake_with(b"", true).await;
        assert!(matches!(said, Some(Err(_))), "{said:?}");
    }

    #[tokio::test]
    async fn our_own_listener_is_no_destination_however_it_is_written() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (own, nobody) = (Own { listener: Some(at), local: None }, Own::default());
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
            let address = Address::Name { host: host.to_owned(), port: at.port() };
            let timeout = Duration::from_secs(5);
            let dial = Dial { address, tls: None, version: Version::Http1 };
            let refused = dial.connect(&Connector::for_tests(), &own, timeout, 65_535).await.err();
            assert_eq!(refused, Some(Cause::ProxyLoopDetected), "{host}");
            assert!(
                dial.connect(&Connector::for_tests(), &nobody, timeout, 65_535).await.is_ok(),
                "{host} is reached"
            );
            let refused = tcp(&Connector::for_tests(), host, at.port(), &own, timeout).await.err();
            assert_eq!(refused, Some(Cause::ProxyLoopDetected), "{host}, for bytes");
        }
        let dial = Dial { address: Address::Socket(at), tls: None, version: Version::Http1 };
        let refused = dial.connect(&Connector::for_tests(), &own, Duration::from_secs(5), 65_535).await.err();
        assert_eq!(refused, Some(Cause::ProxyLoopDetected), "where a connection was going");
    }
}
