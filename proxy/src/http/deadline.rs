//! By when must all of an answer be there? One moment for all that a request waits for and for its answer's body, where policy
//! sets `timeouts.total`; without it nothing is asked of a clock.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::grant::Ending;
use crate::rejection::{Cause, Refusal};

/// The end of the time that a request has in all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    /// `None`: it may take as long as it takes.
    at: Option<Instant>,
    is_grpc: bool,
}

/// What happens when it has passed, unless this is dropped before.
#[derive(Debug)]
pub(crate) struct Alarm(AbortHandle);

// === impl Deadline ===

impl Deadline {
    pub(crate) const NEVER: Self = Self { at: None, is_grpc: false };

    /// Counts from now on, when the request has been judged.
    pub(super) fn of(total: Option<Duration>, is_grpc: bool) -> Self {
        Self { at: total.map(|total| Instant::now() + total), is_grpc }
    }

    pub(super) fn is_set(self) -> bool {
        self.at.is_some()
    }

    /// What comes of `work` in time. The timer is in a box, so that who needs none has no room for it.
    pub(super) async fn meet<T, E>(
        self,
        mut work: Pin<&mut impl Future<Output = Result<T, E>>>,
    ) -> Result<T, Refusal>
    where
        Refusal: From<E>,
    {
        let mut timer = self.at.map(|at| Box::pin(sleep_until(at)));
        poll_fn(|context| match (work.as_mut().poll(context), timer.as_mut()) {
            (Poll::Ready(done), _) => Poll::Ready(done.map_err(Refusal::from)),
            (Poll::Pending, Some(timer)) => {
                timer.as_mut().poll(context).map(|()| Err(Cause::HttpResponseTimeout.into()))
            }
            (Poll::Pending, None) => Poll::Pending,
        })
        .await
    }

    /// Says when it has passed how an answer ends that is under way by then, if there is one and the alarm is still there: a task, since
    /// who does not take an answer does not ask for the time either.
    pub(super) fn then(self, tell: impl FnOnce(Ending) + Send + 'static) -> Option<Alarm> {
        let Self { at, is_grpc } = self;
        let ending = move || Ending { refusal: Arc::new(Cause::HttpResponseTimeout.into()), is_grpc };
        let task = |at| tokio::spawn(sleep_until(at).map(move |()| tell(ending())));
        at.map(|at| Alarm(task(at).abort_handle()))
    }
}

// === impl Alarm ===

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;
    use std::sync::Mutex;

    use countersign_policy::Reason;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_does_not_come_in_time_is_a_timeout_of_the_answer() {
        let began = Instant::now();
        let late = Deadline::of(Some(SECOND), false).meet(pin!(pending::<Result<(), Reason>>())).await;
        assert_eq!(late, Err(Cause::HttpResponseTimeout.into()));
        assert_eq!(began.elapsed().as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_in_time_is_what_it_is() {
        let deadline = Deadline::of(Some(SECOND), false);
        assert_eq!(deadline.meet(pin!(ready(Ok::<_, Reason>(7)))).await, Ok(7));
        assert_eq!(
            deadline.meet(pin!(ready(Err::<u8, _>(Reason::NoRule)))).await,
            Err(Reason::NoRule.into())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_one_it_may_take_as_long_as_it_takes() {
        let day = 24 * 3600 * SECOND;
        let work = async {
            tokio::time::sleep(day).await;
            Ok::<_, Reason>(())
        };
        assert_eq!(Deadline::of(None, false).meet(pin!(work)).await, Ok(()));
        assert!(Deadline::NEVER.then(|_| ()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_told_when_it_has_passed_if_anybody_still_wants_to_know() {
        let (told, began) = (Arc::new(Mutex::new(Vec::new())), Instant::now());
        let deadline = |seconds| {
            let told = Arc::clone(&told);
            Deadline::of(Some(SECOND * seconds), true)
                .then(move |ending| told.lock().unwrap().push((began.elapsed().as_secs(), ending)))
        };
        let (kept, dropped) = (deadline(2), deadline(1));
        drop(dropped);
        tokio::time::sleep(3 * SECOND).await;
        let told = std::mem::take(&mut *told.lock().unwrap());
        assert_eq!(
            told,
            [(2, Ending { refusal: Arc::new(Cause::HttpResponseTimeout.into()), is_grpc: true })]
        );
        drop(kept);
    }
}
