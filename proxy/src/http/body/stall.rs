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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::http::watch::Watch;

    const SECOND: Duration = Duration::from_secs(1);

    async fn after(stall: &mut Stall, exchange: Option<&Exchange>) -> u64 {
        let began = Instant::now();
        poll_fn(|context| stall.poll(context, exchange)).await;
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_other_direction_does_puts_it_off() {
        let mut stall = Stall::new(3 * SECOND);
        assert_eq!(after(&mut stall, None).await, 3);
        stall.armed = false;
        let exchange = Exchange::new(false, 0, Watch::Nothing);
        let busy = async {
            tokio::time::sleep(SECOND).await;
            exchange.count_frame();
        };
        let (took, ()) = tokio::join!(after(&mut stall, Some(&exchange)), busy);
        assert_eq!(took, 6);
    }
}
