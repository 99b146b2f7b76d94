//! What becomes of a connection? A whole sidecar carries it: policy, verification, pool and all, between a caller that sends what
//! an input says and an upstream that forgives nothing. Time stands still while anybody has something to do.

mod how;
mod judge;
mod upstream;
mod upstream_http2;

use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::panic;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_policy::headers::Underscores;
use countersign_proxy::auth::active::{Active, Armory};
use countersign_proxy::auth::explain::Explainer;
use countersign_proxy::auth::verify::Verifier;
use countersign_proxy::config::{AccessLog, InboundDefault};
use countersign_proxy::connect::Connector;
use countersign_proxy::drain;
use countersign_proxy::http::last_good::LastGood;
use countersign_proxy::http::outbound;
use countersign_proxy::http::sidecar::{Sidecar, Worker};
use countersign_proxy::memory::Memory;
use countersign_proxy::metrics::Metrics;
use countersign_proxy::names::{Files, Names};
use countersign_proxy::own::Own;
use countersign_proxy::record::Recorder;
use countersign_proxy::redirected::inbound;
use countersign_proxy::state::live::{Writer, live};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use crate::sidecar::{SIDECAR, compiled, issuer, services};
use how::{End, Manner};
pub(crate) use how::{How, Way};
pub(crate) use judge::{decoded, needs_token};
use upstream::Shared;
pub(crate) use upstream::{Record, Request};

/// The host that requests are for, in both directions.
pub(crate) const HOST: &str = "a.test";
/// What stands for a good token in an input.
pub(crate) const TOKEN: &str = "{token}";

/// A sidecar, and the address of the application, which is the destination too.
pub(crate) struct Road {
    sidecar: Arc<Sidecar>,
    listener: StdListener,
    application: SocketAddr,
    token: String,
    _policy: Writer<Option<Active>>,
    _background: Runtime,
}

/// What became of it.
pub(crate) struct Told {
    /// What the caller heard.
    pub(crate) heard: Vec<u8>,
    /// What the upstream saw.
    pub(crate) record: Record,
}

static ROAD: LazyLock<Mutex<Road>> = LazyLock::new(|| Mutex::new(Road::new()));
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// The one road: inputs go one after the other.
pub(crate) fn road() -> MutexGuard<'static, Road> {
    ROAD.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Road ===

impl Road {
    fn new() -> Self {
        let shown = panic::take_hook();
        panic::set_hook(Box::new(move |about| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            shown(about);
        }));
        let background =
            Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        // Who writes to a caller that is gone gets an error, as in a program of Rust.
        background.block_on(async { signal(SignalKind::pipe()).map(drop) }).expect("a signal handler");
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let application = listener.local_addr().expect("an address");
        let (sidecar, writer) = sidecar(application.port(), &background);
        let claims = json!({
            "iss": issuer("rfc9068"), "aud": "https://orders.shop", "exp": 99_999_999_999_u64, "iat": 1, "sub": "a",
            "client_id": judge::CLIENT, "tenant": judge::TENANT, "scope": "orders:read", "jti": "1",
        });
        let header = br#"{"alg":"EdDSA","typ":"at+jwt","kid":"ed"}"#;
        let token = SIDECAR.sign(header, claims.to_string().as_bytes(), false);
        Self { sidecar, listener, application, token, _policy: writer, _background: background }
    }

    /// The bytes with tokens in their places.
    pub(crate) fn with_tokens(&self, bytes: &[u8]) -> Vec<u8> {
        let mut filled = Vec::with_capacity(bytes.len());
        for (at, part) in split(bytes, TOKEN.as_bytes()).into_iter().enumerate() {
            if at > 0 {
                filled.extend(self.token.as_bytes());
            }
            filled.extend(part);
        }
        filled
    }

    /// Is the token anywhere in these bytes?
    pub(crate) fn is_shown(&self, bytes: &[u8]) -> bool {
        split(bytes, self.token.as_bytes()).len() > 1
    }

    /// Carries one connection, from its first byte until nothing is left of it, and checks what holds whatever it is.
    pub(crate) fn tell(&self, how: How, segments: &[Vec<u8>]) -> Told {
        let before = (PANICS.load(Ordering::Relaxed), self.internal());
        let runtime =
            Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
        let told = runtime.block_on(self.story(how, segments));
        assert_eq!(
            before,
            (PANICS.load(Ordering::Relaxed), self.internal()),
            "panics, and those that were caught"
        );
        assert!(told.record.wrong.is_empty(), "at the upstream: {:?}", told.record.wrong);
        if how.way == Way::Inbound {
            for request in &told.record.requests {
                judge::admitted(request, &self.token);
            }
        }
        told
    }

    async fn story(&self, how: How, segments: &[Vec<u8>]) -> Told {
        let listener = self.listener.try_clone().and_then(TcpListener::from_std).expect("a listener");
        let record = Shared::default();
        let answering = tokio::spawn(upstream::serve(listener, how, record.clone()));
        let worker = Worker::new(self.sidecar.clone());
        let chores = [tokio::spawn(worker.clone().watch()), tokio::spawn(worker.clone().sweep())];
        let (near, far) = pair();
        let (mut signal, drain) = drain::channel();
        let caller = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let served = match how.way {
            Way::Inbound => {
                let application = worker.application(self.application);
                tokio::spawn(inbound::serve_for(application, worker.clone(), near, caller, drain))
            }
            Way::Outbound => {
                let destination = Some(self.application);
                tokio::spawn(outbound::serve_to(worker.clone(), near, caller, destination, drain))
            }
        };
        let heard = say(far, segments, how.end).await;
        let bytes: usize = segments.iter().map(Vec::len).sum();
        // Requests that nobody answers wait one after the other.
        let limit = LIMIT + FIRST_BYTE * u32::try_from(bytes / SHORTEST).expect("an input is short");
        timeout(limit, served).await.expect("a connection that does not end").expect("a story that panics");
        assert!(signal.wait(LIMIT).await, "something of a connection goes on without it");
        let heard =
            timeout(LIMIT, heard).await.expect("a connection that is not closed").expect("a listener");

        // With the worker its connections to the upstream go, and then nothing is left.
        drop(worker);
        chores.iter().for_each(|chore| chore.abort());
        answering.abort();
        timeout(LIMIT, async {
            while Handle::current().metrics().num_alive_tasks() > 0 {
                sleep(MOMENT).await;
            }
        })
        .await
        .expect("a task is left behind");
        Told { heard, record: record.take() }
    }

    /// Requests that were refused as `internal`, which is what a panic becomes.
    fn internal(&self) -> u64 {
        let ways = ["inbound", "outbound"];
        let protocols = ["http1", "http2", "grpc"];
        let count = |way: &str, protocol: &str| {
            self.sidecar.metrics.requests.with_label_values(&[way, protocol, "error", "internal"]).get()
        };
        ways.iter().flat_map(|way| protocols.iter().map(|protocol| count(way, protocol))).sum()
    }
}

