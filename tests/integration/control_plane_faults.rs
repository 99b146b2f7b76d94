//! What if the road to the control plane is ill? What runs stays in force, who starts meanwhile starts from disk, and what was changed
//! meanwhile is in force soon after.

use std::thread;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::support::client::{get, get_with};
use crate::support::control::Control;
use crate::support::fault_proxy::{At, Fault, FaultProxy};
use crate::support::fault_rows;
use crate::support::jose::{Key, claims, key_set};
use crate::support::metrics::Scrape;
use crate::support::policy::{Folder, LOCAL_ISSUER, inbound, issuer_inline, usual_rules};
use crate::support::process::temporary;
use crate::support::proxy::Proxy;
use crate::support::upstream::Upstream;
use crate::support::{now, wait_for_state, wait_until};

/// A control plane, a road to it that may be ill, and a sidecar that has its policy from there.
struct World {
    key: Key,
    upstream: Upstream,
    folder: Folder,
    control: Control,
    road: FaultProxy,
    sidecar: Proxy,
    token: String,
    /// Larger than what else is said on a connection?
    is_large: bool,
    _state: TempDir,
}

// === impl World ===

impl World {
    fn new(is_large: bool) -> Self {
        let (key, upstream) = (Key::new("k1"), Upstream::start());
        let folder = Folder::with(&[("orders.yaml", &policy(&key, 0, is_large))]);
        let control = Control::start(folder.path(), &[]);
        let road = FaultProxy::before(control.api());
        let (root, state) = temporary();
        let state = state.join("sidecar");
        let settings = control.sidecar_by("orders", road.address()).before(upstream.address());
        let sidecar = settings.with(&["--state-dir", &state.to_string_lossy()]).start();
        wait_for_state(&state, "policy");
        let token = key.token(&claims(LOCAL_ISSUER, &json!({"exp": now() + 3600})));
        let world = Self { key, upstream, folder, control, road, sidecar, token, is_large, _state: root };
        wait_until("the first acknowledgement", QUICKLY, || world.is_told(&world.sidecar, 1));
        world
    }

    /// Another sidecar of the workload, which has nothing on disk.
    fn launch_fresh(&self) -> Proxy {
        self.control.sidecar_by("orders", self.road.address()).before(self.upstream.address()).launch()
    }

    /// Writes this version of the policy.
    fn write(&self, version: usize) {
        self.folder.write("orders.yaml", &policy(&self.key, version, self.is_large));
    }

    fn is_in_force(&self, at: &Proxy, version: usize) -> bool {
        get_with(at.inbound(), &format!("/version/{version}"), &self.token).status == 200
    }

    /// What all versions of the policy say.
    fn assert_judges(&self, at: &Proxy, case: &str) {
        let (to, token) = (at.inbound(), self.token.as_str());
        assert_eq!(get_with(to, "/orders", token).status, 200, "{case}");
        assert_eq!(get(to, "/orders", &[]).reason(), "missing_token", "{case}");
        assert_eq!(get_with(to, "/orders/secret", token).reason(), "denied_by_rule", "{case}");
        assert!(at.is_ready(), "{case}");
        let rejected = at.scrape().sum("countersign_policy_reloads_total", &[("result", "rejected")]);
        assert!(rejected < 1.0, "{case}: a fault of the road is no fault of the policy");
    }

    /// Has the control plane heard that so many sidecars run what this one does?
    fn is_told(&self, by: &Proxy, count: usize) -> bool {
        let version = by.version().expect("a version");
        let workloads = get(self.control.admin(), "/v1/workloads", &[]).json();
        let sidecars = workloads["workloads"].as_array().expect("an array");
        sidecars.iter().filter(|sidecar| sidecar["running"] == version).count() == count
    }
}

