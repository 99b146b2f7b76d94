//! What does the control plane say? A client of its API: one connection, one long poll after another, and acknowledgements.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_policy::Acknowledgement;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, HOST, HeaderValue, IF_NONE_MATCH, USER_AGENT};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::connect::{ConnectError, Connector, Guard};

/// How long the control plane may hold an answer back that has nothing new, in seconds (RFC 7240 §4.3).
const WAIT: u64 = 30;
/// For an answer, beyond the wait.
const ANSWER: Duration = Duration::from_secs(15);
/// For the connection and its TLS handshake.
const CONNECT: Duration = Duration::from_secs(10);
/// Largest bundle, in bytes.
const MAX_BUNDLE: usize = 48 * 1024 * 1024;
/// Largest CA file and join token, in bytes.
const MAX_CA: usize = 1024 * 1024;
const MAX_TOKEN: usize = 4096;

/// Where the control plane is: `https://host:port`, nothing more. There is no plain text, on localhost neither.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlUrl {
    authority: String,
    /// In lower case, IPv6 without brackets.
    host: String,
    port: u16,
}

/// Why a URL is none of a control plane.
#[derive(Debug, thiserror::Error)]
#[error("not the URL of a control plane: it is https://HOST or https://HOST:PORT, without path or user")]
pub struct BadControlUrl;

/// Talks to the control plane as one workload.
#[derive(Debug)]
pub struct ControlClient {
    url: ControlUrl,
    ca_file: PathBuf,
    join_token_file: PathBuf,
    instance: String,
    connector: Connector,
    connection: Option<http1::SendRequest<Full<Bytes>>>,
}

/// What a poll brought.
#[derive(Debug)]
pub enum Answer {
    /// Another version than the one that was named, and its bundle in JSON.
    Bundle {
        version: String,
        body: Bytes,
    },
    Unchanged,
}

/// Why the control plane told us nothing. Texts never hold the join token.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("{path}: {error}: it is given with {flag}")]
    File { flag: &'static str, path: String, error: std::io::Error },
    #[error("{0} holds no usable CA certificate: it is given with --control-ca")]
    Ca(String),
    #[error("{0} holds no usable join token: it is one line, given with --join-token")]
    JoinToken(String),
    #[error("cannot connect to the control plane at {authority}: {error}")]
    Connect { authority: String, error: ConnectError },
    #[error("the control plane at {0} did not answer in time")]
    Timeout(String),
    #[error("the connection to the control plane broke: {0}")]
    Broken(hyper::Error),
    #[error(
        "the control plane refused the join token (401): check --join-token and the control plane's --join-tokens"
    )]
    Unauthorized,
    #[error("the control plane answered {0}")]
    Status(StatusCode),
    #[error("the control plane's answer is not usable: {0}")]
    Answer(&'static str),
}

// === impl ControlUrl ===

impl FromStr for ControlUrl {
    type Err = BadControlUrl;

    fn from_str(text: &str) -> Result<Self, BadControlUrl> {
        let uri: Uri = text.parse().map_err(|_| BadControlUrl)?;
        let authority = uri.authority().ok_or(BadControlUrl)?;
        // `Uri` cuts a fragment off in silence.
        let bare = !authority.as_str().contains('@')
            && uri.path() == "/"
            && uri.query().is_none()
            && !text.contains('#');
        if uri.scheme_str() != Some("https") || !bare {
            return Err(BadControlUrl);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if ServerName::try_from(host.as_str()).is_err() {
            return Err(BadControlUrl);
        }
        // `Uri` reads a port that is none as absent: it must not become the default.
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str() == authority.host() => 443,
            None => return Err(BadControlUrl),
        };
        Ok(Self { authority: authority.to_string(), host, port })
    }
}

impl fmt::Display for ControlUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority)
    }
}

// === impl ControlClient ===

impl ControlClient {
    /// `instance` tells the sidecars of one workload apart. Nothing is read or connected to before the first request. Both
    /// files are read anew when needed, so that they can be rotated.
    pub fn new(
        url: ControlUrl,
        ca_file: PathBuf,
        join_token_file: PathBuf,
        instance: String,
        connector: Connector,
    ) -> Self {
        Self { url, ca_file, join_token_file, instance, connector, connection: None }
    }

    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Asks for another version than `seen`, and waits half a minute for one.
    pub async fn poll(&mut self, seen: Option<&str>) -> Result<Answer, ControlError> {
        let mut request = self.request(Method::GET, "/v1/policy", Bytes::new())?;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(seen) = seen.and_then(|version| HeaderValue::try_from(format!("\"{version}\"")).ok()) {
            headers.insert(IF_NONE_MATCH, seen);
        }
        if let Ok(wait) = HeaderValue::try_from(format!("wait={WAIT}")) {
            headers.insert("prefer", wait);
        }
        let answer = self.send(request, Duration::from_secs(WAIT).saturating_add(ANSWER)).await?;
        match answer.status() {
            StatusCode::NOT_MODIFIED => Ok(Answer::Unchanged),
            StatusCode::OK => {
                let version = version(&answer).ok_or(ControlError::Answer("it has no entity tag"))?;
                Ok(Answer::Bundle { version, body: answer.into_body() })
            }
            StatusCode::UNAUTHORIZED => Err(ControlError::Unauthorized),
            status => Err(ControlError::Status(status)),
        }
    }

