//! How do we reach a server? Its name is resolved, its address judged, TCP opened and TLS spoken: for what issuers are
//! asked and for what the data path originates.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::ResolvesClientCert;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::names::{NameError, Names};
use crate::rejection::Cause;
use crate::socket;

/// Why a server could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{host} resolves to {address}, an address that is never asked")]
    ForbiddenAddress { host: String, address: IpAddr },
    #[error("cannot resolve {host}: {error}")]
    Resolve { host: String, error: NameError },
    #[error("cannot connect to {host}: {error}")]
    Tcp { host: String, error: io::Error },
    #[error("TLS with {host} failed: {error}")]
    Tls { host: String, error: io::Error },
    #[error("{0} is not a name that a certificate can be verified for")]
    ServerName(String),
    #[error("the CA file holds no usable certificate; it has to be PEM")]
    CaFile,
    #[error("the platform has no trusted root certificates; install them or name a caFile")]
    NoRoots,
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

impl ConnectError {
    /// In the words of RFC 9209.
    pub fn cause(&self) -> Cause {
        match self {
            Self::ForbiddenAddress { .. } => Cause::DestinationIpProhibited,
            Self::Resolve { error: NameError::Timeout, .. } => Cause::DnsTimeout,
            Self::Resolve { error: NameError::Absent | NameError::Unanswered, .. } => Cause::DnsError,
            Self::Tcp { error, .. } => Cause::of_tcp(error),
            Self::Tls { error, .. } => Cause::of_stream(error),
            Self::ServerName(_) | Self::CaFile | Self::NoRoots | Self::Setup(_) => {
                Cause::ProxyConfigurationError
            }
        }
    }
}

/// Which addresses may be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// For URLs that policy names (SSRF): link-local, metadata, unspecified, multicast and broadcast addresses never;
    /// loopback only where the host is `localhost` or a loopback literal.
    Issuer,
    /// For the data path, whose destinations are the workload's own choice.
    Open,
}

/// Opens connections. The platform's roots are read once, when they are first needed.
#[derive(Clone, Debug)]
pub struct Connector {
    pub names: Names,
    platform_roots: Arc<OnceLock<Arc<RootCertStore>>>,
}

// === impl Connector ===

impl Connector {
    pub fn new(names: Names) -> Self {
        Self { names, platform_roots: Arc::default() }
    }

    /// A TLS client configuration: these PEM certificates as roots, or the platform's, this certificate of ours for servers
    /// that ask for one, and these ALPN protocols in order of preference. Reads files and parses certificates: keep the
    /// result where connections are frequent.
    pub fn tls_config(
        &self,
        ca_pem: Option<&[u8]>,
        client: Option<Arc<dyn ResolvesClientCert>>,
        alpn: &[&[u8]],
    ) -> Result<Arc<ClientConfig>, ConnectError> {
        let roots = match ca_pem {
            Some(pem) => Arc::new(roots_from_pem(pem)?),
            None => self.platform_roots()?,
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(ConnectError::Setup)?
            .with_root_certificates(roots);
        let mut config = match client {
            Some(client) => config.with_client_cert_resolver(client),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// Opens TCP to the first address of the host that answers and that the guard admits. What was judged is what is
    /// connected to: the name is resolved once.
    pub async fn tcp(
        &self,
        host: &str,
        port: u16,
        guard: Guard,
        timeout: Duration,
    ) -> Result<TcpStream, ConnectError> {
        let deadline = Instant::now() + timeout;
        let addresses = self.resolve(host, port, guard, timeout).await?;
        self.open(host, addresses, deadline).await
    }

    /// Opens TCP to the first of these addresses of a host that answers. What is left of the time is shared evenly by those that are
    /// still to be tried.
    pub async fn open(
        &self,
        host: &str,
        addresses: Vec<SocketAddr>,
        deadline: Instant,
    ) -> Result<TcpStream, ConnectError> {
        let mut left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        let mut failure = io::Error::from(io::ErrorKind::TimedOut);
        for address in addresses {
            let share = deadline.saturating_duration_since(Instant::now()) / left.max(1);
            left = left.saturating_sub(1);
            match tokio::time::timeout(share, socket::open(address)).await {
                Ok(Ok(stream)) => {
                    // Small messages are latency here; failing to say so harms nobody.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => failure = error,
                Err(_) => failure = io::ErrorKind::TimedOut.into(),
            }
        }
        self.names.doubt(without_brackets(host));
        Err(ConnectError::Tcp { host: host.to_owned(), error: failure })
    }

    /// Why a host has not been reached by the end of the time for it: it may be that nobody has said yet where it is.
    pub fn too_late(&self, host: &str) -> Cause {
        match self.names.knows_any(without_brackets(host)) {
            true => Cause::ConnectionTimeout,
            false => Cause::DnsTimeout,
        }
    }

    /// The addresses of a host that the guard admits.
    pub async fn resolve(
        &self,
        host: &str,
        port: u16,
        guard: Guard,
        timeout: Duration,
    ) -> Result<Vec<SocketAddr>, ConnectError> {
        let name = without_brackets(host);
        let found = self
            .names
            .addresses(name, timeout)
            .await
            .map_err(|error| ConnectError::Resolve { host: host.to_owned(), error })?;
        let first = found.first().copied();
        let admitted: Vec<_> = found
            .into_iter()
            .filter(|address| guard.admits(name, *address))
            .map(|address| SocketAddr::new(address, port))
            .collect();
        match first {
            Some(address) if admitted.is_empty() => {
                Err(ConnectError::ForbiddenAddress { host: host.to_owned(), address })
            }
            _ => Ok(admitted),
        }
    }

    /// Speaks TLS over a connection and verifies the server for this name (a host name or an IP literal).
    pub async fn tls(
        &self,
        stream: TcpStream,
        config: Arc<ClientConfig>,
        server_name: &str,
    ) -> Result<TlsStream<TcpStream>, ConnectError> {
        let name = ServerName::try_from(without_brackets(server_name).to_owned())
            .map_err(|_| ConnectError::ServerName(server_name.to_owned()))?;
        TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(|error| ConnectError::Tls { host: server_name.to_owned(), error })
    }

    fn platform_roots(&self) -> Result<Arc<RootCertStore>, ConnectError> {
        if let Some(roots) = self.platform_roots.get() {
            return Ok(roots.clone());
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(ConnectError::NoRoots);
        }
        Ok(self.platform_roots.get_or_init(|| Arc::new(roots)).clone())
    }
}

/// Every certificate has to be usable: one that is silently left out is an outage that nobody can explain.
pub(crate) fn roots_from_pem(pem: &[u8]) -> Result<RootCertStore, ConnectError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| ConnectError::CaFile)?;
        roots.add(certificate).map_err(|_| ConnectError::CaFile)?;
    }
    if roots.is_empty() { Err(ConnectError::CaFile) } else { Ok(roots) }
}

/// URIs write IPv6 literals in brackets; addresses and certificates do not.
fn without_brackets(host: &str) -> &str {
    host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host)
}