/// Each version is known by a path that it alone opens.
fn policy(key: &Key, version: usize, is_large: bool) -> String {
    let mut rules = usual_rules();
    let own = json!({"name": "own", "to": {"paths": [format!("/version/{version}")]}, "from": {}});
    rules.as_array_mut().expect("an array").push(own);
    let comment = format!("# {}\n", "-".repeat(100)).repeat(if is_large { 600 } else { 0 });
    issuer_inline(&key_set(&[key])) + &inbound(&rules) + &comment
}

/// How often it has asked in vain, or told.
fn failures(sidecar: &Proxy) -> usize {
    let log = sidecar.log();
    log.matches(POLL_FAILED).count() + log.matches("the acknowledgement was not accepted").count()
}

/// How often the metric says that it has asked in vain.
fn failed_polls(sidecar: &Proxy) -> f64 {
    sidecar.scrape().sum("countersign_policy_polls_total", &[("result", "failure")])
}

/// What the pause may be by now: full jitter below 500 ms, 1 s, 2 s ... 30 s.
fn longest_pause(sidecar: &Proxy) -> Duration {
    let polls = u32::try_from(sidecar.log().matches(POLL_FAILED).count()).expect("a few");
    (Duration::from_millis(500) * 2_u32.pow(polls.min(6))).min(Duration::from_secs(30))
}

/// Changes go on through a fault that breaks nothing.
fn passes(fault: Fault) {
    let world = World::new(false);
    world.road.switch(fault);
    for version in [1, 2] {
        world.write(version);
        wait_until(&format!("{fault:?}: the change"), QUICKLY, || world.is_in_force(&world.sidecar, version));
        world.assert_judges(&world.sidecar, &format!("{fault:?}"));
    }
    assert_eq!(failures(&world.sidecar), 0, "{fault:?}: {}", world.sidecar.log());
    assert!(failed_polls(&world.sidecar) < 1.0, "{fault:?}");
}

/// Nothing passes while the fault is there, and nobody is harmed. An attempt that is under way when it ends may take so long.
fn breaks(fault: Fault, attempt: Duration) {
    let case = format!("{fault:?}");
    let is_large = matches!(fault, Fault::Truncate(BUNDLE) | Fault::Reset(BUNDLE) | Fault::Garbage(BUNDLE));
    let mut world = World::new(is_large);
    world.road.switch(fault);
    // The first may come by the poll that is under way, and its acknowledgement or the next poll meets the fault.
    let mut version = 0;
    while failures(&world.sidecar) == 0 {
        version += 1;
        world.write(version);
        wait_until(&format!("{case}: the change or a failure"), SLOWLY, || {
            failures(&world.sidecar) > 0 || world.is_in_force(&world.sidecar, version)
        });
    }
    version += 1;
    world.write(version);
    let running = world.sidecar.version();
    let fresh = world.launch_fresh();
    wait_until(&format!("{case}: a failure at the start"), SLOWLY, || failures(&fresh) > 0);
    for token in [Some(&world.token), None] {
        let refused = match token {
            Some(token) => get_with(fresh.inbound(), "/orders", token),
            None => get(fresh.inbound(), "/orders", &[]),
        };
        assert_eq!((refused.status, &*refused.reason()), (503, "policy_unavailable"), "{case}");
    }
    assert!(!fresh.is_ready() && fresh.version().is_none(), "{case}");
    assert!(failed_polls(&fresh) > 0.0, "{case}");
    world.assert_judges(&world.sidecar, &case);
    assert_eq!(world.sidecar.version(), running, "{case}");
    assert!(!world.is_in_force(&world.sidecar, version), "{case}: it got through");

    world.sidecar.restart();
    world.sidecar.wait_ready();
    world.assert_judges(&world.sidecar, &format!("{case}, from disk"));
    assert_eq!(world.sidecar.version(), running, "{case}: what is on disk");
    wait_until(&format!("{case}: a failure after the restart"), SLOWLY, || failures(&world.sidecar) > 0);

    world.road.switch(Fault::None);
    for sidecar in [&world.sidecar, &fresh] {
        let limit = attempt + longest_pause(sidecar) + BUSY;
        wait_until(&format!("{case}: the change"), limit, || world.is_in_force(sidecar, version));
        world.assert_judges(sidecar, &format!("{case}, over"));
    }
    wait_until(&format!("{case}: both acknowledgements"), QUICKLY, || world.is_told(&fresh, 2));
}

