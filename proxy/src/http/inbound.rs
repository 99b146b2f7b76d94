//! The inbound story: a request arrives for the application, says who it is from, and is let through or refused.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use countersign_policy::Reason;
use countersign_policy::path::CanonicalPath;
use countersign_policy::request::Peer;
use countersign_policy::snapshot::Timeouts;
use countersign_policy::{PortPolicy, PortProtocol};
use http::header::{CONNECTION, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme, Uri};
use http::{Request, Response, StatusCode, Version as HttpVersion};
use tokio::net::TcpStream;

use super::arriving::Arriving;
use super::body::Body;
use super::deadline::Deadline;
use super::dial::{Address, Dial, Version};
use super::forward::{Outgoing, forward};
use super::grant::{Admitted, Kept};
use super::headers::{self, Stripped};
use super::pool::Upstream;
use super::seen::{self, Seen};
use super::sidecar::{Sidecar, Worker};
use super::tls::{Demand, Secured, Spoken};
use super::websocket::{self, Farewell, Handshake, Open};
use super::{Counts, metadata, target};
use crate::auth::active::Active;
use crate::auth::enforce::{Admission, Ask, Door};
use crate::auth::verify::LastVerdict;
use crate::config::InboundDefault;
use crate::drain::Drain;
use crate::own::Own;
use crate::record::{Direction, Outcome};
use crate::rejection::Refusal;

/// An application of one worker's, and the open connections to it.
#[derive(Debug)]
pub struct Application {
    /// Where it is. Policies select its port.
    pub target: SocketAddr,
    http1: Arc<Upstream>,
    http2: Arc<Upstream>,
}

/// One connection of a caller.
pub(super) struct Caller {
    pub(super) worker: Arc<Worker>,
    pub(super) application: Arc<Application>,
    pub(super) address: SocketAddr,
    /// None: plain text.
    pub(super) tls: Option<Secured>,
    /// Was it opened before there was any policy, which could have demanded TLS of it?
    pub(super) is_early: bool,
    pub(super) last: LastVerdict,
    /// Held by what outlives the connection as HTTP.
    pub(super) drain: Drain,
}

// === impl Application ===

impl Application {
    pub fn new(target: SocketAddr, sidecar: &Sidecar) -> Arc<Self> {
        let upstream = |version| {
            let dial = Dial { address: Address::Socket(target), tls: None, version };
            Upstream::new(Direction::Inbound, dial, sidecar.connector.clone(), Own::default())
        };
        Arc::new(Self { target, http1: upstream(Version::Http1), http2: upstream(Version::Http2) })
    }

    /// Closes connections that have been idle for long. Is anything of it left?
    pub(super) fn sweep(&self) -> bool {
        let (http1, http2) = (self.http1.sweep(), self.http2.sweep());
        http1 || http2
    }

    /// The application is spoken to as the caller speaks: gRPC needs HTTP/2, and most else has only HTTP/1.1.
    fn for_version(&self, version: HttpVersion) -> &Arc<Upstream> {
        if version == HttpVersion::HTTP_2 { &self.http2 } else { &self.http1 }
    }
}

/// Serves one connection of a caller.
pub async fn serve(
    worker: Arc<Worker>,
    application: Arc<Application>,
    stream: TcpStream,
    address: SocketAddr,
    drain: Drain,
) {
    let _connected = worker.connected(Direction::Inbound);
    let counts = worker.counts(Direction::Inbound);
    let spoken = Spoken::on(&worker.sidecar, application.target.port());
    let is_early = matches!(spoken, Spoken::Unknown);
    let (last, drain_of) = (LastVerdict::default(), drain.clone());
    let caller = Caller { worker, application, address, tls: None, is_early, last, drain: drain_of };
    match spoken {
        Spoken::Unknown | Spoken::Plain => {
            let caller = Arc::new(caller);
            let handling = caller.clone();
            let handle = move |request| handling.clone().handle(request);
            caller.unread(super::serve(stream, drain, counts, handle).await);
        }
        // In a box of its own, so that a connection in plain text is none the larger for it.
        Spoken::Tls(demand) => Box::pin(serve_tls(caller, demand, stream, drain, counts)).await,
    }
}

async fn serve_tls(mut caller: Caller, demand: Demand, stream: TcpStream, drain: Drain, counts: Counts) {
    let met = demand.meet(stream, drain.clone(), &caller.worker.sidecar.metrics).await;
    let Some((stream, secured)) = met else { return };
    caller.tls = Some(secured);
    let caller = Arc::new(caller);
    let handling = caller.clone();
    let handle = move |request| handling.clone().handle(request);
    caller.unread(super::serve_tls(stream, drain, counts, handle).await);
}

