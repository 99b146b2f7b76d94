//! Does gRPC pass through unchanged? The cases of grpcio and of grpc-js against grpc-js, direct, inbound and outbound.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::jose::{Key, claims, key_set};
use crate::support::policy::{Folder, LOCAL_ISSUER, inbound_with, issuer_discovered, issuer_with_file};
use crate::support::ports::Port;
use crate::support::proxy::{Proxy, Settings};
use crate::support::tools;

/// The same cases without a sidecar: what fails here is not our fault.
#[test]
fn the_cases_pass_without_a_sidecar() {
    let (_server, port) = tools::grpc_server();
    let to = format!("127.0.0.1:{port}");
    let (python, js) = (tools::grpc_client(&[&to]), tools::grpc_js_client(&to, &json!({})));
    assert_all_ok(&python);
    assert_all_ok(&js);
    let names = |results: &[Value]| -> BTreeSet<String> {
        results.iter().map(|result| result["case"].to_string()).collect()
    };
    assert_eq!(names(&python), names(&js), "one has cases that the other lacks");
}

/// Two rules: one for every method with a scope, and one method for everybody.
fn grpc_proxy(target: SocketAddr, issuer: &str) -> (Proxy, Folder) {
    let rules = json!([
        {"name": "call", "to": {"grpc": ["countersign.test.Echo/*"]}, "from": {"scopes": ["orders:read"]}},
        {"name": "write", "to": {"grpc": ["countersign.test.Echo/Write"]}, "from": {"scopes": ["orders:write"]}},
    ]);
    let policy =
        issuer.to_owned() + &inbound_with(&rules, &json!({"forwardClaims": {"X-Client-Id": "@client"}}));
    let folder = Folder::with(&[("policy.yaml", &policy)]);
    (Settings::policies(folder.path(), "orders").before(target).launch(), folder)
}

fn local(target: SocketAddr, key: &Key) -> (Proxy, Folder) {
    let (mut proxy, folder) = grpc_proxy(target, &issuer_with_file("keys.jwks"));
    folder.write("keys.jwks", &key_set(&[key]).to_string());
    proxy.restart();
    proxy.wait_ready();
    (proxy, folder)
}

#[test]
fn the_cases_pass_inbound() {
    let ((_server, port), key) = (tools::grpc_server(), Key::new("k1"));
    let (proxy, _folder) = local(SocketAddr::from(([127, 0, 0, 1], port)), &key);
    let token = key.token(&claims(LOCAL_ISSUER, &json!({})));
    let (to, before) = (proxy.inbound().to_string(), proxy.peak());
    let results = tools::grpc_client(&[&to, "--authority", "orders.shop", "--token", &token]);
    assert_all_ok(&results);
    assert_all_ok(&tools::grpc_js_client(&to, &json!({"authority": "orders.shop", "token": token})));
    assert_flat(&proxy, before);
    let seen = results.iter().find(|r| r["case"] == "metadata_echo").unwrap();
    assert_eq!(seen["value"]["x-client-id"], "checkout", "{seen}");
}

#[test]
fn the_cases_pass_outbound() {
    let (_server, port) = tools::grpc_server();
    let folder = Folder::with(&[("policy.yaml", "")]);
    let proxy = Settings::policies(folder.path(), "checkout").start();
    // The authority names the destination.
    let authority = format!("127.0.0.1:{port}");
    let (to, before) = (proxy.outbound().to_string(), proxy.peak());
    assert_all_ok(&tools::grpc_client(&[&to, "--authority", &authority]));
    assert_all_ok(&tools::grpc_js_client(&to, &json!({"authority": authority})));
    assert_flat(&proxy, before);
}

/// Trailers-only answers with the status of the table in README.md.
#[test]
fn refusals_are_grpc_statuses() {
    let ((_server, port), key) = (tools::grpc_server(), Key::new("k1"));
    let target = SocketAddr::from(([127, 0, 0, 1], port));
    let (proxy, _folder) = local(target, &key);
    let to = proxy.inbound();
    let good = claims(LOCAL_ISSUER, &json!({}));
    let scope = claims(LOCAL_ISSUER, &json!({"scope": "other"}));
    assert_refused(&refused(to, None), 16, "missing_token");
    assert_refused(&refused(to, Some("not.a.token")), 16, "malformed_token");
    assert_refused(&refused(to, Some(&Key::new("k2").token(&good))), 16, "unknown_key");
    assert_refused(&refused(to, Some(&key.token(&scope))), 7, "insufficient_scope");

    let nobody = Port::lease();
    let (proxy, _folder) = local(nobody.address(), &key);
    assert_refused(&refused(proxy.inbound(), Some(&key.token(&good))), 14, "upstream_unreachable");

    let url = format!("http://{}", nobody.address());
    let (proxy, _folder) = grpc_proxy(target, &issuer_discovered(&url));
    let token = key.token(&claims(&url, &json!({})));
    assert_refused(&refused(proxy.inbound(), Some(&token)), 14, "keys_unavailable");
}

fn refused(to: SocketAddr, token: Option<&str>) -> Value {
    let to = to.to_string();
    let mut arguments = vec![to.as_str(), "--authority", "orders.shop", "--case", "refused"];
    if let Some(token) = token {
        arguments.extend(["--token", token]);
    }
    tools::grpc_client(&arguments).remove(0)
}

fn assert_refused(result: &Value, code: u64, reason: &str) {
    assert_eq!(result["ok"], true, "{result}");
    assert_eq!(result["value"]["code"], code, "{reason}: {result}");
    assert_eq!(result["value"]["trailers"]["x-countersign-reason"], reason, "{result}");
}

/// Of the 32 MiB that a slow reader asks for, no more waits in the sidecar than the windows let in.
fn assert_flat(proxy: &Proxy, before: usize) {
    let grown = proxy.peak().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB more");
}

fn assert_all_ok(results: &[Value]) {
    assert!(results.len() >= 21, "{results:?}");
    let failed: Vec<_> =
        results.iter().filter(|result| result["ok"] != true).map(ToString::to_string).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
