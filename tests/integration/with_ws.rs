//! Does WebSocket pass, and only where policy lets it? The client and the server of npm `ws`, with a sidecar between them.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::{self, Answer, Connection};
use crate::support::issuer::{Issuer, SECRET};
use crate::support::jose::{self, Key, claims, key_set};
use crate::support::policy::{
    self, AUDIENCE, Folder, LOCAL_ISSUER, inbound_with, issuer_discovered, issuer_with_file, usual_rules,
};
use crate::support::process::Process;
use crate::support::proxy::{Proxy, Settings};
use crate::support::tls::Ca;
use crate::support::ws::{Peer, Server};
use crate::support::{tools, wait_until};

/// A server of `ws` with a sidecar before it.
pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) proxy: Proxy,
    pub(crate) folder: Folder,
    key: Key,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(&usual_rules(), &json!({}))
    }

    pub(crate) fn with(rules: &Value, more: &Value) -> Self {
        let (server, key) = (Server::start(), Key::new("k1"));
        let folder = Folder::with(&[
            ("issuer.yaml", &issuer_with_file("keys.jwks")),
            ("orders.yaml", &inbound_with(rules, more)),
            ("keys.jwks", &key_set(&[&key]).to_string()),
        ]);
        let proxy = Settings::policies(folder.path(), "orders").before(server.address()).start();
        Self { server, proxy, folder, key }
    }

    pub(crate) fn token(&self, over: &Value) -> String {
        self.key.token(&claims(LOCAL_ISSUER, over))
    }

    /// A client that shows a good token.
    pub(crate) fn client(&self, path: &str, what: &str, more: &Value) -> Peer {
        let mut more = more.clone();
        more["headers"] = json!({"Authorization": format!("Bearer {}", self.token(&json!({})))});
        Peer::client(&format!("ws://{}{path}", self.proxy.inbound()), what, &more)
    }

    pub(crate) fn open_tunnels(&self, direction: &str) -> f64 {
        let labels = [("direction", direction), ("protocol", "websocket")];
        self.proxy.scrape().sum("countersign_connections", &labels)
    }

    /// A request for WebSocket, as bytes.
    fn asking(&self, path: &str) -> String {
        format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            self.token(&json!({}))
        )
    }
}

