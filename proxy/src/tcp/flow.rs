//! How does one direction flow? Little is copied, through one buffer that all connections of a worker share; much is moved by
//! the kernel. Only what the receiver does not take is kept.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::ReadBuf;

use super::Side;
use super::splice::Pipe;

/// One direction of a relay.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Bytes that were handed over.
    pub(super) moved: u64,
    /// The first of them.
    pub(super) first: Option<u8>,
    /// Something has moved since somebody looked.
    pub(super) is_busy: bool,
    held: Held,
    stage: Stage,
    /// There was more than the buffer takes.
    is_much: bool,
}

/// What has been taken and not been handed over yet.
#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    Bytes(Bytes),
    Pipe(Pipe),
    /// TLS may keep a part of what it was given.
    Written,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// The sender has said all, which the receiver is to hear.
    Ending,
    Ended,
}

// === impl Flow ===

impl Flow {
    /// A flow that begins with what has been read already.
    pub(super) fn after(said: Bytes) -> Self {
        let first = said.first().copied();
        let held = if said.is_empty() { Held::Nothing } else { Held::Bytes(said) };
        Self { first, held, ..Self::default() }
    }

    /// Is the sender not read at the moment?
    pub(super) fn is_deaf(&self) -> bool {
        self.stage != Stage::Open || !matches!(self.held, Held::Nothing)
    }

    /// Carries on. Ready once the sender has ended and the receiver knows it.
    pub(super) fn poll<R: Side, W: Side>(
        &mut self,
        from: &mut R,
        to: &mut W,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        for _ in 0..TURNS {
            ready!(self.poll_hand_over(to, context))?;
            match self.stage {
                Stage::Open => ready!(self.poll_take(from, to, context))?,
                Stage::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(context))?;
                    self.stage = Stage::Ended;
                }
                Stage::Ended => return Poll::Ready(Ok(())),
            }
        }
        // Others have connections too.
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_hand_over<W: Side>(&mut self, to: &mut W, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match &mut self.held {
                Held::Nothing => return Poll::Ready(Ok(())),
                Held::Bytes(bytes) if bytes.is_empty() => self.held = Held::Written,
                Held::Bytes(bytes) => {
                    let written = ready!(Pin::new(&mut *to).poll_write(context, bytes))?;
                    bytes.advance(written);
                    self.count(written)?;
                }
                Held::Pipe(pipe) if pipe.is_empty() => {
                    if let Held::Pipe(pipe) = std::mem::take(&mut self.held) {
                        pipe.give_back();
                    }
                }
                Held::Pipe(pipe) => {
                    let written = ready!(pipe.poll_empty(to.tcp(), context))?;
                    self.count(written)?;
                }
                Held::Written => {
                    ready!(Pin::new(&mut *to).poll_flush(context))?;
                    self.held = Held::Nothing;
                }
            }
        }
    }

    /// Takes what the sender says, and hands over what it can at once.
    fn poll_take<R: Side, W: Side>(
        &mut self,
        from: &mut R,
        to: &mut W,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if R::IS_BARE
            && W::IS_BARE
            && self.is_much
            && let Some(pipe) = Pipe::take()
        {
            self.poll_splice(pipe, from, context)
        } else {
            self.poll_copy(from, to, context)
        }
    }

    fn poll_splice<R: Side>(
        &mut self,
        mut pipe: Pipe,
        from: &R,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Poll::Ready(taken) = pipe.poll_fill(from.tcp(), context) else {
            pipe.give_back();
            self.is_much = false;
            return Poll::Pending;
        };
        if taken? == 0 {
            pipe.give_back();
            self.stage = Stage::Ending;
        } else {
            self.held = Held::Pipe(pipe);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_copy<R: Side, W: Side>(
        &mut self,
        from: &mut R,
        to: &mut W,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(SCRATCH_SIZE, 0);
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *from).poll_read(context, &mut buffer))?;
            let mut taken = buffer.filled();
            if taken.is_empty() {
                self.stage = Stage::Ending;
                return Poll::Ready(Ok(()));
            }
            self.first = self.first.or_else(|| taken.first().copied());
            self.is_much = taken.len() == SCRATCH_SIZE;
            if let Poll::Ready(written) = Pin::new(&mut *to).poll_write(context, taken)? {
                taken.advance(written);
                self.count(written)?;
            }
            self.held =
                if taken.is_empty() { Held::Written } else { Held::Bytes(Bytes::copy_from_slice(taken)) };
            Poll::Ready(Ok(()))
        })
    }

    fn count(&mut self, written: usize) -> io::Result<()> {
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.moved = self.moved.saturating_add(u64::try_from(written).unwrap_or(u64::MAX));
        self.is_busy = true;
        Ok(())
    }
}

thread_local! {
    /// Holds nothing from one poll to the next.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

const SCRATCH_SIZE: usize = 64 * 1024;
const TURNS: usize = 16;
