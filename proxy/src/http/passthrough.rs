//! May the application open a tunnel? CONNECT (RFC 9110 §9.3.6), to what a rule lets pass with `tls: passthrough` and to nothing
//! else; then the application's own TLS, and only for the host that it asked for.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use countersign_policy::Reason;
use countersign_policy::outbound::{Carries, Outbound, OutboundRule};
use http::Response;
use http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::body::Body;
use super::half_open::HalfOpen;
use super::seen::Seen;
use super::sidecar::{Connected, Worker};
use super::wire::Wire;
use super::{destination, dial, last_word, target};
use crate::auth::active::Active;
use crate::drain::Drain;
use crate::record::{Direction, Outcome};
use crate::rejection::Refusal;
use crate::state::live::Live;
use crate::tcp;
use crate::tcp::hello::{self, Hello};

/// A tunnel that was agreed on, and in which nothing has passed yet.
struct Tunnel {
    worker: Arc<Worker>,
    /// As it was written, and as the search path completes it. The TLS inside has to ask for one of the two.
    written: String,
    host: String,
    port: u16,
    server: TcpStream,
    idle: Duration,
    seen: Seen,
    connected: Connected,
    drain: Drain,
}

/// The story of a CONNECT, up to its answer. The destination is reached before it, so that one that cannot be is refused in
/// HTTP; it hears nothing before the application has said whom it means.
pub(super) async fn open(
    worker: &Arc<Worker>,
    drain: Drain,
    mut head: Parts,
    active: Option<&Active>,
    seen: &mut Seen,
) -> Result<Response<Body>, Refusal> {
    let (written, port) = target::tunnel(&head)?;
    let _under_way = worker.begin()?;
    let is_complete = head.uri.host().is_some_and(|host| host.ends_with('.'));
    let active = active.ok_or(Reason::PolicyUnavailable)?;
    let sidecar = &worker.sidecar;
    let names = &sidecar.connector.names;
    let (host, named) = destination::named(active, names, &written, is_complete, port).await;
    let rule = passes(named)?;
    let client = head.extensions.remove::<OnUpgrade>().ok_or(Reason::BadRequest)?;
    let server = dial::tcp(&sidecar.connector, &host, port, &sidecar.own, rule.timeouts.connect).await?;

    sidecar.metrics.outbound_bypassed.with_label_values(&["passthrough"]).inc();
    seen.outcome = Outcome::Bypass;
    let full = host.strip_suffix('.').unwrap_or(&host).to_owned();
    let tunnel = Tunnel {
        worker: worker.clone(),
        written,
        host: full,
        port,
        server,
        idle: rule.timeouts.idle,
        seen: seen.clone(),
        connected: worker.carries_bytes(Direction::Outbound),
        drain,
    };
    tokio::spawn(tunnel.run(client));
    Ok(Response::new(Body::Empty))
}

/// The rule that lets a tunnel pass.
fn passes(named: Outbound<'_>) -> Result<&OutboundRule, Reason> {
    match named {
        Outbound::Rule(rule) if rule.carries() == Carries::Tls => Ok(rule),
        Outbound::Denied => Err(Reason::EgressDenied),
        // What passes here unseen would be more than any rule says.
        Outbound::Rule(_) | Outbound::Pass => Err(Reason::MethodNotAllowed),
    }
}

// === impl Tunnel ===

impl Tunnel {
    async fn run(self, client: OnUpgrade) {
        let begun = tokio::time::timeout(PATIENCE, client).await;
        let Ok(Ok(upgraded)) = begun else { return tracing::debug!("a tunnel ended before it began") };
        let Ok(parts) = upgraded.downcast::<TokioIo<Wire<TcpStream, HalfOpen>>>() else {
            return tracing::error!("a tunnel is not over TCP");
        };
        let (mut near, said) = (parts.io.into_inner().into_inner(), BytesMut::from(&*parts.read_buf));
        let heard = tokio::select! {
            biased;
            heard = tokio::time::timeout(PATIENCE, hear(&mut near, said)) => heard,
            () = last_word(self.drain.clone()) => return tcp::reset(&near),
        };
        let Self { worker, written, host, port, server, idle, seen, connected: _connected, drain } = self;
        let sidecar = &worker.sidecar;
        match heard {
            Ok(Ok((Hello::Name(name), said))) if name == written || name == host => {
                let meters = worker.meters(Direction::Outbound);
                tokio::select! {
                    biased;
                    _ = tcp::relay_after(said, near, server, drain, idle, &meters) => {}
                    // The relay is dropped, and resets both sides.
                    reason = over(&sidecar.policy, &host, port) => seen.ended(&reason.into(), &sidecar.recorder),
                }
            }
            Ok(Ok(_)) => {
                seen.ended(&Reason::AmbiguousDestination.into(), &worker.sidecar.recorder);
                tcp::reset(&near);
            }
            // It went away, or never said anything.
            Ok(Err(_)) | Err(_) => tcp::reset(&near),
        }
    }
}

/// Resolves once policy does not let the tunnel pass any more.
async fn over(policy: &Live<Option<Active>>, host: &str, port: u16) -> Reason {
    loop {
        let (edition, now) = (policy.edition(), policy.load());
        if let Some(Err(reason)) =
            now.as_ref().as_ref().map(|active| passes(active.snapshot.outbound(host, port)))
        {
            return reason;
        }
        drop(now);
        policy.later_than(edition).await;
    }
}

/// Whom a ClientHello asks for, and all that was said.
async fn hear(near: &mut TcpStream, mut said: BytesMut) -> io::Result<(Hello, Bytes)> {
    loop {
        match hello::read(&said) {
            Hello::Incomplete => {}
            heard => return Ok((heard, said.freeze())),
        }
        if near.read_buf(&mut said).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// As long as a handshake of ours may take (security IN-24).
const PATIENCE: Duration = Duration::from_secs(10);
