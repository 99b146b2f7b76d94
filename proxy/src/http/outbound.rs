//! The outbound story: the application sends a request, the rule for its destination says what goes along, and it leaves.

use std::net::SocketAddr;
use std::sync::Arc;

use countersign_policy::Reason;
use countersign_policy::outbound::{Outbound, OutboundRule, OutboundTls, Protocol};
use countersign_policy::snapshot::Timeouts;
use http::header::{CONNECTION, HeaderValue};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Version as HttpVersion};
use tokio::net::TcpStream;

use super::arriving::Arriving;
use super::body::Body;
use super::dial::{Address, CaFile, Client, Dial, Tls, Version};
use super::forward::{Outgoing, forward};
use super::headers;
use super::pool::{Key, Upstream};
use super::seen::Seen;
use super::sidecar::Worker;
use super::target::{self, Target};
use super::websocket::{self, Handshake, Open};
use crate::auth::active::Active;
use crate::auth::attach::{Attached, attach};
use crate::drain::Drain;
use crate::record::{Direction, Outcome};
use crate::rejection::Refusal;
use crate::state::certificate::Certificate;

/// One connection of the application.
struct Application {
    worker: Arc<Worker>,
    address: SocketAddr,
    /// Held by what outlives the connection as HTTP.
    drain: Drain,
}

/// Serves one connection of the application. Nobody else may use the listener, or we would be an open relay that lends
/// out our tokens (security OUT-12).
pub async fn serve(worker: Arc<Worker>, stream: TcpStream, address: SocketAddr, drain: Drain) {
    if !address.ip().to_canonical().is_loopback() {
        return tracing::warn!(peer = %address, "a peer that is not local was turned away from the outbound listener");
    }
    let _connected = worker.connected(Direction::Outbound);
    let application = Arc::new(Application { worker, address, drain: drain.clone() });
    super::serve(stream, drain, move |request| {
        let application = application.clone();
        async move { application.handle(request).await }
    })
    .await;
}

// === impl Application ===

impl Application {
    /// One request, from its head to the head of its answer.
    async fn handle(&self, request: Request<Arriving>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let recorder = &self.worker.sidecar.recorder;
        let policy = self.worker.sidecar.policy.load();
        let active = policy.as_ref().as_ref();
        let mut seen = Seen::new(Direction::Outbound, self.address.ip(), &head, Outcome::Bypass);
        let mut response = match super::guarded(self.pass(head, body, active, &mut seen)).await {
            Ok(response) => {
                seen.passed(recorder, &response);
                response
            }
            Err(refusal) => seen.refused(&refusal, recorder),
        };
        // What follows may be meant as frames.
        if seen.asks_websocket && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The story itself, in the order of time.
    async fn pass(
        &self,
        mut head: Parts,
        incoming: Arriving,
        active: Option<&Active>,
        seen: &mut Seen,
    ) -> Result<Response<Body>, Refusal> {
        let _under_way = self.worker.begin()?;
        let target = target::inspect(&head, &Scheme::HTTP)?;
        target::plain(&head)?;
        let websocket = websocket::asked(&mut head, &incoming)?;
        seen.asks_websocket = websocket.is_some();
        headers::strip_hop_by_hop(&mut head.headers)?;
        let port = target.port.unwrap_or(80);
        let active = active.ok_or(Reason::PolicyUnavailable)?;

        // Which rule names the destination, and what goes along?
        let rule = match active.snapshot.outbound(&target.host, port) {
            Outbound::Denied => return Err(Reason::EgressDenied.into()),
            Outbound::Pass => None,
            Outbound::Rule(rule) => Some(rule),
        };
        // HTTP/2 has no such upgrade: where the rule says that, the request goes on without it.
        let websocket = websocket.filter(|_| rule.is_none_or(|rule| rule.protocol != Protocol::Http2));
        if websocket.is_some() {
            Handshake::write(&mut head.headers);
        }
        let mut token = None;
        seen.outcome = match rule {
            None => self.bypass("no_rule"),
            Some(rule) => match attach(&mut head.headers, head.uri.query(), rule, active).await? {
                Attached::Token(attachment) => {
                    token = Some(attachment);
                    Outcome::Attach
                }
                Attached::Existing => Outcome::Keep,
                Attached::Nothing => self.bypass("no_token"),
                Attached::Failed => self.bypass("token_unavailable"),
            },
        };

        // It leaves for the destination that the rule was chosen by, and for no other.
        let certificate = token.as_ref().and_then(|attachment| attachment.shown.certificate().cloned());
        let version = match websocket {
            Some(_) => Version::Http1,
            None => version(rule, seen.version),
        };
        let upstream = self.upstream(&target, port, rule, certificate, version)?;
        let outgoing = Outgoing {
            target: head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")),
            authority: target.authority,
            incoming,
            caller: None,
            token,
            websocket: websocket.as_ref(),
            head,
            admitted: None,
        };
        let timeouts = rule.map_or_else(Timeouts::default, |rule| rule.timeouts);
        let mut response = forward(outgoing, &upstream, timeouts).await?;
        if let Some(handshake) = websocket.filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS) {
            let (connected, drain) = (self.worker.tunnels(Direction::Outbound), self.drain.clone());
            let open = Open { connected, drain, idle: timeouts.idle };
            // What may be said there is the destination's to decide.
            handshake.begin(&mut response, open, std::future::pending());
        }
        Ok(response)
    }

