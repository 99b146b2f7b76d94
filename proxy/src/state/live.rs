//! What is the value right now? A cell with many readers, which never wait, and one writer.

use std::sync::Arc;

use arc_swap::ArcSwap;

/// The reading side. Cheap to clone.
#[derive(Debug)]
pub struct Live<T>(Arc<ArcSwap<T>>);

/// The writing side: there is one per cell, and it cannot be cloned.
#[derive(Debug)]
pub struct Writer<T>(Arc<ArcSwap<T>>);

/// A new cell.
pub fn live<T>(initial: T) -> (Live<T>, Writer<T>) {
    let cell = Arc::new(ArcSwap::from_pointee(initial));
    (Live(cell.clone()), Writer(cell))
}

// === impl Live ===

impl<T> Live<T> {
    /// The value now. A request loads it once and passes it down.
    pub fn load(&self) -> Arc<T> {
        self.0.load_full()
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
        self.0.store(Arc::new(value));
    }
}
