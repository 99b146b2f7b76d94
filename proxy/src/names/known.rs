//! What do we know of a name? Its last answer, what earlier ones said, and when to ask again.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::answer::Answer;

/// All that is known of one name; replaced as a whole.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) state: State,
    /// To be dialled: the last answer, kept through an outage.
    pub(super) current: Vec<IpAddr>,
    /// What answers said lately.
    seen: Vec<Seen>,
    /// Of the last answer.
    ttl: Duration,
    /// When the question was put that brought this.
    pub(super) asked: Option<Instant>,
    /// When to ask again.
    pub(super) due: Instant,
}

/// An address that an answer named.
#[derive(Clone, Copy, Debug)]
struct Seen {
    address: IpAddr,
    /// When one last did.
    at: Instant,
    /// Until when that counts.
    until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not asked yet.
    New,
    Found,
    Absent,
    /// Nobody answers, so many times in a row, since then.
    Failing {
        times: u32,
        since: Instant,
    },
}

// === impl Known ===

impl Known {
    pub(super) fn new(now: Instant) -> Self {
        let (current, seen) = (Vec::new(), Vec::new());
        Self { state: State::New, current, seen, ttl: Duration::ZERO, asked: None, due: now }
    }

    /// What is known after this answer to a question that was put at `asked`. `spread` in 0..1 keeps sidecars apart.
    pub(super) fn after(&self, answer: &Answer, asked: Instant, now: Instant, spread: f64) -> Self {
        let mut seen = self.seen.clone();
        seen.retain(|seen| seen.until > now);
        let (current, ttl) = (Vec::new(), self.ttl);
        let mut next = Self { state: State::Found, current, seen, ttl, asked: Some(asked), due: now };
        match answer {
            Answer::Found { addresses, ttl, partial } => {
                next.current.clone_from(addresses);
                if *partial {
                    let lacks = |address: &&IpAddr| {
                        !addresses.iter().any(|found| found.is_ipv4() == address.is_ipv4())
                            && next.seen.iter().any(|seen| seen.address == **address)
                    };
                    next.current.extend(self.current.iter().filter(lacks));
                }
                for address in addresses {
                    next.see(Seen { address: *address, at: now, until: now + RETENTION.max(*ttl) });
                }
                next.ttl = *ttl;
                // From the question on, and a little early: who follows this name does so within its TTL.
                next.due = asked + ttl.mul_f64(1.0 - spread / 10.0);
            }
            // Somebody who must know says that it is gone. What was true until now still counts for connections that are
            // made meanwhile, as after any other change.
            Answer::Absent { ttl } => {
                next.state = State::Absent;
                next.ttl = *ttl;
                next.due = asked + *ttl;
            }
            // Nobody says that anything has changed.
            Answer::Failed(_) => {
                let (times, since) = match self.state {
                    State::Failing { times, since } => (times.saturating_add(1), since),
                    _ => (1, now),
                };
                next.state = State::Failing { times, since };
                if now.saturating_duration_since(since) < MAX_STALE {
                    next.current.clone_from(&self.current);
                }
                let pause = FIRST_PAUSE.saturating_mul(1 << (times - 1).min(8)).min(LONGEST_PAUSE);
                next.due = now + pause.mul_f64(1.0 - spread / 2.0);
            }
        }
        next
    }

    fn see(&mut self, now: Seen) {
        if let Some(seen) = self.seen.iter_mut().find(|seen| seen.address == now.address) {
            *seen = Seen { until: seen.until.max(now.until), ..now };
            return;
        }
        if self.seen.len() >= MAX_SEEN {
            let oldest = self.seen.iter().enumerate().min_by_key(|(_, seen)| seen.until);
            let oldest = oldest.map(|(place, _)| place);
            oldest.map(|place| self.seen.swap_remove(place));
        }
        self.seen.push(now);
    }

    /// The same, to be asked for again then.
    pub(super) fn due_at(&self, due: Instant) -> Self {
        Self { due, ..self.clone() }
    }

    /// Has the name this address, or had it until now?
    pub(super) fn has(&self, address: IpAddr, now: Instant) -> bool {
        self.seen.iter().any(|seen| seen.address == address && seen.until > now)
            || (self.is_failing() && self.current.contains(&address))
    }