    fn bypass(&self, reason: &'static str) -> Outcome {
        self.worker.sidecar.metrics.outbound_bypassed.with_label_values(&[reason]).inc();
        Outcome::Bypass
    }

    /// The open connections to the destination, shared by requests that fit the same ones.
    fn upstream(
        &self,
        target: &Target,
        port: u16,
        rule: Option<&OutboundRule>,
        certificate: Option<Arc<Certificate>>,
        version: Version,
    ) -> Result<Arc<Upstream>, Reason> {
        let key = Key {
            host: target.host.clone(),
            port,
            version,
            transport: rule.map_or([0; 32], |rule| rule.transport),
            certificate: certificate.as_ref().map(|certificate| certificate.thumbprint),
        };
        self.worker.pools.upstream(key, || {
            let dial = self.dial(&target.host, port, rule, certificate, version)?;
            let sidecar = &self.worker.sidecar;
            Ok(Upstream::new(dial, sidecar.connector.clone(), sidecar.outbound))
        })
    }

    fn dial(
        &self,
        host: &str,
        port: u16,
        rule: Option<&OutboundRule>,
        bound: Option<Arc<Certificate>>,
        version: Version,
    ) -> Result<Dial, Reason> {
        let plain = |port| Address::Name { host: host.to_owned(), port };
        let Some(OutboundTls::Originate { port: named, server_name, ca_file, client }) =
            rule.map(|rule| &rule.tls)
        else {
            return Ok(Dial { address: plain(port), tls: None, version });
        };
        let sidecar = &self.worker.sidecar;
        let ca = match ca_file {
            Some(file) => Some(CaFile::read(file, &sidecar.files).map_err(|error| {
                tracing::warn!(%error, "a caFile cannot be read; correct originate.caFile in the rule");
                Reason::UpstreamUnreachable
            })?),
            None => None,
        };
        let client = match (bound, client) {
            (Some(certificate), _) => Some(Client::Bound(certificate)),
            (None, Some(named)) => Some(Client::read(named, &sidecar.files).map_err(|error| {
                tracing::warn!(%error, "a client certificate cannot be used; correct originate.certFile and keyFile");
                Reason::UpstreamUnreachable
            })?),
            (None, None) => None,
        };
        let config = sidecar.connector.tls_config(
            ca.as_ref().map(|ca| ca.pem.as_slice()),
            client.as_ref().map(Client::resolver),
            version.alpn(),
        );
        let config = config.map_err(|error| {
            tracing::warn!(%error, "TLS cannot be originated");
            Reason::UpstreamUnreachable
        })?;
        let server_name = server_name.clone().unwrap_or_else(|| host.to_owned());
        let port = named.unwrap_or(if port == 80 { 443 } else { port });
        Ok(Dial { address: plain(port), tls: Some(Tls { config, server_name, ca, client }), version })
    }
}

/// What to speak: what the rule says, else what ALPN says over TLS, else what the application speaks.
fn version(rule: Option<&OutboundRule>, spoken: HttpVersion) -> Version {
    match rule.map_or((Protocol::Auto, false), |rule| (rule.protocol, rule.tls != OutboundTls::None)) {
        (Protocol::Http1, _) => Version::Http1,
        (Protocol::Http2, _) => Version::Http2,
        (Protocol::Auto, true) => Version::Negotiated,
        (Protocol::Auto, false) if spoken == HttpVersion::HTTP_2 => Version::Http2,
        (Protocol::Auto, false) => Version::Http1,
    }
}
