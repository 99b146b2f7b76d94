//! How do we ask an issuer? One bounded HTTPS request: metadata, key set, token. No redirects, no proxies from the
//! environment, no decompression; the address is judged after resolution (SSRF).

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};

/// Whom to trust, and whether plain http is allowed.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// PEM, instead of the platform's roots.
    pub ca_pem: Option<Bytes>,
    /// http is allowed.
    pub insecure: bool,
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
    #[error("the address {0} is never asked")]
    ForbiddenAddress(std::net::IpAddr),
    #[error("cannot resolve {0}")]
    Resolve(String),
    #[error("cannot connect to {host}: {error}")]
    Connect { host: String, error: std::io::Error },
    #[error("TLS with {host} failed: {error}")]
    Tls { host: String, error: std::io::Error },
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the answer is not valid HTTP")]
    Protocol,
    #[error("the CA file holds no usable certificate")]
    Trust,
}

/// Sends such requests.
#[derive(Clone, Debug)]
pub struct Fetcher {}

impl Fetcher {
    pub fn new() -> Self {
        todo!()
    }

    /// Sends one request (an absolute URI) and reads the whole answer, whatever its status.
    pub async fn send(
        &self,
        _request: Request<Bytes>,
        _trust: &Trust,
        _limits: Limits,
    ) -> Result<Response<Bytes>, FetchError> {
        todo!()
    }
}
