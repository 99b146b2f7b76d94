//! What do both stories work with? The parts that all connections share, and those that belong to one worker.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_policy::Reason;
use countersign_policy::headers::Underscores;
use prometheus::IntGauge;

use super::Counts;
use super::grant::Watched;
use super::inbound::Application;
use super::last_good::LastGood;
use super::pool::Pools;
use super::watch::Nursery;
use crate::auth::active::Active;
use crate::auth::explain::Explainer;
use crate::auth::verify::Verifier;
use crate::config::InboundDefault;
use crate::connect::Connector;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::own::Own;
use crate::record::{Direction, Recorder};
use crate::state::files::PolicyFiles;
use crate::state::live::Live;
use crate::tcp::Meters;

/// Shared by all workers.
#[derive(Debug)]
pub struct Sidecar {
    /// What is in force; `None` before the first policy.
    pub policy: Live<Option<Active>>,
    pub verifier: Verifier,
    pub recorder: Recorder,
    pub explainer: Explainer,
    pub metrics: Arc<Metrics>,
    pub connector: Connector,
    pub files: PolicyFiles,
    /// With what TLS is originated.
    pub last_good: LastGood,
    pub inbound_default: InboundDefault,
    pub header_underscores: Underscores,
    /// What is never a destination of the application's.
    pub own: Own,
    pub memory: Memory,
    /// Inbound exchanges that have been open for a while.
    pub watched: Watched,
}

/// One worker: a thread with its own listeners and upstream connections.
#[derive(Debug)]
pub struct Worker {
    pub sidecar: Arc<Sidecar>,
    pub(super) pools: Pools,
    /// By where they are. Belongs to one worker, so its lock is never contended.
    applications: Mutex<HashMap<SocketAddr, Arc<Application>>>,
    /// Requests without an answer.
    load: AtomicUsize,
    /// What takes room on connections of callers, answers that nobody takes too; and how much of it there was when memory was looked at.
    held: Arc<AtomicUsize>,
    looked: AtomicUsize,
    /// Of bytes that are not looked into, inbound and outbound.
    meters: [Meters; 2],
    /// Bodies that flow inbound, until they have been open for a while.
    pub(super) nursery: Nursery,
}

/// An open connection in the metrics.
#[derive(Debug)]
pub struct Connected(IntGauge);

/// Counts a request as under way until it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay<'a>(&'a AtomicUsize);

// === impl Worker ===

impl Worker {
    pub fn new(sidecar: Arc<Sidecar>) -> Arc<Self> {
        let meters = [Direction::Inbound, Direction::Outbound].map(|way| Meters::new(&sidecar.metrics, way));
        Arc::new(Self {
            sidecar,
            meters,
            pools: Pools::default(),
            applications: Mutex::default(),
            load: AtomicUsize::new(0),
            held: Arc::default(),
            looked: AtomicUsize::new(0),
            nursery: Nursery::default(),
        })
    }

    /// The application at this address, with the open connections to it.
    pub fn application(&self, address: SocketAddr) -> Arc<Application> {
        let mut applications = self.applications.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(application) = applications.get(&address) {
            return application.clone();
        }
        let application = Application::new(address, &self.sidecar);
        // Beyond that its connections end with the caller's.
        if applications.len() < MAX_APPLICATIONS {
            applications.insert(address, application.clone());
        }
        application
    }

