//! How long may nothing arrive? The timer between two frames of a body.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::http::exchange::Exchange;

/// A timer between two frames, armed only while nothing is at hand.
#[derive(Debug)]
pub(super) struct Stall {
    pub(super) limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    pub(super) armed: bool,
    /// The frames of the exchange when the timer was set.
    frames: usize,
}

// === impl Stall ===

impl Stall {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, sleep: None, armed: false, frames: 0 }
    }

    /// Ready when nothing has come for the limit.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, exchange: Option<&Exchange>) -> Poll<()> {
        let limit = self.limit;
        let frames = exchange.map_or(0, Exchange::frames);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if !self.armed {
            sleep.as_mut().reset(Instant::now() + limit);
            (self.armed, self.frames) = (true, frames);
        }
        loop {
            ready!(sleep.as_mut().poll(context));
            if frames == self.frames {
                return Poll::Ready(());
            }
            // The other direction was busy meanwhile.
            sleep.as_mut().reset(Instant::now() + limit);
            self.frames = frames;
        }
    }
}