// === impl Caller ===

impl Caller {
    /// What came last may have been no request at all.
    fn unread(&self, reason: Option<Reason>) {
        seen::unread(Direction::Inbound, self.address.ip(), reason, &self.worker.sidecar.recorder);
    }

    /// One request, from its head to the head of its answer.
    async fn handle(self: Arc<Self>, request: Request<Arriving>) -> Response<Body> {
        let (mut head, body) = request.into_parts();
        websocket::as_get(&mut head);
        let recorder = &self.worker.sidecar.recorder;
        let policy = self.worker.sidecar.policy.load();
        let active = policy.as_ref().as_ref();
        let mut seen = Seen::new(Direction::Inbound, self.address.ip(), &head, Outcome::Allow);
        seen.awaits_continue = body.awaits_continue(&head.headers);
        let mut response = match super::guarded(self.pass(head, body, active, &mut seen)).await {
            Ok(response) => {
                seen.passed(recorder, &response);
                response
            }
            Err(refusal) => seen.refused(&refusal, recorder),
        };
        // Policy demands other TLS now than when it was opened: this answer is its last.
        let is_stale = response.status() != StatusCode::SWITCHING_PROTOCOLS && !self.is_current(active);
        if is_stale || seen.is_last(&response) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The story itself, in the order of time.
    async fn pass(
        self: &Arc<Self>,
        mut head: Parts,
        mut incoming: Arriving,
        active: Option<&Active>,
        seen: &mut Seen,
    ) -> Result<Response<Body>, Refusal> {
        // Framing, host and path are in order, or nothing is judged.
        let scheme = if self.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let target = target::inspect(&head, &scheme)?;
        if head.version == HttpVersion::HTTP_2 {
            headers::join_cookies(&mut head.headers);
        }
        // Before anything of ours is added, which the caller's `Connection` could name and so remove (security IN-17).
        let websocket = websocket::asked(&mut head, &incoming)?;
        // What the caller says of itself in our words is neither judged nor forwarded.
        let port = active.and_then(|active| active.snapshot.inbound(self.application.target.port()));
        self.strip(&mut head.headers, port.map_or(&[][..], |port| &port.identity_headers))?;
        if let Some(handshake) = &websocket {
            seen.asks_websocket = true;
            handshake.write(&mut head.headers);
        }
        // Not before: what cannot be told from the next request ends its connection, whatever there is to do (security IN-15).
        let _under_way = self.worker.begin()?;
        let uri = head.uri.clone();
        let path = match port {
            Some(port) => port.path(uri.path()),
            None => CanonicalPath::parse(uri.path()),
        };
        let path = path.ok_or(Reason::AmbiguousPath)?;
        let active = active.ok_or(Reason::PolicyUnavailable)?;
        if port.is_some_and(|port| port.protocol != PortProtocol::Http) {
            // Its rules are about connections, and say of no request that it may pass.
            return Err(Reason::NoRule.into());
        }
        if self.is_early && !self.is_current(Some(active)) {
            // There was never a policy that allowed plain text here, so there is no last answer under it.
            return Err(Reason::PolicyUnavailable.into());
        }

        // Who is it, and may it?
        let ask = Ask {
            method: head.method.as_str(),
            path: &path,
            query: uri.query(),
            host: &target.host,
            port: target.port,
            grpc: seen.is_grpc(),
            headers: &head.headers,
            source: self.address.ip(),
            scheme: scheme.as_str(),
            peer: self.peer(),
        };
        let kept;
        let (identity, timeouts) = match port {
            Some(port) => {
                let door = self.door(port, active);
                if let Some(described) = door.described(&ask) {
                    if websocket.as_ref().is_some_and(Handshake::is_extended) {
                        return Err(Reason::UnsupportedProtocol.into());
                    }
                    return described.map(metadata::answer);
                }
                let admission = door.admit(ask).await?;
                note(seen, &admission);
                kept = Kept::of(&head.headers, port.reads_headers);
                show(&mut head.headers, &admission, self.peer(), active);
                (port.identity_headers.as_slice(), port.timeouts)
            }
            None => {
                self.unselected(seen)?;
                kept = Kept::of(&head.headers, false);
                (&[][..], Timeouts::default())
            }
        };

        let deadline = Deadline::of(timeouts.total, seen.is_grpc());

        // What the application sees is what was judged.
        let admitted = Admitted::new(self, seen, kept);
        let awaited = seen.goes_on(&self.worker.sidecar.recorder, &mut incoming);
        let outgoing = Outgoing {
            awaited: &awaited,
            token: None,
            websocket: websocket.as_ref(),
            target: canonical_target(&uri, &path)?,
            authority: target.authority,
            incoming,
            caller: Some(Stripped { identity, underscores: self.worker.sidecar.header_underscores }),
            head,
            admitted: Some(&admitted),
        };
        let upstream = match websocket {
            Some(_) => &self.application.http1,
            None => self.application.for_version(seen.version),
        };
        let answer = deadline.meet(pin!(forward(outgoing, upstream, timeouts, deadline))).await;
        awaited.over();
        let mut response = answer?;
        if let Some(handshake) = websocket.filter(|handshake| handshake.is_done(&response)) {
            let rests_on = admitted.grant();
            let over = async move { Farewell::from(rests_on.ended().await) };
            handshake.begin(&mut response, self.open(timeouts), over);
        }
        Ok(response)
    }

    fn open(&self, timeouts: Timeouts) -> Open {
        Open {
            connected: self.worker.tunnels(Direction::Inbound),
            drain: self.drain.clone(),
            idle: timeouts.idle,
        }
    }

    /// Many an application takes `X_A` for `X-A`, and so one field for another that was judged or set by us (security IN-18).
    fn strip(&self, headers: &mut HeaderMap, identity: &[String]) -> Result<(), Reason> {
        let Sidecar { header_underscores, metrics, .. } = self.worker.sidecar.as_ref();
        let dropped = headers::as_judged(headers, *header_underscores, identity)?;
        if dropped > 0 {
            metrics.underscore_headers_dropped.inc_by(dropped);
        }
        Ok(())
    }

    /// Whose certificate the connection came with.
    pub(super) fn peer(&self) -> Option<&Peer> {
        self.tls.as_ref()?.peer.as_deref()
    }

    /// Is the connection still what policy demands of new ones?
    pub(super) fn is_current(&self, active: Option<&Active>) -> bool {
        Secured::is_current(self.tls.as_ref(), active, self.application.target.port())
    }

    pub(super) fn door<'a>(&'a self, port: &'a PortPolicy, active: &'a Active) -> Door<'a> {
        let Sidecar { verifier, explainer, .. } = self.worker.sidecar.as_ref();
        Door { port, active, verifier, last: &self.last, explainer }
    }

    /// A port that no policy selects (semantics 7).
    fn unselected(&self, seen: &mut Seen) -> Result<(), Refusal> {
        match self.worker.sidecar.inbound_default {
            InboundDefault::Deny => return Err(Reason::NoRule.into()),
            InboundDefault::Audit => {
                seen.outcome = Outcome::Audit;
                seen.would_refuse = Some(Reason::NoRule);
            }
            InboundDefault::Pass => {}
        }
        Ok(())
    }
}

