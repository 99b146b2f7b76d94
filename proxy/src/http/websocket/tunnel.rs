//! What happens between a 101 and the end? Frames flow both ways, until a side ends, nothing moves any more, or we say that it
//! is over: then both sides get a Close frame, where a frame ends (RFC 6455 §5.5.1, §7).

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_lc_rs::rand;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep};

use super::flow::{Flow, FlowError};
use super::frames::{self, Frames, Sender};
use crate::http::grant::Ending;

/// Both sides of a connection that has become WebSocket. The client is whoever asked for it.
#[derive(Debug)]
pub(super) struct Tunnel<C, S> {
    client: C,
    server: S,
    /// From the client to the server, and back.
    up: Flow,
    down: Flow,
    /// It ends when nothing has moved for so long.
    idle: Duration,
}

/// Why we end a tunnel, and what we tell both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Farewell {
    pub(super) code: u16,
    pub(super) word: &'static str,
    /// How long a frame that is on its way may take to end.
    pub(super) patience: Duration,
}

/// How a tunnel came to its end.
#[derive(Debug)]
pub(super) enum End {
    /// Both sides have ended, or one of them broke off.
    Theirs,
    Ours(Farewell),
}

// === impl Farewell ===

/// What let it in holds no longer: Policy Violation, or where the fault is ours, Try Again Later or Internal Error (RFC 6455
/// §7.4.1, IANA). Nothing more passes.
impl From<Ending> for Farewell {
    fn from(ending: Ending) -> Self {
        let reason = ending.reason();
        let code = match reason.status() {
            500 => 1011,
            501.. => 1013,
            _ => 1008,
        };
        Self { code, word: reason.as_str(), patience: Duration::ZERO }
    }
}

// === impl Tunnel ===

impl<C, S> Tunnel<C, S>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn new(client: C, server: S, extended: bool, idle: Duration) -> Self {
        let [up, down] =
            [Sender::Client, Sender::Server].map(|sender| Flow::new(Frames::of(sender, extended)));
        Self { client, server, up, down, idle }
    }

    /// Carries on until the end, and says goodbye. A client that is `gone` though we have not ended its side waits for nothing, however
    /// long the server would.
    pub(super) async fn run(
        mut self,
        over: impl Future<Output = Farewell>,
        gone: impl Future<Output = ()>,
    ) -> End {
        let end = self.carry(over, gone).await;
        if let End::Ours(farewell) = end {
            // Who does not listen is not waited for.
            let _ = tokio::time::timeout(GOODBYE, self.part(farewell)).await;
        }
        end
    }

    async fn carry(&mut self, over: impl Future<Output = Farewell>, gone: impl Future<Output = ()>) -> End {
        let (mut over, mut gone, mut is_gone) = (pin!(over), pin!(gone), false);
        let mut leaving = None;
        let mut timer = pin!(sleep(self.idle));
        poll_fn(|context| {
            if leaving.is_none()
                && let Poll::Ready(farewell) = over.as_mut().poll(context)
            {
                leaving = Some(farewell);
                timer.as_mut().reset(Instant::now() + farewell.patience);
            }
            // What may go no further does not, whatever has arrived meanwhile.
            if let Some(farewell) = leaving.filter(|farewell| farewell.patience.is_zero()) {
                return Poll::Ready(End::Ours(farewell));
            }
            if let Poll::Ready(end) = self.poll_flows(context) {
                return Poll::Ready(end);
            }
            is_gone = is_gone || gone.as_mut().poll(context).is_ready();
            if is_gone && !self.down.is_done() {
                return Poll::Ready(End::Theirs);
            }
            if let Some(farewell) = leaving {
                let is_time = self.is_at_boundary() || timer.as_mut().poll(context).is_ready();
                return if is_time { Poll::Ready(End::Ours(farewell)) } else { Poll::Pending };
            }
            self.poll_idle(timer.as_mut(), context).map(End::Ours)
        })
        .await
    }

    fn poll_flows(&mut self, context: &mut Context<'_>) -> Poll<End> {
        let Self { client, server, up, down, .. } = self;
        let (up, down) = (up.poll(client, server, context), down.poll(server, client, context));
        match (up, down) {
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => Poll::Ready(match error {
                FlowError::Malformed => End::Ours(MALFORMED),
                FlowError::Io(error) => {
                    tracing::debug!(%error, "a WebSocket broke off");
                    End::Theirs
                }
            }),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Theirs),
            _ => Poll::Pending,
        }
    }

    /// Anything that moves counts, pings too. The timer is looked at when it rings, not set with every frame.
    fn poll_idle(&mut self, mut timer: Pin<&mut Sleep>, context: &mut Context<'_>) -> Poll<Farewell> {
        while timer.as_mut().poll(context).is_ready() {
            if !self.up.is_busy && !self.down.is_busy {
                return Poll::Ready(IDLE);
            }
            (self.up.is_busy, self.down.is_busy) = (false, false);
            timer.as_mut().reset(Instant::now() + self.idle);
        }
        Poll::Pending
    }

    fn is_at_boundary(&self) -> bool {
        self.up.buffer.frames_left().is_some() && self.down.buffer.frames_left().is_some()
    }

    /// Both sides get what has arrived for them in whole frames and a Close frame, and may answer it.
    async fn part(&mut self, farewell: Farewell) {
        let Self { client, server, up, down, .. } = self;
        let mut key = [0; 4];
        // Without randomness the server gets no frame, and sees the connection end.
        let mask = rand::fill(&mut key).ok().map(|()| key);
        let to_client = Goodbye {
            before: down.buffer.frames_left(),
            close: (!down.frames.is_closed()).then(|| frames::close(farewell.code, farewell.word, None)),
        };
        let to_server = Goodbye {
            before: up.buffer.frames_left().filter(|_| mask.is_some()),
            close: (!up.frames.is_closed()).then(|| frames::close(farewell.code, farewell.word, mask)),
        };
        tokio::join!(to_client.say(client, &mut up.frames), to_server.say(server, &mut down.frames));
    }
}

