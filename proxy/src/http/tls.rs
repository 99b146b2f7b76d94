//! How is TLS accepted? Which port demands it, one handshake within its bounds, and what the caller showed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use countersign_policy::request::Peer;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::last_word;
use super::sidecar::Sidecar;
use crate::auth::active::Active;
use crate::drain::Drain;
use crate::metrics::Metrics;
use crate::state::peer;
use crate::state::server_tls::TlsServer;

/// What policy says of a connection that was just accepted.
pub(crate) enum Spoken {
    /// Nothing: there is none yet.
    Unknown,
    Plain,
    Tls(Demand),
}

/// A port that speaks TLS.
pub(crate) struct Demand {
    /// The fingerprint of what policy says.
    settings: [u8; 32],
    /// None while the files are not there.
    config: Option<Arc<ServerConfig>>,
}

/// What a connection over TLS is, for all of its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Secured {
    settings: [u8; 32],
    /// Who showed a client certificate: it was verified then, and read once.
    pub(crate) peer: Option<Arc<Peer>>,
}

// === impl Spoken ===

impl Spoken {
    /// Does policy demand TLS of connections to this port? Asked once of each; its requests load policy themselves.
    pub(crate) fn on(sidecar: &Sidecar, port: u16) -> Self {
        let policy = sidecar.policy.load();
        let Some(active) = policy.as_ref().as_ref() else { return Self::Unknown };
        match active.snapshot.inbound(port).and_then(|port| port.tls.as_ref()) {
            Some(tls) => Self::Tls(Demand {
                settings: tls.fingerprint,
                config: active.server(tls).and_then(TlsServer::config),
            }),
            None => Self::Plain,
        }
    }
}

// === impl Demand ===

impl Demand {
    /// Speaks TLS with a caller, or closes the connection: there is no plain text instead. In a box, since it goes from hand to hand,
    /// and each has room for it.
    pub(crate) async fn meet<S>(
        self,
        stream: S,
        drain: Drain,
        metrics: &Metrics,
    ) -> Option<(Box<TlsStream<S>>, Secured)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let count = |result| metrics.tls_handshakes.with_label_values(&[result]).inc();
        let Some(config) = self.config else {
            count("no_certificate");
            return None;
        };
        match handshake(stream, config, drain).await {
            Ok(stream) => {
                count("success");
                let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let peer = shown.map(|certificate| Arc::new(peer::of(certificate)));
                Some((Box::new(stream), Secured { settings: self.settings, peer }))
            }
            Err(error) => {
                count(if error.kind() == io::ErrorKind::TimedOut { "timeout" } else { "failure" });
                tracing::debug!(%error, "a TLS handshake failed");
                None
            }
        }
    }
}

// === impl Secured ===

impl Secured {
    /// Is a connection still what policy demands of new ones?
    pub(crate) fn is_current(connection: Option<&Self>, active: Option<&Active>, port: u16) -> bool {
        let demanded = active.and_then(|active| active.snapshot.inbound(port)?.tls.as_ref());
        connection.map(|secured| secured.settings) == demanded.map(|tls| tls.fingerprint)
    }
}

/// Bounded in time (security IN-24), and cut short when we end.
async fn handshake<S>(stream: S, config: Arc<ServerConfig>, drain: Drain) -> io::Result<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let accept = TlsAcceptor::from(config).accept(stream);
    tokio::select! {
        biased;
        accepted = tokio::time::timeout(HANDSHAKE, accept) => accepted?,
        () = last_word(drain) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Does the other side speak HTTP/2 (RFC 9113 §3.2)? Who negotiates nothing speaks HTTP/1.1.
pub(crate) fn speaks_h2<S>(stream: &TlsStream<S>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(b"h2")
}

const HANDSHAKE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
