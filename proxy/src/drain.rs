//! How do we end? One signal to stop accepting and to finish what is in flight, within a bound.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::seats::Seat;

/// Ends everything that holds a [`Drain`].
#[derive(Debug)]
pub struct Signal {
    draining: watch::Sender<bool>,
    alive: mpsc::Receiver<Infallible>,
}

/// Held by every listener and connection: tells when to end, and that it has not ended yet.
#[derive(Clone, Debug)]
pub struct Drain {
    draining: watch::Receiver<bool>,
    /// Never sent on: the signal waits until the last one is dropped.
    _alive: mpsc::Sender<Infallible>,
    /// Of a connection: its place, for as long as somebody goes on with it. A listener has none.
    seat: Option<Arc<Seat>>,
}

/// A signal and what listens to it.
pub fn channel() -> (Signal, Drain) {
    let (draining, listening) = watch::channel(false);
    let (keep_alive, alive) = mpsc::channel(1);
    (Signal { draining, alive }, Drain { draining: listening, _alive: keep_alive, seat: None })
}

// === impl Signal ===

impl Signal {
    /// Tells everybody to end; what is in flight goes on.
    pub fn start(&self) {
        self.draining.send_replace(true);
    }

    /// Tells whether it has been started, without being waited for.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Waits until all have ended. `false`: some had not when the time was up.
    pub async fn wait(&mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.alive.recv()).await.is_ok()
    }
}

// === impl Drain ===

impl Drain {
    /// The same for a connection, whose place it holds from now on.
    pub fn seated(&self, seat: Seat) -> Self {
        Self { seat: Some(Arc::new(seat)), ..self.clone() }
    }

    /// The place of a connection.
    pub fn seat(&self) -> Option<Arc<Seat>> {
        self.seat.clone()
    }

    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Resolves when it is time to end.
    pub async fn signaled(&mut self) {
        // An error means that the signal is gone, which ends us too.
        let _ = self.draining.wait_for(|draining| *draining).await;
    }
}

/// How long we may take to end: less than the 30 s that Kubernetes grants by default.
pub const LIMIT: Duration = Duration::from_secs(25);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_last_holder_but_not_for_ever() {
        let (mut signal, mut drain) = channel();
        assert!(!drain.is_draining());
        signal.start();
        drain.signaled().await;
        assert!(!signal.wait(Duration::from_secs(1)).await);
        drop(drain);
        assert!(signal.wait(Duration::from_secs(1)).await);
    }
}
