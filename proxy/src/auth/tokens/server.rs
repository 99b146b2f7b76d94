//! Who answers in the tests? A token endpoint on a real socket that counts what it is asked, and a world around it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign_policy::Profile;
use countersign_policy::snapshot::{
    Authentication, CertificateFiles, Credential, CredentialId, FileRef, Issuer, IssuerId, KeySource,
    TokenBinding, TokenRequest,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::auth::issuers::Services;
use crate::auth::tokens::authority::{Authority, Pair};
use crate::auth::tokens::dpop::ProofKey;
use crate::auth::tokens::endpoint::TokenEndpoint;
use crate::auth::tokens::metrics::TokenMetrics;
use crate::auth::tokens::source::TokenSource;
use crate::clock::Clock;
use crate::connect::Connector;
use crate::fetch::Fetcher;
use crate::metrics::Metrics;
use crate::state::certificate::thumbprint;
use crate::state::files::PolicyFiles;

/// A token endpoint.
pub(crate) struct TokenServer {
    pub port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    at_once: Arc<AtomicUsize>,
    hold: watch::Sender<bool>,
}

/// One request, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// Thumbprint of the client's certificate.
    pub certificate: Option<[u8; 32]>,
}

/// One answer: bytes, and the pause between two of them.
#[derive(Clone)]
pub(crate) struct Answer {
    pub bytes: Vec<u8>,
    pub drip: Option<Duration>,
}

// === impl Answer ===

impl Answer {
    pub(crate) fn new(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
        Self { bytes: [head.as_bytes(), body].concat(), drip: None }
    }

    pub(crate) fn json(body: impl AsRef<str>) -> Self {
        Self::new("200 OK", "content-type: application/json\r\n", body.as_ref())
    }

    pub(crate) fn token(token: &str, expires_in: u64) -> Self {
        Self::json(format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":{expires_in}}}"#))
    }

    pub(crate) fn error(status: &str, error: &str) -> Self {
        Self::new(status, "content-type: application/json\r\n", format!(r#"{{"error":"{error}"}}"#))
    }
}

// === impl Asked ===

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        let mut found =
            self.body.split('&').filter_map(|pair| pair.split_once('=')).filter(|(known, _)| *known == name);
        let value = found.next()?.1.replace('+', " ");
        assert!(found.next().is_none(), "{name} was sent twice");
        Some(percent_encoding::percent_decode_str(&value).decode_utf8().unwrap().into_owned())
    }
}

// === impl TokenServer ===

impl TokenServer {
    /// `answer` is told how many requests came before.
    pub(crate) async fn start(answer: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::serve(None, answer).await
    }

    /// The same over TLS.
    pub(crate) async fn start_tls(
        tls: TlsAcceptor,
        answer: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::serve(Some(tls), answer).await
    }

    async fn serve(
        tls: Option<TlsAcceptor>,
        answer: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let at_once = Arc::new(AtomicUsize::new(0));
        let hold = watch::Sender::new(false);
        let server = Self { port, asked: asked.clone(), at_once: at_once.clone(), hold: hold.clone() };
        let (answer, busy) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let tls = tls.clone();
                let (asked, at_once, busy, answer) =
                    (asked.clone(), at_once.clone(), busy.clone(), answer.clone());
                let mut held = hold.subscribe();
                tokio::spawn(async move {
                    let Some((mut stream, certificate)) = secure(stream, tls).await else { return };
                    let Some(request) = read(&mut stream, certificate).await else { return };
                    at_once.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let before = {
                        let mut asked = asked.lock().unwrap();
                        asked.push(request.clone());
                        asked.len() - 1
                    };
                    held.wait_for(|held| !held).await.unwrap();
                    write(&mut stream, answer(before, &request)).await;
                    busy.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        server
    }

    /// Lets requests wait for [`Self::release`].
    pub(crate) fn hold(&self) {
        self.hold.send_replace(true);
    }

    pub(crate) fn release(&self) {
        self.hold.send_replace(false);
    }

    pub(crate) fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    pub(crate) fn asked(&self, index: usize) -> Asked {
        self.asked.lock().unwrap()[index].clone()
    }

    /// The most requests that were under way at once.
    pub(crate) fn most_at_once(&self) -> usize {
        self.at_once.load(Ordering::SeqCst)
    }

    /// Waits until so many requests have come.
    pub(crate) async fn count_reaches(&self, count: usize) {
        eventually(|| self.count() >= count).await;
    }
}

/// The connection as it is read, and whose certificate was shown; none where the handshake failed.
async fn secure(stream: TcpStream, tls: Option<TlsAcceptor>) -> Option<(Box<dyn Stream>, Option<[u8; 32]>)> {
    let Some(tls) = tls else { return Some((Box::new(stream), None)) };
    let stream = tls.accept(stream).await.ok()?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let shown = shown.map(thumbprint);
    Some((Box::new(stream), shown))
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

async fn read(stream: &mut Box<dyn Stream>, certificate: Option<[u8; 32]>) -> Option<Asked> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let mut lines = head.lines();
            let line = lines.next().unwrap().to_owned();
            let headers: Vec<(String, String)> = lines
                .map(|line| line.split_once(": ").unwrap())
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect();
            let length =
                headers.iter().find(|(name, _)| name == "content-length").map_or("0", |(_, value)| value);
            if bytes.len() >= end + 4 + length.parse::<usize>().unwrap() {
                let body = String::from_utf8(bytes[end + 4..].to_vec()).unwrap();
                return Some(Asked { line, headers, body, certificate });
            }
        }
        let mut more = [0; 4096];
        match stream.read(&mut more).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&more[..count]),
        }
    }
}