    /// Says what became of a version.
    pub async fn acknowledge(&mut self, what: &Acknowledgement) -> Result<(), ControlError> {
        let body =
            serde_json::to_vec(what).map_err(|_| ControlError::Answer("the acknowledgement is no JSON"))?;
        let mut request = self.request(Method::POST, "/v1/acknowledgements", body.into())?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let answer = self.send(request, ANSWER).await?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            StatusCode::UNAUTHORIZED => Err(ControlError::Unauthorized),
            status => Err(ControlError::Status(status)),
        }
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, ControlError> {
        let token = join_token(&self.join_token_file)?;
        let bearer = Zeroizing::new(format!("Bearer {}", token.as_str()));
        let mut bearer = HeaderValue::from_str(&bearer).map_err(|_| self.bad_token())?;
        bearer.set_sensitive(true);
        Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.url.authority.as_str())
            .header(USER_AGENT, concat!("countersign-proxy/", env!("CARGO_PKG_VERSION")))
            .header(AUTHORIZATION, bearer)
            .header("countersign-instance", self.instance.as_str())
            .body(Full::new(body))
            .map_err(|_| ControlError::Answer("the request cannot be written"))
    }

    fn bad_token(&self) -> ControlError {
        ControlError::JoinToken(self.join_token_file.display().to_string())
    }

    /// One exchange. Whatever breaks ends the connection, so that the next one begins on a fresh one.
    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<Response<Bytes>, ControlError> {
        let mut connection = match self.connection.take() {
            Some(open) if !open.is_closed() => open,
            _ => self.connect().await?,
        };
        let exchange = async {
            let answer = connection.send_request(request).await.map_err(ControlError::Broken)?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MAX_BUNDLE).collect().await;
            let body = body.map_err(|_| ControlError::Answer("it broke off, or is too large"))?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        let answer = timeout(limit, exchange)
            .await
            .map_err(|_| ControlError::Timeout(self.url.authority.clone()))??;
        self.connection = Some(connection);
        Ok(answer)
    }

    async fn connect(&self) -> Result<http1::SendRequest<Full<Bytes>>, ControlError> {
        let config = self.tls()?;
        let ControlUrl { host, port, .. } = &self.url;
        let connect = async {
            let stream = self.connector.tcp(host, *port, Guard::Open, CONNECT).await?;
            self.connector.tls(stream, config, host).await
        };
        let failed = |error| ControlError::Connect { authority: self.url.authority.clone(), error };
        let stream =
            timeout(CONNECT, connect).await.map_err(|_| ControlError::Timeout(self.url.authority.clone()))?;
        let stream = TokioIo::new(stream.map_err(failed)?);
        let (send, connection) = http1::handshake(stream).await.map_err(ControlError::Broken)?;
        // Ends with the sender that we hold.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(send)
    }

    /// Trusts this CA and no other, so that nobody else can play the control plane.
    fn tls(&self) -> Result<Arc<ClientConfig>, ControlError> {
        let pem = read(&self.ca_file, MAX_CA, "--control-ca")?;
        let config = self.connector.tls_config(Some(&pem), None, &[]);
        config.map_err(|_| ControlError::Ca(self.ca_file.display().to_string()))
    }
}

/// The version in a strong entity tag.
fn version(answer: &Response<Bytes>) -> Option<String> {
    let tag = answer.headers().get(ETAG)?.to_str().ok()?;
    let version = tag.strip_prefix('"')?.strip_suffix('"')?;
    let plain = !version.is_empty()
        && version.len() <= 128
        && version.bytes().all(|byte| byte.is_ascii_alphanumeric());
    plain.then(|| version.to_owned())
}

/// The join token: one line of visible ASCII.
pub(super) fn join_token(file: &Path) -> Result<Zeroizing<String>, ControlError> {
    let bytes = read(file, MAX_TOKEN, "--join-token")?;
    let token = std::str::from_utf8(&bytes).unwrap_or_default().trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ControlError::JoinToken(file.display().to_string()));
    }
    Ok(Zeroizing::new(token.to_owned()))
}

fn read(file: &Path, limit: usize, flag: &'static str) -> Result<Zeroizing<Vec<u8>>, ControlError> {
    let failed = |error| ControlError::File { flag, path: file.display().to_string(), error };
    let bytes = super::files::read(file, limit).map_err(failed)?;
    bytes.ok_or_else(|| failed(std::io::Error::other(format!("larger than {limit} bytes"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_https_alone_and_nothing_but_the_origin() {
        for (url, port) in
            [("https://localhost:16443", 16443), ("https://control.mesh/", 443), ("https://[::1]:1", 1)]
        {
            let parsed: ControlUrl = url.parse().unwrap();
            assert_eq!(parsed.port, port, "{url}");
        }
        for url in [
            "http://localhost:16443",
            "localhost:16443",
            "https://user@localhost",
            "https://localhost/v1",
            "https://localhost?x",
            "https://localhost#x",
            "https://localhost:",
            "https://localhost:99999",
            "https://localhost:x",
            "https://",
            "",
        ] {
            assert!(url.parse::<ControlUrl>().is_err(), "{url}");
        }
    }

    #[test]
    fn a_join_token_is_one_line() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("token");
        std::fs::write(&file, "abc.DEF-1\n").unwrap();
        assert_eq!(join_token(&file).unwrap().as_str(), "abc.DEF-1");
        for text in ["", "\n", "a b", "a\nb", "\u{e9}"] {
            std::fs::write(&file, text).unwrap();
            assert!(matches!(join_token(&file), Err(ControlError::JoinToken(_))), "{text:?}");
        }
        std::fs::remove_file(&file).unwrap();
        assert!(join_token(&file).unwrap_err().to_string().contains("--join-token"));
    }
}
