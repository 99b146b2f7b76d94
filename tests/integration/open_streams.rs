//! Does an open stream outlive what let it in? Not its token, and not the policy that allowed it; nothing else ends it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::{Connection, get, get_with};
use crate::support::endless::Endless;
use crate::support::jose::{Key, claims, key_set};
use crate::support::policy::{AUDIENCE, Folder, LOCAL_ISSUER, document, inbound_with};
use crate::support::proxy::{Proxy, Settings};
use crate::support::tls::Ca;
use crate::support::{now, wait_until};

pub(crate) const SOON: Duration = Duration::from_secs(5);

pub(crate) struct World {
    pub(crate) key: Key,
    pub(crate) folder: Folder,
    pub(crate) application: Endless,
    pub(crate) proxy: Proxy,
}

// === impl World ===

impl World {
    /// With these fields of the policy on top.
    pub(crate) fn new(more: &Value) -> Self {
        Self::with_files(more, &[])
    }

    pub(crate) fn with_files(more: &Value, files: &[(&str, &str)]) -> Self {
        let (key, application) = (Key::new("k1"), Endless::start());
        let folder = Folder::with(&[
            ("issuer.yaml", &issuer("0s")),
            ("orders.yaml", &inbound_with(&rules(), more)),
            ("keys.jwks", &key_set(&[&key]).to_string()),
        ]);
        files.iter().for_each(|(name, text)| folder.write(name, text));
        // All of them come from one source.
        let flags = ["--max-connections-per-source", "100000"];
        let proxy =
            Settings::policies(folder.path(), "orders").before(application.address()).with(&flags).start();
        Self { key, folder, application, proxy }
    }

    /// A token that is good for this many seconds.
    pub(crate) fn token(&self, seconds: i64) -> String {
        self.key.token(&claims(LOCAL_ISSUER, &json!({"exp": now() + seconds})))
    }

    /// An answer that has begun.
    pub(crate) fn open(&self, path: &str, token: &str) -> Connection {
        let connection = Connection::open(self.proxy.inbound()).unwrap();
        begin(connection, path, &format!("Authorization: Bearer {token}\r\n"))
    }

    /// Writes the policy and waits until it is in force.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let before = self.proxy.version();
        self.folder.write(name, text);
        wait_until("the new version", SOON, || self.proxy.version() != before);
    }

    pub(crate) fn ended(&self, decision: &str, reason: &str) -> f64 {
        let labels = [("decision", decision), ("reason", reason)];
        self.proxy.scrape().sum("countersign_streams_ended_total", &labels)
    }
}

fn issuer(leeway: &str) -> String {
    let spec = json!({"issuer": LOCAL_ISSUER, "jwks": {"file": "keys.jwks"}, "leeway": leeway});
    document("Issuer", "corp", &spec)
}

pub(crate) fn rules() -> Value {
    json!([
        {"name": "streams", "to": {"paths": ["/stream", "/quiet", "/upload"]}, "from": {"scopes": ["orders:read"]}},
        {"name": "health", "public": true, "to": {"paths": ["/healthz"]}},
    ])
}

/// The rules, and one more.
pub(crate) fn and(rule: Value) -> Value {
    let mut rules = rules();
    rules.as_array_mut().unwrap().push(rule);
    rules
}

fn begin(mut connection: Connection, path: &str, fields: &str) -> Connection {
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: orders.shop\r\n{fields}\r\n").as_bytes()).unwrap();
    assert_eq!(connection.head().unwrap().0, 200);
    assert_eq!(connection.chunk().unwrap().as_deref(), Some(&b"tick"[..]));
    connection
}

/// Reads until the answer breaks off, and says how long that took. An end that looks like one would be a lie.
pub(crate) fn cut(connection: &mut Connection) -> Duration {
    let start = Instant::now();
    while let Ok(chunk) = connection.chunk() {
        assert!(chunk.is_some(), "it ended as if it were whole");
        assert!(start.elapsed() < Duration::from_secs(20), "it goes on");
    }
    start.elapsed()
}

/// It goes on for this long.
pub(crate) fn assert_lives(connection: &mut Connection, long: Duration) {
    let start = Instant::now();
    while start.elapsed() < long {
        assert_eq!(connection.chunk().unwrap().as_deref(), Some(&b"tick"[..]));
    }
}