    /// Closes idle upstream connections from time to time; runs as long as the worker.
    pub async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let Sidecar { policy, last_good, .. } = &*self.sidecar;
            last_good.look(policy.load().as_ref().as_ref().map(|active| &active.snapshot));
            self.pools.sweep(last_good);
            let mut applications = self.applications.lock().unwrap_or_else(PoisonError::into_inner);
            applications.retain(|_, application| application.sweep() || Arc::strong_count(application) > 1);
        }
    }

    /// Has what flows inbound watched once it has been open for a while; runs as long as the worker.
    pub async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SETTLE).await;
            self.nursery.settle();
        }
    }

    /// Counts a connection as open until what is returned is dropped.
    pub(super) fn connected(&self, direction: Direction) -> Connected {
        self.counted(direction, "http")
    }

    /// The same, once it has become WebSocket.
    pub(super) fn tunnels(&self, direction: Direction) -> Connected {
        self.counted(direction, "websocket")
    }

    /// The same, for what is not looked into.
    pub fn carries_bytes(&self, direction: Direction) -> Connected {
        self.counted(direction, "tcp")
    }

    /// What counts those bytes, for one connection.
    pub fn meters(&self, direction: Direction) -> Meters {
        let [inbound, outbound] = &self.meters;
        match direction {
            Direction::Inbound => inbound.clone(),
            Direction::Outbound => outbound.clone(),
        }
    }

    fn counted(&self, direction: Direction, protocol: &str) -> Connected {
        let gauge = self.sidecar.metrics.connections.with_label_values(&[direction.as_str(), protocol]);
        gauge.inc();
        Connected(gauge)
    }

    /// What connections in this direction are counted with.
    pub(super) fn counts(&self, direction: Direction) -> Counts {
        Counts { metrics: self.sidecar.metrics.clone(), direction, held: self.held.clone() }
    }

    /// Admits a request to the worker, or sheds it: better one refusal than all requests late.
    pub(super) fn begin(&self) -> Result<UnderWay<'_>, Reason> {
        let under_way = UnderWay(&self.load);
        let held = self.held.load(Ordering::Relaxed);
        let is_short = held > ALWAYS && self.sidecar.memory.is_short(self.has_grown(held));
        if self.load.fetch_add(1, Ordering::Relaxed) >= MAX_UNDER_WAY || is_short {
            Err(Reason::Overloaded)
        } else {
            Ok(under_way)
        }
    }

    /// Is there so much more that it is time to look?
    fn has_grown(&self, held: usize) -> bool {
        let looked = self.looked.load(Ordering::Relaxed);
        let has_grown = held >= looked.saturating_add(LOOK_EVERY);
        if has_grown || held < looked {
            self.looked.store(held, Ordering::Relaxed);
        }
        has_grown
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Requests that one worker has under way before it sheds.
const MAX_UNDER_WAY: usize = 10_000;
/// What may be held though memory is short: an allocator need not give back what was freed, and that must not silence us for good.
const ALWAYS: usize = 32;
/// What comes within a moment may be too much by the time that somebody looks from time to time.
const LOOK_EVERY: usize = 32;
/// Applications whose connections one worker keeps.
const MAX_APPLICATIONS: usize = 1024;
const SWEEP: Duration = Duration::from_secs(10);
/// How late an exchange may be found to be open.
const SETTLE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::issuers::Services;
    use crate::auth::testing::services;
    use crate::config::AccessLog;
    use crate::state::live::live;

    impl Sidecar {
        /// One with the defaults of the command line, that logs nothing.
        pub(crate) fn for_test(policy: Live<Option<Active>>, services: &Services) -> Self {
            let Services { clock, metrics, files, .. } = services.clone();
            Self {
                policy,
                verifier: Verifier::new(clock.clone(), metrics.clone()),
                explainer: Explainer::new(clock.clone()),
                recorder: Recorder::new(AccessLog::Off, clock, metrics.clone()).unwrap().0,
                metrics,
                connector: Connector::for_tests(),
                last_good: LastGood::new(files.clone(), Connector::for_tests()),
                files,
                inbound_default: InboundDefault::Deny,
                header_underscores: Underscores::Drop,
                own: Own::default(),
                memory: Memory::for_tests(),
                watched: Watched::default(),
            }
        }
    }

    fn worker() -> Arc<Worker> {
        Worker::new(Arc::new(Sidecar::for_test(live(None).0, &services())))
    }

    #[tokio::test]
    async fn a_worker_with_too_much_under_way_sheds_until_some_of_it_is_done() {
        let worker = worker();
        let mut under_way: Vec<_> = (0..MAX_UNDER_WAY).map(|_| worker.begin().unwrap()).collect();
        for _ in 0..3 {
            assert_eq!(worker.begin().err(), Some(Reason::Overloaded));
        }
        under_way.pop();
        let one = worker.begin().unwrap();
        assert_eq!(worker.begin().err(), Some(Reason::Overloaded));
        drop((one, under_way));
        assert_eq!(worker.load.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn os_5_while_memory_is_short_only_few_requests_are_under_way() {
        let worker = worker();
        for (held, resident, outcome) in [
            (ALWAYS + 1, 1, None),
            (ALWAYS + 1, 2, Some(Reason::Overloaded)),
            (MAX_UNDER_WAY, 2, Some(Reason::Overloaded)),
            (ALWAYS, 2, None),
            (ALWAYS + 1, 1, None),
        ] {
            worker.held.store(held, Ordering::Relaxed);
            worker.sidecar.memory.look(resident, 1);
            assert_eq!(worker.begin().err(), outcome, "{held} held");
        }
    }

    #[tokio::test]
    async fn memory_is_looked_at_when_more_is_held_and_not_for_each_request() {
        let worker = worker();
        let looks = [0, 31, 32, 32, 63, 64, 64, 40, 71, 72, 200].map(|held| worker.has_grown(held));
        let expected = [false, false, true, false, false, true, false, false, false, true, true];
        assert_eq!(looks, expected);
    }

    #[tokio::test]
    async fn open_connections_are_counted() {
        let worker = worker();
        let gauge = worker.sidecar.metrics.connections.with_label_values(&["inbound", "http"]);
        let (one, two) = (worker.connected(Direction::Inbound), worker.connected(Direction::Inbound));
        assert_eq!(gauge.get(), 2);
        drop((one, two));
        assert_eq!(gauge.get(), 0);
    }
}
