//! How does a request come by a connection where none is ready? An attempt to connect belongs to the upstream: whoever waits takes what
//! comes of any, or the room that somebody leaves, for as long as it may wait.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::attempts::Attempt;
use super::http2::{Scope, Width};
use super::{Carrier, Place, Upstream};
use crate::http::attempt::failure;
use crate::http::dial::{Address, Sender};
use crate::rejection::Cause;

// === impl Upstream ===

impl Upstream {
    /// A connection: one that is ready, else the first that there is, or that has room, within this time.
    pub(crate) async fn connection(self: &Arc<Self>, limit: Duration) -> Result<Carrier, Cause> {
        // Boxed, here and on other rare paths: TLS and handshakes would make the future of every request large.
        let waited = Box::pin(timeout(limit, self.wait(limit))).await;
        waited.unwrap_or_else(|_| self.http2.crowded().ok_or_else(|| self.too_late()))
    }

    /// A connection that has carried no request, and carries no other.
    pub(crate) async fn fresh(self: &Arc<Self>, limit: Duration) -> Result<Carrier, Cause> {
        let opened = Box::pin(timeout(limit, self.open(Width::Wide, limit, Scope::One))).await;
        opened.unwrap_or_else(|_| Err(self.too_late()))
    }

    /// The same for who was left out before; or else any, since the server may take no other connection, or leave it waiting.
    pub(crate) async fn fresh_or_any(self: &Arc<Self>, limit: Duration) -> Result<Carrier, Cause> {
        let opened = Box::pin(timeout(limit, async {
            match timeout(slow(limit), self.open(Width::Wide, limit, Scope::One)).await {
                Ok(Ok(carrier)) => Ok(carrier),
                Ok(Err(_)) | Err(_) => self.wait(limit).await,
            }
        }));
        opened.await.unwrap_or_else(|_| self.http2.crowded().ok_or_else(|| self.too_late()))
    }

    async fn wait(self: &Arc<Self>, limit: Duration) -> Result<Carrier, Cause> {
        loop {
            if let Some(carrier) = self.ready() {
                return Ok(carrier);
            }
            if self.is_http1.load(Ordering::Relaxed) {
                let carrier = self.open(self.http2.next(), limit, Scope::All).await?;
                self.http2.hand_out();
                return Ok(carrier);
            }
            let mut news = self.http2.waiting.wait();
            let news = loop {
                self.attempt_more(limit, Duration::ZERO);
                tokio::select! {
                    news = &mut news => break news.unwrap_or(Ok(None))?,
                    () = self.http2.waiting.called() => {}
                    // Not all that makes room says so: settings of the server's, a GOAWAY, time.
                    () = sleep(LOOK) => self.http2.hand_out(),
                }
            };
            if let Some(carrier) = news {
                return Ok(carrier);
            }
        }
    }

    /// Has as many connections tried for as those who wait need, after this pause, beside attempts that hang.
    pub(super) fn attempt_more(self: &Arc<Self>, limit: Duration, pause: Duration) {
        while self.attempts.counted_on() < self.http2.lacking(self.attempts.at_once())
            && self.attempts.have_room()
        {
            self.attempt(limit, pause);
        }
    }

    /// Tries for a connection, for whoever waits.
    pub(super) fn attempt(self: &Arc<Self>, limit: Duration, pause: Duration) {
        let width = if self.attempts.count_on_wide() { Width::Narrow } else { self.http2.next() };
        let attempt = Attempt { number: self.attempts.begin(width), upstream: self.clone(), width, limit };
        let number = attempt.number;
        let task = tokio::spawn(attempt.make(pause));
        self.attempts.may_end(number, task.abort_handle());
    }

    /// Connects.
    pub(super) async fn open(
        self: &Arc<Self>,
        width: Width,
        limit: Duration,
        scope: Scope,
    ) -> Result<Carrier, Cause> {
        let window = width.window(self.direction);
        let (sender, address) = self.dial.connect(&self.connector, &self.own, limit, window).await?;
        let place = self.place(address);
        self.is_http1.store(matches!(sender, Sender::Http1(_)), Ordering::Relaxed);
        Ok(match sender {
            Sender::Http1(mut line) => {
                line.sender.ready().await.map_err(|error| failure::of(&error, false))?;
                Carrier::Http1(self.lease(line, place))
            }
            Sender::Http2(sender, allowed) => self.http2.begin(sender, width, allowed, place, scope),
        })
    }

    /// Here is one more, for whoever waits.
    pub(super) fn publish(&self, carrier: Carrier) {
        match carrier {
            carrier if !self.http2.waiting.is_empty() => self.http2.waiting.tell_first(carrier),
            Carrier::Http1(lease) => lease.give_back(),
            Carrier::Http2(..) => {}
        }
        if self.is_http1.load(Ordering::Relaxed) {
            // Each needs one of its own.
            self.http2.waiting.look_again();
        }
        self.http2.hand_out();
    }

    pub(super) fn too_late(&self) -> Cause {
        match &self.dial.address {
            Address::Socket(_) => Cause::ConnectionTimeout,
            Address::Name { host, .. } => self.connector.too_late(host),
        }
    }

    fn place(&self, address: IpAddr) -> Arc<Place> {
        let place = Arc::new(Place { address, is_left: AtomicBool::new(false) });
        if matches!(self.dial.address, Address::Name { .. }) {
            self.places.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&place));
        }
        place
    }
}

/// How long an attempt is counted on: longer than TCP, TLS and settings take on most roads.
pub(super) fn slow(limit: Duration) -> Duration {
    SLOW.min(limit / 4)
}

const SLOW: Duration = Duration::from_millis(500);
/// How often those who wait look for themselves.
const LOOK: Duration = Duration::from_millis(250);
