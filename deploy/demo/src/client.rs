//! How is one HTTP request sent? Directly, or through a forward proxy; with a deadline; the answer read whole.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_BODY: usize = 4 * 1024 * 1024;

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

// === impl Answer ===

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// As the first line of an answer.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.status.as_u16(), self.status.canonical_reason().unwrap_or_default())
    }

    /// Why a sidecar refused; empty if none did.
    pub(crate) fn reason(&self) -> &str {
        self.header("x-countersign-reason")
    }
}

/// Sends one request to the address that its URL names.
pub(crate) async fn send(method: Method, url: &str) -> io::Result<Answer> {
    let uri: Uri = url.parse().map_err(io::Error::other)?;
    let authority = uri.authority().ok_or_else(|| io::Error::other("a URL without a host"))?.as_str();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    exchange(authority, method, path.parse().map_err(io::Error::other)?, authority).await
}

/// Sends one request through a forward proxy, in absolute form (RFC 9112 §3.2.2).
pub(crate) async fn send_through(proxy: SocketAddr, method: Method, url: &str) -> io::Result<Answer> {
    let uri: Uri = url.parse().map_err(io::Error::other)?;
    let authority = uri.authority().ok_or_else(|| io::Error::other("a URL without a host"))?.to_string();
    exchange(&proxy.to_string(), method, uri, &authority).await
}

async fn exchange(address: &str, method: Method, target: Uri, host: &str) -> io::Result<Answer> {
    let exchange = async {
        let stream = TcpStream::connect(address).await?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(io::Error::other)?;
        tokio::spawn(connection);
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.method_mut() = method;
        *request.uri_mut() = target;
        request.headers_mut().insert(HOST, HeaderValue::from_str(host).map_err(io::Error::other)?);
        let (head, body) = sender.send_request(request).await.map_err(io::Error::other)?.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await.map_err(io::Error::other)?.to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Answer { status: head.status, headers: head.headers, body })
    };
    tokio::time::timeout(TIMEOUT, exchange).await.map_err(io::Error::other)?
}
