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
    /// What answers said lately, and until when it counts.
    seen: Vec<(IpAddr, Instant)>,
    /// When the question was put that brought this.
    pub(super) asked: Option<Instant>,
    /// When to ask again.
    pub(super) due: Instant,
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
        Self { state: State::New, current: Vec::new(), seen: Vec::new(), asked: None, due: now }
    }

    /// What is known after this answer to a question that was put at `asked`. `spread` in 0..1 keeps sidecars apart.
    pub(super) fn after(&self, answer: &Answer, asked: Instant, now: Instant, spread: f64) -> Self {
        let mut seen = self.seen.clone();
        seen.retain(|(_, until)| *until > now);
        let mut next = Self { state: State::Found, current: Vec::new(), seen, asked: Some(asked), due: now };
        match answer {
            Answer::Found { addresses, ttl, partial } => {
                next.current.clone_from(addresses);
                if *partial {
                    let lacks = |address: &&IpAddr| {
                        !addresses.iter().any(|found| found.is_ipv4() == address.is_ipv4())
                            && next.seen.iter().any(|(seen, _)| seen == *address)
                    };
                    next.current.extend(self.current.iter().filter(lacks));
                }
                for address in addresses {
                    next.see(*address, now + RETENTION.max(*ttl));
                }
                // From the question on, and a little early: who follows this name does so within its TTL.
                next.due = asked + ttl.mul_f64(1.0 - spread / 10.0);
            }
            // Somebody who must know says that it is gone. What was true until now still counts for connections that are
            // made meanwhile, as after any other change.
            Answer::Absent { ttl } => {
                next.state = State::Absent;
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

    fn see(&mut self, address: IpAddr, until: Instant) {
        if let Some(seen) = self.seen.iter_mut().find(|(seen, _)| *seen == address) {
            seen.1 = seen.1.max(until);
            return;
        }
        if self.seen.len() >= MAX_SEEN {
            let oldest =
                self.seen.iter().enumerate().min_by_key(|(_, (_, until))| *until).map(|(place, _)| place);
            oldest.map(|place| self.seen.swap_remove(place));
        }
        self.seen.push((address, until));
    }

    /// Has the name this address, or had it until now?
    pub(super) fn has(&self, address: IpAddr, now: Instant) -> bool {
        self.seen.iter().any(|(seen, until)| *seen == address && *until > now)
            || (self.is_failing() && self.current.contains(&address))
    }

    /// Every address under which the name may be found.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let kept = self.current.iter().filter(|address| !self.seen.iter().any(|(seen, _)| seen == *address));
        self.seen.iter().map(|(address, _)| *address).chain(kept.copied())
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
/// How long the last answer stands in for one. A day, as for key sets: an address that nobody has confirmed since may have
/// become somebody else's.
const MAX_STALE: Duration = Duration::from_secs(24 * 3600);
/// Of one name; the oldest go first.
const MAX_SEEN: usize = 256;
const ASK_AGAIN: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
