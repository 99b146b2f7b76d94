//! What addresses has a name, and had until now? Names are asked for through the system's resolver configuration, kept
//! fresh where rules name them, and found again by their addresses; the last answer stands in when nobody gives one.

mod answer;
mod flight;
mod known;
mod order;
mod runtime;
mod strangers;
mod system;
mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod zone;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::Guard;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::Handle;
use tokio::time::Instant;

use self::flight::Resolver;
use self::known::State;
pub use self::system::{Files, FullNames};
use self::table::Entry;
use crate::metrics::Metrics;

/// The names of the world, as this sidecar knows them. Cheap to clone; shared by all workers.
#[derive(Clone, Debug)]
pub struct Names(Arc<Resolver>);

/// Why a name has no address to dial.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    #[error("there is no such name, or it has no address that can be used")]
    Absent,
    #[error("no nameserver of resolv.conf gives an answer")]
    Unanswered,
    #[error("no nameserver of resolv.conf has answered in time")]
    Timeout,
}

// === impl Names ===

impl Names {
    /// Resolves as the system does: /etc/resolv.conf and /etc/hosts. Questions are put on the background runtime.
    pub fn system(background: Handle, metrics: Arc<Metrics>) -> io::Result<Self> {
        Self::of(Files::default(), background, metrics)
    }

    /// The same with other files.
    pub fn of(files: Files, background: Handle, metrics: Arc<Metrics>) -> io::Result<Self> {
        Ok(Self(Resolver::start(files, background, metrics)?))
    }

    /// Keeps these names fresh and no others: the exact hosts of the rules in force, in normal form.
    pub fn keep(&self, hosts: impl IntoIterator<Item = Arc<str>>) {
        self.0.table.keep(hosts);
        self.0.wake.notify_one();
    }

    /// Has each kept name been asked for, whatever came of it?
    pub fn are_asked(&self) -> bool {
        self.0.table.kept().iter().all(|entry| entry.known.load().state != State::New)
    }

    /// Which of these hosts (in normal form) have this address, or had it within the last 10 min or their TTL? What is
    /// known costs a look-up and no wait. An address of none of them has those asked for again whose answer is older than a
    /// second, within bounds, for at most [`WAIT`]; that it is a stranger's is remembered for some seconds.
    pub async fn at(&self, address: IpAddr, hosts: &[Arc<str>]) -> Vec<Arc<str>> {
        let address = address.to_canonical();
        let known = self.0.table.whose(address, hosts);
        if !known.is_empty() || hosts.is_empty() || self.0.strangers.knows(address, hosts) {
            return known;
        }
        Box::pin(self.ask_whose(address, hosts)).await
    }

    async fn ask_whose(&self, address: IpAddr, hosts: &[Arc<str>]) -> Vec<Arc<str>> {
        let now = Instant::now();
        let mut doubtful: Vec<Arc<Entry>> = hosts.iter().map(|host| self.0.table.entry(host)).collect();
        doubtful.iter().for_each(|entry| self.0.table.index(entry));
        doubtful.retain(|entry| entry.known.load().may_be_asked(now));
        // Who has been silent for longest has most likely changed.
        doubtful.sort_by_cached_key(|entry| entry.known.load().asked);
        let all = doubtful.len();
        doubtful.truncate(self.0.strangers.afford(all.min(MAX_ASKED)));
        let complete = doubtful.len() == all;
        // Nobody has answered for these lately: they are asked for, and whoever passes by does not wait for them.
        doubtful.retain(|entry| {
            let is_failing = entry.known.load().is_failing();
            if is_failing {
                self.0.ask(entry);
            }
            !is_failing
        });
        let mut answers: FuturesUnordered<_> = doubtful.iter().map(|entry| self.0.answered(entry)).collect();
        let found = async {
            while answers.next().await.is_some() {
                if !self.0.table.whose(address, hosts).is_empty() {
                    return;
                }
            }
        };
        // Out of time: the questions go on, and the next connection finds what they brought.
        let _ = tokio::time::timeout(WAIT, found).await;
        let whose = self.0.table.whose(address, hosts);
        if whose.is_empty() && complete {
            self.0.strangers.remember(address, hosts);
        }
        whose
    }

    /// Is it known that this host (in normal form) has this address, or had it lately? [`agrees`](Self::agrees) without a wait.
    pub fn knows(&self, host: &str, address: IpAddr) -> bool {
        self.0.table.has(host, address.to_canonical())
    }