    /// Do nameservers say that the name is not there any more, and no answer of some TTLs that it is? Nobody's silence says so.
    pub(super) fn has_left(&self, address: IpAddr, now: Instant) -> bool {
        let is_answered = matches!(self.state, State::Found | State::Absent);
        if !is_answered || self.current.contains(&address) {
            return false;
        }
        let grace = self.ttl.saturating_mul(GRACE_TTLS).clamp(MIN_GRACE, RETENTION);
        let last = self.seen.iter().find(|seen| seen.address == address).map(|seen| seen.at);
        last.is_none_or(|last| now.saturating_duration_since(last) >= grace)
    }

    /// Every address under which the name may be found.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let is_seen = |address: &IpAddr| self.seen.iter().any(|seen| seen.address == *address);
        let kept = self.current.iter().filter(move |address| !is_seen(address));
        self.seen.iter().map(|seen| seen.address).chain(kept.copied())
    }

    pub(super) fn is_failing(&self) -> bool {
        matches!(self.state, State::Failing { .. })
    }

    /// Would another question bring more? Not within a second, and not before its time where nobody answers.
    pub(super) fn may_be_asked(&self, now: Instant) -> bool {
        match self.state {
            State::New => true,
            State::Failing { .. } => now >= self.due,
            State::Found | State::Absent => {
                self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= ASK_AGAIN)
            }
        }
    }
}