/// What one side hears last.
struct Goodbye<'a> {
    /// `None`: it has heard a part of a frame, and nothing can follow that but the end of the connection.
    before: Option<&'a [u8]>,
    /// `None`: the other side has said it already.
    close: Option<Vec<u8>>,
}

impl Goodbye<'_> {
    /// Ends the connection once the side has answered, so that no reset overtakes what we said.
    async fn say<S: AsyncRead + AsyncWrite + Unpin>(self, side: &mut S, heard: &mut Frames) {
        if let Some(before) = self.before {
            let close = self.close.unwrap_or_default();
            if side.write_all(before).await.is_err() || side.write_all(&close).await.is_err() {
                return;
            }
            let _ = side.flush().await;
        } else {
            let _ = side.shutdown().await;
        }
        let mut scratch = vec![0; SCRATCH];
        while let (false, Ok(read @ 1..)) = (heard.is_closed(), side.read(&mut scratch).await) {
            if heard.follow(scratch.get(..read).unwrap_or_default()).malformed {
                break;
            }
        }
        let _ = side.shutdown().await;
    }
}

/// Nothing has moved for the time that policy sets.
const IDLE: Farewell = Farewell { code: 1001, word: "idle", patience: Duration::ZERO };
/// What one side sent is no frame, so the other may read it differently than we do.
const MALFORMED: Farewell = Farewell { code: 1002, word: "malformed_frame", patience: Duration::ZERO };
/// We end, and finish the frame that is on its way.
pub(super) const DRAINING: Farewell =
    Farewell { code: 1001, word: "draining", patience: Duration::from_secs(5) };
/// How long a side may take to answer our Close.
const GOODBYE: Duration = Duration::from_secs(1);
const SCRATCH: usize = 1024;

#[cfg(test)]
mod tests;