#[test]
fn a_stream_is_cut_when_its_token_expires_and_the_application_sees_it() {
    let world = World::new(&json!({}));
    let token = world.token(4);
    // One that moves all the time, and one that does not.
    let (mut moving, mut quiet) = (world.open("/stream", &token), world.open("/quiet", &token));
    assert_lives(&mut moving, Duration::from_secs(2));
    let took = cut(&mut moving);
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(cut(&mut quiet) < Duration::from_secs(1));
    wait_until("the end at the application", SOON, || world.application.open() == 0);
    assert!((world.ended("deny", "expired") - 2.0).abs() < f64::EPSILON);
    let requests = world.proxy.scrape().sum("countersign_requests_total", &[("decision", "deny")]);
    assert!(requests < 1.0, "they were let in: {requests}");
    let log = world.proxy.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(r#""reason":"expired""#)).collect();
    assert_eq!(lines.len(), 2, "{log}");
    let line: Value = serde_json::from_str(lines[0]).unwrap();
    assert_eq!((&line["status"], &line["client"]), (&json!(401), &json!("checkout")), "{line}");
    let id = line["decision_id"].as_str().unwrap();
    let explained = get(world.proxy.admin(), &format!("/explain?decision={id}"), &[]);
    assert!(explained.status == 200 && explained.text().contains("expired"), "{}", explained.text());
}

#[test]
fn a_stream_outlives_its_token_by_the_grace_that_policy_grants_and_new_requests_do_not() {
    let world = World::new(&json!({"expiredTokenGrace": "4s"}));
    let token = world.token(2);
    let start = Instant::now();
    let mut stream = world.open("/stream", &token);
    wait_until("the expiry", SOON, || {
        get_with(world.proxy.inbound(), "/healthz/no", &token).reason() == "expired"
    });
    // A reload in the meantime does not take the grace away.
    world.write("orders.yaml", &inbound_with(&and(unrelated()), &json!({"expiredTokenGrace": "4s"})));
    assert_lives(&mut stream, Duration::from_millis(500));
    cut(&mut stream);
    let lived = start.elapsed();
    assert!(lived > Duration::from_secs(4) && lived < Duration::from_secs(8), "{lived:?}");
    assert!((world.ended("deny", "expired") - 1.0).abs() < f64::EPSILON);
}

pub(crate) fn unrelated() -> Value {
    json!({"name": "other", "effect": "deny", "to": {"paths": ["/other"]}})
}

#[test]
fn what_policy_still_allows_lives_through_its_changes() {
    let world = World::new(&json!({}));
    let mut stream = world.open("/stream", &world.token(300));
    assert_lives(&mut stream, Duration::from_millis(1500));
    let elsewhere = document("InboundPolicy", "elsewhere", &json!({"ports": [1], "rules": []}));
    for (name, text) in [
        ("elsewhere.yaml", elsewhere),
        ("orders.yaml", inbound_with(&and(unrelated()), &json!({}))),
        (
            "orders.yaml",
            inbound_with(&and(json!({"name": "more", "to": {"paths": ["/more"]}, "from": {}})), &json!({})),
        ),
        ("issuer.yaml", issuer("5s")),
        ("orders.yaml", inbound_with(&rules(), &json!({"timeouts": {"idle": "50s"}}))),
    ] {
        world.write(name, &text);
        assert_lives(&mut stream, Duration::from_millis(700));
    }
    // A new key beside the old one.
    world.folder.write("keys.jwks", &key_set(&[&Key::new("k2"), &world.key]).to_string());
    thread::sleep(Duration::from_secs(2));
    world.write("orders.yaml", &inbound_with(&and(unrelated()), &json!({})));
    assert_lives(&mut stream, Duration::from_secs(1));
    assert!(world.proxy.scrape().sum("countersign_streams_ended_total", &[]) < 1.0);
}

#[test]
fn what_policy_no_longer_allows_is_cut_and_says_why() {
    let world = World::new(&json!({}));
    let usual = inbound_with(&rules(), &json!({}));
    let local = json!({"name": "local", "effect": "deny", "from": {"sources": ["127.0.0.0/8"]}});
    let header = json!({"name": "debug", "effect": "deny", "to": {"headers": {"X-Debug": ["on"]}}});
    let mut scopes = rules();
    scopes[0]["from"]["scopes"] = json!(["orders:write"]);
    let other = json!({"tokens": [{"issuer": "other", "audiences": [AUDIENCE]}]});
    let audience = json!({"tokens": [{"issuer": "corp", "audiences": ["https://else.shop"]}]});
    let other_issuer = json!({"issuer": "https://other.test", "jwks": {"file": "keys.jwks"}});
    world.folder.write("other.yaml", &document("Issuer", "other", &other_issuer));
    for (reason, changed) in [
        ("no_rule", inbound_with(&json!([unrelated()]), &json!({}))),
        ("denied_by_rule", inbound_with(&and(local), &json!({}))),
        ("insufficient_scope", inbound_with(&scopes, &json!({}))),
        ("unknown_issuer", inbound_with(&rules(), &other)),
        ("wrong_audience", inbound_with(&rules(), &audience)),
        // What its header fields were nobody knows any more.
        ("no_rule", inbound_with(&and(header), &json!({}))),
        // No policy selects the port.
        ("no_rule", inbound_with(&rules(), &json!({"ports": [1]}))),
    ] {
        let before = world.ended("deny", reason);
        let mut stream = world.open("/quiet", &world.token(300));
        world.write("orders.yaml", &changed);
        let took = cut(&mut stream);
        assert!(took < Duration::from_secs(2), "{reason}: {took:?}");
        wait_until(reason, SOON, || world.ended("deny", reason) > before);
        world.write("orders.yaml", &usual);
    }
    wait_until("the end at the application", SOON, || world.application.open() == 0);
}

#[test]
fn a_policy_that_looks_at_header_fields_looks_at_those_that_came() {
    let rule = |values: &[&str]| {
        let header = json!({"name": "debug", "effect": "deny", "to": {"headers": {"X-Debug": values}}});
        inbound_with(&and(header), &json!({}))
    };
    let world = World::new(&json!({}));
    world.write("orders.yaml", &rule(&["on"]));
    let fields = |debug: &str| format!("Authorization: Bearer {}\r\nX-Debug: {debug}\r\n", world.token(300));
    let open = |debug| begin(Connection::open(world.proxy.inbound()).unwrap(), "/stream", &fields(debug));
    let (mut one, mut other) = (open("one"), open("other"));
    world.write("orders.yaml", &rule(&["on", "one"]));
    assert!(cut(&mut one) < Duration::from_secs(3));
    assert_lives(&mut other, Duration::from_secs(2));
}

#[test]
fn a_token_whose_key_was_withdrawn_does_not_live_on() {
    let world = World::new(&json!({}));
    let token = world.token(300);
    let mut stream = world.open("/stream", &token);
    assert_lives(&mut stream, Duration::from_millis(1500));
    world.folder.write("keys.jwks", &key_set(&[&Key::new("k2")]).to_string());
    wait_until("the new keys", SOON, || {
        get_with(world.proxy.inbound(), "/elsewhere", &token).reason() == "unknown_key"
    });
    world.write("orders.yaml", &inbound_with(&and(unrelated()), &json!({})));
    let took = cut(&mut stream);
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!((world.ended("deny", "unknown_key") - 1.0).abs() < f64::EPSILON);
}

/// Nothing was answered yet, so the caller is told.
#[test]
fn a_long_upload_ends_with_its_token() {
    let world = World::new(&json!({}));
    let mut caller = Connection::open(world.proxy.inbound()).unwrap();
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        world.token(3)
    );
    caller.send(head.as_bytes()).unwrap();
    let start = Instant::now();
    let upload = |caller: &mut Connection| {
        while start.elapsed() < Duration::from_secs(3) && caller.send(b"3\r\nabc\r\n").is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
    };
    upload(&mut caller);
    let answer = caller.answer("POST").unwrap();
    assert_eq!((answer.status, answer.reason().as_str()), (401, "expired"), "{}", answer.text());
    // The application may have carried it out: nobody is told to send it again with another token.
    assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"countersign\""));
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    wait_until("the end at the application", SOON, || world.application.open() == 0);
}

