//! What happens when policy changes under load? New rules within a second, nothing dropped, nothing decided wrongly.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::{Connection, get, get_with};
use crate::support::control::check;
use crate::support::jose::{Key, claims, key_set};
use crate::support::policy::{Folder, LOCAL_ISSUER, inbound, issuer_with_file, usual_rules};
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::Upstream;
use crate::support::wait_until;

struct World {
    token: String,
    folder: Folder,
    proxy: Proxy,
    _upstream: Upstream,
}

impl World {
    fn new() -> Self {
        let key = Key::new("k1");
        let folder = Folder::with(&[
            ("issuer.yaml", &issuer_with_file("keys.jwks")),
            ("orders.yaml", &inbound(&usual_rules())),
            ("keys.jwks", &key_set(&[&key]).to_string()),
        ]);
        let upstream = Upstream::start();
        let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
        let token = key.token(&claims(LOCAL_ISSUER, &json!({"exp": crate::support::now() + 3600})));
        Self { token, folder, proxy, _upstream: upstream }
    }

    fn status(&self, target: &str) -> u16 {
        get_with(self.proxy.inbound(), target, &self.token).status
    }

    fn reloads(&self, result: &str) -> f64 {
        self.proxy.scrape().sum("countersign_policy_reloads_total", &[("result", result)])
    }
}

/// The usual rules, and one more.
fn rules_and(more: Value) -> Value {
    let mut rules = usual_rules();
    rules.as_array_mut().unwrap().push(more);
    rules
}

#[test]
fn a_change_is_enforced_within_a_second_timed() {
    let world = World::new();
    assert_eq!(world.status("/new"), 403);
    let open = rules_and(json!({"name": "new", "to": {"paths": ["/new"]}, "from": {}}));
    let mut slowest = Duration::ZERO;
    for round in 0..5 {
        let (rules, expected) = if round % 2 == 0 { (&open, 200) } else { (&usual_rules(), 403) };
        world.folder.write("orders.yaml", &inbound(rules));
        slowest = slowest
            .max(wait_until("the new policy", Duration::from_secs(1), || world.status("/new") == expected));
    }
    println!("slowest change: {slowest:?}");
}

/// Written in place, as some tools do, and a file that appears and goes.
#[test]
fn every_way_of_changing_the_folder_is_noticed() {
    let world = World::new();
    let soon = Duration::from_secs(2);
    let open = |path: &str| inbound(&rules_and(json!({"name": "new", "to": {"paths": [path]}, "from": {}})));
    std::fs::write(world.folder.file("orders.yaml"), open("/in-place")).unwrap();
    wait_until("a write in place", soon, || world.status("/in-place") == 200);
    let other = inbound(&json!([{"name": "b", "to": {"paths": ["/b"]}, "from": {}}]));
    let other = other.replace(r#"{"name":"orders","namespace""#, r#"{"name":"second","namespace""#);
    world.folder.write("second.yaml", &other);
    wait_until("a new file", soon, || world.status("/b") == 200);
    world.folder.remove("second.yaml");
    wait_until("a file that is gone", soon, || world.status("/b") == 403);
    assert_eq!(world.status("/orders"), 200);
}

/// Somebody writes all the time; what is written is enforced all the same.
#[test]
fn a_folder_that_never_rests_is_read_timed() {
    let world = World::new();
    let (started, mut enforced) = (Instant::now(), None);
    let open = rules_and(json!({"name": "new", "to": {"paths": ["/new"]}, "from": {}}));
    while started.elapsed() < Duration::from_secs(5) && enforced.is_none() {
        let comment = format!("# {:?}\n{}", started.elapsed(), inbound(&open));
        world.folder.write("orders.yaml", &comment);
        thread::sleep(Duration::from_millis(20));
        if world.status("/new") == 200 {
            enforced = Some(started.elapsed());
        }
    }
    let enforced = enforced.expect("a folder that is written to every 20 ms is never read");
    assert!(enforced < Duration::from_secs(2), "{enforced:?}");
}

#[test]
fn a_broken_file_changes_nothing_but_says_so() {
    let world = World::new();
    let version = world.proxy.version();
    assert!(version.is_some());
    let broken = inbound(&usual_rules()).replace("\"paths\"", "\"pahts\"");
    world.folder.write("orders.yaml", &broken);
    wait_until("the rejection in the metric", Duration::from_secs(5), || world.reloads("rejected") >= 1.0);

    assert_eq!(world.status("/orders"), 200);
    assert_eq!(world.status("/orders/secret"), 403);
    assert_eq!(get(world.proxy.inbound(), "/orders", &[]).status, 401);
    assert_eq!(world.proxy.version(), version, "another version runs");
    assert!(world.proxy.is_ready(), "not ready because of a bad update");
    let log = world.proxy.log();
    assert!(
        log.contains("pahts") && log.contains("orders.yaml"),
        "the log does not say what is wrong: {log}"
    );
    let checked = check(&[world.folder.path()]);
    assert_eq!(checked.code, Some(1), "{checked:?}");
    let said = checked.stdout + &checked.stderr;
    assert!(said.contains("orders.yaml:") && said.contains("pahts"), "{said}");

    // An empty folder, later, is a bad update too.
    world.folder.write("orders.yaml", "");
    world.folder.write("issuer.yaml", "");
    wait_until("the second rejection", Duration::from_secs(5), || world.reloads("rejected") >= 2.0);
    assert_eq!(world.status("/orders"), 200);

    // Mended.
    world.folder.write("issuer.yaml", &issuer_with_file("keys.jwks"));
    world.folder.write(
        "orders.yaml",
        &inbound(&rules_and(json!({"name": "n", "to": {"paths": ["/n"]}, "from": {}}))),
    );
    wait_until("the mended policy", Duration::from_secs(5), || world.status("/n") == 200);
    assert_ne!(world.proxy.version(), version);
}

/// How often policy changes in the long test.
const RELOADS: u64 = 1000;

#[test]
fn a_thousand_reloads_under_load_drop_and_misjudge_nothing() {
    let world = World::new();
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let (to, token) = (world.proxy.inbound(), world.token.as_str());
    let chunks = thread::scope(|scope| {
        let stream = scope.spawn(|| read_stream(to, token, &stop));
        let workers: Vec<_> = (0..3).map(|_| scope.spawn(|| load(to, token, &stop, &done))).collect();
        let reloaded = reload(&world, || workers.iter().all(|w| !w.is_finished()) && !stream.is_finished());
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().expect("a worker saw a wrong answer");
        }
        assert!(reloaded, "load or stream ended early");
        stream.join().expect("the stream broke")
    });
    assert!(world.reloads("applied") >= 1000.0, "{}", world.reloads("applied"));
    assert!((world.reloads("rejected")).abs() < f64::EPSILON);
    println!("{} requests, {chunks} lines of one response", done.load(Ordering::Relaxed));
}