async fn write(stream: &mut Box<dyn Stream>, answer: Answer) {
    match answer.drip {
        None => drop(stream.write_all(&answer.bytes).await),
        Some(pause) => {
            for byte in answer.bytes {
                if stream.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(pause).await;
            }
        }
    }
    let _ = stream.shutdown().await;
}

/// Waits until it is so; a test that waits 10 s has failed.
pub(crate) async fn eventually(so: impl Fn() -> bool) {
    for _ in 0..2000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it did not become so within 10 s");
}

/// What surrounds a slot: a clock to turn, a secret in a file, an issuer.
pub(crate) struct World {
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub services: Services,
    pub issuer: Issuer,
    pub credential: Credential,
    pub request: TokenRequest,
    pub dir: tempfile::TempDir,
}

// === impl World ===

impl World {
    /// A credential `shop/checkout` by client secret, and a request for `orders:write`.
    pub(crate) fn new(server: &TokenServer) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "s3cret\n").unwrap();
        let (clock, metrics) = (Clock::default(), Metrics::new().unwrap());
        let declared_in = dir.path().join("policy.yaml").to_str().unwrap().to_owned();
        let file = FileRef { path: "secret".to_owned(), declared_in };
        Self {
            services: Services {
                fetcher: Fetcher::new(Connector::for_tests()),
                clock: clock.clone(),
                metrics: metrics.clone(),
                files: PolicyFiles::BesideDocument,
                state_dir: None,
                background: Handle::current(),
            },
            issuer: Issuer {
                name: "corp".to_owned(),
                issuer: "https://login.example.com/realms/shop".into(),
                jwks: KeySource::Discovery,
                token_endpoint: Some(format!("http://127.0.0.1:{}/token?tenant=acme", server.port)),
                introspection_endpoint: None,
                profile: Profile::Rfc9068,
                algorithms: Vec::new(),
                leeway: Duration::from_secs(30),
                ca_file: None,
                insecure: true,
                fingerprint: [1; 32],
            },
            credential: Credential {
                name: "shop/checkout".to_owned(),
                issuer: IssuerId(0),
                client_id: "checkout".to_owned(),
                authentication: Authentication::ClientSecretBasic { secret_file: file },
                fingerprint: [2; 32],
            },
            request: request(3, &["orders:write"]),
            clock,
            metrics,
            dir,
        }
    }

    pub(crate) fn source(&self) -> TokenSource {
        TokenSource {
            services: self.services.clone(),
            issuer: self.issuer.clone(),
            credential: self.credential.clone(),
            request: self.request.clone(),
            endpoint: Arc::new(TokenEndpoint::new()),
            key: (self.request.binding == TokenBinding::Key).then(|| Arc::new(ProofKey::generate().unwrap())),
            subject: None,
            metrics: Arc::new(TokenMetrics::new(self.metrics.clone())),
        }
    }

    /// A file that policy names.
    pub(crate) fn file(&self, path: &str) -> FileRef {
        let declared_in = self.dir.path().join("policy.yaml").to_str().unwrap().to_owned();
        FileRef { path: path.to_owned(), declared_in }
    }

    /// The files of our certificate.
    pub(crate) fn pair(&self) -> CertificateFiles {
        CertificateFiles { cert_file: self.file("tls.crt"), key_file: self.file("tls.key") }
    }

    pub(crate) fn write_pair(&self, pair: &Pair) {
        std::fs::write(self.dir.path().join("tls.crt"), &pair.certificate).unwrap();
        std::fs::write(self.dir.path().join("tls.key"), &pair.key).unwrap();
    }

    /// The token endpoint speaks TLS, and its certificate is this authority's.
    pub(crate) fn over_tls(&mut self, server: &TokenServer, authority: &Authority) {
        std::fs::write(self.dir.path().join("ca.crt"), authority.pem()).unwrap();
        self.issuer.ca_file = Some(self.file("ca.crt"));
        self.issuer.token_endpoint = Some(format!("https://localhost:{}/token", server.port));
    }

    pub(crate) fn write_secret(&self, secret: impl AsRef<[u8]>) {
        std::fs::write(self.dir.path().join("secret"), secret).unwrap();
    }

    /// The counter `token_requests` by result.
    pub(crate) fn results(&self) -> [u64; 5] {
        ["hit", "refresh", "miss", "coalesced", "failed"]
            .map(|result| self.metrics.token_requests.with_label_values(&[result]).get())
    }
}

/// A token request; `key` stands for the hash that policy makes.
pub(crate) fn request(key: u8, scopes: &[&str]) -> TokenRequest {
    TokenRequest {
        credential: CredentialId(0),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        audience: Some("https://orders.shop".to_owned()),
        resource: None,
        parameters: Vec::new(),
        binding: TokenBinding::None,
        key: [key; 32],
    }
}