/// Nor does an answer that comes too late pass.
#[test]
fn a_request_that_waits_for_its_answer_ends_with_its_token_or_policy() {
    let world = World::new(&json!({}));
    let ask = |seconds| {
        let token = world.token(seconds);
        let mut caller = Connection::open(world.proxy.inbound()).unwrap();
        let head = format!("GET /upload HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n");
        caller.send(head.as_bytes()).unwrap();
        caller
    };
    let (mut short, mut long, start) = (ask(3), ask(300), Instant::now());
    let answer = short.answer("GET").unwrap();
    assert_eq!((answer.status, answer.reason().as_str()), (401, "expired"), "{}", answer.text());
    assert!(answer.header("www-authenticate").unwrap().contains("invalid_token"), "a GET may be sent again");
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    world.write("orders.yaml", &inbound_with(&json!([unrelated()]), &json!({})));
    let answer = long.answer("GET").unwrap();
    assert_eq!((answer.status, answer.reason().as_str()), (403, "no_rule"), "{}", answer.text());
    wait_until("the end at the application", SOON, || world.application.open() == 0);
    assert!(world.proxy.scrape().sum("countersign_streams_ended_total", &[]) < 1.0, "they were refused");
}

#[test]
fn a_caller_with_a_certificate_alone_is_judged_anew() {
    let ca = Ca::new("ours");
    let (server, caller) = (ca.server(), ca.peer(&["spiffe://cluster.local/ns/shop/sa/checkout"]));
    let spec = |peers: &[&str]| {
        let rules = json!([{"name": "listen", "to": {"paths": ["/stream"]}, "from": {"peers": peers}}]);
        let tls = json!({"certFile": "tls.crt", "keyFile": "tls.key", "clientCaFile": "ca.crt"});
        inbound_with(&rules, &json!({"tokens": [], "tls": tls}))
    };
    let world = World::with_files(
        &json!({}),
        &[
            ("tls.crt", &server.cert),
            ("tls.key", &server.key),
            ("ca.crt", &ca.pem),
            ("orders.yaml", &spec(&["spiffe://cluster.local/ns/shop/*"])),
        ],
    );
    let open = || {
        let tls = ca.connection(Some(&caller)).unwrap();
        begin(Connection::open_tls(world.proxy.inbound(), tls).unwrap(), "/stream", "")
    };
    let mut stream = open();
    world.write("orders.yaml", &spec(&["spiffe://cluster.local/ns/shop/sa/checkout", "spiffe://td/other"]));
    assert_lives(&mut stream, Duration::from_millis(1500));
    world.write("orders.yaml", &spec(&["spiffe://cluster.local/ns/shop/sa/other"]));
    assert!(cut(&mut stream) < Duration::from_secs(2));
    assert!((world.ended("deny", "no_rule") - 1.0).abs() < f64::EPSILON);

    // Other TLS is demanded than the connection has.
    let anybody = spec(&["spiffe://cluster.local/*"]);
    world.write("orders.yaml", &anybody);
    let mut stream = open();
    world.write(
        "orders.yaml",
        &anybody.replace(r#""clientCaFile""#, r#""clientAuth":"optional","clientCaFile""#),
    );
    assert!(cut(&mut stream) < Duration::from_secs(2));
    let mut stream = open();
    assert_lives(&mut stream, Duration::from_millis(1500));
}

#[test]
fn two_thousand_streams_end_at_one_reload_while_others_are_served() {
    let world = World::new(&json!({}));
    let token = world.token(300);
    let mut streams: Vec<Connection> = (0..2000).map(|_| world.open("/quiet", &token)).collect();
    thread::sleep(Duration::from_millis(1500));
    let stop = Arc::<AtomicUsize>::default();
    let (to, told): (SocketAddr, _) = (world.proxy.inbound(), stop.clone());
    let others = thread::spawn(move || {
        let (mut slowest, mut served) = (Duration::ZERO, 0);
        while told.load(Ordering::SeqCst) == 0 {
            let start = Instant::now();
            assert_eq!(get(to, "/healthz", &[]).status, 200);
            (slowest, served) = (slowest.max(start.elapsed()), served + 1);
        }
        (slowest, served)
    });
    let start = Instant::now();
    world.write("orders.yaml", &inbound_with(&json!([rules()[1]]), &json!({})));
    streams.iter_mut().for_each(|stream| {
        cut(stream);
    });
    let took = start.elapsed();
    stop.store(1, Ordering::SeqCst);
    let (slowest, served) = others.join().unwrap();
    println!("2,000 streams ended in {took:?}; {served} other requests, the slowest in {slowest:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert!((world.ended("deny", "no_rule") - 2000.0).abs() < f64::EPSILON);
}
