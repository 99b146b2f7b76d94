//! When may an open WebSocket go on no longer? When the token expires that it was opened with, or policy would not let it in any
//! more: both sides hear why. The client and the server of npm `ws`.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::policy::{LOCAL_ISSUER, document, inbound, usual_rules};
use crate::support::wait_until;
use crate::support::ws::Peer;
use crate::with_ws::World;

/// The usual rules, and a deny for this path.
fn rules_against(path: &str) -> Value {
    let mut rules = usual_rules();
    let rule = json!({"name": "shut", "effect": "deny", "to": {"paths": [path]}});
    rules.as_array_mut().unwrap().push(rule);
    rules
}

/// Both sides were told this code and word, in order, and it was counted and logged.
fn assert_ended(world: &World, client: &mut Peer, code: u16, word: &str) {
    let close = world.server.peer.first("close");
    assert_eq!((&close["code"], &close["reason"]), (&json!(code), &json!(word)));
    let end = client.end();
    assert_eq!((&end["code"], &end["reason"]), (&json!(code), &json!(word)), "{:?}", client.all());
    assert!(client.seen("error").is_empty() && world.server.peer.seen("error").is_empty());
    let labels = [("decision", "deny"), ("reason", word)];
    assert_eq!(world.proxy.scrape().sum("countersign_streams_ended_total", &labels), 1.0);
    let line = format!(r#""reason":"{word}""#);
    wait_until("its line in the log", Duration::from_secs(5), || {
        world.proxy.process.stdout().contains(&line)
    });
}

/// How long one lives whose token expires 4 s after it is made, where nobody makes allowance for clocks.
fn life(world: &World, mut more: Value) -> Duration {
    let issuer = json!({"issuer": LOCAL_ISSUER, "jwks": {"file": "keys.jwks"}, "leeway": "0s"});
    let version = world.proxy.version();
    world.folder.write("issuer.yaml", &document("Issuer", "corp", &issuer));
    wait_until("the new leeway", Duration::from_secs(5), || world.proxy.version() != version);
    let start = Instant::now();
    let token = world.token(&json!({"exp": crate::support::now() + 4}));
    more["headers"] = json!({"Authorization": format!("Bearer {token}")});
    let mut client = Peer::client(&format!("ws://{}/orders", world.proxy.inbound()), "hold", &more);
    client.first("echo");
    assert_ended(world, &mut client, 1008, "expired");
    assert!(client.seen("echo").len() > 10, "it went on until then");
    start.elapsed()
}

#[test]
fn it_ends_with_its_token_timed() {
    let lived = life(&World::new(), json!({}));
    assert!(lived < Duration::from_secs(7), "{lived:?}");
}

#[test]
fn it_ends_with_its_token_over_http2_timed() {
    let lived = life(&World::new(), json!({"extended": "websocket"}));
    assert!(lived < Duration::from_secs(7), "{lived:?}");
}

#[test]
fn it_ends_after_the_grace_of_its_policy_timed() {
    let lived = life(&World::with(&usual_rules(), &json!({"expiredTokenGrace": "4s"})), json!({}));
    assert!(lived > Duration::from_secs(7) && lived < Duration::from_secs(12), "{lived:?}");
}

#[test]
fn it_ends_when_policy_would_not_let_it_in_and_goes_on_where_it_would() {
    let world = World::new();
    let mut shut = world.client("/orders/shut", "hold", &json!({}));
    let open = world.client("/orders/open", "hold", &json!({}));
    shut.first("echo");
    open.first("echo");
    // An edit that is about neither.
    world.folder.write("orders.yaml", &inbound(&rules_against("/orders/elsewhere")));
    let version = world.proxy.version();
    thread::sleep(Duration::from_secs(1));
    let before = (shut.seen("echo").len(), open.seen("echo").len());
    wait_until("both to go on", Duration::from_secs(5), || {
        shut.seen("echo").len() > before.0 + 5 && open.seen("echo").len() > before.1 + 5
    });
    world.folder.write("orders.yaml", &inbound(&rules_against("/orders/shut")));
    wait_until("the new policy", Duration::from_secs(5), || world.proxy.version() != version);
    assert_ended(&world, &mut shut, 1008, "denied_by_rule");
    let before = open.seen("echo").len();
    wait_until("the other one to go on", Duration::from_secs(5), || open.seen("echo").len() > before + 5);

    // No rule at all.
    let mut open = open;
    let rules = json!([{"name": "health", "public": true, "to": {"paths": ["/healthz"]}}]);
    world.folder.write("orders.yaml", &inbound(&rules));
    let end = open.end();
    assert_eq!((&end["code"], &end["reason"]), (&json!(1008), &json!("no_rule")));
}
