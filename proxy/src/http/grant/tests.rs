//! When does a grant end, and what does a short exchange pay for it?

use std::net::{Ipv4Addr, SocketAddr};

use futures_util::FutureExt;
use futures_util::task::noop_waker_ref;
use http::Request;

use super::*;
use crate::auth::active::Armory;
use crate::auth::testing::{compiled, services};
use crate::auth::verify::LastVerdict;
use crate::http::inbound::Application;
use crate::http::sidecar::{Sidecar, Worker};
use crate::record::{Direction, Outcome};
use crate::state::live::{Writer, live};

const OPEN: &str = "[{ name: all, public: true, to: { paths: [/*] } }]";
const CLOSED: &str = "[{ name: none, effect: deny, from: { sources: [127.0.0.0/8] } }]";

struct World {
    armory: Armory,
    policy: Writer<Option<Active>>,
    caller: Arc<Caller>,
}

// === impl World ===

impl World {
    fn new(rules: &str) -> Self {
        let services = services();
        let armory = Armory::new(services.clone());
        let (live, policy) = live(Some(armory.arm(snapshot(rules, ""))));
        let sidecar = Arc::new(Sidecar::for_test(live, &services));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
        let application = Application::new(address, &sidecar);
        let worker = Worker::new(sidecar);
        let last = LastVerdict::default();
        let drain = crate::drain::channel().1;
        let caller = Caller { worker, application, address, tls: None, is_early: false, last, drain };
        Self { armory, policy, caller: Arc::new(caller) }
    }

    /// Of `GET /a`, with this header field.
    fn grant(&self, field: Option<&'static str>, kept: bool) -> Grant {
        self.admitted(field, kept, |admitted| admitted.grant(None))
    }