/// Clients may hold an answer for long, and round-robin names show another part each time.
const RETENTION: Duration = Duration::from_secs(600);
/// How long an answer that is lacking an address may be one of a name that goes round. To be wrong costs a new connection.
const GRACE_TTLS: u32 = 3;
const MIN_GRACE: Duration = Duration::from_secs(10);
/// How long the last answer stands in for one. A day, as for key sets: an address that nobody has confirmed since may have
/// become somebody else's.
const MAX_STALE: Duration = Duration::from_secs(24 * 3600);
/// Of one name; the oldest go first.
const MAX_SEEN: usize = 256;
const ASK_AGAIN: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn found(addresses: &[&str], ttl: u64) -> Answer {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Answer::Found { addresses, ttl: Duration::from_secs(ttl), partial: false }
    }

    fn failed() -> Answer {
        Answer::Failed("nobody".to_owned())
    }

    /// What is known after these answers, each with the seconds at which it came.
    fn known(start: Instant, answers: &[(u64, Answer)]) -> Known {
        answers.iter().fold(Known::new(start), |known, (seconds, answer)| {
            let at = start + Duration::from_secs(*seconds);
            known.after(answer, at, at, 0.5)
        })
    }

    fn has(known: &Known, address: &str, at: Instant) -> bool {
        known.has(address.parse().unwrap(), at)
    }

    #[test]
    fn what_was_true_counts_for_ten_minutes_or_its_ttl() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let short = known(start, &[(0, found(&["10.0.0.1"], 30)), (30, found(&["10.0.0.2"], 30))]);
        assert_eq!(short.current, ["10.0.0.2".parse::<IpAddr>().unwrap()]);
        assert!(has(&short, "10.0.0.1", at(599)) && !has(&short, "10.0.0.1", at(600)));
        assert!(has(&short, "10.0.0.2", at(629)));
        let long = known(start, &[(0, found(&["10.0.0.1"], 3600)), (5, found(&["10.0.0.2"], 30))]);
        assert!(has(&long, "10.0.0.1", at(3599)) && !has(&long, "10.0.0.1", at(3600)));
        let gone = known(start, &[(0, found(&["10.0.0.1"], 30)), (30, Answer::Absent { ttl: RETENTION })]);
        assert!(
            gone.current.is_empty() && has(&gone, "10.0.0.1", at(599)) && !has(&gone, "10.0.0.1", at(600))
        );
    }

    #[test]
    fn through_an_outage_the_last_answer_stays_for_a_day_and_no_earlier_one() {
        let start = Instant::now();
        let hour = 3600;
        let answers = [(0, found(&["10.0.0.1"], 30)), (30, found(&["10.0.0.2"], 30)), (60, failed())];
        let later = |seconds| known(start, &[&answers[..], &[(seconds, failed())]].concat());
        let at = start + Duration::from_secs(10 * hour);
        assert!(has(&later(10 * hour), "10.0.0.2", at));
        assert!(!has(&later(10 * hour), "10.0.0.1", at), "it was true long ago");
        assert!(later(23 * hour).current.len() == 1 && later(25 * hour).current.is_empty());
        // An answer ends the outage, and with it what was kept for lack of one.
        let over =
            known(start, &[&answers[..], &[(hour, failed()), (hour + 1, found(&["10.0.0.3"], 30))]].concat());
        let at = start + Duration::from_secs(hour + 1);
        assert!(has(&over, "10.0.0.3", at) && !has(&over, "10.0.0.2", at));
    }

    #[test]
    fn who_fails_is_asked_less_and_less_often_but_every_ten_seconds() {
        let start = Instant::now();
        let pause = |times: u64| {
            let answers: Vec<_> = (0..times).map(|second| (second, failed())).collect();
            known(start, &answers).due - (start + Duration::from_secs(times - 1))
        };
        assert_eq!(pause(1), Duration::from_millis(750));
        assert_eq!(pause(2), Duration::from_millis(1500));
        assert_eq!(pause(100), Duration::from_millis(7500));
    }

    #[test]
    fn a_family_that_fails_keeps_what_it_had_for_as_long_as_that_counts() {
        let start = Instant::now();
        let both = found(&["10.0.0.1", "2001:db8::1"], 30);
        let one = Answer::Found {
            addresses: vec!["10.0.0.2".parse().unwrap()],
            ttl: Duration::from_secs(30),
            partial: true,
        };
        let current =
            |seconds| known(start, &[(0, both.clone()), (30, one.clone()), (seconds, one.clone())]).current;
        assert_eq!(
            current(60),
            ["10.0.0.2", "2001:db8::1"].map(|address| address.parse::<IpAddr>().unwrap())
        );
        assert_eq!(current(601).len(), 1);
    }

    #[test]
    fn an_address_is_left_when_no_answer_of_three_ttls_has_named_it() {
        let start = Instant::now();
        let left = |known: &Known, address: &str, seconds| {
            known.has_left(address.parse().unwrap(), start + Duration::from_secs(seconds))
        };
        let one = found(&["10.0.0.1"], 30);
        assert!(!left(&known(start, &[]), "10.0.0.1", 1000), "nobody has been asked");
        assert!(!left(&known(start, &[(0, one.clone())]), "10.0.0.1", 1000), "the last answer names it");
        let moved = known(start, &[(0, one.clone()), (30, found(&["10.0.0.2"], 30))]);
        assert!(!left(&moved, "10.0.0.1", 89) && left(&moved, "10.0.0.1", 90));
        assert!(!left(&moved, "10.0.0.2", 1000) && left(&moved, "10.0.0.9", 30), "never heard of");
        // One that goes round is never left; one that is gone is, as one that has moved.
        let turns = ["10.0.0.1", "10.0.0.2"].into_iter().cycle();
        let round: Vec<_> =
            (0..9).map(|turn| turn * 30).zip(turns.map(|address| found(&[address], 30))).collect();
        assert!(
            !left(&known(start, &round), "10.0.0.1", 240) && !left(&known(start, &round), "10.0.0.2", 240)
        );
        let gone = known(start, &[(0, one.clone()), (30, Answer::Absent { ttl: Duration::from_secs(5) })]);
        assert!(left(&gone, "10.0.0.1", 30));
        // Silence says nothing.
        assert!(!left(&known(start, &[(0, one), (30, failed())]), "10.0.0.1", 1000));
        // Bounds: ten seconds and ten minutes.
        let soon = known(start, &[(0, found(&["10.0.0.1"], 1)), (1, found(&["10.0.0.2"], 1))]);
        assert!(!left(&soon, "10.0.0.1", 9) && left(&soon, "10.0.0.1", 10));
        let late = known(start, &[(0, found(&["10.0.0.1"], 3600)), (1, found(&["10.0.0.2"], 3600))]);
        assert!(!left(&late, "10.0.0.1", 599) && left(&late, "10.0.0.1", 600));
    }

    #[test]
    fn what_a_name_showed_is_bounded() {
        let start = Instant::now();
        let answers: Vec<_> = (0..400_u64)
            .map(|second| (second, found(&[&format!("10.0.{}.{}", second / 200, second % 200)], 1)))
            .collect();
        let known = known(start, &answers);
        let at = start + Duration::from_secs(400);
        assert_eq!(known.addresses().count(), MAX_SEEN);
        assert!(has(&known, "10.0.1.199", at) && !has(&known, "10.0.0.0", at), "the oldest go first");
    }
}
