//! Does WebSocket pass over HTTP/2 (RFC 8441), where it would over HTTP/1.1, and only there? Node's HTTP/2 with the frames of npm `ws`, to
//! the server of `ws`, which speaks HTTP/1.1.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::issuer::{Issuer, SECRET};
use crate::support::jose::{self, Key, claims, key_set};
use crate::support::policy::{
    self, AUDIENCE, Folder, LOCAL_ISSUER, inbound_with, issuer_discovered, issuer_with_file, usual_rules,
};
use crate::support::proxy::Settings;
use crate::support::upstream::Upstream;
use crate::support::wait_until;
use crate::support::ws::{self, Peer, Server};
use crate::with_ws::{World, assert_cases_ok, assert_passes_over_tls};

/// On top of what the client is told.
fn by_http2(mut more: Value) -> Value {
    more["extended"] = json!("websocket");
    more
}

#[test]
fn in_21_messages_of_every_kind_pass_over_http2() {
    let world = World::new();
    let mut client =
        world.client("/orders/1?x=y", "echo", &by_http2(json!({"protocols": ["other", "chat"]})));
    let last = assert_cases_ok(&mut client);
    assert_eq!(last["protocol"], "chat");
    assert_eq!(client.first("settings")["enableConnectProtocol"], true);
    let answer = &client.first("upgrade")["headers"];
    assert_eq!(answer["sec-websocket-protocol"], "chat");
    for gone in ["upgrade", "connection", "sec-websocket-accept"] {
        assert!(answer[gone].is_null(), "{answer}");
    }
    let asked = world.server.peer.first("upgrade");
    let fields = &asked["headers"];
    assert_eq!((&asked["url"], &asked["head"]), (&json!("/orders/1?x=y"), &json!("")));
    assert_eq!((&fields["upgrade"], &fields["connection"]), (&json!("websocket"), &json!("Upgrade")));
    assert_eq!(fields["host"], world.proxy.inbound().to_string());
    assert!(fields["sec-websocket-key"].as_str().is_some_and(|key| key.len() == 24), "{fields}");
    assert_eq!(world.server.peer.first("close")["code"], 4000);
    let labels = [("direction", "inbound"), ("protocol", "http2"), ("decision", "allow")];
    assert_eq!(world.proxy.scrape().sum("countersign_requests_total", &labels), 1.0);
    wait_until("it to be closed", Duration::from_secs(5), || world.open_tunnels("inbound") == 0.0);
}

/// Each has a key of ours, whatever its caller sends.
#[test]
fn in_21_a_key_of_the_callers_is_not_forwarded() {
    let world = World::new();
    let bearer = format!("Bearer {}", world.token(&json!({})));
    let theirs = "dGhlIHNhbXBsZSBub25jZQ==";
    for _ in 0..2 {
        let more = json!({"headers": {"authorization": bearer, "sec-websocket-key": theirs}});
        let url = format!("ws://{}/orders", world.proxy.inbound());
        assert_cases_ok(&mut Peer::client(&url, "echo", &by_http2(more)));
    }
    let asked = world.server.peer.seen("upgrade");
    let keys: Vec<_> = asked.iter().map(|asked| asked["headers"]["sec-websocket-key"].clone()).collect();
    assert!(keys.len() == 2 && keys[0] != keys[1] && !keys.contains(&json!(theirs)), "{keys:?}");
}

#[test]
fn in_21_messages_pass_over_http2_and_tls() {
    assert_passes_over_tls(&by_http2(json!({})));
}

#[test]
fn in_21_who_may_not_does_not_reach_the_application_over_http2() {
    let world = World::with(&usual_rules(), &json!({"resourceMetadata": true}));
    let refused = |path: &str, token: Option<String>, more: Value| {
        let mut more = by_http2(more);
        if let Some(token) = token {
            more["headers"]["authorization"] = json!(format!("Bearer {token}"));
        }
        let answer =
            ws::answer(&Peer::client(&format!("ws://{}{path}", world.proxy.inbound()), "echo", &more).end());
        (answer.status, answer.reason())
    };
    let good = || Some(world.token(&json!({})));
    let none = || json!({});
    let is = |status: u16, reason: &str| (status, reason.to_owned());
    assert_eq!(refused("/orders", None, none()), is(401, "missing_token"));
    assert_eq!(refused("/orders/secret/1", good(), none()), is(403, "denied_by_rule"));
    assert_eq!(refused("/elsewhere", good(), none()), is(403, "no_rule"));
    let other = world.token(&json!({"scope": "other"}));
    assert_eq!(refused("/orders", Some(other), none()), is(403, "insufficient_scope"));
    let version = json!({"headers": {"sec-websocket-version": "8"}});
    assert_eq!(refused("/orders", good(), version), is(400, "bad_request"));
    // To any of them a 200 would say that it is open.
    let grpc = json!({"headers": {"content-type": "application/grpc"}});
    assert_eq!(refused("/orders", None, grpc), is(401, "missing_token"));
    let described = "/.well-known/oauth-protected-resource";
    assert_eq!(refused(described, None, none()), is(501, "unsupported_protocol"));
    assert_eq!(world.server.peer.all().len(), 1, "{:?}", world.server.peer.all());
}

