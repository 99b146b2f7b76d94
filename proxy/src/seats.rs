//! May one more connection be open? A place for each, so many in all and so many of one source, taken before anything is read and
//! given back with the socket.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::IntCounter;

use crate::clock::Clock;
use crate::limit::Limit;
use crate::metrics::Metrics;

/// The places for connections of one direction, shared by all workers. Under a lock, which is held for one look into a table and
/// once for each connection: the system call that accepts one costs a multiple.
#[derive(Debug)]
pub struct Seats {
    direction: &'static str,
    max: usize,
    /// None: all come from one source, the workload itself.
    per_source: Option<usize>,
    taken: Mutex<Taken>,
    refusals: [Refusals; Cause::ALL.len()],
    clock: Clock,
}

/// The place of one connection, until it is dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    source: Source,
}

/// There is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    /// Of each source that has a connection, so there are no more of them than connections.
    by_source: HashMap<Source, usize>,
}

/// Who connects: an address, or of IPv6 the network of a host, which has all the addresses in it (RFC 4291 §2.5.1, RFC 6177).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    V4(Ipv4Addr),
    V6([u8; 8]),
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Total,
    Source,
    Descriptors,
}

/// For one cause: counted, and logged so many times a second.
#[derive(Debug)]
struct Refusals {
    count: IntCounter,
    lines: Limit,
}

// === impl Seats ===

impl Seats {
    /// `direction` is a value of that label.
    pub fn new(
        direction: &'static str,
        max: usize,
        per_source: Option<usize>,
        metrics: &Metrics,
        clock: Clock,
    ) -> Arc<Self> {
        metrics.max_connections.with_label_values(&[direction]).set(i64::try_from(max).unwrap_or(i64::MAX));
        let refusals = Cause::ALL.map(|cause| Refusals {
            count: metrics.connections_refused.with_label_values(&[direction, cause.as_str()]),
            lines: Limit::of_lines(),
        });
        Arc::new(Self { direction, max, per_source, taken: Mutex::default(), refusals, clock })
    }

    /// A place for a connection of this peer. Where there is none, it is counted and logged that it was refused.
    pub fn take(self: &Arc<Self>, peer: IpAddr) -> Result<Seat, Full> {
        let source = Source::of(peer);
        match self.count(source) {
            Ok(()) => Ok(Seat { seats: self.clone(), source }),
            Err(cause) => {
                self.refused(cause, peer);
                Err(Full)
            }
        }
    }

    /// There was no descriptor for a connection of this peer, and it was turned away with the one that is kept for that.
    pub fn turned_away(&self, peer: IpAddr) {
        self.refused(Cause::Descriptors, peer);
    }

    fn refused(&self, cause: Cause, peer: IpAddr) {
        let Some(Refusals { count, lines }) = self.refusals.get(cause as usize) else { return };
        count.inc();
        if let Some(unlogged) = lines.admit(self.clock.now()) {
            let (direction, cause) = (self.direction, cause.as_str());
            tracing::warn!(direction, cause, source = %peer, unlogged, "a connection was refused: too many are open");
        }
    }

