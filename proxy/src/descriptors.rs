//! How many connections may there be? As many as the system's file descriptors carry, less what we need for ourselves; and with
//! what is one more turned away, when none is left?

use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

/// So many connections may be open at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// In each direction.
    pub connections: usize,
    /// Of them inbound from one source.
    pub per_source: usize,
    /// Pipes that relays may have, of both directions.
    pub pipes: usize,
}

/// The limit of descriptors does not carry what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooFew {
    #[error("{limit} file descriptors leave none for connections: raise the limit (ulimit -n)")]
    None { limit: usize },
    #[error(
        "--max-connections {asked}: {limit} file descriptors carry {carried} in each direction: raise the limit (ulimit -n), or ask \
         for fewer"
    )]
    Asked { asked: NonZeroUsize, carried: usize, limit: usize },
}

/// The part of one listener in the reserve: a descriptor that is held so that there is one left to turn somebody away with. The
/// reserve is that of the process, as their limit is: one that goes to somebody else while it is let go of is made up for by
/// whoever comes next, to whichever listener.
#[derive(Debug)]
pub struct Spare(());

#[derive(Debug)]
struct Reserve {
    wanted: usize,
    held: Vec<Socket>,
}

/// Under a lock that is held for three system calls when a connection is turned away, and never otherwise.
static RESERVE: Mutex<Reserve> = Mutex::new(Reserve { wanted: 0, held: Vec::new() });
/// Is less held than is wanted? True as well while one is let go of.
static IS_SHORT: AtomicBool = AtomicBool::new(false);

/// Raises the soft limit of file descriptors to the hard one, which is ours to take. What holds now.
pub fn raise() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of file descriptors stays as it is");
            current
        }
    };
    limit.and_then(|limit| limit.try_into().ok()).unwrap_or(usize::MAX)
}

/// Has the kernel make its table of descriptors large at once. It would grow by doubling, and where a process has threads each time
/// wait until all CPUs have left the old one (`expand_fdtable` in Linux): for ten or twenty milliseconds nobody is served by the thread
/// that accepts or connects. So this comes before there is another thread.
pub fn widen(limit: usize) {
    let last = limit.min(AT_ONCE).try_into().map_or(0, |count: i32| count - 1);
    let widened = Socket::new(Domain::IPV4, Type::DGRAM, None)
        .and_then(|socket| fcntl_dupfd_cloexec(&socket, last).map_err(io::Error::from));
    if let Err(error) = widened {
        tracing::debug!(%error, "the table of file descriptors will grow as it is needed");
    }
}

// === impl Room ===

impl Room {
    /// What this limit of descriptors carries with this many listeners, or of it what was asked for.
    pub fn plan(
        limit: usize,
        listeners: usize,
        directions: usize,
        asked: Option<NonZeroUsize>,
        asked_per_source: Option<NonZeroUsize>,
    ) -> Result<Self, TooFew> {
        let left = limit.saturating_sub(OURS + listeners);
        let carried = left / A_CONNECTION / directions.max(1);
        let connections = match asked {
            _ if carried == 0 => return Err(TooFew::None { limit }),
            Some(asked) if asked.get() > carried => return Err(TooFew::Asked { asked, carried, limit }),
            Some(asked) => asked.get(),
            None => carried.min(ENOUGH),
        };
        // A host that has both families is two sources, and even so leaves as much to everybody else.
        let per_source = asked_per_source.map_or(connections.div_ceil(3), NonZeroUsize::get);
        // A quarter of what is left, two descriptors each.
        let pipes = left / 4 / 2;
        Ok(Self { connections, per_source, pipes })
    }

    /// Says what holds, loudly where it is little.
    pub fn tell(&self) {
        let Self { connections, per_source, .. } = *self;
        if connections < FEW {
            tracing::warn!(
                connections,
                per_source,
                "few connections may be open at once: raise the limit of file descriptors (ulimit -n) if more are expected"
            );
        } else {
            tracing::info!(
                connections,
                per_source,
                "so many connections may be open at once in each direction"
            );
        }
    }
}

// === impl Spare ===

impl Spare {
    pub fn hold() -> Self {
        let mut reserve = Reserve::lock();
        reserve.wanted += 1;
        reserve.fill();
        Self(())
    }

