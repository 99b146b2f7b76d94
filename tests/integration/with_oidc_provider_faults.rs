//! What if the road to the issuer is ill? To its key set, its introspection endpoint and its token endpoint: what is known goes on, what is
//! not known is never taken for good, and all is well soon after the road is.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::{Answer, get, get_with};
use crate::support::fault_proxy::{At, Fault, FaultProxy};
use crate::support::fault_rows;
use crate::support::issuer::{Issuer, SECRET};
use crate::support::policy::{self, Folder, asking, document, inbound, inbound_with, usual_rules};
use crate::support::process::temporary;
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::Upstream;
use crate::support::{wait_for_state, wait_until};

/// A road to the issuer that may be ill, a sidecar that asks there, and the application.
struct World<'a> {
    issuer: &'a Issuer,
    road: FaultProxy,
    upstream: Upstream,
    proxy: Proxy,
    /// Where the sidecar keeps what it knows.
    state: PathBuf,
    _folders: (Folder, TempDir),
}

// === impl World ===

impl<'a> World<'a> {
    /// Before the application, which takes JWTs.
    fn keys(issuer: &'a Issuer, fault: Fault) -> Self {
        Self::new(issuer, fault, "orders", |road, _| {
            (json!({"jwks": {"uri": format!("{road}/jwks")}}), inbound(&usual_rules()))
        })
    }

    /// Before the application, which takes opaque tokens.
    fn introspection(issuer: &'a Issuer, fault: Fault) -> Self {
        Self::new(issuer, fault, "orders", |road, _| {
            let keys = json!({"uri": format!("{}/jwks", issuer.url)});
            let endpoint = format!("{road}/token/introspection");
            let policy = policy::credential() + &inbound_with(&usual_rules(), &asking());
            (json!({"introspectionEndpoint": endpoint, "jwks": keys}), policy)
        })
    }

    /// Behind the application, for which it gets tokens.
    fn tokens(issuer: &'a Issuer, fault: Fault) -> Self {
        Self::new(issuer, fault, "checkout", |road, upstream| {
            let policy = policy::credential() + &policy::outbound(upstream.port(), &json!({}));
            (json!({"tokenEndpoint": format!("{road}/token")}), policy)
        })
    }

    fn new(
        issuer: &'a Issuer,
        fault: Fault,
        app: &str,
        policy: impl Fn(&str, &Upstream) -> (Value, String),
    ) -> Self {
        let (road, upstream) = (FaultProxy::before(issuer.address()), Upstream::start());
        road.switch(fault);
        let (more, rest) = policy(&format!("http://{}", road.address()), &upstream);
        let mut spec = json!({"issuer": issuer.url, "insecure": true});
        spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let text = document("Issuer", "corp", &spec) + &rest;
        let folder = Folder::with(&[("policy.yaml", &text), ("client-secret", SECRET)]);
        let (kept, state) = temporary();
        let settings = Settings::policies(folder.path(), app).before(upstream.address());
        let proxy = settings.with(&["--state-dir", &state.to_string_lossy()]).launch();
        Self { issuer, road, upstream, proxy, state, _folders: (folder, kept) }
    }

    fn show(&self, token: &str) -> Answer {
        get_with(self.proxy.inbound(), "/orders", token)
    }

    /// What the application of `checkout` does.
    fn call(&self) -> Answer {
        let host = format!("localhost:{}", self.upstream.port());
        get(self.proxy.outbound(), "/a", &[("Host", &host)])
    }

    fn sum(&self, metric: &str, labels: &[(&str, &str)]) -> f64 {
        self.proxy.scrape().sum(metric, labels)
    }

    /// Different tokens that the application saw.
    fn seen(&self) -> usize {
        let mut tokens: Vec<_> = self.upstream.seen().iter().map(|seen| seen.all("authorization")).collect();
        tokens.sort();
        tokens.dedup();
        tokens.len()
    }
}

