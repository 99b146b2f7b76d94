//! Do `test` and `explain` say of a request what the sidecar does with it? The same requests, put to all three.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::binary;
use crate::support::jose::{Key, claims, key_set};
use crate::support::policy::{
    AUDIENCE, Folder, LOCAL_ISSUER, document, inbound_with, issuer_with_file, usual_rules,
};
use crate::support::process::{Finished, run};
use crate::support::proxy::{Proxy, Settings};
use crate::support::tools::curl_with;
use crate::support::upstream::Upstream;

/// A request, as it is described, and with what it goes on the wire beside.
struct Sent {
    method: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    /// What belongs to the connection, of which nothing is said.
    beside: &'static [&'static str],
}

const HANDSHAKE: &[&str] =
    &["Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="];
const METADATA: &str = "/.well-known/oauth-protected-resource";

const fn sent(
    method: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
) -> Sent {
    Sent { method, path, headers, beside: &[] }
}

const REQUESTS: &[Sent] = &[
    sent("GET", "/a", &[("x-a", "one")]),
    sent("GET", "/a", &[("x-a", "one"), ("x_a", "two")]),
    sent("GET", "/a", &[("x_a", "one")]),
    sent("GET", "/a", &[("x-a", "one"), ("x_closed", "1")]),
    sent("GET", "/a", &[("x-a", "one"), ("x-closed", "1")]),
    sent("GET", "/by-tenant", &[("X-Tenant", "acme")]),
    sent("GET", "/by-team", &[("X-Team", "a")]),
    sent("GET", "/foo", &[("Upgrade", "foo")]),
    Sent { beside: HANDSHAKE, ..sent("GET", "/socket", &[("Upgrade", "websocket")]) },
    Sent { beside: HANDSHAKE, ..sent("POST", "/socket", &[("Upgrade", "websocket")]) },
    sent("POST", "/shop.v1.Orders/Get", &[("content-type", "application/grpc")]),
    sent("POST", "/shop.v1.Orders/Get", &[("content-type", "application/json")]),
    sent("GET", METADATA, &[]),
    sent("POST", METADATA, &[]),
    sent("GET", METADATA, &[("x-closed", "1")]),
    sent("GET", "/a//b", &[]),
];

struct World {
    bearer: String,
    upstream: Upstream,
    proxy: Proxy,
    folder: Folder,
}

// === impl World ===

impl World {
    fn new() -> Self {
        let (key, upstream) = (Key::new("k1"), Upstream::start());
        let rules = json!([
            {"name": "a", "to": {"paths": ["/a"], "headers": {"X-A": ["one"]}}, "from": {}},
            {"name": "by-tenant", "public": true, "to": {"paths": ["/by-tenant"], "headers": {"X-Tenant": ["acme"]}}},
            {"name": "by-team", "public": true, "to": {"paths": ["/by-team"], "headers": {"X-Team": ["a"]}}},
            {"name": "foo", "to": {"paths": ["/foo"], "headers": {"Upgrade": ["foo"]}}, "from": {}},
            {"name": "socket", "to": {"paths": ["/socket"], "headers": {"Upgrade": ["websocket"]}}, "from": {}},
            {"name": "call", "to": {"grpc": ["shop.v1.Orders/*"]}, "from": {}},
            {"name": "closed", "effect": "deny", "to": {"headers": {"X-Closed": ["1"]}}},
        ]);
        let other = json!({
            "ports": [upstream.port()], "tokens": [{"issuer": "corp", "audiences": [AUDIENCE]}],
            "forwardClaims": {"X-Tenant": "tenant"}, "rules": usual_rules(),
        });
        let folder = Folder::with(&[
            ("issuer.yaml", &issuer_with_file("keys.jwks")),
            ("orders.yaml", &inbound_with(&rules, &json!({"resourceMetadata": true}))),
            ("other.yaml", &document("InboundPolicy", "other", &other)),
            ("keys.jwks", &key_set(&[&key]).to_string()),
        ]);
        let said = claims(LOCAL_ISSUER, &json!({}));
        folder.write("claims.jwt", &said.to_string());
        let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
        Self { bearer: format!("Authorization: Bearer {}", key.token(&said)), upstream, proxy, folder }
    }

