//! Why was it refused? The admin page and the command tell the operator the same, and neither anything that is secret.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::binary;
use crate::support::client::{get, request};
use crate::support::jose::{Key, claims, key_set};
use crate::support::now;
use crate::support::policy::{
    AUDIENCE, Folder, LOCAL_ISSUER, document, inbound, issuer_with_file, usual_rules,
};
use crate::support::process::{Finished, run};
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::Upstream;

/// A sidecar before an upstream, and the key of its issuer.
struct World {
    key: Key,
    proxy: Proxy,
    _upstream: Upstream,
    _folder: Folder,
}

// === impl World ===

impl World {
    /// The usual rules, one that compares a header and a claim, and a policy that does not select the workload's tokens.
    fn new() -> Self {
        let (key, upstream) = (Key::new("k1"), Upstream::start());
        let mut rules = usual_rules();
        rules.as_array_mut().unwrap().push(json!({
            "name": "tenant", "to": {"paths": ["/tenant"], "headers": {"X-Env": ["prod"]}}, "from": {"claims": {"tenant": ["acme"]}},
        }));
        let strict = json!({
            "tokens": [{"issuer": "corp", "audiences": [AUDIENCE], "binding": "required"}],
            "rules": [{"name": "bound", "from": {}, "to": {"paths": ["/bound"]}}],
        });
        let folder = Folder::with(&[
            ("policy.yaml", &(issuer_with_file("keys.jwks") + &inbound(&rules))),
            ("strict.yaml", &document("InboundPolicy", "strict", &strict)),
            ("keys.jwks", &key_set(&[&key]).to_string()),
        ]);
        let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
        Self { key, proxy, _upstream: upstream, _folder: folder }
    }

    /// The decision id of a refusal.
    fn refused(&self, method: &str, target: &str, fields: &[(&str, &str)], reason: &str) -> String {
        let answer = request(self.proxy.inbound(), method, target, fields, b"");
        assert_eq!(answer.reason(), reason);
        let body = answer.json();
        assert_eq!(body.as_object().unwrap().len(), 4, "the caller learns more than the reason: {body}");
        body["decision_id"].as_str().unwrap().to_owned()
    }

    fn page(&self, id: &str) -> Value {
        get(self.proxy.admin(), &format!("/explain?decision={id}"), &[]).json()
    }

    fn text(&self, id: &str) -> String {
        get(self.proxy.admin(), &format!("/explain?decision={id}"), &[("Accept", "text/plain")]).text()
    }

    fn command(&self, arguments: &[&str]) -> Finished {
        let admin = self.proxy.admin().to_string();
        let mut command = Command::new(binary("countersign-control"));
        run(command.args(["explain", "--admin", &admin]).args(arguments), Duration::from_secs(20))
    }

    fn bearer(&self, over: &Value) -> String {
        format!("Bearer {}", self.key.token(&claims(LOCAL_ISSUER, over)))
    }
}

