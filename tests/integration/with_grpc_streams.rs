//! How does a gRPC stream end that may not go on? grpcio against grpc-js: status 16 when its token expires, 7 when policy changes.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::jose::{Key, claims, key_set};
use crate::support::policy::{Folder, LOCAL_ISSUER, document, inbound};
use crate::support::process::Process;
use crate::support::proxy::{Proxy, Settings};
use crate::support::tools;
use crate::support::{now, wait_until};

struct World {
    _server: Process,
    key: Key,
    folder: Folder,
    proxy: Proxy,
}

// === impl World ===

impl World {
    fn new() -> Self {
        let ((server, port), key) = (tools::grpc_server(), Key::new("k1"));
        let issuer = json!({"issuer": LOCAL_ISSUER, "jwks": {"file": "keys.jwks"}, "leeway": "0s"});
        let folder = Folder::with(&[
            ("issuer.yaml", &document("Issuer", "corp", &issuer)),
            ("orders.yaml", &rules("Bidi")),
            ("keys.jwks", &key_set(&[&key]).to_string()),
        ]);
        let application = SocketAddr::from(([127, 0, 0, 1], port));
        let proxy = Settings::policies(folder.path(), "orders").before(application).start();
        Self { _server: server, key, folder, proxy }
    }

    /// A stream in both directions, until somebody else ends it.
    fn held(&self, seconds: i64) -> Value {
        self.call("held", seconds)
    }

    fn call(&self, case: &str, seconds: i64) -> Value {
        let token = self.key.token(&claims(LOCAL_ISSUER, &json!({"exp": now() + seconds})));
        let to = self.proxy.inbound().to_string();
        let arguments = [&to, "--authority", "orders.shop", "--case", case, "--token", &token];
        let result = tools::grpc_client(&arguments).remove(0);
        assert_eq!(result["ok"], true, "{result}");
        result["value"].clone()
    }

    fn count(&self, metric: &str, labels: &[(&str, &str)]) -> f64 {
        self.proxy.scrape().sum(metric, labels)
    }
}

fn rules(method: &str) -> String {
    let method = format!("countersign.test.Echo/{method}");
    inbound(&json!([{"name": "call", "to": {"grpc": [method]}, "from": {"scopes": ["orders:read"]}}]))
}

fn assert_ended(stream: &Value, code: u64, reason: &str, title: &str) {
    assert_eq!((&stream["code"], &stream["details"]), (&json!(code), &json!(title)), "{stream}");
    assert_eq!(stream["trailers"]["x-countersign-reason"], reason, "{stream}");
    assert!(stream["received"].as_u64().unwrap() > 5, "{stream}");
}

#[test]
fn a_stream_whose_token_expires_ends_with_status_16() {
    let world = World::new();
    let stream = world.held(4);
    assert_ended(&stream, 16, "expired", "The token has expired");
    assert!(stream["seconds"].as_f64().unwrap() < 7.0, "{stream}");
    let ended = [("decision", "deny"), ("reason", "expired")];
    assert!((world.count("countersign_streams_ended_total", &ended) - 1.0).abs() < f64::EPSILON, "once");
}

#[test]
fn a_stream_that_policy_no_longer_allows_ends_with_status_7_and_no_other_does() {
    let world = World::new();
    thread::scope(|scope| {
        let stream = scope.spawn(|| world.held(300));
        let begun =
            || world.count("countersign_requests_total", &[("protocol", "grpc"), ("decision", "allow")]);
        wait_until("the stream", Duration::from_secs(10), || begun() > 0.0);
        for port in 1..4 {
            let other = document("InboundPolicy", "other", &json!({"ports": [port], "rules": []}));
            world.folder.write("other.yaml", &other);
            thread::sleep(Duration::from_millis(800));
        }
        assert!(!stream.is_finished(), "an unrelated policy ended it");
        world.folder.write("orders.yaml", &rules("Unary"));
        let stream = stream.join().unwrap();
        assert_ended(&stream, 7, "no_rule", "No rule allows the request");
        assert!(stream["seconds"].as_f64().unwrap() < 10.0, "{stream}");
    });
}

/// Both directions of each are asked anew, in turns.
#[test]
fn of_many_streams_each_hears_why_it_ends() {
    let world = World::new();
    thread::scope(|scope| {
        let streams = scope.spawn(|| world.call("held_many", 300));
        let begun =
            || world.count("countersign_requests_total", &[("protocol", "grpc"), ("decision", "allow")]);
        wait_until("all streams", Duration::from_secs(20), || begun() > 99.0);
        thread::sleep(Duration::from_secs(2));
        world.folder.write("orders.yaml", &rules("Unary"));
        let streams = streams.join().unwrap();
        let streams = streams.as_array().unwrap();
        assert_eq!(streams.len(), 100);
        streams.iter().for_each(|stream| assert_ended(stream, 7, "no_rule", "No rule allows the request"));
    });
    let ended = [("decision", "deny"), ("reason", "no_rule")];
    assert!(
        (world.count("countersign_streams_ended_total", &ended) - 100.0).abs() < f64::EPSILON,
        "each once"
    );
}

/// Before anything of the answer, and while messages come and go.
#[test]
fn a_call_that_takes_longer_than_its_total_is_deadline_exceeded() {
    let (_server, port) = tools::grpc_server();
    let (listener, silent) = (std::net::TcpListener::bind("127.0.0.1:0").unwrap(), "refused");
    let unheard = listener.local_addr().unwrap();
    for (target, case) in [(unheard, silent), (SocketAddr::from(([127, 0, 0, 1], port)), "held")] {
        let timeouts = json!({"total": "2s"});
        let rules = json!([{"name": "all", "public": true, "to": {"paths": ["/*"]}}]);
        let out = json!({
            "name": "out", "to": {"hosts": ["localhost"], "ports": [target.port()]}, "tls": "none", "timeouts": timeouts,
        });
        let outbound = json!({"workloads": {"labels": {"app": "orders"}}, "rules": [out]});
        let folder = Folder::with(&[
            ("in.yaml", &document("InboundPolicy", "in", &json!({"rules": rules, "timeouts": timeouts}))),
            ("out.yaml", &document("OutboundPolicy", "out", &outbound)),
        ]);
        let proxy = Settings::policies(folder.path(), "orders").before(target).start();
        for to in [proxy.inbound(), proxy.outbound()] {
            let (to, authority) = (to.to_string(), format!("localhost:{}", target.port()));
            let result = tools::grpc_client(&[&to, "--authority", &authority, "--case", case]).remove(0);
            assert_eq!(result["ok"], true, "{result}");
            let end = &result["value"];
            assert_eq!(
                (&end["code"], &end["details"]),
                (&json!(4), &json!("The upstream did not answer in time"))
            );
            assert_eq!(end["trailers"]["x-countersign-reason"], "upstream_timeout", "{end}");
            if case == "held" {
                assert!(
                    end["received"].as_u64().unwrap() > 5 && end["seconds"].as_f64().unwrap() < 6.0,
                    "{end}"
                );
            }
        }
    }
}