/// Nobody is let in, nobody is told that the token is bad, and when to come back is said.
fn assert_unavailable(answer: &Answer, reason: &str, case: &str) {
    assert_eq!((answer.status, &*answer.reason()), (503, reason), "{case}: {answer:?}");
    assert_eq!(answer.header("www-authenticate"), None, "{case}");
    let after = answer.header("retry-after").map(|seconds| seconds.parse::<u64>().expect("seconds"));
    assert!(after.is_none_or(|seconds| (1..=60).contains(&seconds)), "{case}: {after:?}");
}

/// The pause after so many failures in a row is below 1 s, 2 s, 4 s ... 60 s, and an attempt may be under way for 5 s.
fn bound(failures: f64) -> Duration {
    Duration::from_secs_f64(2_f64.powf(failures).min(60.0)) + FETCH + BUSY
}

/// Keys that are known go on; one that is not known yet is no reason to believe or to blame a token.
fn key_set(issuer: &Issuer, fault: Fault) {
    let case = format!("{fault:?}");
    let world = World::keys(issuer, Fault::None);
    let old = world.issuer.token("orders:read");
    wait_until("the keys", QUICKLY, || world.show(&old).status == 200);
    world.road.switch(fault);
    world.issuer.rotate("");
    let new = world.issuer.token("orders:read");
    world.upstream.forget();
    let asked = Instant::now();
    assert_unavailable(&world.show(&new), "keys_unavailable", &case);
    assert!(asked.elapsed() < PATIENCE + BUSY, "{case}: {:?}", asked.elapsed());
    assert_eq!(world.upstream.count(), 0, "{case}");
    let failed =
        || world.sum("countersign_jwks_refreshes_total", &[("issuer", "corp"), ("result", "failure")]);
    wait_until(&format!("{case}: the failure"), FETCH + BUSY, || failed() > 0.0);
    assert_eq!(world.show(&old).status, 200, "{case}: a key that is known");
    assert_unavailable(&world.show(&new), "keys_unavailable", &case);

    world.road.switch(Fault::None);
    let limit = bound(failed() + 1.0);
    wait_until(&format!("{case}: the new key"), limit, || world.show(&new).status == 200);
    assert_eq!(world.show(&old).status, 200, "{case}: its key is still published");
}

/// A sidecar that starts while the road is ill knows no key.
fn first_keys(issuer: &Issuer, fault: Fault) {
    let case = format!("{fault:?} at the start");
    let world = World::keys(issuer, fault);
    let token = world.issuer.token("orders:read");
    let failed =
        || world.sum("countersign_jwks_refreshes_total", &[("issuer", "corp"), ("result", "failure")]);
    assert_unavailable(&world.show(&token), "keys_unavailable", &case);
    wait_until(&format!("{case}: the failure"), FETCH + BUSY, || failed() > 0.0);
    assert_unavailable(&world.show(&token), "keys_unavailable", &case);
    assert_eq!(world.show("a.b.c").status, 401, "{case}: what is no token is none");
    assert_eq!(world.upstream.count(), 0, "{case}");
    world.road.switch(Fault::None);
    let limit = bound(failed() + 1.0);
    wait_until(&format!("{case}: the keys"), limit, || world.show(&token).status == 200);
}

/// A sidecar that starts while the road is ill goes on with the keys that the one before it kept, and with no others.
fn kept_keys(issuer: &Issuer, fault: Fault) {
    let case = format!("{fault:?} at the start with keys that were kept");
    let mut world = World::keys(issuer, Fault::None);
    let old = world.issuer.token("orders:read");
    wait_until("the keys", QUICKLY, || world.show(&old).status == 200);
    wait_for_state(&world.state, "keys");
    world.road.switch(fault);
    world.proxy.restart();
    let asked = Instant::now();
    assert_eq!(world.show(&old).status, 200, "{case}: {}", world.proxy.log());
    assert!(asked.elapsed() < BUSY, "{case}: {:?}", asked.elapsed());

    world.issuer.rotate("");
    let new = world.issuer.token("orders:read");
    world.upstream.forget();
    assert_unavailable(&world.show(&new), "keys_unavailable", &case);
    assert_eq!(world.upstream.count(), 0, "{case}");
    let failed =
        || world.sum("countersign_jwks_refreshes_total", &[("issuer", "corp"), ("result", "failure")]);
    wait_until(&format!("{case}: the failure"), FETCH + BUSY, || failed() > 0.0);
    assert_eq!(world.show(&old).status, 200, "{case}: a key that was kept");
    world.road.switch(Fault::None);
    let limit = bound(failed() + 1.0);
    wait_until(&format!("{case}: the new key"), limit, || world.show(&new).status == 200);
}