    fn count(&self, source: Source) -> Result<(), Cause> {
        let mut taken = self.lock();
        if let Some(per_source) = self.per_source {
            match taken.by_source.get(&source) {
                Some(own) if *own >= per_source => return Err(Cause::Source),
                _ if taken.total >= self.max => return Err(Cause::Total),
                _ => *taken.by_source.entry(source).or_default() += 1,
            }
        } else if taken.total >= self.max {
            return Err(Cause::Total);
        }
        taken.total += 1;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Seat ===

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        taken.total = taken.total.saturating_sub(1);
        if let Entry::Occupied(mut own) = taken.by_source.entry(self.source) {
            *own.get_mut() = own.get().saturating_sub(1);
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

// === impl Source ===

impl Source {
    fn of(peer: IpAddr) -> Self {
        match peer.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

// === impl Cause ===

impl Cause {
    /// In their order.
    const ALL: [Self; 3] = [Self::Total, Self::Source, Self::Descriptors];

    fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Source => "source",
            Self::Descriptors => "descriptors",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(max: usize, per_source: Option<usize>) -> (Arc<Seats>, Arc<Metrics>) {
        let metrics = Metrics::new().unwrap();
        (Seats::new("inbound", max, per_source, &metrics, Clock::default()), metrics)
    }

    fn take(seats: &Arc<Seats>, peer: &str) -> Result<Seat, Full> {
        seats.take(peer.parse().unwrap())
    }

    fn refused(metrics: &Metrics, cause: &str) -> u64 {
        metrics.connections_refused.with_label_values(&["inbound", cause]).get()
    }

    #[test]
    fn os_5_one_source_has_a_share_and_all_have_a_total() {
        let (seats, metrics) = seats(3, Some(2));
        let one = take(&seats, "192.0.2.1").unwrap();
        let two = take(&seats, "192.0.2.1").unwrap();
        assert_eq!(take(&seats, "192.0.2.1").unwrap_err(), Full);
        assert_eq!((refused(&metrics, "source"), refused(&metrics, "total")), (1, 0));
        let three = take(&seats, "192.0.2.2").unwrap();
        assert_eq!(take(&seats, "192.0.2.3").unwrap_err(), Full);
        assert_eq!((refused(&metrics, "source"), refused(&metrics, "total")), (1, 1));
        drop(one);
        let four = take(&seats, "192.0.2.3").unwrap();
        assert_eq!(seats.lock().by_source.len(), 3);
        drop((two, three, four));
        let taken = seats.lock();
        assert!(taken.total == 0 && taken.by_source.is_empty(), "{taken:?}");
    }

    #[test]
    fn os_5_a_source_is_an_address_or_the_network_of_a_host() {
        let (seats, _metrics) = seats(100, Some(1));
        let mut held = Vec::new();
        for (peer, is_admitted) in [
            ("192.0.2.1", true),
            ("::ffff:192.0.2.1", false),
            ("::ffff:192.0.2.2", true),
            ("2001:db8:0:1::1", true),
            ("2001:db8:0:1:ffff:ffff:ffff:ffff", false),
            ("2001:db8:0:2::1", true),
        ] {
            let seat = take(&seats, peer);
            assert_eq!(seat.is_ok(), is_admitted, "{peer}");
            held.extend(seat);
        }
    }

    #[test]
    fn os_5_what_was_refused_leaves_nothing_behind() {
        let (seats, metrics) = seats(1, Some(1));
        let _one = take(&seats, "192.0.2.1").unwrap();
        for last in 0..=255_u8 {
            assert!(seats.take(IpAddr::from([198, 51, 100, last])).is_err());
        }
        assert_eq!(seats.lock().by_source.len(), 1);
        assert_eq!(refused(&metrics, "total"), 256);
    }

    #[test]
    fn os_5_without_sources_there_is_the_total_alone() {
        let (seats, metrics) = seats(2, None);
        let held: Vec<_> = (0..2).map(|_| take(&seats, "127.0.0.1").unwrap()).collect();
        assert!(take(&seats, "127.0.0.1").is_err() && seats.lock().by_source.is_empty());
        assert_eq!((refused(&metrics, "source"), refused(&metrics, "total")), (0, 1));
        drop(held);
        assert_eq!(seats.lock().total, 0);
    }

    #[test]
    fn os_5_threads_together_take_no_more_than_there_are() {
        let (seats, _metrics) = seats(1000, Some(300));
        let held: Vec<Seat> = std::thread::scope(|scope| {
            let take_many = |last| {
                let seats = &seats;
                move || (0..400).flat_map(|_| seats.take(IpAddr::from([192, 0, 2, last]))).collect::<Vec<_>>()
            };
            let threads: Vec<_> = [1, 1, 2, 3].map(|last| scope.spawn(take_many(last))).into_iter().collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(held.len(), 900);
        drop(held);
        assert_eq!(seats.lock().total, 0);
    }
}
