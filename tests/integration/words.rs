//! Is what a rule says of headers, paths and bodies what the application gets? From the wire to the wire.

use serde_json::{Value, json};

use crate::support::client::{Answer, Connection, raw, request};
use crate::support::jose::{Key, claims, key_set};
use crate::support::policy::{Folder, LOCAL_ISSUER, inbound, inbound_with, issuer_with_file};
use crate::support::proxy::{Proxy, Settings};
use crate::support::raw_upstream::RawUpstream;

struct World {
    bearer: String,
    upstream: RawUpstream,
    proxy: Proxy,
    _folder: Folder,
}

// === impl World ===

impl World {
    fn new(rules: &Value, more: &Value) -> Self {
        let (key, upstream) = (Key::new("k1"), RawUpstream::start());
        let folder = Folder::with(&[
            ("policy.yaml", &(issuer_with_file("keys.jwks") + &inbound_with(rules, more))),
            ("keys.jwks", &key_set(&[&key]).to_string()),
        ]);
        let settings = Settings::policies(folder.path(), "orders").before(upstream.address());
        let proxy = settings.with(&["--header-underscores", "pass"]).start();
        let token = key.token(&claims(LOCAL_ISSUER, &json!({"tenant": "acme"})));
        Self { bearer: format!("Bearer {token}"), upstream, proxy, _folder: folder }
    }

    fn ask(&self, method: &str, target: &str, more: &[(&str, &str)]) -> Answer {
        let mut fields = vec![("Authorization", self.bearer.as_str())];
        fields.extend(more);
        request(self.proxy.inbound(), method, target, &fields, b"")
    }

    /// The head that the application got last, in lower case.
    fn seen(&self) -> String {
        self.upstream.messages().pop().expect("a request has come").to_lowercase()
    }
}

#[test]
fn in_26_headers_are_judged_as_the_application_gets_them() {
    let rules = json!([
        {"name": "tier", "to": {"paths": ["/tier"], "headers": {"Tier": ["gold", "silver"]}}, "from": {}},
        {"name": "any", "to": {"paths": ["/any"]}, "from": {}},
        {"name": "debug", "effect": "deny", "to": {"headers": {"X-Debug": ["on"]}}},
    ]);
    let world = World::new(&rules, &json!({}));
    let tier = |fields: &[(&str, &str)]| world.ask("GET", "/tier", fields);
    assert_eq!(tier(&[("TIER", "gold")]).status, 200);
    assert_eq!(tier(&[("tier", "gold"), ("Tier", " silver ")]).status, 200);
    assert_eq!(world.seen().matches("\r\ntier: ").count(), 2);
    let so_far = world.upstream.messages().len();
    for fields in [
        &[][..],
        &[("Tier", "bronze")],
        &[("Tier", "Gold")],
        &[("Tier", "")],
        &[("Tier", "gold"), ("Tier", "bronze")],
        &[("Tier", "bronze"), ("tier", "gold")],
        &[("Tier", "gold, bronze")],
        &[("X-Tier", "gold")],
        // What belongs to the hop never reaches the application, so nothing is allowed by it.
        &[("Tier", "gold"), ("Connection", "tier")],
    ] {
        assert_eq!(tier(fields).reason(), "no_rule", "{fields:?}");
    }
    let not_text = [
        b"GET /tier HTTP/1.1\r\nHost: a\r\nAuthorization: ",
        world.bearer.as_bytes(),
        b"\r\nTier: gold\xff\r\n\r\n",
    ];
    assert_eq!(raw(world.proxy.inbound(), &not_text.concat()).unwrap().reason(), "no_rule");
    assert_eq!(
        tier(&[("Tier", "gold"), ("X-Debug", "on"), ("Connection", "x-debug")]).reason(),
        "bad_request"
    );

    for fields in [
        &[("X-Debug", "on")][..],
        &[("x-debug", "off"), ("X-DEBUG", "on")],
        &[("X-Debug", "off, on")],
        &[("X-Debug", "off,on ,x")],
        &[("x_debug", "on")],
    ] {
        assert_eq!(world.ask("GET", "/any", fields).reason(), "denied_by_rule", "{fields:?}");
    }
    let not_text = [
        b"GET /any HTTP/1.1\r\nHost: a\r\nAuthorization: ",
        world.bearer.as_bytes(),
        b"\r\nX-Debug: \xff\r\n\r\n",
    ];
    assert_eq!(raw(world.proxy.inbound(), &not_text.concat()).unwrap().reason(), "denied_by_rule");
    assert_eq!(world.upstream.messages().len(), so_far);
    assert_eq!(world.ask("GET", "/any", &[("X-Debug", "off")]).status, 200);
}

