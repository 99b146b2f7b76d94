//! Who waits for a connection to an upstream? Whoever came first is the first to hear of one.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::Carrier;
use crate::rejection::Cause;

/// Those who wait, in the order in which they came. Belongs to one worker, so its lock is never contended; nobody is told anything under
/// it, since a carrier that nobody takes any more makes room for the next.
#[derive(Default)]
pub(super) struct Waiting {
    queue: Mutex<Queue>,
    /// For one of them, who looks what is to be done for all.
    looks: Notify,
}

#[derive(Default)]
struct Queue {
    waiters: VecDeque<Waiter>,
    /// How many have come.
    came: u64,
}

struct Waiter {
    number: u64,
    hears: oneshot::Sender<News>,
}

/// What carries the request of whoever waited, if it need not look again; or why there is nothing.
pub(super) type News = Result<Option<Carrier>, Cause>;

// === impl Waiting ===

impl Waiting {
    /// Behind all others.
    pub(super) fn wait(&self) -> oneshot::Receiver<News> {
        let (hears, news) = oneshot::channel();
        let mut queue = self.lock();
        if queue.waiters.len() == queue.waiters.capacity() {
            queue.waiters.retain(Waiter::is_there);
        }
        let number = queue.came;
        queue.came += 1;
        queue.waiters.push_back(Waiter { number, hears });
        news
    }

    /// The number of whoever comes next.
    pub(super) fn next(&self) -> u64 {
        self.lock().came
    }

    pub(super) fn is_empty(&self) -> bool {
        let mut queue = self.lock();
        while queue.waiters.front().is_some_and(|first| !first.is_there()) {
            queue.waiters.pop_front();
        }
        queue.waiters.is_empty()
    }

    /// About, where some have gone.
    pub(super) fn len(&self) -> usize {
        if self.is_empty() { 0 } else { self.lock().waiters.len() }
    }

    pub(super) fn tell_first(&self, carrier: Carrier) {
        let first = self.lock().waiters.pop_front();
        if let Some(first) = first {
            first.hear(Ok(Some(carrier)));
        }
    }

    /// Resolves when one of those who wait should look for all.
    pub(super) async fn called(&self) {
        self.looks.notified().await;
    }

    pub(super) fn look(&self) {
        self.looks.notify_one();
    }

    /// Nothing is as it was when they came.
    pub(super) fn look_again(&self) {
        let all = std::mem::take(&mut self.lock().waiters);
        all.into_iter().for_each(|waiter| waiter.hear(Ok(None)));
    }

    /// There is nothing for those who came before this number.
    pub(super) fn fail(&self, cause: Cause, before: u64) {
        let mut queue = self.lock();
        let number = queue.waiters.partition_point(|waiter| waiter.number < before);
        let failed: Vec<Waiter> = queue.waiters.drain(..number).collect();
        drop(queue);
        failed.into_iter().for_each(|waiter| waiter.hear(Err(cause)));
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Waiter ===

impl Waiter {
    fn is_there(&self) -> bool {
        !self.hears.is_closed()
    }

    /// Whoever has gone meanwhile hears nothing.
    fn hear(self, news: News) {
        drop(self.hears.send(news));
    }
}