    /// Is the reserve whole, now that it was filled as far as can be? If not, no descriptor is anybody else's before.
    pub fn is_whole(&self) -> bool {
        !IS_SHORT.load(Ordering::SeqCst) || Reserve::lock().fill()
    }

    /// Lets go of a descriptor while this turns somebody away.
    pub fn lend<T>(&self, turn_away: impl FnOnce() -> T) -> T {
        let mut reserve = Reserve::lock();
        // Before it can be had by anybody.
        IS_SHORT.store(true, Ordering::SeqCst);
        reserve.held.pop();
        let done = turn_away();
        reserve.fill();
        done
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        let mut reserve = Reserve::lock();
        reserve.wanted = reserve.wanted.saturating_sub(1);
        reserve.fill();
    }
}

// === impl Reserve ===

impl Reserve {
    fn lock() -> MutexGuard<'static, Self> {
        RESERVE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As far as there are descriptors. Is it whole?
    fn fill(&mut self) -> bool {
        self.held.truncate(self.wanted);
        let is_short = loop {
            if self.held.len() == self.wanted {
                break false;
            }
            match Socket::new(Domain::IPV4, Type::DGRAM, None) {
                Ok(socket) => self.held.push(socket),
                // If it is not for want of a descriptor that there is none, there is no reserve.
                Err(error) => break is_lack(&error),
            }
        };
        IS_SHORT.store(is_short, Ordering::SeqCst);
        !is_short
    }
}

fn is_lack(error: &io::Error) -> bool {
    let lack = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| lack.iter().any(|errno| errno.raw_os_error() == code))
}

/// What a connection is reckoned with: its socket and that to the other side, and as much again for pipes and for connections
/// that another worker keeps open after use.
const A_CONNECTION: usize = 4;
/// For pages of ours, issuers, the control plane, nameservers, files and runtimes.
const OURS: usize = 192;
/// More would be bounded by memory before.
const ENOUGH: usize = 20_000;
const FEW: usize = 1000;
/// 128 KiB of the kernel's memory. There may be more, in a table that grows.
const AT_ONCE: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(n: usize) -> Option<NonZeroUsize> {
        NonZeroUsize::new(n)
    }

    #[test]
    fn os_5_connections_leave_descriptors_for_ourselves() {
        for limit in [OURS + 8 + 8, 1024, 4096, 65_536, 1_048_576] {
            let room = Room::plan(limit, 8, 2, None, None).unwrap();
            let sockets = 2 * 2 * room.connections;
            assert!(
                room.connections > 0 && sockets + 2 * room.pipes + OURS + 8 <= limit,
                "{limit}: {room:?}"
            );
            assert!(room.connections <= ENOUGH);
            assert!(room.per_source * 3 >= room.connections && room.per_source <= room.connections);
        }
        assert_eq!(Room::plan(1024, 8, 1, None, None).unwrap().connections, (1024 - OURS - 8) / 4);
        assert_eq!(Room::plan(usize::MAX, 8, 2, None, None).unwrap().connections, ENOUGH);
    }

    #[test]
    fn os_5_what_the_limit_does_not_carry_is_refused() {
        let room = Room::plan(1024, 8, 2, asked(100), asked(7)).unwrap();
        assert_eq!((room.connections, room.per_source), (100, 7));
        let error = Room::plan(1024, 8, 2, asked(104), None).unwrap_err();
        assert_eq!(error, TooFew::Asked { asked: asked(104).unwrap(), carried: 103, limit: 1024 });
        for limit in [0, 64, OURS + 8, OURS + 8 + 7] {
            assert_eq!(Room::plan(limit, 8, 2, None, None), Err(TooFew::None { limit }));
        }
    }

    #[test]
    fn os_5_the_soft_limit_is_raised_to_the_hard_one() {
        let hard = getrlimit(Resource::Nofile).maximum;
        let lowered = Rlimit { current: Some(256), maximum: hard };
        setrlimit(Resource::Nofile, lowered).unwrap();
        let limit = raise();
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
        assert_eq!(hard.map(|hard| usize::try_from(hard).unwrap()), Some(limit).filter(|l| *l < usize::MAX));
    }
}
