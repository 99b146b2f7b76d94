//! When does a grant end?

use std::net::{Ipv4Addr, SocketAddr};

use futures_util::FutureExt;
use http::Request;

use super::*;
use crate::auth::active::Armory;
use crate::auth::testing::{compiled, services};
use crate::auth::verify::LastVerdict;
use crate::http::inbound::Application;
use crate::http::sidecar::{Sidecar, Worker};
use crate::record::{Direction, Outcome};
use crate::state::live::{Writer, live};

pub(in crate::http) const OPEN: &str = "[{ name: all, public: true, to: { paths: [/*] } }]";
pub(in crate::http) const CLOSED: &str = "[{ name: none, effect: deny, from: { sources: [127.0.0.0/8] } }]";

pub(in crate::http) struct World {
    armory: Armory,
    policy: Writer<Option<Active>>,
    pub(in crate::http) caller: Arc<Caller>,
}

// === impl World ===

impl World {
    pub(in crate::http) fn new(rules: &str) -> Self {
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
        self.admitted(field, kept, |admitted| admitted.grant())
    }

    pub(in crate::http) fn admitted<T>(
        &self,
        field: Option<&'static str>,
        kept: bool,
        make: impl FnOnce(&Admitted<'_>) -> T,
    ) -> T {
        let mut request = Request::get("/a").header("host", "orders.shop");
        if let Some(value) = field {
            request = request.header("x-debug", value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let seen = Seen::new(Direction::Inbound, self.caller.address.ip(), &head, Outcome::Allow);
        make(&Admitted::new(&self.caller, &seen, Kept::of(&head.headers, kept)))
    }

    pub(in crate::http) fn change(&mut self, rules: &str, more: &str) {
        self.policy.store(Some(self.armory.arm(snapshot(rules, more))));
    }

    /// As a stream that was ended.
    pub(in crate::http) fn recorded(&self, decision: &str, reason: &str) -> u64 {
        let metrics = &self.caller.worker.sidecar.metrics;
        metrics.streams_ended.with_label_values(&[decision, reason]).get()
    }

    /// Exchanges that somebody watches.
    pub(in crate::http) fn watched(&self) -> usize {
        self.caller.worker.sidecar.watched.count.load(Ordering::Relaxed)
    }
}

fn snapshot(rules: &str, more: &str) -> countersign_policy::Snapshot {
    let text = format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: InboundPolicy\nmetadata: {{ name: a, namespace: shop }}\n\
         spec: {{ rules: {rules}{more} }}\n"
    );
    compiled("shop", &text)
}

#[tokio::test]
async fn fields_are_judged_where_they_were_kept_and_unknown_ends() {
    let deny = "[{ name: all, public: true, to: { paths: [/*] } },
        { name: debug, effect: deny, to: { headers: { X-Debug: [\"on\"] } } }]";
    let world = World::new(deny);
    assert_eq!(world.grant(Some("on"), true).ended().await.reason(), Reason::DeniedByRule);
    assert!(world.grant(Some("off"), true).ended().now_or_never().is_none());
    assert_eq!(
        world.grant(Some("off"), false).ended().await.reason(),
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
    assert_eq!(ended.await.reason(), Reason::DeniedByRule);
}

#[tokio::test]
async fn a_port_that_no_policy_selects_any_more_is_as_closed_as_for_new_requests() {
    let mut world = World::new(OPEN);
    world.change(OPEN, ", ports: [1]");
    assert_eq!(world.grant(None, false).ended().await.reason(), Reason::NoRule);
}

/// As admission has counted it: what it said then is no news.
#[tokio::test]
async fn what_audit_mode_said_at_the_door_is_not_said_again_and_what_comes_back_is() {
    let mut world = World::new(OPEN);
    world.change(CLOSED, ", mode: audit");
    let grant = world.grant(None, false);
    let mut seen = grant.seen.clone();
    seen.would_refuse = Some(Reason::DeniedByRule);
    let grant = Grant { seen, ..grant };
    let mut ended = Box::pin(grant.ended());
    for (rules, count) in [(CLOSED, 0), (OPEN, 0), (CLOSED, 1), (OPEN, 1), (CLOSED, 2)] {
        world.change(rules, ", mode: audit");
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut ended).await.is_err());
        assert_eq!(world.recorded("audit", "denied_by_rule"), count);
    }
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
