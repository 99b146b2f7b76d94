//! The inbound story of a redirected connection: somebody opens it to the workload, and the policy of the port that it was meant
//! for decides.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use ::http::HeaderMap;
use countersign_policy::inbound::{Decision, PortProtocol};
use countersign_policy::path::CanonicalPath;
use countersign_policy::snapshot::Timeouts;
use countersign_policy::{PortPolicy, Reason};
use tokio::net::TcpStream;

use super::{Passing, Redirect, Redirected, original_destination, plain};
use crate::auth::active::Active;
use crate::auth::enforce::{Ask, Door};
use crate::auth::verify::LastVerdict;
use crate::config::InboundDefault;
use crate::drain::Drain;
use crate::http;
use crate::http::inbound::Application;
use crate::http::sidecar::{Sidecar, Worker};
use crate::http::tls::{Secured, Spoken};
use crate::record::{Direction, Outcome};
use crate::rejection::Refusal;
use crate::tcp::Side;

/// Takes one connection to the workload.
pub async fn serve(
    redirect: Arc<Redirect>,
    worker: Arc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    drain: Drain,
) {
    let destination = original_destination(&stream).and_then(|original| match original {
        Some(destination) => Ok(destination),
        // It was opened to us, and we are no way in.
        None => stream.local_addr().map(plain),
    });
    let Ok(destination) = destination else { return };
    let (peer, since) = (plain(peer), Instant::now());
    take(&redirect, Redirected { worker, peer, destination, since, drain }, stream).await;
}

/// Takes one connection to a listener of `--inbound ADDR=TARGET`. What policy says of the port of TARGET decides: HTTP, where it
/// does not say that it is something else.
pub async fn serve_for(
    application: Arc<Application>,
    worker: Arc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    drain: Drain,
) {
    let policy = worker.sidecar.policy.load();
    let policies =
        policy.as_ref().as_ref().and_then(|active| active.snapshot.inbound(application.target.port()));
    let is_http = policies.is_none_or(|policies| policies.protocol == PortProtocol::Http);
    drop(policy);
    if is_http {
        return http::inbound::serve(worker, application, stream, peer, drain).await;
    }
    let (peer, since) = (plain(peer), Instant::now());
    let connection = Redirected { worker, peer, destination: application.target, since, drain };
    Box::pin(connection.enter(stream)).await;
}

/// The story itself, in the order of time.
pub(super) async fn take(redirect: &Redirect, connection: Redirected, near: TcpStream) {
    let Redirected { worker, destination, .. } = &connection;
    // What is bound to loopback alone is for the workload alone, and so are the pages on our own ports.
    if destination.ip().is_loopback() || !redirect.local.has(*destination) {
        return connection.refuse(&near, DIRECTION, &Reason::AmbiguousDestination.into());
    }
    if let Some(target) = redirect.way_in(*destination) {
        let Redirected { worker, peer, drain, .. } = connection;
        return serve_for(worker.application(target), worker, near, peer, drain).await;
    }
    if redirect.own_ports.contains(&destination.port()) {
        return connection.refuse(&near, DIRECTION, &Reason::AmbiguousDestination.into());
    }
    let policy = worker.sidecar.policy.load();
    let Some(active) = policy.as_ref() else {
        return connection.refuse(&near, DIRECTION, &Reason::PolicyUnavailable.into());
    };
    let policies = active.snapshot.inbound(destination.port());
    if policies.is_some_and(|policies| policies.protocol == PortProtocol::Http) {
        drop(policy);
        let application = worker.application(*destination);
        let Redirected { worker, peer, drain, .. } = connection;
        return http::inbound::serve(worker, application, near, peer, drain).await;
    }
    drop(policy);
    Box::pin(connection.enter(near)).await;
}

// === impl Redirected ===

impl Redirected {
    /// What is not looked into is decided as a whole: who is at the other end of the TLS that we serve, and from where.
    async fn enter(self, near: TcpStream) {
        let sidecar = &self.worker.sidecar;
        match Spoken::on(sidecar, self.destination.port()) {
            Spoken::Unknown | Spoken::Plain => self.judge(near, None).await,
            Spoken::Tls(demand) => {
                let met = demand.meet(near, self.drain.clone(), &sidecar.metrics).await;
                let Some((near, secured)) = met else { return };
                self.judge(near, Some(secured)).await;
            }
        }
    }

