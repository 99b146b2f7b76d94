//! What do both stories work with? The parts that all connections share, and those that belong to one worker.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use countersign_policy::Reason;

use super::pool::{Pools, Upstream};
use crate::auth::active::Active;
use crate::auth::verify::Verifier;
use crate::config::InboundDefault;
use crate::connect::Connector;
use crate::drain::Drain;
use crate::metrics::Metrics;
use crate::record::Recorder;
use crate::state::files::PolicyFiles;
use crate::state::live::Live;

/// Shared by all workers.
#[derive(Debug)]
pub struct Sidecar {
    /// What is in force; `None` before the first policy.
    pub policy: Live<Option<Active>>,
    pub verifier: Verifier,
    pub recorder: Recorder,
    pub metrics: Arc<Metrics>,
    pub connector: Connector,
    pub files: PolicyFiles,
    pub inbound_default: InboundDefault,
    /// The outbound listener, which is never a destination.
    pub outbound: Option<SocketAddr>,
}

/// One worker: a thread with its own listeners and upstream connections.
#[derive(Debug)]
pub struct Worker {
    pub(super) sidecar: Arc<Sidecar>,
    pub(super) pools: Pools,
    pub(super) drain: Drain,
    /// Requests under way.
    load: AtomicUsize,
}

/// Counts a request as under way until it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay<'a>(&'a AtomicUsize);

// === impl Worker ===

impl Worker {
    pub fn new(sidecar: Arc<Sidecar>, drain: Drain) -> Arc<Self> {
        Arc::new(Self { sidecar, pools: Pools::default(), drain, load: AtomicUsize::new(0) })
    }

    /// Closes idle upstream connections from time to time; runs as long as the worker.
    pub async fn sweep(self: Arc<Self>, inbound: Vec<Arc<Upstream>>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.pools.sweep();
            inbound.iter().for_each(|upstream| upstream.sweep());
        }
    }

    /// Admits a request to the worker, or sheds it: better one refusal than all requests late.
    pub(super) fn begin(&self) -> Result<UnderWay<'_>, Reason> {
        let under_way = UnderWay(&self.load);
        if self.load.fetch_add(1, Ordering::Relaxed) >= MAX_UNDER_WAY { Err(Reason::Overloaded) } else { Ok(under_way) }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Requests that one worker has under way before it sheds.
const MAX_UNDER_WAY: usize = 10_000;
const SWEEP: Duration = Duration::from_secs(10);
