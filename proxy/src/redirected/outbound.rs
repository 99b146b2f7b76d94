//! The outbound story of a redirected connection: the application opens it, rules for its destination and what it says first
//! decide whether it is ours to look into, and it passes, is served, or is refused.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use countersign_policy::Reason;
use tokio::net::TcpStream;

use super::said::Said;
use super::verdict::{Verdict, verdict};
use super::{Passing, Redirect, Redirected, inbound, original_destination, plain};
use crate::drain::Drain;
use crate::http;
use crate::http::sidecar::Worker;
use crate::record::{Direction, Outcome};

/// Takes one connection that the application opened, to wherever. Nobody else may: we would be an open relay that lends out our
/// tokens (security OUT-12).
pub async fn serve(
    redirect: Arc<Redirect>,
    worker: Arc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    drain: Drain,
) {
    let peer = plain(peer);
    let destination = match original_destination(&stream) {
        Ok(Some(destination)) => destination,
        // It was opened to us, as to a forward proxy, which looks at the peer itself.
        Ok(None) => return http::outbound::serve(worker, stream, peer, drain).await,
        Err(error) => return tracing::debug!(%error, "a connection ended before it began"),
    };
    let connection = Redirected { worker, peer, destination, since: Instant::now(), drain };
    if !redirect.local.has(peer) || destination.ip().is_loopback() {
        return connection.refuse(&stream, Direction::Outbound, &Reason::AmbiguousDestination.into());
    }
    if redirect.local.has(destination) {
        // To the workload itself: what would be judged if it came from outside is judged here too.
        return inbound::take(&redirect, connection, stream).await;
    }
    connection.leave(stream).await;
}

// === impl Redirected ===

impl Redirected {
    /// The story itself, in the order of time.
    async fn leave(self, near: TcpStream) {
        let (address, port) = (self.destination.ip(), self.destination.port());
        let names = &self.worker.sidecar.connector.names;
        let full_names = |name: &str| names.full_names(name).map(Cow::into_owned).collect::<Vec<_>>();
        let refuse = |reason: Reason| self.refuse(&near, Direction::Outbound, &reason.into());
        let mut said = Said::nothing();
        let bypass = loop {
            // What holds now: listening takes as long as the application does.
            let policy = self.worker.sidecar.policy.load();
            let Some(active) = policy.as_ref() else { return refuse(Reason::PolicyUnavailable) };
            let hosts = active.snapshot.outbound_hosts(port).map(|named| named.exact()).unwrap_or_default();
            let at = names.at(address, hosts).await;
            match verdict(&active.snapshot, port, &at, &said, &full_names) {
                Verdict::Listen => {
                    drop(policy);
                    said.listen(&near, self.since, self.drain.clone()).await;
                }
                Verdict::Http => {
                    drop(policy);
                    let Self { worker, peer, destination, drain, .. } = self;
                    return http::outbound::serve_to(worker, near, peer, Some(destination), drain).await;
                }
                Verdict::Pass(bypass) => break bypass,
                Verdict::PassAs(name, bypass) if names.agrees(&name, address).await => break bypass,
                Verdict::PassAs(..) => return refuse(Reason::AmbiguousDestination),
                Verdict::Refuse(reason) => return refuse(reason),
                Verdict::Silent => return refuse(Reason::BadRequest),
            }
        };
        self.worker.sidecar.metrics.outbound_bypassed.with_label_values(&[bypass.reason]).inc();
        let (direction, timeouts) = (Direction::Outbound, bypass.timeouts);
        self.pass(near, Passing { direction, outcome: Outcome::Bypass, would_refuse: None, timeouts }).await;
    }
}