/// As it is put together at start-up, with names that are found without a network.
fn sidecar(port: u16, background: &Runtime) -> (Arc<Sidecar>, Writer<Option<Active>>) {
    let metrics = Metrics::new().expect("a registry");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("etc");
    let files = Files { resolv_conf: folder.join("resolv.conf"), hosts: folder.join("hosts"), port: 53 };
    let names = Names::of(files, background.handle().clone(), metrics.clone()).expect("a resolver");
    let connector = Connector::new(names.clone());
    let services = services(connector.clone(), metrics.clone(), background.handle());
    let snapshot = compiled(&judge::policy(port));
    names.keep(snapshot.exact_hosts().cloned());
    while !names.are_asked() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (clock, files) = (services.clock.clone(), services.files.clone());
    let (policy, writer) = live(Some(Armory::new(services).arm(snapshot)));
    let recorder = Recorder::new(AccessLog::Off, clock.clone(), metrics.clone()).expect("a random number").0;
    let sidecar = Arc::new(Sidecar {
        policy,
        verifier: Verifier::new(clock.clone(), metrics.clone()),
        recorder,
        explainer: Explainer::new(clock),
        memory: Memory::new(NonZeroU64::new(u64::MAX), metrics.clone()),
        metrics,
        last_good: LastGood::new(files.clone(), connector.clone()),
        connector,
        files,
        inbound_default: InboundDefault::Deny,
        header_underscores: Underscores::Drop,
        own: Own::default(),
        watched: Default::default(),
    });
    (sidecar, writer)
}

/// Sends all of it, each segment once the last one has had its effect; what is heard comes later.
async fn say(far: UnixStream, segments: &[Vec<u8>], end: End) -> tokio::task::JoinHandle<Vec<u8>> {
    let (mut reader, mut writer) = far.into_split();
    let listening = tokio::spawn(async move {
        let mut heard = Vec::new();
        let _ = reader.read_to_end(&mut heard).await;
        heard
    });
    for segment in segments {
        if writer.write_all(segment).await.is_err() {
            break;
        }
        sleep(MOMENT).await;
    }
    match end {
        // Dropped, it ends its side.
        End::Half => drop(writer),
        End::Open => writer.forget(),
        End::Gone => {
            listening.abort();
            let _ = listening.await;
            return tokio::spawn(async { Vec::new() });
        }
    }
    listening
}

/// A connection without a network, so that no byte is ever under way: to a sidecar it is as good as TCP.
fn pair() -> (TcpStream, UnixStream) {
    let (near, far) = StdUnixStream::pair().expect("a pair of sockets");
    near.set_nonblocking(true).and_then(|()| far.set_nonblocking(true)).expect("sockets");
    let near = std::net::TcpStream::from(OwnedFd::from(near));
    (TcpStream::from_std(near).expect("a socket"), UnixStream::from_std(far).expect("a socket"))
}

/// The parts between these marks.
pub(crate) fn split<'a>(bytes: &'a [u8], mark: &[u8]) -> Vec<&'a [u8]> {
    let (mut parts, mut rest) = (Vec::new(), bytes);
    while let Some(at) = rest.windows(mark.len()).position(|window| window == mark) {
        let (part, after) = rest.split_at(at);
        parts.push(part);
        rest = after.get(mark.len()..).unwrap_or_default();
    }
    parts.push(rest);
    parts
}

/// Longer than all that a connection may wait for, one after the other.
const LIMIT: Duration = Duration::from_secs(600);
/// How long each request is waited for.
const FIRST_BYTE: Duration = Duration::from_secs(60);
/// Of a request, in bytes: `GET / HTTP/1.0`.
const SHORTEST: usize = 18;
const MOMENT: Duration = Duration::from_millis(5);
