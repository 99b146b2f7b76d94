//! Do long and lively conversations pass both sidecars? gRPC (grpcio to grpc-js) and WebSocket (npm `ws`) between two
//! applications whose traffic is redirected, with a token that they know nothing of.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::pair::{Pair, rule};
use crate::support::pods::{As, Pod};
use crate::support::policy::AUDIENCE;
use crate::support::process::{Process, run};
use crate::support::ws::{Peer, Server};
use crate::support::{tools, wait_until};

/// gRPC on 50051 and WebSocket on 8080.
fn pair() -> Pair {
    let hosts = ["orders.shop.test", "v4.shop.test", "v6.shop.test"];
    let tokens = json!([{"issuer": "corp", "audiences": [AUDIENCE]}]);
    let inbound = |port: u16, to: Value| {
        json!({
            "ports": [port], "tokens": tokens, "forwardClaims": {"X-Client-Id": "@client"},
            "rules": [{"name": "read", "to": to, "from": {"scopes": ["orders:read"]}}],
        })
    };
    Pair::start(
        &json!({"rules": [rule("orders", &hosts, &[8080, 50051])]}),
        &[
            inbound(50051, json!({"grpc": ["countersign.test.Echo/*"]})),
            inbound(8080, json!({"methods": ["GET"], "paths": ["/orders/*"]})),
        ],
        &[],
        "",
    )
}

/// What grpcio's client says of each case.
fn grpc(pod: &Pod, who: As, arguments: &[&str]) -> Vec<Value> {
    let mut command = tools::python("grpc_client.py");
    let done = run(&mut pod.here(who, command.args(arguments)), Duration::from_secs(60));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    done.stdout.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn grpc_passes_both_sidecars_with_a_token() {
    let pair = pair();
    let [a, b] = pair.pods();
    let mut command = tools::node("grpc-server.mjs");
    let mut server =
        Process::spawn("grpc-server.mjs", &mut b.here(As::Root, command.args(["50051", "[::]"])));
    assert!(server.first_line(Duration::from_secs(20)).contains("50051"));
    let targets = [format!("ipv4:{}:50051", b.v4), format!("ipv6:[{}]:50051", b.v6)];
    for target in &targets {
        let results = grpc(a, As::Root, &[target, "--authority", "orders.shop.test:50051"]);
        let failed: Vec<_> = results.iter().filter(|result| result["ok"] != true).collect();
        assert!(results.len() >= 13 && failed.is_empty(), "{target}: {failed:?}\n{}", pair.checkout.log());
        let seen = results.iter().find(|result| result["case"] == "metadata_echo").expect("the case");
        assert_eq!(seen["value"]["x-client-id"], "checkout", "{seen}");
    }
    let counted = |direction, decision| {
        let (ours, theirs) = (pair.checkout.scrape(), pair.orders.scrape());
        let scrape = if direction == "outbound" { ours } else { theirs };
        scrape.sum("countersign_requests_total", &[("direction", direction), ("decision", decision)])
    };
    // 45 by each family; the one that is given up before an answer may be counted or not.
    for (direction, decision, refusal) in [("outbound", "attach", "reject"), ("inbound", "allow", "deny")] {
        wait_until("every call to be counted", Duration::from_secs(5), || {
            counted(direction, decision) >= 88.0
        });
        assert_eq!(counted(direction, refusal), 0.0, "{direction}");
    }

    // Past the sidecar there is no token, and a method that no rule names is refused for all.
    let refused = |who, authority| {
        let arguments = [&targets[0], "--authority", authority, "--case", "refused"];
        grpc(a, who, &arguments.map(|argument: &str| argument)).remove(0)
    };
    let result = refused(As::Ids(16016, 0), "orders.shop.test:50051");
    assert_eq!(result["value"]["code"], 16, "{result}");
    assert_eq!(result["value"]["trailers"]["x-countersign-reason"], "missing_token", "{result}");
    // A name that is not this address's: nothing leaves.
    let result = refused(As::Root, "elsewhere.test:50051");
    assert_eq!(result["value"]["trailers"]["x-countersign-reason"], "missing_token", "{result}");
}

#[test]
fn websocket_passes_both_sidecars_with_a_token() {
    let pair = pair();
    let [a, b] = pair.pods();
    let server = Server::start_in(b, 8080);
    for (number, host) in ["v4.shop.test", "v6.shop.test"].iter().enumerate() {
        let url = format!("ws://{host}:8080/orders/live");
        let mut client = Peer::client_in(a, &url, "echo", &json!({"deflate": number == 1}));
        let end = client.end();
        let cases = client.seen("case");
        let failed: Vec<_> = cases.iter().filter(|case| case["ok"] != true).collect();
        assert!(cases.len() >= 11 && failed.is_empty(), "{failed:?} of {:?}", client.all());
        assert_eq!((&end["code"], &end["reason"]), (&json!(4000), &json!("enough")));
        let asked = server.peer.seen("upgrade").pop().expect("an upgrade");
        assert_eq!(asked["headers"]["x-client-id"], "checkout", "{asked}");
        assert_eq!(asked["headers"]["host"], format!("{host}:8080"), "{asked}");
    }
    let labels =
        |direction, decision| [("direction", direction), ("protocol", "http1"), ("decision", decision)];
    assert_eq!(pair.checkout.scrape().sum("countersign_requests_total", &labels("outbound", "attach")), 2.0);
    assert_eq!(pair.orders.scrape().sum("countersign_requests_total", &labels("inbound", "allow")), 2.0);

    // A path that no rule names, and an address in place of the name: no token, no way in.
    for (url, status) in [
        ("ws://v4.shop.test:8080/other".to_owned(), 403),
        (format!("ws://{}:8080/orders/live", b.v4), 401),
        (format!("ws://[{}]:8080/orders/live", b.v6), 401),
    ] {
        let client = Peer::client_in(a, &url, "echo", &json!({}));
        assert_eq!(client.first("refused")["status"], status, "{url}: {:?}", client.all());
    }
    assert_eq!(server.peer.seen("upgrade").len(), 2, "nothing else came through");
    // Both are over, here as there.
    wait_until("both to be closed", Duration::from_secs(5), || {
        [&pair.checkout, &pair.orders].iter().all(|sidecar| {
            sidecar.scrape().sum("countersign_connections", &[("protocol", "websocket")]) == 0.0
        })
    });
}