    /// Has this host (in normal form) this address, or had it within the last 10 min or its TTL? Asks as
    /// [`at`](Self::at) does.
    pub async fn agrees(&self, host: &str, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if let Some(literal) = order::literal(host) {
            return literal == address;
        }
        if self.0.table.has(host, address) {
            return true;
        }
        let entry = self.0.table.entry(host);
        self.0.table.index(&entry);
        if entry.known.load().may_be_asked(Instant::now()) {
            let _ = tokio::time::timeout(WAIT, self.0.answered(&entry)).await;
        }
        entry.known.load().has(address, Instant::now())
    }

    /// The addresses of a host (in normal form, or an IP literal; with a trailing dot it is complete and not searched for) to
    /// dial, in the order in which to try them. A kept name
    /// costs no wait; others are asked for when their TTL is over. The last answer is used where no other comes.
    pub async fn addresses(&self, host: &str, limit: Duration) -> Result<Vec<IpAddr>, NameError> {
        if let Some(address) = order::literal(host) {
            return Ok(vec![address]);
        }
        let entry = self.0.table.entry(host);
        let known = entry.known.load_full();
        let fresh = known.due > Instant::now() && known.state != State::New;
        let kept = entry.is_kept() && !known.current.is_empty();
        if !fresh && !kept {
            // RFC 8767 §5: whoever has a stale answer does not wait for another one for long.
            let patience = if known.current.is_empty() { limit } else { limit.min(PATIENCE) };
            let answered = tokio::time::timeout(patience, self.0.answered(&entry)).await;
            if answered.is_err() && known.current.is_empty() {
                return Err(NameError::Timeout);
            }
        }
        let known = entry.known.load();
        match known.state {
            State::Absent => Err(NameError::Absent),
            State::Found | State::Failing { .. } if !known.current.is_empty() => {
                Ok(order::to_dial(&known.current, entry.turn.fetch_add(1, Ordering::Relaxed)))
            }
            State::New | State::Found | State::Failing { .. } => Err(NameError::Unanswered),
        }
    }

    /// Is any address known of this host?
    pub fn knows_any(&self, host: &str) -> bool {
        order::literal(host).is_some() || !self.0.table.entry(host).known.load().current.is_empty()
    }

    /// None of the host's addresses answers: they may be others by now.
    pub fn doubt(&self, host: &str) {
        if order::literal(host).is_some() {
            return;
        }
        let entry = self.0.table.entry(host);
        if entry.known.load().may_be_asked(Instant::now()) {
            self.0.ask(&entry);
        }
    }

    /// Which of these addresses has the host left, as far as is known? A name that no rule keeps fresh is asked for again.
    pub fn left(&self, host: &str, addresses: &[IpAddr]) -> Vec<IpAddr> {
        if order::literal(host).is_some() || addresses.is_empty() {
            return Vec::new();
        }
        let (entry, now) = (self.0.table.entry(host), Instant::now());
        let known = entry.known.load();
        if !entry.is_kept() && known.due <= now && known.may_be_asked(now) {
            self.0.ask(&entry);
        }
        addresses.iter().copied().filter(|address| known.has_left(address.to_canonical(), now)).collect()
    }

    /// Is it known, from a server, that there is no such name?
    pub async fn is_absent(&self, host: &str) -> bool {
        matches!(self.addresses(host, WAIT).await, Err(NameError::Absent))
    }

    /// Is this a host that a rule names exactly?
    pub fn keeps(&self, host: &str) -> bool {
        self.0.table.get(host).is_some_and(|entry| entry.is_kept())
    }

    /// The names that a name may stand for: as written, then along the search path if it has fewer dots than `ndots`
    /// (resolv.conf(5)). A trailing dot says that it is complete. Allocates nothing before the second.
    pub fn full_names<'a>(&self, name: &'a str) -> FullNames<'a> {
        let complete = name.strip_suffix('.');
        let written = complete.unwrap_or(name);
        let system = self.0.system.load();
        // The hosts file is asked for names as they are written, before anybody else.
        let alone = complete.is_some() || order::literal(name).is_some() || system.is_own(name);
        let system = (!alone).then(|| Guard::into_inner(system));
        FullNames { written: Some(written), name: written, system, next: 0 }
    }
}

/// How long a connection waits to learn whose its destination is.
pub const WAIT: Duration = Duration::from_secs(2);
/// How long somebody who has a stale answer waits for a new one (RFC 8767 §5.2).
const PATIENCE: Duration = Duration::from_millis(1800);
/// Names that are asked for at once, to learn whose one address is.
const MAX_ASKED: usize = 64;

#[cfg(test)]
impl Names {
    /// As this machine resolves them, on a runtime of their own.
    pub(crate) fn for_tests() -> Self {
        use std::sync::LazyLock;
        static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
        });
        Self::system(RUNTIME.handle().clone(), Metrics::new().unwrap()).unwrap()
    }
}
