//! What is going on inside? The admin pages, for people and probes; nothing in them is secret, nothing in them changes
//! anything but `POST /drain`.

mod explained;

use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_policy::host;
use countersign_policy::outbound::OutboundTls;
use countersign_policy::snapshot::{Authentication, Snapshot};
use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tower::{ServiceBuilder, ServiceExt};

use explained::Page;

use crate::auth::active::Armory;
use crate::drain;
use crate::http::sidecar::Sidecar;
use crate::listen::{self, Listeners};
use crate::metrics::Metrics;
use crate::redirected::Redirect;
use crate::seats::{Seat, Seats};

/// What the pages show.
#[derive(Clone, Debug)]
pub struct Admin {
    sidecar: Arc<Sidecar>,
    armory: Arc<Armory>,
    /// With `--transparent`.
    redirect: Option<Arc<Redirect>>,
    draining: watch::Receiver<bool>,
    end: Arc<Notify>,
}

/// Which pages a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// On loopback.
    All,
    /// `/livez`, `/readyz` and `/metrics`, for the kubelet and Prometheus.
    Health,
}

/// Serves the pages to the very end: in a drain too somebody asks what is going on.
pub async fn serve(mut listeners: Listeners, seats: Arc<Seats>, admin: Admin, pages: Pages) {
    let Some(listener) = listeners.sockets.pop() else { return };
    // A page is cheap, and nobody needs many at once.
    let limits = ServiceBuilder::new().load_shed().concurrency_limit(MAX_AT_ONCE).timeout(TIMEOUT);
    let service = limits.service_fn(move |request| {
        let admin = admin.clone();
        async move { Ok::<_, Infallible>(admin.page(&request, pages)) }
    });
    let (_never, drain) = drain::channel();
    listen::accept(listener, seats, drain, move |stream, _, drain| {
        let (service, seat) = (service.clone(), drain.seat());
        let asked = seat.clone();
        let page = service_fn(move |request| {
            if let Some(seat) = &asked {
                seat.heard();
            }
            let page = service.clone().oneshot(request);
            let busy = |_| text(StatusCode::SERVICE_UNAVAILABLE, "busy\n");
            async move { Ok::<_, Infallible>(pages.last_word(page.await.unwrap_or_else(busy))) }
        });
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(pages.head()).max_buf_size(MAX_HEAD);
        let connection = server.serve_connection(TokioIo::new(stream), page);
        async move {
            let ended = tokio::select! {
                ended = connection => ended,
                () = pages.over(seat.as_deref()) => return,
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection to the admin pages ended");
            }
        }
    })
    .await;
}

/// Writes access-log lines to stdout for as long as somebody sends them, and counts those that it cannot write. Blocks.
pub fn write_lines(mut lines: mpsc::Receiver<String>, metrics: &Metrics) {
    let lost = metrics.access_log_dropped.with_label_values(&["unwritable"]);
    while let Some(mut line) = lines.blocking_recv() {
        line.push('\n');
        // A full disk may have room again.
        if std::io::stdout().lock().write_all(line.as_bytes()).is_err() {
            lost.inc();
        }
    }
}

/// Does the sidecar with this admin address say that it is ready?
pub async fn is_ready(admin: SocketAddr) -> bool {
    let ask = async {
        let stream = TcpStream::connect(admin).await.ok()?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let request =
            Request::get("/readyz").header(HOST, admin.to_string()).body(Empty::<Bytes>::new()).ok()?;
        let response = sender.send_request(request).await.ok()?;
        let ready = response.status() == StatusCode::OK;
        response.into_body().collect().await.ok()?;
        Some(ready)
    };
    tokio::time::timeout(TIMEOUT, ask).await.ok().flatten().unwrap_or(false)
}

// === impl Pages ===

impl Pages {
    /// How long a request's head may take.
    fn head(self) -> Duration {
        match self {
            Self::All => TIMEOUT,
            Self::Health => HEAD,
        }
    }