/// What another policy on the port sets is removed before anything is judged by it.
#[test]
fn in_18_nothing_is_decided_by_a_spoofed_identity() {
    let rules = json!([{"name": "own", "to": {"paths": ["/own"]}, "from": {}}]);
    let other = crate::support::policy::document(
        "InboundPolicy",
        "other",
        &json!({
            "tokens": [{"issuer": "corp", "audiences": [crate::support::policy::AUDIENCE]}],
            "rules": [{"name": "tenant", "to": {"paths": ["/tenant"], "headers": {"X-Tenant": ["acme"]}}, "from": {}}],
        }),
    );
    let (key, upstream) = (Key::new("k1"), RawUpstream::start());
    // On other workloads the header counts, or policy would be refused.
    let forwarding = inbound_with(&rules, &json!({"forwardClaims": {"X-Tenant": "tenant"}}));
    for (policy, status) in [(inbound(&rules), 200), (forwarding, 403)] {
        let folder = Folder::with(&[
            ("policy.yaml", &(issuer_with_file("keys.jwks") + &policy + &other)),
            ("keys.jwks", &key_set(&[&key]).to_string()),
        ]);
        let settings = Settings::policies(folder.path(), "orders").before(upstream.address());
        let proxy = settings.with(&["--header-underscores", "pass"]).start();
        let bearer = format!("Bearer {}", key.token(&claims(LOCAL_ISSUER, &json!({}))));
        let fields = [("Authorization", bearer.as_str()), ("X-Tenant", "acme")];
        assert_eq!(request(proxy.inbound(), "GET", "/tenant", &fields, b"").status, status);
    }
}

#[test]
fn in_19_raw_paths_pass_unchanged_below_the_star_and_nowhere_else() {
    let rules = json!([
        {"name": "files", "rawPaths": true, "to": {"methods": ["GET"], "paths": ["/files/{bucket}/*"]}, "from": {}},
        {"name": "mine", "rawPaths": true, "to": {"paths": ["/of/{claims.tenant}/*"]}, "from": {}},
        {"name": "all", "to": {"paths": ["/*"]}, "from": {}},
        {"name": "closed", "effect": "deny", "to": {"paths": ["/files/closed/*", "/files/b/secret/*"]}},
    ]);
    let world = World::new(&rules, &json!({}));
    for (target, seen) in [
        ("/files/a/x%2fy", "/files/a/x%2Fy"),
        ("/files/a/100%25?q=%2f/..", "/files/a/100%25?q=%2f/.."),
        ("/%66iles/a/x%3By/%7Ez", "/files/a/x%3By/~z"),
        ("/of/acme/https:%2F%2Fhost%2Fx", "/of/acme/https:%2F%2Fhost%2Fx"),
        ("/files/a/plain", "/files/a/plain"),
    ] {
        assert_eq!(world.ask("GET", target, &[]).status, 200, "{target}");
        let message = world.upstream.messages().pop().unwrap();
        assert!(message.starts_with(&format!("GET {seen} HTTP/1.1\r\n")), "{target}: {message:?}");
    }
    let so_far = world.upstream.messages().len();
    for (method, target, reason) in [
        ("GET", "/other/x%2Fy", "ambiguous_path"),
        ("GET", "/files/a%2Fb/c", "ambiguous_path"),
        ("GET", "/files%2Fa/b/c", "ambiguous_path"),
        ("GET", "/files/a/x%2F..%2F..%2F..%2Fadmin", "ambiguous_path"),
        ("GET", "/files/a/%252e%252e/x", "ambiguous_path"),
        ("GET", "/files/a/..%3Bx/y", "ambiguous_path"),
        ("GET", "/files/a/x%2Fy%00", "ambiguous_path"),
        ("GET", "/files/a/x%2Fy%5Cz", "ambiguous_path"),
        ("GET", "/files/a/x%2F;y", "ambiguous_path"),
        ("POST", "/files/a/x%2Fy", "no_rule"),
        ("GET", "/of/other/x%2Fy", "no_rule"),
        ("GET", "/files/closed/x%2Fy", "denied_by_rule"),
        ("GET", "/files/b/secret%2Fx", "denied_by_rule"),
    ] {
        assert_eq!(world.ask(method, target, &[]).reason(), reason, "{method} {target}");
    }
    assert_eq!(world.upstream.messages().len(), so_far);
}

/// The head says all that is judged: a refusal does not wait for the body, and a policy cannot ask for it.
#[test]
fn in_27_no_rule_is_about_a_body() {
    let world = World::new(&json!([{"name": "get", "to": {"methods": ["GET"]}, "from": {}}]), &json!({}));
    let mut connection = Connection::open(world.proxy.inbound()).unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nAuthorization: {}\r\nContent-Length: 10\r\n\r\n",
        world.bearer
    );
    connection.send(head.as_bytes()).unwrap();
    assert_eq!(connection.answer("POST").unwrap().reason(), "no_rule");
    for rule in [
        json!({"name": "a", "to": {"body": ["x"]}, "from": {}}),
        json!({"name": "a", "to": {"paths": ["/a"]}, "from": {"body": ["x"]}}),
    ] {
        let text = issuer_with_file("keys.jwks") + &inbound(&json!([rule]));
        let sources = countersign_policy::source::split("policy.yaml", text.as_bytes()).unwrap();
        let problems = countersign_policy::Documents::parse(sources).unwrap_err();
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert!(
            problem.field.ends_with(".body") && problem.message.starts_with("unknown field"),
            "{problem:?}"
        );
    }
}
