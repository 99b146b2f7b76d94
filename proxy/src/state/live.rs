//! What is the value right now? A cell with many readers, which never wait unless they want the next value, and one writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

/// The reading side. Cheap to clone.
#[derive(Debug)]
pub struct Live<T>(Arc<Cell<T>>);

/// The writing side: there is one per cell, and it cannot be cloned.
#[derive(Debug)]
pub struct Writer<T>(Arc<Cell<T>>);

#[derive(Debug)]
struct Cell<T> {
    value: ArcSwap<T>,
    /// How often it was replaced.
    edition: AtomicU64,
    replaced: Notify,
}

/// A new cell.
pub fn live<T>(initial: T) -> (Live<T>, Writer<T>) {
    let value = ArcSwap::from_pointee(initial);
    let cell = Arc::new(Cell { value, edition: AtomicU64::new(0), replaced: Notify::new() });
    (Live(cell.clone()), Writer(cell))
}

// === impl Live ===

impl<T> Live<T> {
    /// The value now. A request loads it once and passes it down.
    pub fn load(&self) -> Arc<T> {
        self.0.value.load_full()
    }

    /// The number of the value that a [load](Self::load) from now on brings, or of one before it.
    pub fn edition(&self) -> u64 {
        self.0.edition.load(Ordering::Acquire)
    }

    /// Resolves when there is a later value than this one.
    pub async fn later_than(&self, edition: u64) {
        loop {
            // First: what is replaced from now on wakes it.
            let replaced = self.0.replaced.notified();
            if self.edition() > edition {
                return;
            }
            replaced.await;
        }
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

// === impl Writer ===

impl<T> Writer<T> {
    /// Replaces the value. Readers that hold the old one keep it until they are done.
    pub fn store(&mut self, value: T) {
        self.0.value.store(Arc::new(value));
        self.0.edition.fetch_add(1, Ordering::Release);
        self.0.replaced.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn who_waits_for_the_next_value_misses_none() {
        let (live, mut writer) = live(1);
        let before = live.edition();
        let waiting = live.later_than(before);
        let mut waiting = std::pin::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        writer.store(2);
        assert!(waiting.now_or_never().is_some() && *live.load() == 2);
        assert!(live.later_than(before).now_or_never().is_some(), "it came before anybody waited");
        assert!(live.later_than(live.edition()).now_or_never().is_none());
    }
}