#[test]
fn what_is_slow_but_sound_brings_changes() {
    fault_rows::each(
        &[Fault::Delay(Duration::from_millis(200)), Fault::Drip(Duration::from_millis(1))],
        passes,
    );
}

#[test]
fn what_breaks_at_once_harms_nobody_and_is_over_when_the_road_is_well() {
    const FAULTS: &[Fault] = &[
        Fault::Refuse,
        Fault::Reset(At::Byte(0)),
        Fault::Truncate(At::Byte(0)),
        Fault::Garbage(At::Byte(0)),
        Fault::Reset(RECORD),
        Fault::Truncate(RECORD),
        Fault::Garbage(RECORD),
        Fault::Reset(BUNDLE),
        Fault::Truncate(BUNDLE),
        Fault::Garbage(BUNDLE),
    ];
    fault_rows::each(FAULTS, |fault| breaks(fault, Duration::ZERO));
}

/// A handshake may take 10 s, an acknowledgement 15 s.
#[test]
fn what_is_late_or_never_comes_harms_nobody_and_is_given_up() {
    const FAULTS: &[Fault] =
        &[Fault::HalfOpen, Fault::Delay(Duration::from_secs(20)), Fault::Drip(Duration::from_millis(200))];
    // Of an acknowledgement on a connection that there was before, and of a handshake.
    thread::scope(|scope| {
        // Both do little but wait.
        scope.spawn(a_poll_that_is_never_answered_is_given_up_after_45_s);
        fault_rows::each(FAULTS, |fault| breaks(fault, Duration::from_secs(25)));
    });
}

/// The other side has gone without a word while it held its answer back: this is known 15 s after that is due.
fn a_poll_that_is_never_answered_is_given_up_after_45_s() {
    let world = World::new(false);
    let bundles = || {
        let scrape = Scrape::of(world.control.admin());
        scrape.sum("countersign_control_policy_requests_total", &[("result", "bundle")])
    };
    world.road.switch(Fault::Delay(Duration::from_secs(1)));
    world.write(1);
    wait_until("the change", QUICKLY, || world.is_in_force(&world.sidecar, 1));
    wait_until("its acknowledgement, whose answer is late", QUICKLY, || world.is_told(&world.sidecar, 1));
    let before = bundles();
    world.road.switch(Fault::HalfOpen);
    world.write(2);
    wait_until("the answer that does not arrive", QUICKLY, || bundles() > before);
    world.road.switch(Fault::None);
    assert!(!world.is_in_force(&world.sidecar, 2));
    world.assert_judges(&world.sidecar, "while nothing comes");
    let limit = Duration::from_secs(45) + Duration::from_millis(500) + BUSY;
    let took = wait_until("the change", limit, || world.is_in_force(&world.sidecar, 2));
    println!("in force after {took:?}");
    assert!(world.sidecar.log().contains("did not answer in time"), "{}", world.sidecar.log());
}

const POLL_FAILED: &str = "no policy from the control plane, what runs stays";
/// Within a record of TLS: of the handshake, or of an answer.
const RECORD: At = At::Byte(20);
/// Behind the handshake and an acknowledgement, and within a large bundle.
const BUNDLE: At = At::Byte(30_000);
const QUICKLY: Duration = Duration::from_secs(20);
/// An acknowledgement is given up after 15 s, a handshake after 10 s, a poll after 45 s.
const SLOWLY: Duration = Duration::from_secs(60);
/// What a busy machine may take on top.
const BUSY: Duration = Duration::from_secs(5);
