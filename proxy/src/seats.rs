//! May one more connection be open? A place for each, so many in all and so many of one source, taken before anything is read and
//! given back with the socket.

mod guests;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::IntCounter;

use self::guests::{Guest, Guests};
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
    /// Is there always a place for who comes, at the cost of somebody who has waited for long?
    gives_way: bool,
    taken: Mutex<Taken>,
    refusals: [Refusals; Cause::ALL.len()],
    clock: Clock,
}

/// The place of one connection, until it is dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    source: Source,
    /// Where places are given up.
    guest: Option<Arc<Guest>>,
}

/// There is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    /// Of each source that has a connection, so there are no more of them than connections.
    by_source: HashMap<Source, usize>,
    /// Where places are given up, everybody who has one.
    guests: Guests,
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
    ) -> Self {
        metrics.max_connections.with_label_values(&[direction]).set(i64::try_from(max).unwrap_or(i64::MAX));
        let refusals = Cause::ALL.map(|cause| Refusals {
            count: metrics.connections_refused.with_label_values(&[direction, cause.as_str()]),
            lines: Limit::of_lines(),
        });
        Self { direction, max, per_source, gives_way: false, taken: Mutex::default(), refusals, clock }
    }

    /// Where there is no place, somebody who has one gives way: for a listener that everybody reaches, and whose callers ask for one
    /// thing at once.
    pub fn that_give_way(self) -> Self {
        Self { gives_way: true, ..self }
    }

    /// A place for a connection of this peer. Where there is none, it is counted and logged that it was refused, or who had to go.
    pub fn take(self: &Arc<Self>, peer: IpAddr) -> Result<Seat, Full> {
        let source = Source::of(peer);
        let mut taken = self.lock();
        let mut counted = self.count(&mut taken, source);
        let mut refused = counted.err().map(|cause| (cause, peer));
        if let Err(cause) = counted
            && let Some(gone) = taken.give_way(cause, source)
        {
            refused = Some((cause, gone));
            counted = self.count(&mut taken, source);
        }
        let guest = (self.gives_way && counted.is_ok()).then(|| taken.guests.welcome(peer));
        drop(taken);
        if let Some((cause, peer)) = refused {
            self.refused(cause, peer);
        }
        counted.map(|()| Seat { seats: self.clone(), source, guest }).map_err(|_| Full)
    }

    pub fn gives_way(&self) -> bool {
        self.gives_way
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

    fn count(&self, taken: &mut Taken, source: Source) -> Result<(), Cause> {
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

// === impl Taken ===

impl Taken {
    /// Takes the place of somebody for whom it is time to go, and says whose it was.
    fn give_way(&mut self, cause: Cause, source: Source) -> Option<IpAddr> {
        // Who has too many makes room by those of its own.
        let among = (cause == Cause::Source).then_some(source);
        let gone = self.guests.send_one_away(|peer| among.is_none_or(|source| Source::of(peer) == source))?;
        self.give_back(Source::of(gone));
        Some(gone)
    }

    fn give_back(&mut self, source: Source) {
        self.total = self.total.saturating_sub(1);
        if let Entry::Occupied(mut own) = self.by_source.entry(source) {
            *own.get_mut() = own.get().saturating_sub(1);
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

// === impl Seat ===

impl Seat {
    /// A request has been heard: who has said nothing yet gives way before.
    pub fn heard(&self) {
        if let Some(guest) = &self.guest {
            guest.heard();
        }
    }

    /// Resolves when the place is somebody else's, so that the connection has to end.
    pub async fn lost(&self) {
        match &self.guest {
            Some(guest) => guest.sent_away().await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        if self.guest.as_ref().is_none_or(|guest| taken.guests.part_with(guest)) {
            taken.give_back(self.source);
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
        (Arc::new(Seats::new("inbound", max, per_source, &metrics, Clock::default())), metrics)
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

    fn is_lost(seat: &Seat) -> bool {
        use futures_util::FutureExt;
        seat.lost().now_or_never().is_some()
    }

    #[test]
    fn os_5_where_places_are_given_up_who_has_waited_longest_gives_way() {
        let metrics = Metrics::new().unwrap();
        let seats = Seats::new("inbound", 3, Some(2), &metrics, Clock::default());
        let seats = Arc::new(seats.that_give_way());
        let served = take(&seats, "192.0.2.1").unwrap();
        served.heard();
        let (silent, other) = (take(&seats, "192.0.2.1").unwrap(), take(&seats, "192.0.2.2").unwrap());
        // Of a source with all that it may have, one of its own; who has asked comes last.
        let more = take(&seats, "192.0.2.1").unwrap();
        assert!(is_lost(&silent) && !is_lost(&served) && !is_lost(&other));
        assert_eq!((refused(&metrics, "source"), refused(&metrics, "total")), (1, 0));
        // Of all, whose ever it is.
        let third = take(&seats, "192.0.2.3").unwrap();
        assert!(is_lost(&other) && !is_lost(&served) && !is_lost(&more));
        assert_eq!((refused(&metrics, "source"), refused(&metrics, "total")), (1, 1));
        more.heard();
        third.heard();
        let fourth = take(&seats, "192.0.2.4").unwrap();
        assert!(is_lost(&served), "all have asked");
        // What was lost is not given back once more.
        drop((served, silent, other));
        let taken = seats.lock();
        assert!(taken.total == 3 && taken.by_source.len() == 3, "{taken:?}");
        drop(taken);
        drop((more, third, fourth));
        let taken = seats.lock();
        assert!(taken.total == 0 && taken.by_source.is_empty() && taken.guests.is_empty(), "{taken:?}");
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