// === impl Guard ===

impl Guard {
    /// May this address be connected to, for a URL that names this host (without brackets)?
    fn admits(self, host: &str, address: IpAddr) -> bool {
        if self == Guard::Open {
            return true;
        }
        let address = unmapped(address);
        if address.is_loopback() {
            return host.eq_ignore_ascii_case("localhost")
                || host.parse::<IpAddr>().is_ok_and(|literal| unmapped(literal).is_loopback());
        }
        match address {
            IpAddr::V4(v4) => {
                !(v4.is_link_local()
                    || v4.is_unspecified()
                    || v4.octets().starts_with(&[0])
                    || v4.is_multicast()
                    || v4.is_broadcast()
                    || METADATA_V4.contains(&v4))
            }
            IpAddr::V6(v6) => {
                !(v6.is_unicast_link_local()
                    || v6.is_unspecified()
                    || v6.is_multicast()
                    || METADATA_V6.contains(&v6))
            }
        }
    }
}

/// Metadata services that are not link-local: Alibaba Cloud, Azure's WireServer, Oracle Cloud.
const METADATA_V4: &[Ipv4Addr] =
    &[Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];

/// Metadata services that are not link-local: AWS, Google Cloud.
const METADATA_V6: &[Ipv6Addr] =
    &[Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// An IPv4 address that is written as IPv6 (mapped, RFC 4291 §2.5.5; or behind NAT64, RFC 6052 §2.1) is an IPv4 address.
fn unmapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return v4.into();
    }
    match v6.octets() {
        [0x00, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d] => Ipv4Addr::new(a, b, c, d).into(),
        _ => address,
    }
}

#[cfg(test)]
impl Connector {
    /// With names as this machine resolves them.
    pub(crate) fn for_tests() -> Self {
        Self::new(Names::for_tests())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(host: &str, address: &str) -> bool {
        Guard::Issuer.admits(host, address.parse().unwrap())
    }

    #[test]
    fn cp_8_link_local_and_metadata_addresses_are_never_asked() {
        for address in [
            "169.254.169.254",
            "169.254.0.1",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "100.100.100.200",
            "168.63.129.16",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "::ffff:0.0.0.0",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
        ] {
            assert!(!admits("issuer.example", address), "{address}");
            assert!(!admits(address, address), "{address} as a literal");
            assert!(!admits("localhost", address), "localhost resolving to {address}");
            assert!(Guard::Open.admits("issuer.example", address.parse().unwrap()));
        }
        for address in ["10.0.0.1", "192.168.1.1", "203.0.113.7", "fd00::1", "2001:db8::1", "172.16.0.1"] {
            assert!(admits("issuer.example", address), "{address}");
        }
    }

    #[test]
    fn cp_8_loopback_only_where_the_url_names_it() {
        for address in ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"] {
            assert!(!admits("issuer.example", address), "{address}");
            assert!(!admits("localhost.example", address), "{address}");
            assert!(!admits("10.0.0.1", address), "{address}");
            // Forms that only a resolver understands are no loopback literals.
            assert!(!admits("2130706433", address), "{address}");
            assert!(admits("localhost", address), "{address}");
            assert!(admits("LOCALHOST", address), "{address}");
            assert!(admits("127.0.0.1", address), "{address}");
            assert!(admits("::1", address), "{address}");
        }
    }

    #[tokio::test]
    async fn a_forbidden_literal_is_refused_before_anything_is_sent() {
        let timeout = Duration::from_secs(1);
        for host in ["169.254.169.254", "[::ffff:169.254.169.254]", "2852039166"] {
            let refused = Connector::for_tests().tcp(host, 80, Guard::Issuer, timeout).await.unwrap_err();
            assert!(
                matches!(refused, ConnectError::ForbiddenAddress { .. } | ConnectError::Resolve { .. }),
                "{host}: {refused}"
            );
        }
    }

    #[tokio::test]
    async fn localhost_is_reached_whichever_family_listens() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let timeout = Duration::from_secs(5);
        for host in ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]"] {
            Connector::for_tests().tcp(host, port, Guard::Issuer, timeout).await.unwrap();
        }
    }

    #[test]
    fn a_ca_file_without_certificates_is_an_error() {
        for pem in [&b""[..], b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(matches!(
                Connector::for_tests().tls_config(Some(pem), None, &[]),
                Err(ConnectError::CaFile)
            ));
        }
    }
}