    /// Resolves when a connection has to end, whatever it is at: everybody in the network reaches the health listener.
    async fn over(self, seat: Option<&Seat>) {
        let (Self::Health, Some(seat)) = (self, seat) else { return std::future::pending().await };
        // Either way.
        let _ = tokio::time::timeout(TIMEOUT, seat.lost()).await;
    }

    /// The answer, and whether it is the last one on its connection.
    fn last_word(self, mut answer: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
        if self == Self::Health {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

// === impl Admin ===

impl Admin {
    pub fn new(
        sidecar: Arc<Sidecar>,
        armory: Arc<Armory>,
        redirect: Option<Arc<Redirect>>,
        draining: watch::Receiver<bool>,
        end: Arc<Notify>,
    ) -> Self {
        Self { sidecar, armory, redirect, draining, end }
    }

    fn page(&self, request: &Request<Incoming>, pages: Pages) -> Response<Full<Bytes>> {
        // A page of the web must not reach us through a name that it owns (DNS rebinding).
        if pages == Pages::All && !names_us(request) {
            return text(StatusCode::FORBIDDEN, "name the address itself, or localhost\n");
        }
        let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
        match (request.uri().path(), pages) {
            ("/drain", Pages::All) if request.method() == Method::POST => {
                let end = self.end.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(ANSWERED).await;
                    end.notify_one();
                });
                text(StatusCode::ACCEPTED, "draining\n")
            }
            ("/drain", Pages::All) => text(StatusCode::METHOD_NOT_ALLOWED, "POST drains\n"),
            _ if !is_get => text(StatusCode::METHOD_NOT_ALLOWED, "GET shows, POST /drain drains\n"),
            ("/livez", _) => text(StatusCode::OK, "ok\n"),
            ("/readyz", _) => self.ready(),
            ("/metrics", _) => self.metrics(),
            ("/snapshot", Pages::All) => match self.sidecar.policy.load().as_ref() {
                Some(active) => json(&snapshot(&active.snapshot)),
                None => text(StatusCode::NOT_FOUND, "no policy yet\n"),
            },
            ("/tokens", Pages::All) => {
                let tokens = &self.armory.tokens;
                let introspections = self.armory.introspections.report();
                json(&json!({
                    "tokens": tokens.report(),
                    "exchanges": tokens.exchange_report(),
                    "introspections": introspections,
                }))
            }
            ("/explain", Pages::All) => self.explain(request),
            ("/", Pages::All) => text(StatusCode::OK, INDEX),
            _ => text(StatusCode::NOT_FOUND, "no such page\n"),
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let mut missing = Vec::new();
        if self.sidecar.policy.load().is_none() {
            missing.push("policy");
        } else if self.redirect.as_ref().is_some_and(|r| !r.is_prepared(&self.sidecar.connector.names)) {
            missing.push("names");
        }
        if self.redirect.as_ref().is_some_and(|redirect| redirect.leads_back()) {
            missing.push("redirect");
        }
        if *self.draining.borrow() {
            missing.push("draining");
        }
        match missing.as_slice() {
            [] => text(StatusCode::OK, "ready\n"),
            missing => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join(", "))),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        match self.sidecar.metrics.encode() {
            Ok(page) => answer(StatusCode::OK, "text/plain; version=0.0.4", page),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    fn explain(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let query = request.uri().query().unwrap_or_default();
        let Some(id) = query.split('&').find_map(|pair| pair.strip_prefix("decision=")) else {
            return text(
                StatusCode::BAD_REQUEST,
                "ask /explain?decision=ID, with the decision_id of a refusal\n",
            );
        };
        match self.sidecar.recorder.explain(id) {
            Some(entry) if wants_text(request) => text(StatusCode::OK, Page::new(&entry).text()),
            Some(entry) => json(&Page::new(&entry)),
            None => text(StatusCode::NOT_FOUND, "not known: another sidecar's, or too long ago\n"),
        }
    }
}

/// The running policy, without anything that a file of it holds.
fn snapshot(snapshot: &Snapshot) -> serde_json::Value {
    let issuers: Vec<_> =
        snapshot.issuers.iter().map(|i| json!({ "name": i.name, "issuer": i.issuer })).collect();
    let credentials: Vec<_> = snapshot
        .credentials
        .iter()
        .map(|credential| {
            let method = match credential.authentication {
                Authentication::ClientSecretBasic { .. } => "client_secret_basic",
                Authentication::ClientSecretPost { .. } => "client_secret_post",
                Authentication::PrivateKeyJwt { .. } => "private_key_jwt",
                Authentication::TlsClientAuth(_) => "tls_client_auth",
                Authentication::WorkloadToken { .. } => "workload_token",
            };
            json!({ "name": credential.name, "clientId": credential.client_id, "authentication": method })
        })
        .collect();
    let introspections: Vec<_> = snapshot
        .introspections
        .iter()
        .map(|asked| {
            let issuer = snapshot.issuers.get(asked.issuer.0).map(|issuer| &issuer.name);
            let credential = snapshot.credentials.get(asked.credential.0).map(|credential| &credential.name);
            json!({ "issuer": issuer, "credential": credential })
        })
        .collect();
    let rules: Vec<_> = snapshot
        .rules
        .iter()
        .map(|rule| {
            let effect = format!("{:?}", rule.effect).to_lowercase();
            json!({ "policy": rule.policy, "rule": rule.rule, "effect": effect, "shadow": rule.shadow })
        })
        .collect();
    let outbound: Vec<_> = snapshot
        .destinations()
        .into_iter()
        .map(|(destination, rule)| {
            let exchanged = rule.exchange.and_then(|id| snapshot.exchanges.get(id.0));
            let request = exchanged.or_else(|| rule.token.and_then(|id| snapshot.token_requests.get(id.0)));
            let credential = request.and_then(|request| snapshot.credentials.get(request.credential.0));
            let tls = match rule.tls {
                OutboundTls::None => "none",
                OutboundTls::Passthrough => "passthrough",
                OutboundTls::Originate { .. } => "originate",
            };
            json!({
                "destination": destination,
                "policy": rule.policy,
                "rule": rule.name,
                "tls": tls,
                "credential": credential.map(|credential| &credential.name),
                "exchange": exchanged.is_some(),
                "scopes": request.map(|request| &request.scopes),
            })
        })
        .collect();
    json!({
        "version": snapshot.version,
        "workload": snapshot.workload,
        "issuers": issuers,
        "credentials": credentials,
        "introspections": introspections,
        "inboundRules": rules,
        "outbound": outbound,
    })
}

/// Does it ask for text, and not for JSON before that (RFC 9110 §12.5.1, without weights)?
fn wants_text(request: &Request<Incoming>) -> bool {
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.trim_start().starts_with("text/plain"))
}

fn names_us(request: &Request<Incoming>) -> bool {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).and_then(host::normalize);
    host.is_some_and(|(host, _)| {
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || literal.parse::<std::net::IpAddr>().is_ok()
    })
}

fn json(value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec_pretty(value) {
        Ok(body) => answer(StatusCode::OK, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn text(status: StatusCode, body: impl Into<String>) -> Response<Full<Bytes>> {
    answer(status, "text/plain; charset=utf-8", body.into().into_bytes())
}

fn answer(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

const INDEX: &str = "/metrics /livez /readyz /snapshot /tokens /explain?decision=ID, and POST /drain\n";
const MAX_AT_ONCE: usize = 16;
const MAX_HEAD: usize = 16 * 1024;
const TIMEOUT: Duration = Duration::from_secs(10);
/// For a request's head on the health listener.
const HEAD: Duration = Duration::from_secs(2);
/// For the answer to `POST /drain` to leave before the end begins: with nothing in flight, the end is immediate.
const ANSWERED: Duration = Duration::from_millis(100);
