//! The outbound story: the application sends a request, the rule for its destination says what goes along, and it leaves.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use countersign_policy::Reason;
use countersign_policy::outbound::{Carries, Outbound, OutboundRule, OutboundTls, Protocol};
use countersign_policy::snapshot::Timeouts;
use http::header::{CONNECTION, HeaderValue};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Request, Response, Version as HttpVersion};
use tokio::net::TcpStream;

use super::arriving::Arriving;
use super::body::Body;
use super::deadline::Deadline;
use super::dial::{Address, CaFile, Client, Dial, Tls, Version};
use super::forward::{Outgoing, forward};
use super::pool::{Key, Upstream};
use super::seen::{self, Seen};
use super::sidecar::Worker;
use super::target::{self, Target};
use super::websocket::{self, Handshake, Open};
use super::{destination, headers, passthrough};
use crate::auth::active::Active;
use crate::auth::attach::{Attached, attach};
use crate::clock::Clock;
use crate::drain::Drain;
use crate::limit::Limit;
use crate::record::{Direction, Outcome};
use crate::rejection::{Cause, Refusal};
use crate::state::certificate::Certificate;

/// Lines about strangers, who may be many.
static TURNED_AWAY: Limit = Limit::of_lines();

/// One connection of the application.
struct Application {
    worker: Arc<Worker>,
    address: SocketAddr,
    /// Where the connection was going, if it was redirected to us: none of its requests goes in plain text to any other place.
    destination: Option<SocketAddr>,
    /// Held by what outlives the connection as HTTP.
    drain: Drain,
}

/// Serves one connection that the application opened to us, as to a forward proxy. Nobody else may use the listener, or we
/// would be an open relay that lends out our tokens (security OUT-12).
pub async fn serve(worker: Arc<Worker>, stream: TcpStream, address: SocketAddr, drain: Drain) {
    if !address.ip().to_canonical().is_loopback() {
        if let Some(unlogged) = TURNED_AWAY.admit(Clock::default().now()) {
            tracing::warn!(peer = %address, unlogged, "a peer that is not local was turned away from the outbound listener");
        }
        return;
    }
    serve_to(worker, stream, address, None, drain).await;
}

/// The same for one that it opened to this destination, and that was redirected to us.
pub async fn serve_to(
    worker: Arc<Worker>,
    stream: TcpStream,
    address: SocketAddr,
    destination: Option<SocketAddr>,
    drain: Drain,
) {
    let _connected = worker.connected(Direction::Outbound);
    let counts = worker.counts(Direction::Outbound);
    let application = Arc::new(Application { worker, address, destination, drain: drain.clone() });
    let handling = application.clone();
    let handle = move |request| {
        let application = handling.clone();
        async move { application.handle(request).await }
    };
    let unread = super::serve(stream, drain, counts, handle).await;
    seen::unread(Direction::Outbound, address.ip(), unread, &application.worker.sidecar.recorder);
}

// === impl Application ===