/// Changes policy so often, each time waiting until the change runs. False if somebody gave up meanwhile.
fn reload(world: &World, still_going: impl Fn() -> bool) -> bool {
    let mut version = world.proxy.version();
    for round in 0..RELOADS {
        // /flip is allowed in every other version; the rules before it are the same in all.
        let effect = if round % 2 == 0 { json!({"from": {}}) } else { json!({"from": {}, "effect": "deny"}) };
        let mut rule = json!({"name": format!("flip-{round}"), "to": {"paths": ["/flip"]}});
        rule.as_object_mut().unwrap().extend(effect.as_object().unwrap().clone());
        world.folder.write("orders.yaml", &inbound(&rules_and(rule)));
        let mut now = None;
        wait_until("the next version", Duration::from_secs(5), || {
            now = world.proxy.version();
            now != version
        });
        version = now;
        if !still_going() {
            return false;
        }
    }
    true
}

/// One connection, kept open: requests whose answer no version changes, and one that every version does.
fn load(to: SocketAddr, token: &str, stop: &AtomicBool, done: &AtomicU64) {
    let bearer = format!("Bearer {token}");
    let authorized = [("Authorization", bearer.as_str())];
    let mut connection = Connection::open(to).unwrap();
    let mut flips = [0_u64; 2];
    while !stop.load(Ordering::Relaxed) {
        for (target, headers, expected) in [
            ("/orders", &authorized[..], 200),
            ("/orders/secret", &authorized[..], 403),
            ("/orders", &[], 401),
            ("/healthz", &[], 200),
        ] {
            let answer = connection.request("GET", target, headers, b"").expect("no request fails");
            assert_eq!(answer.status, expected, "{target}: {answer:?}");
        }
        match connection.request("GET", "/flip", &authorized, b"").expect("no request fails").status {
            200 => flips[0] += 1,
            403 => flips[1] += 1,
            status => panic!("/flip: {status}"),
        }
        done.fetch_add(5, Ordering::Relaxed);
        // Other tests need the machine too.
        thread::sleep(Duration::from_millis(2));
    }
    assert!(flips[0] > 0 && flips[1] > 0, "policy never changed for this connection: {flips:?}");
}

/// One response that does not end: every line comes, in order. Returns how many.
fn read_stream(to: SocketAddr, token: &str, stop: &AtomicBool) -> u64 {
    let mut connection = Connection::open(to).unwrap();
    let request = format!("GET /orders/stream HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n");
    connection.send(request.as_bytes()).unwrap();
    assert_eq!(connection.head().unwrap().0, 200);
    let (mut next, mut text) = (0_u64, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        text.extend(connection.chunk().expect("the stream goes on").expect("the stream has no end"));
        while let Some(end) = text.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            assert_eq!(String::from_utf8_lossy(&line).trim(), next.to_string());
            next += 1;
        }
    }
    next
}
