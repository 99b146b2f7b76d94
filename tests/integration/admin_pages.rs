//! What do the admin pages show, and to whom? Nothing secret, nothing to a page of the web, no effect but by `POST /drain`.

use serde_json::json;

use crate::support::client::{get, request};
use crate::support::jose::{Key, key_set};
use crate::support::policy::{self, Folder, inbound, issuer_with_file, usual_rules};
use crate::support::ports::Port;
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::Upstream;

/// A sidecar with both doors and a health listener.
struct World {
    proxy: Proxy,
    health: Port,
    _upstream: Upstream,
    _folder: Folder,
}

impl World {
    fn new() -> Self {
        let (upstream, health) = (Upstream::start(), Port::lease());
        let everybody = policy::outbound(upstream.port(), &json!({})).replace(
            r#""workloads":{"labels":{"app":"checkout"}}"#,
            r#""workloads":{"labels":{"app":"orders"}}"#,
        );
        let folder = Folder::with(&[
            ("issuer.yaml", &issuer_with_file("keys.jwks")),
            ("orders.yaml", &inbound(&usual_rules())),
            ("checkout.yaml", &(policy::credential() + &everybody)),
            ("keys.jwks", &key_set(&[&Key::new("k1")]).to_string()),
            ("client-secret", "canary-secret"),
        ]);
        let flags = ["--health", &health.address().to_string()];
        let proxy =
            Settings::policies(folder.path(), "orders").with(&flags).before(upstream.address()).start();
        Self { proxy, health, _upstream: upstream, _folder: folder }
    }
}

#[test]
fn pages_tell_what_runs() {
    let world = World::new();
    let page = |path: &str| get(world.proxy.admin(), path, &[]);
    for path in ["/livez", "/readyz", "/metrics", "/snapshot", "/tokens", "/"] {
        assert_eq!(page(path).status, 200, "{path}");
    }
    let snapshot = page("/snapshot").json();
    assert_eq!(snapshot["version"].as_str(), world.proxy.version().as_deref());
    let rules = snapshot["inboundRules"].as_array().unwrap();
    assert!(rules.iter().any(|rule| rule["rule"] == "closed" && rule["effect"] == "deny"), "{snapshot}");
    let outbound = &snapshot["outbound"][0];
    assert!(outbound["destination"].as_str().unwrap().starts_with("localhost:"), "{snapshot}");
    assert_eq!((&outbound["credential"], &outbound["tls"]), (&json!("shop/checkout"), &json!("none")));
    assert_eq!(page("/tokens").json()["tokens"][0]["credential"], "shop/checkout");
    assert!(!page("/snapshot").text().contains("canary") && !page("/tokens").text().contains("canary"));

    assert_eq!(page("/explain").status, 400);
    assert_eq!(page("/explain?decision=nobody-1").status, 404);
    assert_eq!(page("/elsewhere").status, 404);
}

#[test]
fn a_page_of_the_web_gets_nothing_and_only_post_drains() {
    let world = World::new();
    for host in ["evil.example", "localhost.evil.example:16020", "orders.shop"] {
        for path in ["/metrics", "/snapshot", "/tokens", "/readyz"] {
            assert_eq!(get(world.proxy.admin(), path, &[("Host", host)]).status, 403, "{host} {path}");
        }
        assert_eq!(request(world.proxy.admin(), "POST", "/drain", &[("Host", host)], b"").status, 403);
    }
    for path in ["/metrics", "/snapshot", "/livez", "/"] {
        assert_eq!(request(world.proxy.admin(), "POST", path, &[], b"").status, 405, "{path}");
    }
    assert!(world.proxy.is_ready());
}

#[test]
fn the_health_listener_has_three_pages() {
    let world = World::new();
    let health = world.health.address();
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(get(health, path, &[("Host", "pod.example")]).status, 200, "{path}");
    }
    for path in ["/", "/snapshot", "/tokens", "/explain?decision=x", "/drain"] {
        assert_eq!(get(health, path, &[]).status, 404, "{path}");
    }
    assert_eq!(request(health, "POST", "/drain", &[], b"").status, 405);
    assert!(world.proxy.is_ready());
}

#[test]
fn readiness_says_what_is_missing() {
    let ca = rcgen::generate_simple_self_signed(["nobody.test".to_owned()]).unwrap().cert.pem();
    let files = Folder::with(&[("ca.pem", &ca), ("join", "join-token-of-nobody\n")]);
    let control = format!("https://{}", Port::lease().address());
    let path = |name| files.file(name).to_string_lossy().into_owned();
    let flags = ["--control", &control, "--control-ca", &path("ca.pem"), "--join-token", &path("join")];
    let proxy = Settings::bare().with(&flags).launch();
    let ready = get(proxy.admin(), "/readyz", &[]);
    assert_eq!((ready.status, ready.text().as_str()), (503, "not ready: policy\n"));
    assert_eq!(get(proxy.admin(), "/livez", &[]).status, 200);
    assert_eq!(get(proxy.admin(), "/snapshot", &[]).status, 404);
}