impl Application {
    /// One request, from its head to the head of its answer.
    async fn handle(&self, request: Request<Arriving>) -> Response<Body> {
        let (mut head, body) = request.into_parts();
        websocket::as_get(&mut head);
        let recorder = &self.worker.sidecar.recorder;
        let policy = self.worker.sidecar.policy.load();
        let active = policy.as_ref().as_ref();
        let mut seen = Seen::new(Direction::Outbound, self.address.ip(), &head, Outcome::Bypass);
        seen.awaits_continue = body.awaits_continue(&head.headers);
        let mut response = match super::guarded(self.take(head, body, active, &mut seen)).await {
            Ok(response) => {
                seen.passed(recorder, &response);
                response
            }
            Err(refusal) => seen.refused(&refusal, recorder),
        };
        if seen.is_last(&response) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// One of two stories: a tunnel is asked for, or anything else.
    async fn take(
        &self,
        head: Parts,
        incoming: Arriving,
        active: Option<&Active>,
        seen: &mut Seen,
    ) -> Result<Response<Body>, Refusal> {
        // A tunnel is asked of a forward proxy: redirected, the application believes to speak to its destination.
        if head.method == Method::CONNECT && self.destination.is_none() {
            // In a box of its own, so that a request is none the larger for it.
            let opened = passthrough::open(&self.worker, self.drain.clone(), head, active, seen);
            return Box::pin(opened).await;
        }
        self.pass(head, incoming, active, seen).await
    }

    /// The story itself, in the order of time.
    async fn pass(
        &self,
        mut head: Parts,
        mut incoming: Arriving,
        active: Option<&Active>,
        seen: &mut Seen,
    ) -> Result<Response<Body>, Refusal> {
        let target = target::inspect(&head, &Scheme::HTTP)?;
        target::plain(&head)?;
        if head.version == HttpVersion::HTTP_2 {
            headers::join_cookies(&mut head.headers);
        }
        let websocket = websocket::asked(&mut head, &incoming)?;
        seen.asks_websocket = websocket.is_some();
        headers::strip_hop_by_hop(&mut head.headers)?;
        // Not before: what cannot be told from the next request ends its connection, whatever there is to do (security IN-15).
        let _under_way = self.worker.begin()?;
        let port =
            self.destination.map_or_else(|| target.port.unwrap_or(80), |destination| destination.port());
        let active = active.ok_or(Reason::PolicyUnavailable)?;

        // Which rule names the destination, and what goes along?
        let is_complete = target.authority.host().ends_with('.');
        let names = &self.worker.sidecar.connector.names;
        let (host, named) = destination::named(active, names, &target.host, is_complete, port).await;
        let rule = match named {
            Outbound::Denied => return Err(Reason::EgressDenied.into()),
            Outbound::Pass => None,
            Outbound::Rule(rule) => Some(rule),
        };
        // What the rule lets pass there is not HTTP.
        if rule.is_some_and(|rule| rule.carries() != Carries::Http) {
            return Err(Reason::AmbiguousDestination.into());
        }
        if let Some(destination) = self.destination
            && !self.agree(&target, &host, rule, destination, active)?
            // Asked for, and boxed, only where it is not known.
            && !Box::pin(names.agrees(&host, destination.ip())).await
        {
            return Err(Reason::AmbiguousDestination.into());
        }
        // A destination of HTTP/2 is not asked for it: where the rule says that, the request goes on without it, if it can.
        let is_http2 = rule.is_some_and(|rule| rule.protocol == Protocol::Http2);
        if is_http2 && websocket.as_ref().is_some_and(Handshake::is_extended) {
            return Err(Reason::UnsupportedProtocol.into());
        }
        let websocket = websocket.filter(|_| !is_http2);
        if let Some(handshake) = &websocket {
            handshake.write(&mut head.headers);
        }
        let timeouts = rule.map_or_else(Timeouts::default, |rule| rule.timeouts);
        let deadline = Deadline::of(timeouts.total, seen.is_grpc());
        let mut token = None;
        seen.outcome = match rule {
            None => self.bypass("no_rule"),
            Some(rule) => {
                match deadline.meet(pin!(attach(&mut head.headers, head.uri.query(), rule, active))).await? {
                    Attached::Token(attachment) => {
                        token = Some(attachment);
                        Outcome::Attach
                    }
                    Attached::Existing => Outcome::Keep,
                    Attached::Nothing => self.bypass("no_token"),
                    Attached::Failed => self.bypass("token_unavailable"),
                }
            }
        };

        // It leaves for the destination that the rule was chosen by, and for no other.
        let certificate = token.as_ref().and_then(|attachment| attachment.shown.certificate().cloned());
        let version = match websocket {
            Some(_) => Version::Http1,
            None => version(rule, seen.version),
        };
        let upstream = self.upstream(&host, port, rule, certificate, version)?;
        let awaited = seen.goes_on(&self.worker.sidecar.recorder, &mut incoming);
        let outgoing = Outgoing {
            awaited: &awaited,
            target: head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")),
            authority: target.authority,
            incoming,
            caller: None,
            token,
            websocket: websocket.as_ref(),
            head,
            admitted: None,
        };
        let answer = deadline.meet(pin!(forward(outgoing, &upstream, timeouts, deadline))).await;
        awaited.over();
        let mut response = answer?;
        if let Some(handshake) = websocket.filter(|handshake| handshake.is_done(&response)) {
            let (connected, drain) = (self.worker.tunnels(Direction::Outbound), self.drain.clone());
            let open = Open { connected, drain, idle: timeouts.idle };
            // What may be said there is the destination's to decide.
            handshake.begin(&mut response, open, std::future::pending());
        }
        Ok(response)
    }

    /// The connection was going to one place, and each of its requests names a host. Do they and the rule agree, so that a token
    /// may go there (security OUT-1)? `Ok(false)`: not as far as we know.
    fn agree(
        &self,
        target: &Target,
        host: &str,
        rule: Option<&OutboundRule>,
        destination: SocketAddr,
        active: &Active,
    ) -> Result<bool, Reason> {
        if let Some(port) = target.port.filter(|port| *port != destination.port()) {
            // It says that it was meant for another port: nobody's business, unless a rule could be meant.
            let named = active.snapshot.outbound(&target.host, port);
            return match (rule, named) {
                (None, Outbound::Pass | Outbound::Denied) => Ok(true),
                _ => Err(Reason::AmbiguousDestination),
            };
        }
        // Where TLS proves that we came to the right place, it is one that we looked up ourselves.
        Ok(rule.is_none()
            || originates(rule)
            || self.worker.sidecar.connector.names.knows(host, destination.ip()))
    }

    fn bypass(&self, reason: &'static str) -> Outcome {
        self.worker.sidecar.metrics.outbound_bypassed.with_label_values(&[reason]).inc();
        Outcome::Bypass
    }

    /// The open connections to the destination, shared by requests that fit the same ones.
    fn upstream(
        &self,
        host: &str,
        port: u16,
        rule: Option<&OutboundRule>,
        certificate: Option<Arc<Certificate>>,
        version: Version,
    ) -> Result<Arc<Upstream>, Cause> {
        let key = Key {
            host: host.to_owned(),
            port,
            version,
            transport: rule.map_or([0; 32], |rule| rule.transport),
            certificate: certificate.as_ref().map(|certificate| certificate.thumbprint),
            destination: self.destination.filter(|_| !originates(rule)),
        };
        self.worker.pools.upstream(key, || {
            let dial = self.dial(host, port, rule, certificate, version)?;
            let sidecar = &self.worker.sidecar;
            Ok(Upstream::new(Direction::Outbound, dial, sidecar.connector.clone(), sidecar.own.clone()))
        })
    }

    fn dial(
        &self,
        host: &str,
        port: u16,
        rule: Option<&OutboundRule>,
        bound: Option<Arc<Certificate>>,
        version: Version,
    ) -> Result<Dial, Cause> {
        let name = |port| Address::Name { host: host.to_owned(), port };
        let Some(OutboundTls::Originate { port: named, server_name, ca_file, client }) =
            rule.map(|rule| &rule.tls)
        else {
            let address = self.destination.map_or_else(|| name(port), Address::Socket);
            return Ok(Dial { address, tls: None, version });
        };
        let sidecar = &self.worker.sidecar;
        let ca = match ca_file {
            Some(file) => {
                let pem = sidecar.last_good.ca(file).map_err(|error| {
                    tracing::warn!(%error, "a caFile cannot be used; correct originate.caFile in the rule");
                    Cause::ProxyConfigurationError
                })?;
                Some(CaFile { file: file.clone(), pem })
            }
            None => None,
        };
        let client = match (bound, client) {
            (Some(certificate), _) => Some(Client::Bound(certificate)),
            (None, Some(named)) => {
                let certificate = sidecar.last_good.pair(named).map_err(|error| {
                    tracing::warn!(%error, "a client certificate cannot be used; correct originate.certFile and keyFile");
                    Cause::ProxyConfigurationError
                })?;
                Some(Client::Files { named: named.clone(), certificate })
            }
            (None, None) => None,
        };
        let config = sidecar.connector.tls_config(
            ca.as_ref().map(|ca| ca.pem.as_slice()),
            client.as_ref().map(Client::resolver),
            version.alpn(),
        );
        let config = config.map_err(|error| {
            tracing::warn!(%error, "TLS cannot be originated");
            Cause::ProxyConfigurationError
        })?;
        // Certificates name hosts without the dot that says that a name is complete (RFC 6066 §3).
        let server_name =
            server_name.clone().unwrap_or_else(|| host.strip_suffix('.').unwrap_or(host).to_owned());
        let port = named.unwrap_or(if port == 80 { 443 } else { port });
        Ok(Dial { address: name(port), tls: Some(Tls { config, server_name, ca, client }), version })
    }
}

/// Is it TLS that proves who answers, wherever that is?
fn originates(rule: Option<&OutboundRule>) -> bool {
    matches!(rule.map(|rule| &rule.tls), Some(OutboundTls::Originate { .. }))
}

/// What to speak: what the rule says, else what ALPN says over TLS, else what the application speaks.
fn version(rule: Option<&OutboundRule>, spoken: HttpVersion) -> Version {
    match rule.map_or((Protocol::Auto, false), |rule| (rule.protocol, rule.tls != OutboundTls::None)) {
        (Protocol::Http1, _) => Version::Http1,
        (Protocol::Http2, _) => Version::Http2,
        (Protocol::Auto, true) => Version::Negotiated,
        (Protocol::Auto, false) if spoken == HttpVersion::HTTP_2 => Version::Http2,
        // Bytes were refused before.
        (Protocol::Auto | Protocol::Tcp, _) => Version::Http1,
    }
}