    fn admitted<T>(&self, field: Option<&'static str>, kept: bool, make: impl Fn(&Admitted<'_>) -> T) -> T {
        let mut request = Request::get("/a").header("host", "orders.shop");
        if let Some(value) = field {
            request = request.header("x-debug", value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let seen = Seen::new(Direction::Inbound, self.caller.address.ip(), &head, Outcome::Allow);
        make(&Admitted::new(&self.caller, &seen, Kept::of(&head.headers, kept)))
    }

    fn change(&mut self, rules: &str, more: &str) {
        self.policy.store(Some(self.armory.arm(snapshot(rules, more))));
    }

    fn recorded(&self, decision: &str, reason: &str) -> u64 {
        let metrics = &self.caller.worker.sidecar.metrics;
        metrics.streams_ended.with_label_values(&[decision, reason]).get()
    }
}

fn snapshot(rules: &str, more: &str) -> countersign_policy::Snapshot {
    let text = format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: InboundPolicy\nmetadata: {{ name: a, namespace: shop }}\n\
         spec: {{ rules: {rules}{more} }}\n"
    );
    compiled("shop", &text)
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_policy_changes_and_is_recorded_once_for_both_directions() {
    let mut world = World::new(OPEN);
    let exchange = Exchange::new(false, 0);
    exchange.forget();
    let half = || world.admitted(None, false, |admitted| admitted.grant(Some(&exchange)));
    let (grant, other) = (half(), half());
    let (mut one, mut two) = (Box::pin(grant.ended()), Box::pin(other.ended()));
    for _ in 0..3 {
        // Policy that says the same, in other words.
        world.change(OPEN, ", timeouts: { idle: 50s }");
        let long = tokio::time::timeout(LOOK_AGAIN * 3, futures_util::future::select(&mut one, &mut two));
        assert!(long.await.is_err(), "it ended, and nothing is wrong");
    }
    world.change(CLOSED, "");
    let ending = Ending { reason: Reason::DeniedByRule, is_grpc: false };
    assert_eq!((one.await, two.await), (ending, ending));
    assert_eq!(world.recorded("deny", "denied_by_rule"), 1);
    assert_eq!(exchange.ending(), Some(ending));
}

/// The request is refused then, and recorded as such.
#[tokio::test]
async fn without_an_answer_nothing_is_recorded_as_a_stream() {
    let world = World::new(CLOSED);
    let exchange = Exchange::new(false, 0);
    let grant = world.admitted(None, false, |admitted| admitted.grant(Some(&exchange)));
    assert_eq!(grant.ended().await.reason, Reason::DeniedByRule);
    assert_eq!(world.recorded("deny", "denied_by_rule"), 0);
    // Nor where there is no body that could tell.
    let mut context = Context::from_waker(noop_waker_ref());
    let mut watch = world.admitted(None, false, |admitted| Watch::unanswered(admitted, None));
    assert!(watch.poll(&mut context).is_ready());
    assert_eq!(world.recorded("deny", "denied_by_rule"), 0);
    let unanswered = world.admitted(None, false, |admitted| Watch::unanswered(admitted, None));
    assert!(unanswered.answered().poll(&mut context).is_ready());
    assert_eq!(world.recorded("deny", "denied_by_rule"), 1, "from the answer on it is a stream");
}

#[tokio::test]
async fn audit_mode_says_so_once_for_both_directions() {
    let mut world = World::new(OPEN);
    world.change(CLOSED, ", mode: audit");
    let exchange = Exchange::new(false, 0);
    let half = || world.admitted(None, false, |admitted| admitted.grant(Some(&exchange)));
    let (grant, other) = (half(), half());
    assert!(grant.ended().now_or_never().is_none() && other.ended().now_or_never().is_none());
    assert_eq!(world.recorded("audit", "denied_by_rule"), 1);
}

#[tokio::test]
async fn fields_are_judged_where_they_were_kept_and_unknown_ends() {
    let deny = "[{ name: all, public: true, to: { paths: [/*] } },
        { name: debug, effect: deny, to: { headers: { X-Debug: [\"on\"] } } }]";
    let world = World::new(deny);
    assert_eq!(world.grant(Some("on"), true).ended().await.reason, Reason::DeniedByRule);
    assert!(world.grant(Some("off"), true).ended().now_or_never().is_none());
    assert_eq!(
        world.grant(Some("off"), false).ended().await.reason,
        Reason::NoRule,
        "what they were is gone"
    );
}

#[tokio::test]
async fn audit_mode_ends_nothing_and_says_so_once() {
    let mut world = World::new(OPEN);
    world.change(CLOSED, ", mode: audit");
    let grant = world.grant(None, false);
    let mut ended = Box::pin(grant.ended());
    assert!(ended.as_mut().now_or_never().is_none());
    world.change(CLOSED, ", mode: audit, timeouts: { idle: 50s }");
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut ended).await.is_err());
    assert_eq!(world.recorded("audit", "denied_by_rule"), 1);
    world.change(CLOSED, "");
    assert_eq!(ended.await.reason, Reason::DeniedByRule);
}

#[tokio::test]
async fn a_port_that_no_policy_selects_any_more_is_as_closed_as_for_new_requests() {
    let mut world = World::new(OPEN);
    world.change(OPEN, ", ports: [1]");
    assert_eq!(world.grant(None, false).ended().await.reason, Reason::NoRule);
}

#[tokio::test]
async fn a_short_exchange_is_not_watched_and_a_long_one_is_within_a_second() {
    let world = World::new(CLOSED);
    let mut context = Context::from_waker(noop_waker_ref());
    let mut watch = world.admitted(None, false, |admitted| Watch::over(Some(admitted), None));
    let due = watch.due().unwrap();
    for _ in 0..100 {
        assert!(watch.poll(&mut context).is_pending());
    }
    assert!(matches!(watch, Watch::Young(_)) && due <= Instant::now() + SHORT);
    assert_eq!(world.caller.worker.sidecar.watched.count.load(Ordering::Relaxed), 0);
    tokio::time::sleep_until(due).await;
    // A frame that has been ready for long does not pass.
    assert!(watch.poll(&mut context).is_ready());
    let mut outbound = Watch::over(None, None);
    assert!(outbound.due().is_none() && outbound.poll(&mut context).is_pending());
}

#[test]
fn all_who_are_woken_at_once_take_turns_and_one_alone_does_not_wait() {
    let watched = Watched::default();
    let place = watched.enter();
    assert_eq!(place.turn(), Duration::ZERO);
    let places: Vec<_> = (0..9_999).map(|_| watched.enter()).collect();
    let mut turns: Vec<_> = places.iter().map(Place::turn).collect();
    turns.sort();
    turns.dedup();
    assert!(
        turns.len() == places.len() && turns.last() < Some(&Duration::from_millis(501)),
        "{:?}",
        turns.last()
    );
    drop(places);
    assert_eq!(place.turn(), Duration::ZERO);
}
