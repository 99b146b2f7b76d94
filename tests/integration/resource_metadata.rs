//! What does a port say of itself to clients (RFC 9728)? Its metadata without a token, and where it is in every challenge.

use serde_json::{Value, json};

use crate::support::client::{get, get_with, request};
use crate::support::jose::{Key, claims, key_set};
use crate::support::policy::{AUDIENCE, Folder, LOCAL_ISSUER, inbound_with, issuer_with_file, usual_rules};
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::Upstream;

const PATH: &str = "/.well-known/oauth-protected-resource";

struct World {
    key: Key,
    upstream: Upstream,
    proxy: Proxy,
    _folder: Folder,
}

// === impl World ===

impl World {
    fn new(rules: &Value, more: &Value) -> Self {
        let (key, upstream) = (Key::new("k1"), Upstream::start());
        let mut fields = json!({"resourceMetadata": true});
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let folder = Folder::with(&[
            ("issuer.yaml", &issuer_with_file("keys.jwks")),
            ("orders.yaml", &inbound_with(rules, &fields)),
            ("keys.jwks", &key_set(&[&key]).to_string()),
        ]);
        let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
        Self { key, upstream, proxy, _folder: folder }
    }

    fn challenge(&self, target: &str, headers: &[(&str, &str)]) -> String {
        get(self.proxy.inbound(), target, headers).header("www-authenticate").unwrap().to_owned()
    }
}

#[test]
fn v36_metadata_is_served_without_a_token_and_named_in_challenges() {
    let world = World::new(&usual_rules(), &json!({}));
    let to = world.proxy.inbound();
    // Whatever host the caller names.
    for host in [to.to_string(), "evil.test".to_owned()] {
        let answer = get(to, PATH, &[("Host", &host)]);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
        let metadata = answer.json();
        assert_eq!(metadata["resource"], AUDIENCE);
        assert_eq!(metadata["authorization_servers"], json!([LOCAL_ISSUER]));
        assert_eq!(metadata["scopes_supported"], json!(["orders:read", "orders:write"]));
        assert_eq!(metadata["bearer_methods_supported"], json!(["header"]));
        assert!(metadata["dpop_signing_alg_values_supported"].as_array().unwrap().contains(&json!("ES256")));
        assert_eq!(metadata["tls_client_certificate_bound_access_tokens"], false);
        assert_eq!(metadata["dpop_bound_access_tokens_required"], false);
    }
    let head = request(to, "HEAD", PATH, &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(head.header("content-length").unwrap().parse::<usize>().unwrap() > 100);
    let named = format!("resource_metadata=\"{AUDIENCE}{PATH}\"");
    let missing = world.challenge("/orders", &[("Host", "evil.test")]);
    assert_eq!(missing, format!("Bearer realm=\"countersign\", {named}"));
    let malformed = world.challenge("/orders", &[("Authorization", "Bearer x")]);
    assert!(malformed.contains("error=\"invalid_token\"") && malformed.ends_with(&named), "{malformed}");
    // Everything else is judged as ever, and nothing of this reached the application.
    for (method, path) in
        [("POST", PATH), ("GET", "/.well-known/oauth-protected-resource/"), ("GET", "/.well-known/other")]
    {
        assert_eq!(request(to, method, path, &[], b"").reason(), "missing_token", "{method} {path}");
    }
    assert_eq!(world.upstream.count(), 0);
    let token = world.key.token(&claims(LOCAL_ISSUER, &json!({})));
    assert_eq!(get_with(to, "/orders", &token).status, 200);
}

/// A rule that denies whoever comes denies this too; one that needs a token to judge does not, and neither does a public rule
/// hand it to the application.
#[test]
fn v36_denies_without_a_token_win() {
    let closed = json!([{"name": "closed", "effect": "deny", "to": {"paths": ["/.well-known/*"]}}]);
    let world = World::new(&closed, &json!({}));
    assert_eq!(get(world.proxy.inbound(), PATH, &[]).reason(), "denied_by_rule");
    let rules = json!([
        {"name": "staff", "effect": "deny", "to": {"paths": ["/*"]}, "unless": {"clients": ["staff"]}},
        {"name": "open", "public": true, "to": {"paths": ["/.well-known/*"]}},
    ]);
    let world = World::new(&rules, &json!({}));
    // The public rule makes it a question without a token, which `unless` spares nobody from (semantics 5c).
    assert_eq!(get(world.proxy.inbound(), PATH, &[]).reason(), "denied_by_rule");
    let world = World::new(&json!([rules[0]]), &json!({}));
    assert_eq!(get(world.proxy.inbound(), PATH, &[]).json()["resource"], AUDIENCE);
    let world = World::new(&json!([rules[1]]), &json!({}));
    assert_eq!(get(world.proxy.inbound(), PATH, &[]).json()["resource"], AUDIENCE);
    assert_eq!(world.upstream.count(), 0);
}

#[test]
fn v36_a_resource_with_a_path_and_tokens_that_have_to_be_bound() {
    let audience = "https://shop.test/orders/v1";
    let tokens = json!([{"issuer": "corp", "audiences": [audience], "binding": "required"}]);
    let world = World::new(&usual_rules(), &json!({ "tokens": tokens }));
    let to = world.proxy.inbound();
    let path = format!("{PATH}/orders/v1");
    let metadata = get(to, &path, &[]).json();
    assert_eq!(
        (&metadata["resource"], &metadata["dpop_bound_access_tokens_required"]),
        (&json!(audience), &json!(true))
    );
    assert_eq!(get(to, PATH, &[]).reason(), "missing_token", "that of another resource");
    let missing = world.challenge("/orders", &[]);
    let algorithms = countersign_proxy::rejection::PROOF_ALGORITHMS;
    let url = format!("https://shop.test{path}");
    let expected =
        format!("Bearer realm=\"countersign\", resource_metadata=\"{url}\", DPoP algs=\"{algorithms}\"");
    assert_eq!(missing, expected);
}
