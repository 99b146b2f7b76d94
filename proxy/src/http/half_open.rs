//! Is a client gone that has ended its side of the connection? It may be waiting for its answer, or have given up: nothing tells
//! which. Who has sent all of a request is given a while; hyper would either drop the request at once, or never notice.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::pace::{Exchange, Pace, Standing};
use super::wire::Tap;

/// Hears an HTTP/1 connection of a client, whose end its reader does not hear while it is owed an answer.
#[derive(Debug)]
pub(super) struct HalfOpen {
    pace: Arc<Pace>,
    /// When the client ended its side, or took the last byte after that.
    silent_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    /// It does not take what we write.
    is_full: bool,
}

// === impl HalfOpen ===

impl HalfOpen {
    pub(super) fn new(pace: Arc<Pace>) -> Self {
        Self { pace, silent_since: None, timer: None, is_full: false }
    }

    /// Ready when the end of the client is to be heard.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Standing { exchange, is_out, is_blocked } = self.pace.standing(cx);
        let limit = match exchange {
            _ if is_blocked => PATIENCE,
            Exchange::None => return Poll::Ready(()),
            // The end of the request may have come along with that of the client, and not have been taken yet.
            Exchange::Starved => MOMENT,
            // It may be in a line, before others who are there.
            Exchange::Arriving | Exchange::Owed if !is_out => IN_LINE,
            Exchange::Arriving | Exchange::Owed => PATIENCE,
        };
        let due = *self.silent_since.get_or_insert_with(Instant::now) + limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(cx)
    }
}

impl Tap for HalfOpen {
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.silent_since.is_none() {
            ready!(Pin::new(stream).poll_read(cx, buf))?;
        }
        let read = buf.filled().len().saturating_sub(before);
        if read > 0 {
            self.pace.heard(read);
        }
        if read > 0 || buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        self.poll_end(cx).map(Ok)
    }

    fn wrote(&mut self, _: &[IoSlice<'_>], taken: Option<usize>) {
        if std::mem::replace(&mut self.is_full, taken.is_none()) != taken.is_none() {
            self.pace.wrote(taken);
        }
        // What it takes tells that it is there.
        if let (Some(since), Some(1..)) = (self.silent_since.as_mut(), taken) {
            *since = Instant::now();
        }
    }
}

/// How long a client that has ended its side may be silent while it is owed an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same, where its request has not been passed on: what that waits for may have lost a SYN, which goes again after a second.
const IN_LINE: Duration = Duration::from_secs(3);
/// The same, where its request has no end and all of it that came has been taken.
const MOMENT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
