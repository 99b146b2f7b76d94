//! How is a name asked for? One question at a time for each, a few at once for all, each a task of its own; and a keeper
//! that asks again before the answers of kept names are over.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use super::answer::{self, Answer};
use super::known::{Known, State};
use super::strangers::Strangers;
use super::system::{Files, System};
use super::table::{Entry, Flight, Table};
use crate::limit::Limit;
use crate::metrics::Metrics;

/// What all clones of a handle share.
#[derive(Debug)]
pub(super) struct Resolver {
    files: Files,
    pub(super) system: ArcSwap<System>,
    pub(super) table: Table,
    pub(super) strangers: Strangers,
    /// Wakes the keeper.
    pub(super) wake: Arc<Notify>,
    /// Questions about kept names that may be under way at once; the others wait for their turn.
    kept_turns: Semaphore,
    /// Questions about all other names, which anybody may cause: beyond these none is put.
    other_turns: Arc<Semaphore>,
    background: Handle,
    metrics: Arc<Metrics>,
    log: Limit,
}

// === impl Resolver ===

impl Resolver {
    pub(super) fn start(files: Files, background: Handle, metrics: Arc<Metrics>) -> io::Result<Arc<Self>> {
        let system = {
            let _runtime = background.enter();
            files.read(None)?
        };
        let resolver = Arc::new(Self {
            files,
            system: ArcSwap::from_pointee(system),
            table: Table::default(),
            strangers: Strangers::new(),
            wake: Arc::default(),
            kept_turns: Semaphore::new(MAX_UNDER_WAY),
            other_turns: Arc::new(Semaphore::new(MAX_OTHERS)),
            background,
            metrics,
            log: Limit::of_lines(),
        });
        let keeping = keep(Arc::downgrade(&resolver), resolver.wake.clone());
        resolver.background.spawn(keeping);
        Ok(resolver)
    }

    /// Asks for a name, unless somebody is just doing so. A task of its own, so whoever waits for it may go away. Of names that
    /// no rule keeps no more are asked for at once than there is room for, and nothing comes of the rest: what strangers have
    /// us ask must not hold up what rules need.
    pub(super) fn ask(self: &Arc<Self>, entry: &Arc<Entry>) -> Flight {
        let mut under_way = entry.flight.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = under_way.as_ref().filter(|flight| flight.has_changed().is_ok()) {
            return flight.clone();
        }
        let (end, flight) = watch::channel(());
        let turn = match entry.is_kept() {
            true => None,
            false => match self.other_turns.clone().try_acquire_owned() {
                Ok(turn) => Some(turn),
                Err(_) => {
                    self.metrics.name_lookups.with_label_values(&["shed"]).inc();
                    return flight;
                }
            },
        };
        *under_way = Some(flight.clone());
        let (resolver, entry) = (self.clone(), entry.clone());
        self.background.spawn(async move {
            resolver.fly(&entry, turn.is_none()).await;
            drop((turn, end));
            if entry.is_kept() {
                resolver.wake.notify_one();
            }
        });
        flight
    }

    /// Asks, and waits for what comes of it.
    pub(super) async fn answered(self: &Arc<Self>, entry: &Arc<Entry>) {
        let mut flight = self.ask(entry);
        // Nothing is ever sent: it ends.
        while flight.changed().await.is_ok() {}
    }

    async fn fly(&self, entry: &Arc<Entry>, waits: bool) {
        // Never closed; and without a turn it is one question too many, no worse.
        let _turn = if waits { self.kept_turns.acquire().await.ok() } else { None };
        self.look_at_files();
        let system = self.system.load_full();
        let asked = Instant::now();
        let late = || Answer::Failed("no answer in time".to_owned());
        let answer = tokio::time::timeout(LONGEST, answer::ask(&system, &entry.name)).await;
        let answer = answer.unwrap_or_else(|_| late());
        let before = entry.known.load_full();
        let known = before.after(&answer, asked, Instant::now(), spread());
        self.report(&entry.name, &answer, &before, &known);
        self.table.learn(entry, known);
    }

    /// Reads the configuration again if it is another one. Then every answer is an old one.
    fn look_at_files(&self) {
        let system = self.system.load();
        if !system.is_outdated(&self.files) {
            return;
        }
        match self.files.read(Some(&system)) {
            Ok(read) => self.system.store(Arc::new(read)),
            Err(error) => {
                return tracing::warn!(%error, "the resolver's configuration cannot be used; the last one stays in use");
            }
        }
        tracing::info!("the resolver's configuration was read again");
        self.table.expire();
        self.wake.notify_one();
    }

    /// What is told of an answer: each counts, and a name's first failure and its recovery are logged.
    fn report(&self, name: &str, answer: &Answer, before: &Known, known: &Known) {
        let result = match answer {
            Answer::Found { partial: false, .. } => "found",
            Answer::Found { partial: true, .. } => "partial",
            Answer::Absent { .. } => "absent",
            Answer::Failed(_) => "failed",
        };
        self.metrics.name_lookups.with_label_values(&[result]).inc();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        match (answer, before.state) {
            (Answer::Failed(_), State::Failing { .. }) => {}
            (Answer::Failed(error), _) => {
                if let Some(suppressed) = self.log.admit(now) {
                    let kept = known.current.len();
                    tracing::warn!(
                        name,
                        error,
                        kept,
                        suppressed,
                        "no nameserver answers for a name; the addresses that it had stay in use"
                    );
                }
            }
            (_, State::Failing { since, .. }) => {
                if let Some(suppressed) = self.log.admit(now) {
                    let seconds = since.elapsed().as_secs();
                    tracing::info!(name, result, seconds, suppressed, "a name is answered for again");
                }
            }
            _ => {}
        }
    }

    /// Asks for what is due. When is more?
    fn refresh(self: &Arc<Self>) -> Duration {
        self.look_at_files();
        let now = Instant::now();
        let mut wait = LOOK;
        let mut failing = 0_u32;
        for entry in self.table.kept() {
            let known = entry.known.load();
            failing += u32::from(known.is_failing());
            if known.due <= now {
                self.ask(&entry);
            } else {
                wait = wait.min(known.due.saturating_duration_since(now));
            }
        }
        self.metrics.names_unanswered.set(failing.into());
        wait
    }
}

/// Keeps what rules name fresh, for as long as anybody holds the resolver.
async fn keep(resolver: Weak<Resolver>, wake: Arc<Notify>) {
    loop {
        let Some(held) = resolver.upgrade() else { return };
        let wait = held.refresh();
        drop(held);
        let _ = tokio::time::timeout(wait, wake.notified()).await;
        tokio::time::sleep(REST).await;
    }
}

/// Uniform in [0, 1), good enough to keep sidecars apart.
fn spread() -> f64 {
    let random = RandomState::new().hash_one(());
    f64::from(u32::try_from(random >> 32).unwrap_or_default()) / (f64::from(u32::MAX) + 1.0)
}

/// Names, two questions each.
const MAX_UNDER_WAY: usize = 32;
const MAX_OTHERS: usize = 64;
/// For a name, over all servers, attempts and domains of the search path.
const LONGEST: Duration = Duration::from_secs(15);
/// How often the configuration is looked at while nothing is asked.
const LOOK: Duration = Duration::from_secs(5);
/// The keeper takes a breath: what falls due meanwhile is asked for together.
const REST: Duration = Duration::from_millis(10);
