//! How do we ask an issuer? One bounded HTTPS request: metadata, key set, token. No redirects, no proxies from the
//! environment, no decompression; the address is judged after resolution (SSRF).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, HOST, USER_AGENT};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::connect::{ConnectError, Connector, Guard};

/// Whom to trust, whether plain http is allowed, and who we are.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// PEM, instead of the platform's roots.
    pub ca_pem: Option<Bytes>,
    /// http is allowed.
    pub insecure: bool,
    /// The certificate that the server has to ask us for (RFC 8705 §2).
    pub client: Option<Arc<CertifiedKey>>,
}

/// Bounds of one request.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For the whole exchange.
    pub timeout: Duration,
    /// Of the answer's body, in bytes.
    pub body: usize,
}

/// Why a request brought no answer. Texts never hold what was sent or received.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("the URL is not usable: {0}")]
    Url(&'static str),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{0} did not ask for our client certificate; name an endpoint that does")]
    NotAsked(String),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the connection ended before there was an answer")]
    Closed,
    #[error("the answer is not valid HTTP")]
    Protocol,
    #[error("the answer is compressed, although identity was asked for")]
    Encoding,
}

/// Sends such requests.
#[derive(Clone, Debug)]
pub struct Fetcher {
    connector: Connector,
}

/// Of the answer's head, in bytes. Issuers need a few hundred.
const HEAD_LIMIT: usize = 64 * 1024;

// === impl Fetcher ===

impl Fetcher {
    pub fn new(connector: Connector) -> Self {
        Self { connector }
    }

    /// Sends one request (an absolute URI) and reads the whole answer, whatever its status.
    pub async fn send(
        &self,
        request: Request<Bytes>,
        trust: &Trust,
        limits: Limits,
    ) -> Result<Response<Bytes>, FetchError> {
        tokio::time::timeout(limits.timeout, self.exchange(request, trust, limits))
            .await
            .unwrap_or(Err(FetchError::Timeout(limits.timeout)))
    }

    async fn exchange(
        &self,
        request: Request<Bytes>,
        trust: &Trust,
        limits: Limits,
    ) -> Result<Response<Bytes>, FetchError> {
        let target = Target::parse(request.uri(), trust.insecure)?;
        if trust.client.is_some() && !target.tls {
            return Err(FetchError::Url("a client certificate is shown over https alone; use https"));
        }
        let request = prepare(request, &target);
        let stream = self.connector.tcp(&target.host, target.port, Guard::Issuer, limits.timeout).await?;
        if !target.tls {
            return converse(stream, request, limits).await;
        }
        let client = trust.client.clone().map(Presented::new);
        let config = self.connector.tls_config(
            trust.ca_pem.as_deref(),
            client.clone().map(|client| client as Arc<dyn ResolvesClientCert>),
            &[b"http/1.1"],
        )?;
        let stream = self.connector.tls(stream, config, &target.host).await?;
        if client.is_some_and(|client| !client.is_asked()) {
            return Err(FetchError::NotAsked(target.host));
        }
        converse(stream, request, limits).await
    }
}

/// Our certificate, and whether the server asked for it. One that does not would take us for somebody else, or bind a token
/// to nothing.
#[derive(Debug)]
struct Presented {
    certificate: Arc<CertifiedKey>,
    asked: AtomicBool,
}

// === impl Presented ===

impl Presented {
    fn new(certificate: Arc<CertifiedKey>) -> Arc<Self> {
        Arc::new(Self { certificate, asked: AtomicBool::new(false) })
    }

    fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

impl ResolvesClientCert for Presented {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        Some(self.certificate.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Where a URL leads.
#[derive(Debug)]
struct Target {
    tls: bool,
    host: String,
    port: u16,
    /// The value of `Host`.
    authority: HeaderValue,
    path: PathAndQuery,
}

// === impl Target ===

impl Target {
    fn parse(uri: &Uri, insecure: bool) -> Result<Self, FetchError> {
        let authority = uri.authority().ok_or(FetchError::Url("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(FetchError::Url("it holds user information"));
        }
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP && insecure => false,
            Some(scheme) if *scheme == Scheme::HTTP => {
                return Err(FetchError::Url("http is not allowed; use https, or set insecure: true"));
            }
            _ => return Err(FetchError::Url("it has to begin with https://")),
        };
        // `Uri` reads a port that is no number as none: it must not become the default.
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str() == authority.host() && tls => 443,
            None if authority.as_str() == authority.host() => 80,
            None => return Err(FetchError::Url("its port is not a number")),
        };
        Ok(Self {
            tls,
            host: authority.host().to_owned(),
            port,
            authority: HeaderValue::from_str(authority.as_str())
                .map_err(|_| FetchError::Url("its host is not valid"))?,
            path: uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")),
        })
    }
}

/// The request in origin form (RFC 9112 §3.2.1), asking for what we can read.
fn prepare(mut request: Request<Bytes>, target: &Target) -> Request<Full<Bytes>> {
    *request.uri_mut() = Uri::from(target.path.clone());
    let headers = request.headers_mut();
    headers.insert(HOST, target.authority.clone());
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("countersign-proxy/", env!("CARGO_PKG_VERSION"))),
    );
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("application/json"));
    request.map(Full::new)
}

/// One request and its whole answer, over a connection of their own.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
    limits: Limits,
) -> Result<Response<Bytes>, FetchError> {
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD_LIMIT)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| FetchError::Protocol)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(unanswered)?;
        read(response, limits.body).await
    };
    tokio::pin!(exchange, connection);
    tokio::select! {
        answer = &mut exchange => answer,
        // The connection may end before its answer is read: what it received is still to be had.
        _ = &mut connection => exchange.await,
    }
}

fn unanswered(error: hyper::Error) -> FetchError {
    if error.is_parse() { FetchError::Protocol } else { FetchError::Closed }
}

async fn read(
    response: Response<hyper::body::Incoming>,
    limit: usize,
) -> Result<Response<Bytes>, FetchError> {
    if is_encoded(response.headers()) {
        return Err(FetchError::Encoding);
    }
    let (head, body) = response.into_parts();
    let body = Limited::new(body, limit).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() { FetchError::TooLarge(limit) } else { FetchError::Protocol }
    })?;
    Ok(Response::from_parts(head, body.to_bytes()))
}

fn is_encoded(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

#[cfg(test)]
mod tests;
