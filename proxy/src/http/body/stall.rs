//! How long may nothing arrive, and by when must all of it? The timer between two frames of a body.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::http::deadline::Deadline;
use crate::http::exchange::Exchange;

/// A timer between two frames, armed only while nothing is at hand.
#[derive(Debug)]
pub(super) struct Stall {
    pub(super) limit: Duration,
    pub(super) deadline: Deadline,
    sleep: Option<Pin<Box<Sleep>>>,
    pub(super) armed: bool,
    /// The frames of the exchange when the timer was set.
    frames: usize,
}

/// What it has come too late for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    /// Nothing has come for the limit.
    Idle,
    /// The deadline has passed.
    Over,
}

// === impl Stall ===

impl Stall {
    pub(super) fn new(limit: Duration, deadline: Deadline) -> Self {
        Self { limit, deadline, sleep: None, armed: false, frames: 0 }
    }

    /// Ready when it is too late.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, exchange: Option<&Exchange>) -> Poll<Late> {
        let (limit, deadline) = (self.limit, self.deadline);
        let due = || deadline.or_before(Instant::now() + limit);
        let frames = exchange.map_or(0, Exchange::frames);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due())));
        if !self.armed {
            sleep.as_mut().reset(due());
            (self.armed, self.frames) = (true, frames);
        }
        loop {
            ready!(sleep.as_mut().poll(context));
            if deadline.has_passed() {
                return Poll::Ready(Late::Over);
            }
            if frames == self.frames {
                return Poll::Ready(Late::Idle);
            }
            // The other direction was busy meanwhile.
            sleep.as_mut().reset(due());
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

    async fn after(stall: &mut Stall, exchange: Option<&Exchange>) -> (Late, u64) {
        let began = Instant::now();
        let late = poll_fn(|context| stall.poll(context, exchange)).await;
        (late, began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_the_two_limits_holds() {
        for (total, expected) in [
            (None, (Late::Idle, 3)),
            (Some(5 * SECOND), (Late::Idle, 3)),
            (Some(2 * SECOND), (Late::Over, 2)),
        ] {
            let mut stall = Stall::new(3 * SECOND, Deadline::of(total, false));
            assert_eq!(after(&mut stall, None).await, expected, "{total:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_request_puts_off_the_one_and_not_the_other() {
        let exchange = Exchange::new(false, 0, Watch::Nothing);
        let mut stall = Stall::new(3 * SECOND, Deadline::of(Some(7 * SECOND), false));
        let busy = async {
            loop {
                tokio::time::sleep(SECOND).await;
                exchange.count_frame();
            }
        };
        tokio::select! {
            late = after(&mut stall, Some(&exchange)) => assert_eq!(late, (Late::Over, 7)),
            () = busy => {}
        }
    }
}
