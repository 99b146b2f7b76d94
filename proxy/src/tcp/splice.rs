//! How does the kernel move bytes from one socket to another? Through a pipe (splice(2)), which is borrowed from the worker's few
//! for as long as something is in it.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A pipe, and how much is in it.
#[derive(Debug)]
pub(super) struct Pipe {
    inlet: OwnedFd,
    outlet: OwnedFd,
    held: usize,
}

/// There are descriptors for so many pipes.
pub(super) fn bound(pipes: usize) {
    MAX_OPEN.fetch_min(pipes, Ordering::Relaxed);
}

// === impl Pipe ===

impl Pipe {
    /// An empty pipe. `None`: there are too many, or the system gives us none.
    pub(super) fn take() -> Option<Self> {
        if let Some(pipe) = IDLE.with_borrow_mut(Vec::pop) {
            return Some(pipe);
        }
        if OPEN.fetch_add(1, Ordering::Relaxed) < MAX_OPEN.load(Ordering::Relaxed)
            && let Ok((outlet, inlet)) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
        {
            // Who has many pipes may not have large ones: it works all the same.
            let _ = fcntl_setpipe_size(&inlet, SIZE);
            return Some(Self { inlet, outlet, held: 0 });
        }
        OPEN.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// Only empty: nobody may get what was meant for somebody else.
    pub(super) fn give_back(self) {
        if self.is_empty() {
            IDLE.with_borrow_mut(|idle| {
                if idle.len() < MAX_IDLE {
                    idle.push(self);
                }
            });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Takes what has arrived; only of an empty pipe can we tell what it means that nothing comes. 0: the sender has ended.
    pub(super) fn poll_fill(
        &mut self,
        from: &TcpStream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(from.poll_read_ready(context))?;
            match from.try_io(Interest::READABLE, || Ok(splice(from, None, &self.inlet, None, SIZE, FLAGS)?))
            {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                moved => {
                    self.held += *moved.as_ref().unwrap_or(&0);
                    return Poll::Ready(moved);
                }
            }
        }
    }

    /// Hands over what is in it.
    pub(super) fn poll_empty(
        &mut self,
        to: &TcpStream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(context))?;
            match to
                .try_io(Interest::WRITABLE, || Ok(splice(&self.outlet, None, to, None, self.held, FLAGS)?))
            {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                moved => {
                    self.held = self.held.saturating_sub(*moved.as_ref().unwrap_or(&0));
                    return Poll::Ready(moved);
                }
            }
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

thread_local! {
    static IDLE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

static OPEN: AtomicUsize = AtomicUsize::new(0);
/// Of all workers: two descriptors each, and memory that the system counts for the user.
static MAX_OPEN: AtomicUsize = AtomicUsize::new(256);

const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);
/// What one turn moves at most.
const SIZE: usize = 256 * 1024;
/// Of each worker.
const MAX_IDLE: usize = 8;
