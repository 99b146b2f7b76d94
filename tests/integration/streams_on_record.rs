//! What is on record of an open stream, or a wait, that may not go on? As much as of a refusal, and in audit mode no more than there.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::open_streams::{SOON, World, and, assert_lives, cut, rules, unrelated};
use crate::support::client::{Connection, get};
use crate::support::policy::{document, inbound_with};
use crate::support::wait_until;

/// By rule, challenge and explanation, although the rule is of another version than the one under which the request came.
#[test]
fn a_request_that_waited_is_refused_as_a_new_one_would_be() {
    let world = World::new(&json!({}));
    let mut waiting = Connection::open(world.proxy.inbound()).unwrap();
    let token = world.token(300);
    let head = format!("GET /upload HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n");
    waiting.send(head.as_bytes()).unwrap();
    thread::sleep(Duration::from_millis(1500));
    let mut changed = and(unrelated());
    changed.as_array_mut().unwrap().rotate_right(1);
    changed[1]["name"] = json!("writers");
    changed[1]["from"]["scopes"] = json!(["orders:write"]);
    world.write("orders.yaml", &inbound_with(&changed, &json!({})));
    let answer = waiting.answer("GET").unwrap();
    assert_eq!((answer.status, answer.reason().as_str()), (403, "insufficient_scope"), "{}", answer.text());
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(challenge.contains(r#"scope="orders:write""#), "{challenge}");
    let line = || {
        let log = world.proxy.log();
        log.lines().find(|line| line.contains("insufficient_scope")).map(str::to_owned)
    };
    wait_until("the line", SOON, || line().is_some());
    let line: Value = serde_json::from_str(&line().unwrap()).unwrap();
    assert_eq!((&line["policy"], &line["rule"]), (&json!("shop/orders"), &json!("writers")), "{line}");
    let id = line["decision_id"].as_str().unwrap();
    let explained = get(world.proxy.admin(), &format!("/explain?decision={id}"), &[]).text();
    assert!(explained.contains("orders:write") && !explained.contains("was not asked"), "{explained}");
}

#[test]
fn audit_mode_records_what_it_would_end_and_ends_nothing() {
    let world = World::new(&json!({"mode": "audit"}));
    let mut stream = world.open("/stream", &world.token(2));
    // Refused at the door already, if it were enforced: that is one record.
    let mut other = world.open("/quiet", "nonsense");
    wait_until("the record", SOON, || world.ended("audit", "expired") > 0.0);
    assert_lives(&mut stream, Duration::from_secs(1));
    world.write("orders.yaml", &inbound_with(&json!([unrelated()]), &json!({"mode": "audit"})));
    assert_lives(&mut stream, Duration::from_secs(1));
    assert!((world.ended("audit", "expired") - 1.0).abs() < f64::EPSILON, "it is said once");
    assert!((world.ended("audit", "malformed_token")).abs() < f64::EPSILON, "it was said at the door");
    assert!(world.proxy.scrape().sum("countersign_streams_ended_total", &[("decision", "deny")]) < 1.0);
    let log = world.proxy.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(r#""reason":"expired""#)).collect();
    assert!(lines.len() == 1 && !log.contains("decision_id"), "nobody was refused: {log}");
    world.write("orders.yaml", &inbound_with(&rules(), &json!({})));
    assert!(cut(&mut stream) < Duration::from_secs(2), "enforced, and its token has expired");
    assert!(cut(&mut other) < Duration::from_secs(2));
}

/// Shadow rules and audit policies decide nothing (semantics 6).
#[test]
fn what_only_looks_on_at_header_fields_ends_no_stream() {
    let world = World::new(&json!({}));
    let mut stream = world.open("/stream", &world.token(300));
    assert_lives(&mut stream, Duration::from_millis(1200));
    let debug = json!({"name": "debug", "effect": "deny", "to": {"headers": {"X-Debug": ["on"]}}});
    let mut shadow = debug.clone();
    shadow["shadow"] = json!(true);
    world.write("orders.yaml", &inbound_with(&and(shadow), &json!({})));
    assert_lives(&mut stream, Duration::from_millis(700));
    let spec = json!({"mode": "audit", "rules": [debug.clone()]});
    world.write("audit.yaml", &document("InboundPolicy", "audit", &spec));
    assert_lives(&mut stream, Duration::from_millis(700));
    let mut elsewhere = debug.clone();
    elsewhere["to"]["paths"] = json!(["/elsewhere"]);
    world.write("orders.yaml", &inbound_with(&and(elsewhere), &json!({})));
    assert_lives(&mut stream, Duration::from_millis(700));
    world.write("orders.yaml", &inbound_with(&and(debug.clone()), &json!({"mode": "audit"})));
    assert_lives(&mut stream, Duration::from_millis(700));
    assert!(world.proxy.scrape().sum("countersign_streams_ended_total", &[("decision", "deny")]) < 1.0);
    world.write("orders.yaml", &inbound_with(&and(debug), &json!({})));
    cut(&mut stream);
}
