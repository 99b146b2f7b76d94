//! Which names do we know, and whose is an address? Names by their text, and those that policy is about by address.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::Instant;

use super::known::Known;

/// One name.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Arc<str>,
    pub(super) known: ArcSwap<Known>,
    /// The question that is under way; over once its sender is gone.
    pub(super) flight: Mutex<Option<Flight>>,
    /// A rule names it: it is kept fresh, and never makes room for others.
    pub(super) kept: AtomicBool,
    /// It is found by its addresses.
    indexed: AtomicBool,
    /// Counts dials, so that they are spread over the addresses.
    pub(super) turn: AtomicUsize,
    /// When it was last looked up, in the table's count of look-ups.
    used: AtomicU64,
}

/// Ends when the answer is known, or nobody is left to ask.
pub(super) type Flight = watch::Receiver<()>;

#[derive(Debug, Default)]
pub(super) struct Table {
    names: Mutex<HashMap<Arc<str>, Arc<Entry>>>,
    lookups: AtomicU64,
    index: ArcSwap<Index>,
    /// One writer of the index at a time.
    indexing: Mutex<()>,
}

/// Who may be found at an address; [`Known::has`] has the last word.
type Index = HashMap<IpAddr, Vec<Arc<Entry>>>;

// === impl Entry ===

impl Entry {
    fn new(name: Arc<str>) -> Arc<Self> {
        Arc::new(Self {
            name,
            known: ArcSwap::from_pointee(Known::new(Instant::now())),
            flight: Mutex::default(),
            kept: AtomicBool::new(false),
            indexed: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
            used: AtomicU64::new(0),
        })
    }

    pub(super) fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }
}

// === impl Table ===

impl Table {
    /// The name's entry, made if need be. The longest unused make room.
    pub(super) fn entry(&self, name: &str) -> Arc<Entry> {
        let now = self.lookups.fetch_add(1, Ordering::Relaxed);
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = names.get(name) {
            entry.used.store(now, Ordering::Relaxed);
            return entry.clone();
        }
        let gone = if names.len() >= MAX_NAMES { make_room(&mut names) } else { Vec::new() };
        let entry = Entry::new(name.into());
        entry.used.store(now, Ordering::Relaxed);
        names.insert(entry.name.clone(), entry.clone());
        drop(names);
        self.forget(&gone);
        entry
    }

    /// The name's entry, if it is known.
    pub(super) fn get(&self, name: &str) -> Option<Arc<Entry>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Keeps these names and no others.
    pub(super) fn keep(&self, names: impl IntoIterator<Item = Arc<str>>) {
        let wanted: HashSet<Arc<str>> = names.into_iter().collect();
        if wanted.len() > MAX_KEPT {
            tracing::warn!(
                names = wanted.len(),
                kept = MAX_KEPT,
                "rules name more hosts than are resolved ahead; the rest is resolved when it is asked for"
            );
        }
        let wanted: HashSet<Arc<str>> = wanted.into_iter().take(MAX_KEPT).collect();
        for entry in self.kept() {
            entry.kept.store(wanted.contains(&entry.name), Ordering::Relaxed);
        }
        for name in wanted {
            let entry = self.entry(&name);
            entry.kept.store(true, Ordering::Relaxed);
            self.index(&entry);
        }
    }

    /// Has every name asked for again when it is next needed.
    pub(super) fn expire(&self) {
        let now = Instant::now();
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in names.values() {
            entry.known.rcu(|known| known.due_at(now));
        }
    }

    pub(super) fn kept(&self) -> Vec<Arc<Entry>> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.values().filter(|entry| entry.is_kept()).cloned().collect()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.names.lock().unwrap().len()
    }

    /// From now on the name is found by its addresses.
    pub(super) fn index(&self, entry: &Arc<Entry>) {
        if !entry.indexed.swap(true, Ordering::Relaxed) {
            self.place(entry, &HashSet::new());
        }
    }

    /// Replaces what is known of a name.
    pub(super) fn learn(&self, entry: &Arc<Entry>, known: Known) {
        let before: HashSet<IpAddr> = entry.known.load().addresses().collect();
        entry.known.store(Arc::new(known));
        if entry.indexed.load(Ordering::Relaxed) {
            self.place(entry, &before);
        }
    }

    /// Brings the index up to date with a name that was found at these addresses before.
    fn place(&self, entry: &Arc<Entry>, before: &HashSet<IpAddr>) {
        let _one = self.indexing.lock().unwrap_or_else(PoisonError::into_inner);
        let after: HashSet<IpAddr> = entry.known.load().addresses().collect();
        if *before == after {
            return;
        }
        let mut index = Index::clone(&self.index.load());
        for address in before.difference(&after) {
            remove(&mut index, *address, entry);
        }
        for address in after {
            let entries = index.entry(address).or_default();
            if !entries.iter().any(|known| Arc::ptr_eq(known, entry)) {
                entries.push(entry.clone());
            }
        }
        self.index.store(Arc::new(index));
    }

    fn forget(&self, gone: &[Arc<Entry>]) {
        if gone.is_empty() {
            return;
        }
        let _one = self.indexing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut index = Index::clone(&self.index.load());
        for entry in gone {
            entry.indexed.store(false, Ordering::Relaxed);
            for address in entry.known.load().addresses() {
                remove(&mut index, address, entry);
            }
        }
        self.index.store(Arc::new(index));
    }

    /// Has the name this address, as far as is known? Takes no lock.
    pub(super) fn has(&self, host: &str, address: IpAddr) -> bool {
        let index = self.index.load();
        let entries = index.get(&address).map_or(&[][..], Vec::as_slice);
        entries.iter().any(|entry| *entry.name == *host && entry.known.load().has(address, Instant::now()))
    }

    /// Which of these have this address, as far as is known? Takes no lock.
    pub(super) fn whose(&self, address: IpAddr, hosts: &[Arc<str>]) -> Vec<Arc<str>> {
        let index = self.index.load();
        let Some(entries) = index.get(&address) else { return Vec::new() };
        let now = Instant::now();
        let named = |entry: &&Arc<Entry>| hosts.contains(&entry.name) && entry.known.load().has(address, now);
        entries.iter().filter(named).map(|entry| entry.name.clone()).collect()
    }
}

fn remove(index: &mut Index, address: IpAddr, entry: &Arc<Entry>) {
    if let Some(entries) = index.get_mut(&address) {
        entries.retain(|known| !Arc::ptr_eq(known, entry));
        if entries.is_empty() {
            index.remove(&address);
        }
    }
}

/// Takes out an eighth of the names that no rule keeps: the longest unused.
fn make_room(names: &mut HashMap<Arc<str>, Arc<Entry>>) -> Vec<Arc<Entry>> {
    let mut others: Vec<_> = names.values().filter(|entry| !entry.is_kept()).cloned().collect();
    others.sort_by_key(|entry| entry.used.load(Ordering::Relaxed));
    others.truncate((MAX_NAMES - MAX_KEPT) / 8);
    for entry in &others {
        names.remove(&entry.name);
    }
    others
}

/// Of rules.
const MAX_KEPT: usize = 2048;
/// Those that others bring into play beside them: hosts of wildcard rules, and what the application dials.
const MAX_NAMES: usize = MAX_KEPT + 1024;