/// What the issuer called active goes on for a while; of all else it is not known, and nobody is let in.
fn introspection(issuer: &Issuer, fault: Fault) {
    let case = format!("{fault:?}");
    let world = World::introspection(issuer, Fault::None);
    let token = || world.issuer.token("orders:read");
    let (known, new, revoked) = (token(), token(), token());
    world.issuer.revoke(&revoked);
    assert_eq!(world.show(&known).status, 200, "{case}: {}", world.proxy.log());
    world.road.switch(fault);
    world.upstream.forget();
    for token in [&new, &revoked, &"made-up".to_owned()] {
        let asked = Instant::now();
        assert_unavailable(&world.show(token), "keys_unavailable", &case);
        assert!(asked.elapsed() < FETCH + BUSY, "{case}: {:?}", asked.elapsed());
    }
    assert_eq!(world.upstream.count(), 0, "{case}");
    assert_eq!(world.show(&known).status, 200, "{case}: what is known");
    let failed = [("issuer", "corp"), ("result", "failed")];
    wait_until(&format!("{case}: the failure"), FETCH + BUSY, || {
        world.sum("countersign_introspection_requests_total", &failed) > 0.0
    });

    world.road.switch(Fault::None);
    wait_until(&format!("{case}: the issuer's word"), PAUSE + FETCH + BUSY, || {
        world.show(&new).status == 200
    });
    for token in [&*revoked, "made-up"] {
        assert_eq!(world.show(token).reason(), "inactive", "{case}");
    }
}

/// Nothing leaves without a token, and the issuer is not asked again and again.
fn first_token(issuer: &Issuer, fault: Fault) {
    let case = format!("{fault:?}");
    let world = World::tokens(issuer, fault);
    let asked = Instant::now();
    let refused = world.call();
    let took = asked.elapsed();
    assert_unavailable(&refused, "token_unavailable", &case);
    assert!(took < PATIENT + BUSY, "{case}: {took:?}");
    assert!(refused.header("retry-after").is_some(), "{case}");
    let failures = || world.sum("countersign_token_fetch_failures_total", &[("credential", "shop/checkout")]);
    // One question that fails is enough for a refusal; full jitter makes a pause short at times, but not all of them.
    let times = failures();
    assert!((1.0..=3.0).contains(&times), "{case}: asked {times} times in {took:?}");
    assert_eq!(world.upstream.count(), 0, "{case}: it went without a token");

    world.road.switch(Fault::None);
    let limit = bound(failures() + 1.0) + PATIENT;
    wait_until(&format!("{case}: a token"), limit, || world.call().status == 200);
    assert_eq!((world.upstream.count(), world.seen()), (1, 1), "{case}");
}

/// A token that is good goes on being used, and is replaced in time once the road is well.
fn next_token(issuer: &Issuer, fault: Fault) {
    let case = format!("{fault:?} while a token is in hand");
    let world = World::tokens(issuer, Fault::None);
    assert_eq!(world.call().status, 200, "{case}: {}", world.proxy.log());
    world.road.switch(fault);
    let failures = || world.sum("countersign_token_fetch_failures_total", &[("credential", "shop/checkout")]);
    let is_asking = || {
        let page = get(world.proxy.admin(), "/tokens", &[]).json();
        page["tokens"][0]["in_flight"].as_bool().expect("a truth value")
    };
    // The one attempt that the fault befalls has failed, or has been under way for a while: the next may be the last in time.
    let mut was_asking = false;
    wait_until(&format!("{case}: an attempt"), LIFE, || {
        thread::sleep(PACE);
        assert_eq!(world.call().status, 200, "{case}: {}", world.proxy.log());
        let was = std::mem::replace(&mut was_asking, is_asking());
        failures() > 0.0 || was && was_asking
    });
    assert_eq!(world.seen(), 1, "{case}: the one that is in hand");
    world.road.switch(Fault::None);
    wait_until(&format!("{case}: the next token"), LIFE, || {
        thread::sleep(PACE);
        assert_eq!(world.call().status, 200, "{case}: {}", world.proxy.log());
        world.seen() == 2
    });
    assert!(failures() > 0.0, "{case}");
}