    async fn judge<N: Side>(self, near: N, secured: Option<Secured>) {
        let live = &self.worker.sidecar.policy;
        let (edition, policy) = (live.edition(), live.load());
        let active = policy.as_ref().as_ref();
        let passing = match self.admit(active, secured.as_ref()).await {
            Ok(passing) => passing,
            Err(refusal) => return self.refuse(near.tcp(), DIRECTION, &refusal),
        };
        drop(policy);
        tokio::select! {
            biased;
            () = self.pass(near, passing) => {}
            // What was carrying bytes is dropped, and resets both sides.
            reason = self.over(edition, secured.as_ref()) => self.end(reason),
        }
    }

    /// May the connection come in?
    async fn admit(&self, active: Option<&Active>, secured: Option<&Secured>) -> Result<Passing, Refusal> {
        let active = active.ok_or(Reason::PolicyUnavailable)?;
        let Some(port) = self.policies(active, secured)? else {
            return match self.worker.sidecar.inbound_default {
                InboundDefault::Deny => Err(Reason::NoRule.into()),
                InboundDefault::Audit => Ok(Passing::into_workload(Some(Reason::NoRule), super::unnamed())),
                InboundDefault::Pass => Ok(Passing::into_workload(None, super::unnamed())),
            };
        };
        let Sidecar { verifier, explainer, .. } = self.worker.sidecar.as_ref();
        let (path, headers, last) = (CanonicalPath::root(), HeaderMap::new(), LastVerdict::default());
        let ask = Ask {
            method: "",
            path: &path,
            query: None,
            host: "",
            port: None,
            grpc: false,
            headers: &headers,
            source: self.peer.ip(),
            scheme: "",
            peer: secured.and_then(|secured| secured.peer.as_deref()),
        };
        let door = Door { port, active, verifier, last: &last, explainer };
        let admission = door.admit(ask).await?;
        Ok(Passing::into_workload(admission.would_refuse, port.timeouts))
    }

    /// The policies of the port, if there are any. What was taken for bytes passes as nothing else: policy may say by now that
    /// it is HTTP, or other TLS.
    fn policies<'a>(
        &self,
        active: &'a Active,
        secured: Option<&Secured>,
    ) -> Result<Option<&'a PortPolicy>, Reason> {
        let port = active.snapshot.inbound(self.destination.port());
        let is_current = Secured::is_current(secured, Some(active), self.destination.port());
        match port {
            Some(port) if port.protocol == PortProtocol::Http => Err(Reason::NoRule),
            port if is_current => Ok(port),
            _ => Err(Reason::NoRule),
        }
    }

    /// Resolves once policy does not let it in any more.
    async fn over(&self, mut edition: u64, secured: Option<&Secured>) -> Reason {
        let live = &self.worker.sidecar.policy;
        loop {
            live.later_than(edition).await;
            edition = live.edition();
            let policy = live.load();
            let Some(active) = policy.as_ref() else { continue };
            if let Err(reason) = self.holds(active, secured) {
                return reason;
            }
        }
    }

    fn holds(&self, active: &Active, secured: Option<&Secured>) -> Result<(), Reason> {
        let peer = secured.and_then(|secured| secured.peer.as_deref());
        let decided = match self.policies(active, secured)? {
            Some(port) => port.enforce.as_ref().map(|port| port.decide_connection(peer, self.peer.ip())),
            None if self.worker.sidecar.inbound_default == InboundDefault::Deny => {
                return Err(Reason::NoRule);
            }
            None => None,
        };
        match decided {
            Some(Decision::Deny { reason, .. }) => Err(reason),
            Some(Decision::Allow { .. }) | None => Ok(()),
        }
    }

    /// Counted and logged as an open stream that was ended.
    fn end(&self, reason: Reason) {
        let recorder = &self.worker.sidecar.recorder;
        let mut entry = self.entry(DIRECTION, Outcome::of(DIRECTION, reason));
        entry.status = reason.status();
        entry.explain(&reason.into(), recorder.decision_id());
        recorder.ended(reason, entry);
    }
}

// === impl Passing ===

impl Passing {
    fn into_workload(would_refuse: Option<Reason>, timeouts: Timeouts) -> Self {
        let outcome = if would_refuse.is_some() { Outcome::Audit } else { Outcome::Allow };
        Self { direction: DIRECTION, outcome, would_refuse, timeouts }
    }
}

const DIRECTION: Direction = Direction::Inbound;