/// It is judged as the GET that it is by HTTP/1.1.
#[test]
fn in_21_a_rule_may_say_where_websocket_is_allowed_over_http2() {
    let rules = json!([
        {"name": "read", "to": {"methods": ["GET"], "paths": ["/orders/*"]}, "from": {}},
        {"name": "no-websocket", "effect": "deny", "to": {"paths": ["/orders/plain"], "headers": {"upgrade": ["websocket"]}}},
    ]);
    let world = World::with(&rules, &json!({}));
    let refused = ws::answer(&world.client("/orders/plain", "echo", &by_http2(json!({}))).end());
    assert_eq!((refused.status, refused.reason().as_str()), (403, "denied_by_rule"));
    assert_cases_ok(&mut world.client("/orders/live", "echo", &by_http2(json!({}))));
}

#[test]
fn in_21_what_is_no_101_opens_nothing_over_http2() {
    let world = World::new();
    let answer = |path: &str| ws::answer(&world.client(path, "echo", &by_http2(json!({}))).end());
    let refused = answer("/orders/refuse");
    assert_eq!((refused.status, refused.text().as_str()), (403, "no"), "the server's own");
    for path in ["/orders/wrong-accept", "/orders/other-protocol"] {
        let refused = answer(path);
        assert_eq!((refused.status, refused.reason().as_str()), (502, "upstream_unreachable"), "{path}");
    }
    assert!(world.server.peer.seen("bytes").is_empty());

    // To the caller its 200 would mean that both sides have agreed.
    let (upstream, key) = (Upstream::start(), Key::new("k1"));
    let folder = Folder::with(&[
        ("policy.yaml", &(issuer_with_file("keys.jwks") + &inbound_with(&usual_rules(), &json!({})))),
        ("keys.jwks", &key_set(&[&key]).to_string()),
    ]);
    let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
    let bearer = format!("Bearer {}", key.token(&claims(LOCAL_ISSUER, &json!({}))));
    let more = by_http2(json!({"headers": {"authorization": bearer}}));
    let refused = ws::answer(&Peer::client(&format!("ws://{}/orders", proxy.inbound()), "echo", &more).end());
    assert_eq!((refused.status, refused.reason().as_str()), (502, "upstream_unreachable"));
    assert_eq!(refused.header("proxy-status"), Some("countersign; error=http_upgrade_failed"));
    assert_eq!(upstream.count(), 1);
}

#[test]
fn draining_says_so_to_both_sides_over_http2() {
    let mut world = World::new();
    let mut client = world.client("/orders", "hold", &by_http2(json!({})));
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

/// A stream that is reset is a connection that breaks off (RFC 8441 §5).
#[test]
fn a_client_that_breaks_off_over_http2_is_heard_at_the_other_end() {
    let world = World::new();
    let client = world.client("/orders", "listen", &by_http2(json!({"pause": 500})));
    client.first("heard");
    assert_eq!(world.server.peer.first("close")["code"], 1006);
    wait_until("it to be closed", Duration::from_secs(5), || world.open_tunnels("inbound") == 0.0);
}

#[test]
fn an_idle_one_is_closed_over_http2() {
    let world = World::with(&usual_rules(), &json!({"timeouts": {"idle": "1s"}}));
    let mut client = world.client("/orders/idle", "listen", &by_http2(json!({"pause": 5000})));
    let close = world.server.peer.first("close");
    assert_eq!((&close["code"], &close["reason"]), (&json!(1001), &json!("idle")));
    client.end();
}

/// With a token of ours; where a rule says that the destination speaks HTTP/2 it cannot be asked for it.
#[test]
fn out_1_an_application_reaches_its_destination_over_http2() {
    let (issuer, server) = (Issuer::start(&json!({})), Server::start());
    let asked = |rule: &Value| {
        let text =
            issuer_discovered(&issuer.url) + &policy::credential() + &policy::outbound(server.port(), rule);
        let folder = Folder::with(&[("policy.yaml", &text), ("client-secret", SECRET)]);
        let proxy = Settings::policies(folder.path(), "checkout").start();
        let authority = format!("localhost:{}", server.port());
        let ask = |protocol: &str| {
            let more = json!({"extended": protocol, "authority": authority});
            Peer::client(&format!("ws://{}/b?c", proxy.outbound()), "echo", &more)
        };
        let refused = ws::answer(&ask("connect-udp").end());
        assert_eq!((refused.status, refused.reason().as_str()), (501, "unsupported_protocol"));
        let mut client = ask("websocket");
        client.end();
        client
    };
    let refused = ws::answer(&asked(&json!({"protocol": "http2"})).end());
    assert_eq!((refused.status, refused.reason().as_str()), (501, "unsupported_protocol"));
    assert!(server.peer.seen("upgrade").is_empty() && server.peer.seen("request").is_empty());

    assert_cases_ok(&mut asked(&json!({})));
    let upgrade = server.peer.first("upgrade");
    let fields = &upgrade["headers"];
    let shown = fields["authorization"].as_str().unwrap().strip_prefix("Bearer ").unwrap();
    assert_eq!(jose::decode(shown)["aud"], AUDIENCE);
    assert_eq!(
        (&upgrade["url"], &fields["host"]),
        (&json!("/b?c"), &json!(format!("localhost:{}", server.port())))
    );
}