#[test]
fn a_refusal_is_explained_by_page_and_command_alike() {
    let world = World::new();
    let token = world.bearer(&json!({}));
    let id = world.refused("POST", "/orders", &[("Authorization", &token)], "insufficient_scope");
    let page = world.page(&id);
    let explanation = &page["explanation"];
    assert_eq!((&page["policy"], &page["rule"]), (&json!("shop/orders"), &json!("write")));
    assert_eq!(
        (&explanation["decision"], &explanation["rule"]),
        (&json!("deny"), &json!("shop/orders/write"))
    );
    assert_eq!(explanation["token"]["state"], "verified");
    let policies = explanation["policies"].as_array().unwrap();
    let rules = policies[0]["rules"].as_array().unwrap();
    let names: Vec<_> = rules.iter().map(|rule| rule["rule"].as_str().unwrap()).collect();
    assert_eq!(names, ["closed", "health", "read", "write", "tenant"]);
    assert_eq!(
        rules[3]["condition"],
        json!({"field": "from.scopes", "expected": ["orders:write"], "found": ["orders:read"]})
    );
    assert_eq!(policies[1]["not_accepted"]["field"], "tokens.binding");

    let text = world.text(&id);
    assert!(text.starts_with(&format!("decision {id}: inbound, http1, status 403, at ")), "{text}");
    for line in [
        "deny insufficient_scope: The token lacks a required scope (rule shop/orders/write)",
        "  deny closed (line 4): does not match",
        "    to.methods: expected GET, found POST",
        "  allow write (line 4): does not match, for want of scopes alone",
        "    from.scopes: expected orders:write, found orders:read",
        "    tokens.binding: expected required, found a token that is bound to nothing",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
    let told = world.command(&["--decision", &id]);
    assert_eq!((told.code, told.stdout.trim_end()), (Some(0), text.trim_end()));
    let told = world.command(&["--decision", &id, "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&told.stdout).unwrap(), page);

    let unknown = world.command(&["--decision", "nobody-1"]);
    assert_eq!((unknown.code, unknown.stdout.as_str()), (Some(1), ""), "{unknown:?}");
    assert!(unknown.stderr.contains("does not know nobody-1"), "{unknown:?}");
}

/// What verification refuses is explained too, each by what is wrong with it.
#[test]
fn a_token_that_will_not_do_is_explained() {
    let world = World::new();
    let past = now() - 1_000;
    for (over, reason, field, found) in [
        (json!({"exp": past}), "expired", "exp", json!(past)),
        (json!({"aud": "https://other"}), "wrong_audience", "", json!(null)),
        (json!({"iss": "https://stranger"}), "unknown_issuer", "iss", json!("https://stranger")),
        (json!({"client_id": null}), "missing_claim", "client_id", json!("absent")),
        (json!({"nbf": now() + 1_000}), "not_yet_valid", "nbf, iat", json!(null)),
    ] {
        let token = world.bearer(&over);
        let id = world.refused("GET", "/orders", &[("Authorization", &token)], reason);
        let explanation = &world.page(&id)["explanation"];
        if field.is_empty() {
            let policy = &explanation["policies"][0]["not_accepted"];
            assert_eq!(
                (&policy["field"], &policy["found"]),
                (&json!("tokens.audiences"), &json!(["https://other"]))
            );
        } else {
            assert_eq!(explanation["flaw"]["field"], field, "{explanation}");
            assert!(found.is_null() || explanation["flaw"]["found"] == found, "{explanation}");
        }
    }
    let id = world.refused("GET", "/orders", &[], "missing_token");
    assert_eq!(world.page(&id)["explanation"]["token"]["state"], "none");
    // Nobody asked policy.
    let id = world.refused("GET", "/a//b", &[], "ambiguous_path");
    assert!(world.page(&id)["note"].is_string() && world.text(&id).contains("deny ambiguous_path: "));
}

/// Whatever a caller sends: no header, query or token is on the page, nor in what the command prints.
#[test]
fn an_explanation_holds_no_secret() {
    let world = World::new();
    let private = json!({"tenant": "umbrella", "note": "CLAIM-CANARY"});
    let (token, other) = (world.bearer(&private), world.bearer(&json!({"exp": 1, "note": "CLAIM-CANARY"})));
    let stranger = Key::new("k1");
    let forged =
        format!("Bearer {}", stranger.token(&claims(LOCAL_ISSUER, &json!({"note": "CLAIM-CANARY"}))));
    let mut secrets: Vec<&str> = vec!["CANARY"];
    for bearer in [&token, &other, &forged] {
        secrets.extend(bearer.trim_start_matches("Bearer ").split('.'));
    }
    for (token, target, reason) in [
        (&token, "/tenant?access=QUERY-CANARY", "no_rule"),
        (&token, "/orders/secret/1?access=QUERY-CANARY", "denied_by_rule"),
        (&other, "/tenant?access=QUERY-CANARY", "expired"),
        (&forged, "/tenant?access=QUERY-CANARY", "bad_signature"),
        (&"Bearer TOKEN-CANARY".to_owned(), "/tenant", "malformed_token"),
        (&"Bearer TOKEN-CANARY.a.b".to_owned(), "/tenant", "malformed_token"),
    ] {
        let fields =
            [("Authorization", token.as_str()), ("X-Env", "HEADER-CANARY"), ("Cookie", "COOKIE-CANARY")];
        let id = world.refused("GET", target, &fields, reason);
        let told = world.command(&["--decision", &id]);
        assert_eq!(told.code, Some(0), "{told:?}");
        for text in [world.page(&id).to_string(), world.text(&id), told.stdout] {
            assert!(text.contains(reason));
            for secret in &secrets {
                assert!(!text.contains(secret), "{secret} is in {text}");
            }
        }
        if reason == "no_rule" {
            let text = world.text(&id);
            assert!(text.contains("to.headers.x-env: expected prod, found another value"), "{text}");
        }
    }
    assert!(!world.proxy.process.stdout().contains("expected"), "explanations are no lines of the log");
}

/// A flood of refusals costs no explanation each, and what is kept stays bounded.
#[test]
fn a_flood_is_not_explained_to_the_last() {
    let world = World::new();
    let ids: Vec<_> = (0..400).map(|_| world.refused("GET", "/orders", &[], "missing_token")).collect();
    let pages: Vec<Value> = ids.iter().map(|id| world.page(id)).collect();
    assert!(pages.iter().all(|page| page["reason"] == "missing_token"));
    let explained = pages.iter().filter(|page| page["explanation"].is_object()).count();
    let skipped =
        pages.iter().filter(|page| page["note"].as_str().is_some_and(|note| note.contains("too many")));
    assert!(explained >= 100 && explained + skipped.count() == ids.len(), "{explained}");
    (0..800).for_each(|_| drop(world.refused("GET", "/orders", &[], "missing_token")));
    let gone = get(world.proxy.admin(), &format!("/explain?decision={}", ids[0]), &[]);
    assert_eq!(gone.status, 404);
}