/// A text message as a client sends it, with a key of zeros; and as the server of `ws` sends it back.
const MASKED: &[u8] = &[0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
const PLAIN: &[u8] = &[0x81, 0x02, b'h', b'i'];

pub(crate) fn assert_cases_ok(client: &mut Peer) -> Value {
    let end = client.end();
    let cases = client.seen("case");
    let failed: Vec<_> = cases.iter().filter(|case| case["ok"] != true).collect();
    assert!(cases.len() >= 11 && failed.is_empty(), "{failed:?} of {:?}", client.all());
    assert_eq!(
        (&end["event"], &end["code"], &end["reason"]),
        (&json!("close"), &json!(4000), &json!("enough"))
    );
    cases.last().unwrap().clone()
}

/// What keeps the client from opening is no fault of ours.
#[test]
fn the_cases_pass_without_a_sidecar() {
    let server = Server::start();
    assert_cases_ok(&mut Peer::client(
        &format!("ws://{}/", server.address()),
        "echo",
        &json!({"deflate": true}),
    ));
}

#[test]
fn in_21_messages_of_every_kind_pass() {
    let world = World::new();
    let last = assert_cases_ok(&mut world.client("/orders", "echo", &json!({})));
    assert_eq!((&last["extensions"], &last["protocol"]), (&json!(""), &json!("")));
    let asked = world.server.peer.first("upgrade");
    assert_eq!((&asked["headers"]["upgrade"], &asked["url"]), (&json!("websocket"), &json!("/orders")));
    assert_eq!(world.server.peer.first("close")["code"], 4000);

    let more = json!({"deflate": true, "protocols": ["other", "chat"]});
    let last = assert_cases_ok(&mut world.client("/orders/1?x=y", "echo", &more));
    assert_eq!((&last["extensions"], &last["protocol"]), (&json!("permessage-deflate"), &json!("chat")));

    // Each counts once, as one request.
    let labels = [("direction", "inbound"), ("protocol", "http1"), ("decision", "allow")];
    assert_eq!(world.proxy.scrape().sum("countersign_requests_total", &labels), 2.0);
    wait_until("both to be closed", Duration::from_secs(5), || world.open_tunnels("inbound") == 0.0);
}

#[test]
fn in_21_messages_pass_over_tls() {
    assert_passes_over_tls(&json!({"deflate": true}));
}

/// By such a client, which trusts the sidecar's certificate.
pub(crate) fn assert_passes_over_tls(more: &Value) {
    let (ca, server, key) = (Ca::new("ca"), Server::start(), Key::new("k1"));
    let pair = ca.server();
    let tls = json!({"tls": {"certFile": "tls.crt", "keyFile": "tls.key"}});
    let folder = Folder::with(&[
        ("policy.yaml", &(issuer_with_file("keys.jwks") + &inbound_with(&usual_rules(), &tls))),
        ("keys.jwks", &key_set(&[&key]).to_string()),
        ("tls.crt", &pair.cert),
        ("tls.key", &pair.key),
    ]);
    let proxy = Settings::policies(folder.path(), "orders").before(server.address()).start();
    let bearer = format!("Bearer {}", key.token(&claims(LOCAL_ISSUER, &json!({}))));
    let mut more = more.clone();
    (more["ca"], more["headers"]) = (json!(ca.pem), json!({"authorization": bearer}));
    let url = format!("wss://localhost:{}/orders", proxy.inbound().port());
    assert_cases_ok(&mut Peer::client(&url, "echo", &more));
}

#[test]
fn in_21_who_may_not_does_not_reach_the_application() {
    let world = World::new();
    let refused = |path: &str, token: Option<String>| {
        let headers = token.map_or(json!({}), |token| json!({"Authorization": format!("Bearer {token}")}));
        let url = format!("ws://{}{path}", world.proxy.inbound());
        let end = Peer::client(&url, "echo", &json!({ "headers": headers })).end();
        assert_eq!(end["event"], "refused", "{end}");
        assert_eq!(end["headers"]["connection"], "close", "what follows may be meant as frames: {end}");
        (end["status"].as_u64().unwrap(), end["headers"]["x-countersign-reason"].as_str().unwrap().to_owned())
    };
    let good = || Some(world.token(&json!({})));
    assert_eq!(refused("/orders", None), (401, "missing_token".to_owned()));
    assert_eq!(refused("/orders/secret/1", good()), (403, "denied_by_rule".to_owned()));
    assert_eq!(refused("/elsewhere", good()), (403, "no_rule".to_owned()));
    let other = world.token(&json!({"scope": "other"}));
    assert_eq!(refused("/orders", Some(other)), (403, "insufficient_scope".to_owned()));
    let expired = world.token(&json!({"exp": crate::support::now() - 60}));
    assert_eq!(refused("/orders", Some(expired)), (401, "expired".to_owned()));
    assert_eq!(world.server.peer.all().len(), 1, "{:?}", world.server.peer.all());
}

/// What curl sends by `--http2` is an upgrade that is never forwarded: the request goes on without it.
#[test]
fn in_21_other_upgrades_do_not_pass() {
    let world = World::new();
    let bearer = format!("Authorization: Bearer {}", world.token(&json!({})));
    let url = format!("http://{}/orders", world.proxy.inbound());
    let plain = tools::curl(&["--http2", "-H", &bearer, &url]);
    assert_eq!((plain.status, plain.version.as_str()), (426, "1.1"), "{plain:?}");
    let ask = |upgrade: &str| {
        tools::curl(&["-H", &bearer, "-H", "Connection: Upgrade", "-H", upgrade, &url]).status
    };
    assert_eq!(ask("Upgrade: websocket, h2c"), 426);
    assert_eq!(ask("Upgrade: TLS/1.2"), 426);
    for request in world.server.peer.seen("request") {
        for gone in ["upgrade", "http2-settings"] {
            assert!(request["headers"][gone].is_null(), "{request}");
        }
    }
    assert_eq!(world.server.peer.seen("request").len(), 3);
    assert_eq!(ask("Upgrade: websocket"), 400, "a handshake without its key");
    assert!(world.server.peer.seen("upgrade").is_empty());
}

/// A rule can tell it from a plain GET.
#[test]
fn in_21_a_rule_may_say_where_websocket_is_allowed() {
    let rules = json!([
        {"name": "read", "to": {"methods": ["GET"], "paths": ["/orders/*"]}, "from": {}},
        {"name": "no-websocket", "effect": "deny", "to": {"paths": ["/orders/plain"], "headers": {"upgrade": ["websocket"]}}},
    ]);
    let world = World::with(&rules, &json!({}));
    let end = world.client("/orders/plain", "echo", &json!({})).end();
    assert_eq!(
        (&end["status"], &end["headers"]["x-countersign-reason"]),
        (&json!(403), &json!("denied_by_rule"))
    );
    let answer = client::get_with(world.proxy.inbound(), "/orders/plain", &world.token(&json!({})));
    assert_eq!(answer.status, 426, "the server's own answer");
    assert_cases_ok(&mut world.client("/orders/live", "echo", &json!({})));
}

/// Not before the application has agreed, and never if it does not.
#[test]
fn in_21_nothing_is_forwarded_before_the_101() {
    let world = World::new();
    let smuggled = b"GET /orders/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for follows in [MASKED, smuggled] {
        let mut connection = Connection::open(world.proxy.inbound()).unwrap();
        connection.send(&[world.asking("/orders/refuse").as_bytes(), follows].concat()).unwrap();
        let answer = connection.answer("GET").unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (403, "no"));
        assert!(connection.is_closed(), "what followed was heard");
    }
    wait_until("both", Duration::from_secs(5), || world.server.peer.seen("upgrade").len() == 2);
    thread::sleep(Duration::from_millis(300));
    for upgrade in world.server.peer.seen("upgrade") {
        assert_eq!((&upgrade["head"], &upgrade["url"]), (&json!(""), &json!("/orders/refuse")));
    }
    let more = [world.server.peer.seen("bytes"), world.server.peer.seen("request")].concat();
    assert!(more.is_empty(), "{more:?}");

    // Where it does agree, what came early is not lost.
    let mut stream = TcpStream::connect(world.proxy.inbound()).unwrap();
    stream.write_all(&[world.asking("/orders").as_bytes(), MASKED].concat()).unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(PLAIN) {
        let mut some = [0; 512];
        let read = stream.read(&mut some).unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&heard));
        heard.extend(&some[..read]);
    }
    let accept = b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    assert!(heard.to_ascii_lowercase().windows(accept.len()).any(|part| part == accept.to_ascii_lowercase()));
}