    /// The reason of the sidecar's refusal. `None`: it passes.
    fn asked(&self, sent: &Sent, bearer: Option<&str>) -> Option<String> {
        let is_grpc = sent.headers.contains(&("content-type", "application/grpc"));
        let version = if is_grpc { "--http2-prior-knowledge" } else { "--http1.1" };
        let mut arguments = vec![version.to_owned(), "--path-as-is".to_owned(), "-X".to_owned()];
        arguments.push(sent.method.to_owned());
        let fields = sent.headers.iter().map(|(name, value)| format!("{name}: {value}"));
        let fields = fields.chain(sent.beside.iter().copied().map(str::to_owned));
        for field in fields.chain(bearer.map(str::to_owned)) {
            arguments.extend(["-H".to_owned(), field]);
        }
        arguments.push(format!("http://{}{}", self.proxy.inbound(), sent.path));
        let answer = curl_with(&arguments);
        let lines = answer.output.lines().map(str::to_lowercase);
        let reason =
            lines.filter_map(|line| line.strip_prefix("x-countersign-reason: ").map(str::to_owned)).next();
        assert!(reason.is_some() || answer.status == 200, "{answer:?}");
        reason
    }

    fn control(&self, arguments: &[&str]) -> Finished {
        let mut command = Command::new(binary("countersign-control"));
        run(command.args(arguments), Duration::from_secs(20))
    }

    fn explained(&self, sent: &Sent, with_token: bool) -> Option<String> {
        let (policies, to) =
            (self.folder.path().display().to_string(), format!("shop/{}", self.upstream.port()));
        let claims = self.folder.file("claims.jwt").display().to_string();
        let mut arguments = vec!["explain", "--json", "--policies", &policies, "--to", &to];
        arguments.extend(["--label", "app=orders", "--method", sent.method, "--path", sent.path]);
        let headers: Vec<_> =
            sent.headers.iter().map(|(name, value)| format!("--header={name}={value}")).collect();
        arguments.extend(headers.iter().map(String::as_str));
        if with_token {
            arguments.extend(["--claims", &claims]);
        }
        let told = self.control(&arguments);
        let json: Value = serde_json::from_str(&told.stdout).unwrap_or_else(|_| panic!("{told:?}"));
        assert_eq!(told.code, Some(i32::from(json["decision"] == "deny")), "{told:?}");
        json["reason"].as_str().map(str::to_owned)
    }
}

#[test]
fn in_26_what_is_said_of_a_request_is_what_the_sidecar_does() {
    let world = World::new();
    let (mut cases, mut allowed, mut denied) = (Vec::new(), 0, 0);
    let said =
        json!({"issuer": "corp", "audience": AUDIENCE, "client": "checkout", "scopes": ["orders:read"]});
    for sent in REQUESTS {
        for with_token in [true, false] {
            let found = world.asked(sent, with_token.then_some(&world.bearer));
            let explained = world.explained(sent, with_token);
            assert_eq!(explained, found, "{} {} {:?}", sent.method, sent.path, sent.headers);
            let mut case = json!({
                "name": format!("case {}", cases.len()), "request": format!("{} {}", sent.method, sent.path),
                "token": if with_token { said.clone() } else { json!("none") },
                "headers": sent.headers.iter().copied().collect::<std::collections::BTreeMap<_, _>>(),
                "expect": if found.is_none() { "allow" } else { "deny" },
            });
            match found {
                None => allowed += 1,
                Some(reason) => {
                    case["reason"] = reason.into();
                    denied += 1;
                }
            }
            cases.push(case);
        }
    }
    assert!(allowed >= 6 && denied >= 12, "{allowed} {denied}");
    // Opaque tokens, which nobody is asked about here.
    let bearer = "Authorization: Bearer opaque";
    let reason = world.asked(&REQUESTS[0], Some(bearer)).unwrap();
    let opaque = json!({"issuer": "corp", "audience": AUDIENCE, "opaque": true});
    cases.push(json!({
        "name": "opaque", "request": "GET /a", "headers": {"x-a": "one"}, "token": opaque, "expect": "deny", "reason": reason,
    }));
    let test = json!({"to": {"labels": {"app": "orders"}, "port": world.upstream.port()}, "cases": cases});
    world.folder.write("test.yaml", &document("PolicyTest", "orders", &test));
    let policies = world.folder.path().display().to_string();
    let told = world.control(&["test", &policies]);
    assert!(
        told.code == Some(0) && told.stdout.contains(&format!("{} passed, 0 failed", cases.len())),
        "{told:?}"
    );
    // What the other policy removes is worth a word: it depends on the port whether it does.
    let told = world.control(&["check", &policies]);
    assert!(
        told.stderr.contains("`x-tenant` is set by `forwardClaims` of InboundPolicy/shop/other"),
        "{told:?}"
    );
}
