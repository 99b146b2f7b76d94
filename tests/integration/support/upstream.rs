//! What reaches the application? An HTTP/1.1 and HTTP/2 server that records every request and echoes it.

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::authority::x5t;
use super::jose;
use super::ports::Port;

type Body = BoxBody<Bytes, Infallible>;

/// The application beside which a sidecar stands. Ends on drop.
///
/// `/status/N` answers with that status (401 with an `invalid_token` challenge), `/stream` sends a line every 20 ms until
/// the caller goes, `/flood` as much as is taken, `/challenge/CODE` answers 401 with that error in a Bearer challenge (`none`: without), `/slow/N` waits N ms, `/redirect/PORT` points to another port, `/trailers` ends with a trailer,
/// `/bytes/N` has N of them, `/size` says how many came, `/unread` reads nothing for a minute,
/// `/dpop-nonce/A/B` demands DPoP proofs with the nonce A, and names B in its answer to one (RFC 9449 §9).
/// All of it below `/orders` too. Everything else answers 200 with the request as JSON.
#[derive(Debug)]
pub(crate) struct Upstream {
    port: Port,
    record: Arc<Record>,
    refused: Refused,
    flowing: Flowing,
    _stop: oneshot::Sender<()>,
}

/// What has come.
#[derive(Debug, Default)]
struct Record {
    /// Heads of requests.
    begun: AtomicUsize,
    /// Shared with those that are being read or answered.
    under_way: Arc<()>,
    /// Whole requests.
    seen: Mutex<Vec<Seen>>,
}

/// Values of `Authorization` that are refused as `invalid_token`.
type Refused = Arc<Mutex<HashSet<String>>>;

/// Answers to `/flood` that somebody still takes, or could.
type Flowing = Arc<()>;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) at: Instant,
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// All of it: with scheme and authority in HTTP/2.
    pub(crate) uri: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub(crate) version: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
    /// `x5t#S256` of the client's certificate.
    pub(crate) certificate: Option<String>,
}

impl Upstream {
    pub(crate) fn start() -> Self {
        Self::serve(None)
    }

    /// One that speaks TLS, HTTP/1.1 or HTTP/2 by ALPN, with a certificate of this name; and the certificate in PEM.
    pub(crate) fn start_tls(name: &str) -> (Self, String) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("key and certificate fit");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        (Self::serve(Some(TlsAcceptor::from(Arc::new(config)))), made.cert.pem())
    }

    /// One that speaks this TLS.
    pub(crate) fn start_with(config: ServerConfig) -> Self {
        Self::serve(Some(TlsAcceptor::from(Arc::new(config))))
    }

    fn serve(tls: Option<TlsAcceptor>) -> Self {
        let port = Port::lease();
        let (record, refused, flowing) = (Arc::default(), Refused::default(), Flowing::default());
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let (address, into, refuse) = (port.address(), Arc::clone(&record), Arc::clone(&refused));
        let flow = Arc::downgrade(&flowing);
        thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::bind(address).await.expect("a leased port");
                ready.send(()).expect("the test waits");
                tokio::select! { () = serve(listener, tls, into, refuse, flow) => {}, _ = stopped => {} }
            });
        });
        is_ready.recv().expect("the server starts");
        Self { port, record, refused, flowing, _stop: stop }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.number()
    }

    /// Every request so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.record.seen().clone()
    }

    /// The last request.
    pub(crate) fn last(&self) -> Seen {
        self.seen().pop().expect("a request has come")
    }

    /// From now on a request with this `Authorization` is a 401 with `invalid_token`.
    pub(crate) fn refuse(&self, authorization: &str) {
        self.refused.lock().expect("no test panics with it").insert(authorization.to_owned());
    }

    /// Answers to `/flood` that have not ended.
    pub(crate) fn flowing(&self) -> usize {
        Arc::strong_count(&self.flowing) - 1
    }

    /// Begins to count anew.
    pub(crate) fn forget(&self) {
        self.record.begun.store(0, Ordering::Relaxed);
        self.record.seen().clear();
    }

    /// How many requests so far, all of each.
    pub(crate) fn count(&self) -> usize {
        self.record.seen().len()
    }

    /// How many requests have begun so far.
    pub(crate) fn begun(&self) -> usize {
        self.record.begun.load(Ordering::Relaxed)
    }

    /// How many it is reading or answering, until the heads of the answers.
    pub(crate) fn under_way(&self) -> usize {
        Arc::strong_count(&self.record.under_way) - 1
    }
}

impl Record {
    fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().expect("no test panics with it")
    }
}

impl Seen {
    /// Every value of this header, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        let values = self.headers.get_all(name).iter();
        values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
    }
}

