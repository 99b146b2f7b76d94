//! Does a caller of HTTP/2 take its answer? Where a window is closed no write waits, and hyper does not ask the answer for more: a stream
//! of which nothing is taken is reset, and holds nothing of the application's any longer. Its connection goes on.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use hyper::rt::Executor;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::{Busy, Overdue, Pace, STALL};

/// Runs the streams of one connection, each as a task, as hyper hands them over.
#[derive(Clone, Debug)]
pub(in crate::http) struct Streams(Arc<Pace>);

/// What is known of one stream, shared by its answer, its request's body and its task.
#[derive(Debug, Default)]
pub(in crate::http) struct Stream {
    /// How often its task was woken, and the answer was asked for more.
    turn: AtomicU64,
    asked: AtomicU64,
    /// It was handed over, and has not been asked since.
    is_handed: AtomicBool,
    is_cut: AtomicBool,
    /// Nobody is there any more whom it went on with.
    is_left: AtomicBool,
    /// Nothing can be sent on it any more: its caller has reset it or is gone, or we have said the end.
    is_gone: AtomicBool,
    /// Who goes on with it.
    companion: AtomicWaker,
    /// Who waits for more of the request.
    reader: AtomicWaker,
}

/// What has become of a stream that goes on as something else than HTTP (RFC 8441): until this is dropped its connection is not
/// idle, and it may rest.
#[derive(Debug)]
pub(in crate::http) struct Onward {
    stream: Arc<Stream>,
    _busy: Busy,
}

pin_project! {
    /// Runs a stream to its end, or until nothing was taken of it for too long. Dropped, it is reset (`CANCEL`). No `async fn`: that
    /// would hold the stream twice, once as what it was given.
    struct Running<F> {
        #[pin]
        running: F,
        stream: Arc<Stream>,
        pace: Arc<Pace>,
        // Few come to one: an answer mostly leaves at once.
        stall: Option<Stall>,
    }
}

/// Since when has nobody asked the answer for more?
struct Stall {
    /// How often it had been asked.
    asked: u64,
    /// What the connection had written by then, in bytes.
    written: u64,
    timer: Pin<Box<Sleep>>,
}

tokio::task_local! {
    /// The stream whose task this is.
    static STREAM: Arc<Stream>;
}

// === impl Streams ===

impl Streams {
    pub(in crate::http) fn of(pace: &Arc<Pace>) -> Self {
        Self(pace.clone())
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, running: F) {
        let pace = self.0.clone();
        match Stream::current() {
            None => {
                let stream = Arc::new(Stream::default());
                tokio::spawn(STREAM.scope(stream.clone(), Running { running, stream, pace, stall: None }));
            }
            // From a stream's own task: what is sent of it when it is HTTP no longer.
            Some(stream) => {
                tokio::spawn(run_on(running, stream, pace));
            }
        }
    }
}

/// Sends what a stream goes on as, to its end. It may rest for as long as somebody goes on with it; what is then left is taken soon, or
/// it is reset.
async fn run_on(running: impl Future<Output = ()>, stream: Arc<Stream>, pace: Arc<Pace>) {
    let mut running = pin!(running);
    loop {
        let was_left = stream.is_left.load(Ordering::Relaxed);
        match timeout(STALL, running.as_mut()).await {
            Ok(()) => return stream.over(),
            Err(_) if was_left => break,
            Err(_) => {}
        }
    }
    tracing::debug!("a stream of HTTP/2 is reset: its end was not taken");
    stream.over();
    pace.counts.timed_out(Some(Overdue::Stream));
}

// === impl Running ===

impl<F: Future<Output = ()>> Future for Running<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        this.stream.turn.fetch_add(1, Ordering::Relaxed);
        if this.running.poll(context).is_ready() {
            return Poll::Ready(());
        }
        ready!(this.stream.poll_stalled(this.stall, this.pace, context));
        tracing::debug!("a stream of HTTP/2 is reset: nothing was taken of it");
        this.stream.cut();
        this.pace.counts.timed_out(Some(Overdue::Stream));
        Poll::Ready(())
    }
}

// === impl Onward ===

impl Onward {
    pub(in crate::http) fn of(stream: &Arc<Stream>, busy: &Busy) -> Arc<Self> {
        Arc::new(Self { stream: stream.clone(), _busy: busy.onward() })
    }

    /// Resolves when nothing can be sent on it any more. Who only reads does not hear of a reset: hyper takes CANCEL for an end.
    pub(in crate::http) async fn gone(&self) {
        poll_fn(|context| {
            self.stream.companion.register(context.waker());
            if self.stream.is_gone.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Drop for Onward {
    fn drop(&mut self) {
        self.stream.is_left.store(true, Ordering::Relaxed);
    }
}

// === impl Stream ===

impl Stream {
    /// That whose task this is.
    pub(in crate::http) fn current() -> Option<Arc<Self>> {
        STREAM.try_with(Arc::clone).ok()
    }

    /// Nothing can be sent on it any more.
    fn over(&self) {
        self.is_gone.store(true, Ordering::Relaxed);
        self.companion.wake();
    }

    /// The answer was asked for more, and there was some or not.
    pub(super) fn asked(&self, is_handed: bool) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.is_handed.store(is_handed, Ordering::Relaxed);
    }

    pub(super) fn turn(&self) -> u64 {
        self.turn.load(Ordering::Relaxed)
    }

    /// Was there some when it was last asked?
    pub(super) fn is_handed(&self) -> bool {
        self.is_handed.load(Ordering::Relaxed)
    }

    /// Is it over, for whoever waits for more of the request?
    pub(in crate::http) fn is_cut(&self, context: &Context<'_>) -> bool {
        self.reader.register(context.waker());
        self.is_cut.load(Ordering::Relaxed)
    }

    fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
        self.reader.wake();
    }

    /// Ready when nothing was taken for too long, though it was its turn.
    fn poll_stalled(&self, stall: &mut Option<Stall>, pace: &Pace, context: &mut Context<'_>) -> Poll<()> {
        if !self.is_handed() {
            return Poll::Pending;
        }
        let asked = self.asked.load(Ordering::Relaxed);
        let stall = stall.get_or_insert_with(|| Stall::begin(asked, pace));
        if stall.asked != asked {
            (stall.asked, stall.written) = (asked, pace.written());
            stall.timer.as_mut().reset(Instant::now() + STALL);
        }
        while stall.timer.as_mut().poll(context).is_ready() {
            if pace.had_turns(stall.written) {
                return Poll::Ready(());
            }
            stall.timer.as_mut().reset(Instant::now() + LATER);
        }
        Poll::Pending
    }
}

// === impl Stall ===

impl Stall {
    fn begin(asked: u64, pace: &Pace) -> Self {
        Self { asked, written: pace.written(), timer: Box::pin(sleep(STALL)) }
    }
}

/// The road was not free: when to look again.
const LATER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
