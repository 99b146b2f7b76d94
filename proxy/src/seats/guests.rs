//! Who gives way where every place is taken? Whoever has been there longest and has asked for nothing, else whoever has been there
//! longest.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Everybody with a place that they may have to give up, in the order in which they came. So few that they are looked through.
#[derive(Debug, Default)]
pub(super) struct Guests(VecDeque<Arc<Guest>>);

#[derive(Debug)]
pub(super) struct Guest {
    peer: IpAddr,
    has_asked: AtomicBool,
    sent_away: Notify,
}

// === impl Guests ===

impl Guests {
    pub(super) fn welcome(&mut self, peer: IpAddr) -> Arc<Guest> {
        let guest = Arc::new(Guest { peer, has_asked: AtomicBool::new(false), sent_away: Notify::new() });
        self.0.push_back(guest.clone());
        guest
    }

    /// Sends away one of these, and says who it was.
    pub(super) fn send_one_away(&mut self, among: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let one_of_these = |guest: &Arc<Guest>| among(guest.peer);
        let is_silent = |guest: &Arc<Guest>| one_of_these(guest) && !guest.has_asked.load(Ordering::Relaxed);
        let first = self.0.iter().position(is_silent).or_else(|| self.0.iter().position(one_of_these))?;
        let guest = self.0.remove(first)?;
        guest.sent_away.notify_one();
        Some(guest.peer)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Was this one still there?
    pub(super) fn part_with(&mut self, guest: &Arc<Guest>) -> bool {
        let found = self.0.iter().position(|other| Arc::ptr_eq(other, guest));
        found.and_then(|at| self.0.remove(at)).is_some()
    }
}

// === impl Guest ===

impl Guest {
    pub(super) fn heard(&self) {
        self.has_asked.store(true, Ordering::Relaxed);
    }

    /// Resolves when there is no place any more.
    pub(super) async fn sent_away(&self) {
        self.sent_away.notified().await;
    }
}