fn note(seen: &mut Seen, admission: &Admission) {
    seen.token.clone_from(&admission.token);
    seen.would_refuse = admission.would_refuse;
    if admission.would_refuse.is_some() {
        seen.outcome = Outcome::Audit;
    }
}

/// Sets what the policy that allowed shows to the application: our word on who it is, and nobody else's.
fn show(headers: &mut HeaderMap, admission: &Admission, peer: Option<&Peer>, active: &Active) {
    let Some(rule) = admission.rule else { return };
    let forward = active.snapshot.forward(rule);
    let peer = peer.filter(|_| !admission.anonymous);
    headers::set_identity(headers, forward.claims, admission.token.as_deref(), peer);
    match admission.token.as_deref() {
        _ if forward.strip_token => headers::strip_credential(headers),
        None => headers::strip_unverified(headers),
        Some(token) => headers::strip_stray_proof(headers, &token.binding),
    }
}

/// The canonical path with the query as it came.
fn canonical_target(uri: &Uri, path: &CanonicalPath<'_>) -> Result<PathAndQuery, Reason> {
    match uri.path_and_query() {
        Some(target) if target.path() == path.as_str() => Ok(target.clone()),
        _ => {
            let target = match uri.query() {
                Some(query) => format!("{}?{query}", path.as_str()),
                None => path.as_str().to_owned(),
            };
            PathAndQuery::try_from(target).map_err(|_| Reason::BadRequest)
        }
    }
}
