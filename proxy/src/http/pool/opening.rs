//! How does a request come by a connection where none is ready? An attempt to connect belongs to the upstream: whoever waits takes what
//! comes of any, or the room that somebody leaves, for as long as it may wait.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

use super::{Carrier, Place, Upstream};
use crate::http::attempt::failure;
use crate::http::dial::{Address, Sender};
use crate::http::pool::http2::Width;
use crate::rejection::Cause;

/// How many attempts to connect are under way, and how many of them take so long that nobody counts on them.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    under_way: AtomicUsize,
    slow: AtomicUsize,
}

/// One of them, until this is dropped.
struct Attempt {
    upstream: Arc<Upstream>,
    is_slow: bool,
}

// === impl Upstream ===

impl Upstream {
    /// A connection: one that is ready, else the first that there is, or that has room, within this time.
    pub(crate) async fn connection(self: &Arc<Self>, limit: Duration) -> Result<Carrier, Cause> {
        match self.ready() {
            Some(carrier) => Ok(carrier),
            None => {
                // Boxed, here and on other rare paths: TLS and handshakes would make the future of every request large.
                let waited = Box::pin(timeout(limit, self.wait(limit))).await;
                waited.unwrap_or_else(|_| self.http2.crowded().ok_or_else(|| self.too_late()))
            }
        }
    }

    /// A connection that has carried no request.
    pub(crate) async fn fresh(self: &Arc<Self>, limit: Duration) -> Result<Carrier, Cause> {
        Box::pin(timeout(limit, self.open(limit))).await.unwrap_or_else(|_| Err(self.too_late()))
    }

    async fn wait(self: &Arc<Self>, limit: Duration) -> Result<Carrier, Cause> {
        loop {
            if let Some(carrier) = self.ready() {
                return Ok(carrier);
            }
            if self.is_http1.load(Ordering::Relaxed) {
                return self.open(limit).await;
            }
            let news = self.http2.waiting.wait();
            if !self.http2.is_shut() {
                self.attempt_more(limit);
            }
            if let Some(carrier) = news.await.unwrap_or(Ok(None))? {
                return Ok(carrier);
            }
        }
    }

    /// Tries for as many connections as those who wait need, beside what is being tried.
    fn attempt_more(self: &Arc<Self>, limit: Duration) {
        while self.attempts.counted_on() < self.http2.lacking() && self.attempts.are_few() {
            self.attempt(limit);
        }
    }

    /// Tries for a connection, for whoever waits.
    pub(super) fn attempt(self: &Arc<Self>, limit: Duration) {
        tokio::spawn(Attempt::begin(self).make(limit));
    }

    /// A connection for whoever asks, and others where it is for many.
    async fn open(self: &Arc<Self>, limit: Duration) -> Result<Carrier, Cause> {
        let width = self.http2.next();
        let (sender, address) =
            self.dial.connect(&self.connector, &self.own, limit, width.window(self.direction)).await?;
        let carrier = self.begin(sender, width, self.place(address)).await?;
        self.http2.hand_out();
        Ok(carrier)
    }

    async fn begin(
        self: &Arc<Self>,
        sender: Sender,
        width: Width,
        place: Arc<Place>,
    ) -> Result<Carrier, Cause> {
        self.is_http1.store(matches!(sender, Sender::Http1(_)), Ordering::Relaxed);
        Ok(match sender {
            Sender::Http1(mut line) => {
                line.sender.ready().await.map_err(|error| failure::of(&error, false))?;
                Carrier::Http1(self.lease(line, place))
            }
            Sender::Http2(sender, allowed) => self.http2.begin(sender, width, allowed, place),
        })
    }

    /// Here is one more, for whoever waits.
    async fn publish(self: &Arc<Self>, sender: Sender, width: Width, address: IpAddr) {
        match self.begin(sender, width, self.place(address)).await {
            Ok(carrier) if !self.http2.waiting.is_empty() => self.http2.waiting.tell_first(carrier),
            Ok(Carrier::Http1(lease)) => lease.give_back(),
            Ok(Carrier::Http2(..)) => {}
            Err(cause) => self.http2.failed(cause, u64::MAX),
        }
        if self.is_http1.load(Ordering::Relaxed) {
            // Each needs one of its own.
            self.http2.waiting.look_again();
        }
        self.http2.hand_out();
    }

    fn too_late(&self) -> Cause {
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

// === impl Attempts ===

impl Attempts {
    fn counted_on(&self) -> usize {
        self.under_way.load(Ordering::Relaxed) - self.slow.load(Ordering::Relaxed)
    }

    pub(super) fn are_none(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) == 0
    }

    fn are_few(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) < MAX_ATTEMPTS
    }
}

// === impl Attempt ===

impl Attempt {
    fn begin(upstream: &Arc<Upstream>) -> Self {
        upstream.attempts.under_way.fetch_add(1, Ordering::Relaxed);
        Self { upstream: upstream.clone(), is_slow: false }
    }

    /// Connects, and tells those who wait what came of it.
    async fn make(mut self, limit: Duration) {
        let upstream = self.upstream.clone();
        let width = upstream.http2.next();
        let window = width.window(upstream.direction);
        let connecting = upstream.dial.connect(&upstream.connector, &upstream.own, limit, window);
        let mut connecting = pin!(timeout(limit, connecting));
        let (opened, before) = match timeout(SLOW.min(limit / 4), connecting.as_mut()).await {
            Ok(opened) => (opened, u64::MAX),
            Err(_) => {
                self.is_slow(limit);
                // Whoever comes from now on counts on another.
                let before = upstream.http2.waiting.next();
                (connecting.await, before)
            }
        };
        drop(self);
        match opened.unwrap_or_else(|_| Err(upstream.too_late())) {
            Ok((sender, address)) => upstream.publish(sender, width, address).await,
            Err(cause) => upstream.http2.failed(cause, before),
        }
        if !upstream.http2.is_shut() {
            upstream.attempt_more(limit);
        }
    }

    /// It may be in vain: another is made, and meanwhile the connections that there are carry what the server allows.
    fn is_slow(&mut self, limit: Duration) {
        self.is_slow = true;
        self.upstream.attempts.slow.fetch_add(1, Ordering::Relaxed);
        self.upstream.http2.make_do();
        self.upstream.attempt_more(limit);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let attempts = &self.upstream.attempts;
        attempts.under_way.fetch_sub(1, Ordering::Relaxed);
        attempts.slow.fetch_sub(usize::from(self.is_slow), Ordering::Relaxed);
    }
}

/// How long an attempt is counted on: longer than TCP, TLS and settings take on most roads.
const SLOW: Duration = Duration::from_millis(500);
/// At once, those that are slow among them.
const MAX_ATTEMPTS: usize = 16;