#[test]
fn in_21_a_101_that_is_no_answer_is_none() {
    let world = World::new();
    for path in ["/orders/wrong-accept", "/orders/other-protocol"] {
        let answer: Answer = client::raw(world.proxy.inbound(), world.asking(path).as_bytes()).unwrap();
        assert_eq!((answer.status, answer.reason().as_str()), (502, "upstream_unreachable"), "{path}");
    }
}

/// An unmasked frame of a client is a fault, and does not reach the application.
#[test]
fn in_21_what_is_no_frame_does_not_pass() {
    let world = World::new();
    let mut connection = Connection::open(world.proxy.inbound()).unwrap();
    connection.send(world.asking("/orders").as_bytes()).unwrap();
    assert_eq!(connection.head().unwrap().0, 101);
    connection.send(PLAIN).unwrap();
    assert_eq!(world.server.peer.first("close")["code"], 1002);
    assert!(world.server.peer.seen("message").is_empty());
}

#[test]
fn draining_says_so_to_both_sides() {
    let mut world = World::new();
    let mut client = world.client("/orders", "hold", &json!({}));
    client.first("echo");
    assert_eq!(world.open_tunnels("inbound"), 1.0);
    world.proxy.process.terminate();
    assert_eq!(world.proxy.process.wait(Duration::from_secs(10)).code(), Some(0));
    let end = client.end();
    assert_eq!((&end["code"], &end["reason"]), (&json!(1001), &json!("draining")), "{:?}", client.all());
    let close = world.server.peer.first("close");
    assert_eq!((&close["code"], &close["reason"]), (&json!(1001), &json!("draining")));
    assert!(world.server.peer.seen("error").is_empty() && client.seen("error").is_empty());
}

#[test]
fn an_idle_one_is_closed_and_one_in_use_is_not() {
    let world = World::with(&usual_rules(), &json!({"timeouts": {"idle": "1s"}}));
    let busy = world.client("/orders/busy", "hold", &json!({}));
    busy.first("echo");
    let idle = world.client("/orders/idle", "listen", &json!({"pause": 60000}));
    idle.first("open");
    let close = world.server.peer.first("close");
    assert_eq!((&close["code"], &close["reason"]), (&json!(1001), &json!("idle")));
    let before = busy.seen("echo").len();
    wait_until("the other one to go on", Duration::from_secs(5), || busy.seen("echo").len() > before + 5);
    assert!(busy.seen("close").is_empty());
}