/// At once: most of their time is waiting. All that are wrong are named, by the panics of their threads.
fn each(settings: &Value, check: impl Fn(&Issuer, Fault) + Copy + Send + Sync) {
    let issuer = &Issuer::start(settings);
    fault_rows::each(BREAK, |fault| check(issuer, fault));
}

/// No answer, half of one, or none that can be read.
const BREAK: &[Fault] = &[
    Fault::Refuse,
    Fault::Reset(At::Byte(0)),
    Fault::Reset(At::Byte(20)),
    Fault::Reset(At::Body(10)),
    Fault::HalfOpen,
    Fault::Truncate(At::Byte(0)),
    Fault::Truncate(At::Byte(20)),
    Fault::Truncate(At::Body(10)),
    Fault::Garbage(At::Byte(0)),
    Fault::Garbage(At::Body(10)),
    Fault::Delay(Duration::from_secs(15)),
    Fault::Drip(Duration::from_millis(100)),
];

#[test]
fn in_13_keys_that_are_known_go_on_and_others_are_not_believed() {
    each(&json!({}), key_set);
}

#[test]
fn in_13_without_a_key_nobody_is_let_in() {
    each(&json!({}), first_keys);
}

#[test]
fn in_13_keys_that_were_kept_go_on_after_a_start() {
    each(&json!({}), kept_keys);
}

#[test]
fn in_1_what_the_issuer_cannot_be_asked_about_is_not_let_in() {
    each(&json!({"opaque": true}), introspection);
}

#[test]
fn out_9_without_a_token_nothing_leaves() {
    each(&json!({}), first_token);
}

#[test]
fn out_9_a_token_in_hand_is_used_until_there_is_the_next() {
    each(&json!({"ttl": LIFE.as_secs()}), next_token);
}

/// Late, but in time, and with more behind it than was asked for: an answer like any other.
#[test]
fn what_is_slow_but_sound_is_taken() {
    let (jwts, opaques) = (Issuer::start(&json!({})), Issuer::start(&json!({"opaque": true})));
    for fault in [Fault::Delay(Duration::from_millis(200)), Fault::Surplus] {
        let keys = World::keys(&jwts, fault);
        let token = jwts.token("orders:read");
        assert_eq!(keys.show(&token).status, 200, "{fault:?}: {}", keys.proxy.log());
        jwts.rotate("");
        let rotated = jwts.token("orders:read");
        assert_eq!(keys.show(&rotated).status, 200, "{fault:?}: {}", keys.proxy.log());

        let opaque = World::introspection(&opaques, fault);
        let token = opaques.token("orders:read");
        assert_eq!(opaque.show(&token).status, 200, "{fault:?}: {}", opaque.proxy.log());
        assert_eq!(opaque.show("made-up").reason(), "inactive", "{fault:?}");

        let before = jwts.requests("/token");
        let tokens = World::tokens(&jwts, fault);
        assert_eq!(tokens.call().status, 200, "{fault:?}: {}", tokens.proxy.log());
        assert_eq!(jwts.requests("/token"), before + 1, "{fault:?}");
    }
}

/// Of a token: so long that, when it is to be replaced, an attempt of 3 s may fail before its end.
const LIFE: Duration = Duration::from_secs(30);
/// Between two requests of one application.
const PACE: Duration = Duration::from_millis(100);
const QUICKLY: Duration = Duration::from_secs(20);
/// How long a request waits for keys.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long one for a token does.
const PATIENT: Duration = Duration::from_secs(10);
/// How long a key set or the issuer's word is waited for.
const FETCH: Duration = Duration::from_secs(5);
/// The longest pause before the issuer is asked about opaque tokens again.
const PAUSE: Duration = Duration::from_secs(10);
/// What a busy machine may take on top.
const BUSY: Duration = Duration::from_secs(5);