async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    record: Arc<Record>,
    refused: Refused,
    flowing: Weak<()>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let (record, refused, tls) = (Arc::clone(&record), Arc::clone(&refused), tls.clone());
        let flowing = Weak::clone(&flowing);
        tokio::spawn(async move {
            match tls {
                None => converse(stream, None, record, refused, flowing).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                        let shown = shown.map(|certificate| x5t(certificate));
                        converse(stream, shown, record, refused, flowing).await;
                    }
                }
            }
        });
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    certificate: Option<String>,
    record: Arc<Record>,
    refused: Refused,
    flowing: Weak<()>,
) {
    let service = service_fn(|request| {
        answer(request, certificate.clone(), Arc::clone(&record), Arc::clone(&refused), flowing.upgrade())
    });
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    certificate: Option<String>,
    record: Arc<Record>,
    refused: Refused,
    flowing: Option<Flowing>,
) -> Result<Response<Body>, Infallible> {
    let at = Instant::now();
    let (head, body) = request.into_parts();
    record.begun.fetch_add(1, Ordering::Relaxed);
    let _under_way = Arc::clone(&record.under_way);
    if head.uri.path() == "/unread" {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    let collected = match body.collect().await {
        Ok(collected) => collected,
        Err(_) => return Ok(plain(400, "the body broke off")),
    };
    let request = Seen {
        at,
        method: head.method.to_string(),
        target: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        uri: head.uri.to_string(),
        version: format!("{:?}", head.version),
        headers: head.headers,
        trailers: collected.trailers().cloned().unwrap_or_default(),
        body: collected.to_bytes().to_vec(),
        certificate,
    };
    record.seen().push(request.clone());
    if request.all("authorization").iter().any(|shown| refused.lock().expect("as above").contains(shown)) {
        return Ok(status_answer(401));
    }
    let path = head.uri.path();
    Ok(match path.strip_prefix("/orders").unwrap_or(path).split('/').collect::<Vec<_>>()[..] {
        ["", "status", status] => status_answer(status.parse().expect("a status")),
        ["", "challenge", code] => challenge(code),
        ["", "stream"] => Response::new(forever()),
        ["", "flood"] => Response::new(flood(flowing)),
        ["", "slow", ms] => {
            tokio::time::sleep(Duration::from_millis(ms.parse().expect("milliseconds"))).await;
            plain(200, "at last")
        }
        ["", "bytes", count] => Response::new(bytes(count.parse().expect("a number"))),
        ["", "size"] => plain(200, &request.body.len().to_string()),
        ["", "redirect", port] => redirect(port),
        ["", "trailers"] => with_trailer(),
        ["", "dpop-nonce", demanded, next] => with_nonce(&request, demanded, next),
        _ => echo(&request),
    })
}

fn echo(request: &Seen) -> Response<Body> {
    let headers: Vec<_> = request
        .headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let text = json!({
        "method": request.method, "target": request.target, "version": request.version,
        "headers": headers, "body": String::from_utf8_lossy(&request.body),
    });
    plain(200, &text.to_string())
}

fn status_answer(status: u16) -> Response<Body> {
    let mut response = plain(status, "as asked");
    if status == 401 {
        let challenge = http::HeaderValue::from_static(r#"Bearer error="invalid_token""#);
        response.headers_mut().insert(http::header::WWW_AUTHENTICATE, challenge);
    }
    response
}

fn challenge(code: &str) -> Response<Body> {
    let mut response = plain(401, "no");
    let challenge = match code {
        "none" => "Bearer realm=\"orders\"".to_owned(),
        "use_dpop_nonce" => "DPoP error=\"use_dpop_nonce\", algs=\"ES256\"".to_owned(),
        code => format!("Bearer error=\"{code}\""),
    };
    let challenge = challenge.try_into().expect("a header value");
    response.headers_mut().insert(http::header::WWW_AUTHENTICATE, challenge);
    response
}

fn with_nonce(request: &Seen, demanded: &str, next: &str) -> Response<Body> {
    let proofs = request.all("dpop");
    let shown = proofs.first().map(|proof| jose::decode(proof)["nonce"].clone());
    let fits = shown.is_some_and(|nonce| nonce == demanded);
    let mut response = if fits { echo(request) } else { challenge("use_dpop_nonce") };
    let nonce = if fits { next } else { demanded }.try_into().expect("a header value");
    response.headers_mut().insert("dpop-nonce", nonce);
    response
}

fn redirect(port: &str) -> Response<Body> {
    let mut response = plain(302, "elsewhere");
    let location = format!("http://127.0.0.1:{port}/after").try_into().expect("a header value");
    response.headers_mut().insert(http::header::LOCATION, location);
    response
}

fn plain(status: u16, text: &str) -> Response<Body> {
    // Over HTTP/2 hyper sends whatever it is given.
    let text = if matches!(status, 204 | 304) { "" } else { text };
    let mut response = Response::new(Full::from(text.to_owned()).boxed());
    *response.status_mut() = status.try_into().expect("a status");
    response
}

/// A line every 20 ms for as long as somebody reads.
fn forever() -> Body {
    BoxBody::new(StreamBody::new(stream::unfold(0_u64, |n| async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Some((Ok(Frame::data(Bytes::from(format!("{n}\n")))), n + 1))
    })))
}

/// As much as somebody takes.
fn flood(flowing: Option<Flowing>) -> Body {
    let some = move || {
        let _counted = &flowing;
        Ok(Frame::data(Bytes::from_static(&[b'x'; 16 * 1024])))
    };
    BoxBody::new(StreamBody::new(stream::repeat_with(some)))
}

/// So many, in frames of 16 KiB.
fn bytes(count: usize) -> Body {
    const FRAME: &[u8] = &[b'x'; 16 * 1024];
    BoxBody::new(StreamBody::new(stream::unfold(count, |left| async move {
        let frame = FRAME.get(..left.min(FRAME.len())).unwrap_or_default();
        (left > 0).then(|| (Ok(Frame::data(Bytes::from_static(frame))), left - frame.len()))
    })))
}

fn with_trailer() -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", http::HeaderValue::from_static("abc"));
    let frames = [Ok(Frame::data(Bytes::from_static(b"body"))), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(BoxBody::new(StreamBody::new(stream::iter(frames))));
    response.headers_mut().insert("trailer", http::HeaderValue::from_static("x-checksum"));
    response
}