/// `timeouts.total` ends with the 101.
#[test]
fn an_open_one_has_no_total() {
    let world = World::with(&usual_rules(), &json!({"timeouts": {"total": "1s"}}));
    let client = world.client("/orders", "hold", &json!({}));
    client.first("echo");
    thread::sleep(Duration::from_secs(2));
    let before = client.seen("echo").len();
    wait_until("it to go on", Duration::from_secs(5), || client.seen("echo").len() > before + 5);
    assert!(client.seen("close").is_empty() && world.server.peer.seen("close").is_empty());
}

/// The bytes that wait are those in the buffers of sockets and our own two.
#[test]
fn a_slow_reader_slows_the_sender_down() {
    let world = World::new();
    let memory = |process: &Process| -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = memory(&world.proxy.process);
    let client = world.client("/orders/flood", "listen", &json!({"pause": 60000}));
    client.first("open");
    let sent = || world.server.peer.seen("flood").last().map_or(0, |seen| seen["sent"].as_u64().unwrap());
    let mut last = 0;
    wait_until("the flood to stand still", Duration::from_secs(20), || {
        thread::sleep(Duration::from_millis(500));
        let now = sent();
        std::mem::replace(&mut last, now) == now
    });
    assert!(last < 64 * 1024 * 1024, "{last} bytes went to a client that reads nothing");
    let grown = memory(&world.proxy.process).saturating_sub(before);
    assert!(grown < 4 * 1024, "{grown} KiB more");
}

/// The application's own, by a proxy setting and by dialling the listener, with a token of ours.
#[test]
fn out_1_an_application_reaches_its_destination_with_a_token() {
    let (issuer, server) = (Issuer::start(&json!({})), Server::start());
    let text =
        issuer_discovered(&issuer.url) + &policy::credential() + &policy::outbound(server.port(), &json!({}));
    let folder = Folder::with(&[("policy.yaml", &text), ("client-secret", SECRET)]);
    let proxy = Settings::policies(folder.path(), "checkout").start();
    let authority = format!("localhost:{}", server.port());
    let by_proxy = json!({"proxy": proxy.outbound().to_string(), "deflate": true});
    assert_cases_ok(&mut Peer::client(&format!("ws://{authority}/a"), "echo", &by_proxy));
    let by_host = json!({"headers": {"Host": authority}});
    assert_cases_ok(&mut Peer::client(&format!("ws://{}/b?c", proxy.outbound()), "echo", &by_host));
    let asked = server.peer.seen("upgrade");
    assert_eq!(asked.iter().map(|asked| asked["url"].clone()).collect::<Vec<_>>(), ["/a", "/b?c"]);
    for asked in asked {
        let shown = asked["headers"]["authorization"].as_str().unwrap().strip_prefix("Bearer ").unwrap();
        assert_eq!(jose::decode(shown)["aud"], AUDIENCE);
        assert_eq!(asked["headers"]["host"], authority);
    }
    // The destination's own answer.
    let end = Peer::client(&format!("ws://{authority}/refuse"), "echo", &by_proxy).end();
    assert_eq!((&end["status"], &end["body"]), (&json!(403), &json!("no")));
    let labels = [("direction", "outbound"), ("decision", "attach")];
    assert_eq!(proxy.scrape().sum("countersign_requests_total", &labels), 3.0);
}

/// In plain text to us, over TLS to the destination, whatever else it speaks.
#[test]
fn out_3_an_application_reaches_its_destination_over_tls() {
    let (ca, issuer) = (Ca::new("ca"), Issuer::start(&json!({})));
    let pair = ca.server();
    let server = Server::start_tls(&pair.cert, &pair.key);
    let rule = json!({"tls": "originate", "originate": {"caFile": "ca.crt", "port": server.port()}});
    let text =
        issuer_discovered(&issuer.url) + &policy::credential() + &policy::outbound(server.port(), &rule);
    let folder = Folder::with(&[("policy.yaml", &text), ("client-secret", SECRET), ("ca.crt", &ca.pem)]);
    let proxy = Settings::policies(folder.path(), "checkout").start();
    let more = json!({"proxy": proxy.outbound().to_string()});
    assert_cases_ok(&mut Peer::client(&format!("ws://localhost:{}/a", server.port()), "echo", &more));
    let shown = server.peer.first("upgrade")["headers"]["authorization"].as_str().unwrap().to_owned();
    assert_eq!(jose::decode(shown.strip_prefix("Bearer ").unwrap())["aud"], AUDIENCE);
}
