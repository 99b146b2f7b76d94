//! How do the bytes of one direction get across? Through one buffer, which is filled again once it is empty: a slow reader
//! slows the sender down, and a message of any length takes no more memory.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::Frames;

/// One direction of a tunnel.
#[derive(Debug)]
pub(super) struct Flow {
    /// What has been read of it.
    pub(super) frames: Frames,
    pub(super) buffer: Buffer,
    state: State,
    /// Something has moved since somebody last looked.
    pub(super) is_busy: bool,
}

/// What has been read and not yet been written.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    filled: usize,
    written: usize,
    /// After how many of them a frame ends for the last time. `None`: all are the inside of one frame.
    boundary: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open {
        flushed: bool,
    },
    /// What was read last is no frame.
    Malformed,
    /// The sender has ended, the reader has not been told.
    Ended,
    Done,
}

/// Why a direction ends before its sender has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum FlowError {
    #[error("what was sent is no frame")]
    Malformed,
    #[error(transparent)]
    Io(#[from] io::Error),
}

// === impl Flow ===

impl Flow {
    pub(super) fn new(frames: Frames) -> Self {
        let buffer = Buffer { bytes: vec![0; BUFFER].into(), filled: 0, written: 0, boundary: Some(0) };
        Self { frames, buffer, state: State::Open { flushed: true }, is_busy: false }
    }

    /// Has its reader been told that it is over?
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Moves what there is to move. Ready once the sender has ended and the reader knows it.
    pub(super) fn poll<R, W>(
        &mut self,
        from: &mut R,
        to: &mut W,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), FlowError>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while !self.buffer.is_empty() {
                let written = ready!(Pin::new(&mut *to).poll_write(context, self.buffer.left()))?;
                if written == 0 {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
                }
                self.buffer.written += written;
                self.state = self.state.after_write();
                self.is_busy = true;
            }
            match self.state {
                State::Open { flushed } => {
                    if self.poll_fill(from, context)?.is_pending() {
                        if !flushed {
                            ready!(Pin::new(&mut *to).poll_flush(context))?;
                            self.state = State::Open { flushed: true };
                        }
                        return Poll::Pending;
                    }
                }
                State::Malformed => return Poll::Ready(Err(FlowError::Malformed)),
                State::Ended => {
                    ready!(Pin::new(&mut *to).poll_shutdown(context))?;
                    self.state = State::Done;
                }
                State::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Reads once. What follows a Close frame is read and dropped.
    fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        from: &mut R,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut read = ReadBuf::new(&mut self.buffer.bytes);
        ready!(Pin::new(from).poll_read(context, &mut read))?;
        let bytes = read.filled();
        if bytes.is_empty() {
            self.state = State::Ended;
            return Poll::Ready(Ok(()));
        }
        let stretch = self.frames.follow(bytes);
        if stretch.malformed {
            self.state = State::Malformed;
        }
        self.is_busy |= stretch.good > 0;
        let buffer = &mut self.buffer;
        (buffer.filled, buffer.written, buffer.boundary) = (stretch.good, 0, stretch.boundary);
        Poll::Ready(Ok(()))
    }
}

// === impl State ===

impl State {
    fn after_write(self) -> Self {
        if matches!(self, Self::Open { .. }) { Self::Open { flushed: false } } else { self }
    }
}

// === impl Buffer ===

impl Buffer {
    fn is_empty(&self) -> bool {
        self.written >= self.filled
    }

    fn left(&self) -> &[u8] {
        self.bytes.get(self.written..self.filled).unwrap_or_default()
    }

    /// What is left to be written of frames that have been read to their end, so that a frame of ours can follow. `None`: a
    /// part of a frame has been written, and the rest has not been read.
    pub(super) fn frames_left(&self) -> Option<&[u8]> {
        self.bytes.get(self.written..self.boundary?)
    }
}

/// Of each direction, in bytes.
const BUFFER: usize = 8 * 1024;
