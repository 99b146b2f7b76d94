//! The outbound story of a redirected connection: the application opens it, rules for its destination and what it says first
//! decide whether it is ours to look into, and it passes, is served, or is refused.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use countersign_policy::Reason;
use tokio::net::TcpStream;

use super::said::Said;
use super::verdict::{Bypass, Verdict, verdict};
use super::{Passing, Redirect, Redirected, inbound};
use crate::auth::active::Active;
use crate::drain::Drain;
use crate::http;
use crate::http::sidecar::Worker;
use crate::record::{Direction, Outcome};
use crate::tcp::{self, Meters};

/// What is known of a connection that a verdict rests on.
#[derive(Debug, Default)]
struct Basis {
    /// The hosts of rules whose address the destination is, or was while the connection lasted: names move, it does not.
    at: Vec<Arc<str>>,
    said: Said,
    /// Whom its TLS is meant for, and whose address the destination is.
    name: Option<String>,
}

/// Takes one connection that the application opened, to wherever. Nobody else may: we would be an open relay that lends out our
/// tokens (security OUT-12).
pub async fn serve(
    redirect: Arc<Redirect>,
    worker: Arc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    drain: Drain,
) {
    let Some(connection) = Redirected::accepted(worker, &stream, peer, drain) else { return };
    if !connection.was_redirected {
        // As to a forward proxy, which looks at the peer itself.
        let Redirected { worker, peer, drain, .. } = connection;
        return http::outbound::serve(worker, stream, peer, drain).await;
    }
    let Redirected { peer, destination, .. } = &connection;
    if redirect.probe.is_look(*destination) {
        return tcp::reset(&stream);
    }
    if redirect.leads_back() {
        // It may be our own, and would come back again and again.
        return connection.refuse(&stream, DIRECTION, &Reason::AmbiguousDestination.into());
    }
    let refusal = match (redirect.local.has(*peer), redirect.local.has(*destination)) {
        (Ok(true), Ok(is_own)) if !destination.ip().is_loopback() => {
            return if is_own {
                // To the workload itself: what would be judged if it came from outside is judged here too. Its place is one
                // of those outbound, so that a flood from outside does not take it.
                inbound::take(&redirect, connection, stream).await
            } else {
                connection.leave(stream).await
            };
        }
        (Ok(_), Ok(_)) => Reason::AmbiguousDestination,
        (Err(reason), _) | (_, Err(reason)) => reason,
    };
    connection.refuse(&stream, DIRECTION, &refusal.into());
}

// === impl Redirected ===

impl Redirected {
    /// The story itself, in the order of time.
    async fn leave(self, near: TcpStream) {
        let live = &self.worker.sidecar.policy;
        let refuse = |reason: Reason| self.refuse(&near, DIRECTION, &reason.into());
        let mut basis = Basis::default();
        let (edition, bypass) = loop {
            // What holds now: listening takes as long as the application does.
            let (edition, policy) = (live.edition(), live.load());
            let Some(active) = policy.as_ref() else { return refuse(Reason::PolicyUnavailable) };
            match self.weigh(active, &mut basis).await {
                Verdict::Listen => {
                    drop(policy);
                    basis.said.listen(&near, self.since, self.drain.clone()).await;
                }
                Verdict::Http => {
                    drop(policy);
                    let Self { worker, peer, destination, drain, .. } = self;
                    return http::outbound::serve_to(worker, near, peer, Some(destination), drain).await;
                }
                Verdict::Pass(bypass) | Verdict::PassAs(_, bypass) => break (edition, bypass),
                Verdict::Refuse(reason) => return refuse(reason),
                Verdict::Silent => return refuse(Reason::BadRequest),
            }
        };
        // Held for as long as bytes pass.
        basis.said.bytes.shrink_to_fit();
        let meters = self.worker.meters(DIRECTION);
        let Bypass { reason, timeouts } = bypass;
        self.worker.sidecar.metrics.outbound_bypassed.with_label_values(&[reason]).inc();
        let passing =
            Passing { direction: DIRECTION, outcome: Outcome::Bypass, would_refuse: None, timeouts };
        tokio::select! {
            biased;
            () = self.pass(near, passing, &meters) => {}
            // What was carrying bytes is dropped, and resets both sides.
            reason = self.until_refused(edition, basis, &meters) => self.end(DIRECTION, reason),
        }
    }

    /// What this policy makes of the connection, after what it has said.
    async fn weigh(&self, active: &Active, basis: &mut Basis) -> Verdict {
        let (address, port) = (self.destination.ip(), self.destination.port());
        let names = &self.worker.sidecar.connector.names;
        let hosts = active.snapshot.outbound_hosts(port).map(|named| named.exact()).unwrap_or_default();
        for host in names.at(address, hosts).await {
            if !basis.at.contains(&host) {
                basis.at.push(host);
            }
        }
        let full_names = |name: &str| names.full_names(name).map(Cow::into_owned).collect::<Vec<_>>();
        let verdict = verdict(&active.snapshot, port, &basis.at, &basis.said, &full_names);
        if let Verdict::PassAs(name, _) = &verdict
            && basis.name.as_ref() != Some(name)
        {
            if !names.agrees(name, address).await {
                return Verdict::Refuse(Reason::AmbiguousDestination);
            }
            basis.name = Some(name.clone());
        }
        verdict
    }

    /// Resolves once policy does not let it pass any more, as bytes that nobody looks into.
    async fn until_refused(&self, mut edition: u64, mut basis: Basis, meters: &Meters) -> Reason {
        let live = &self.worker.sidecar.policy;
        loop {
            live.later_than(edition).await;
            edition = live.edition();
            let policy = live.load();
            let Some(active) = policy.as_ref() else { continue };
            // Nobody listened, but it has passed here.
            if basis.said.bytes.is_empty() {
                basis.said.bytes.extend(meters.first());
            }
            if let Some(reason) = self.weigh(active, &mut basis).await.ends() {
                return reason;
            }
        }
    }
}

const DIRECTION: Direction = Direction::Outbound;
