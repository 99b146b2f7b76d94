//! Does it work with an authorization server that we did not write? Inbound: what it signs is verified, through rotation
//! and outage.

use std::time::{Duration, Instant};

use countersign_proxy::metrics::METRICS;
use serde_json::json;

use crate::support::client::{Connection, get, get_with, request};
use crate::support::issuer::{Issuer, SECRET};
use crate::support::jose::{self, Key, claims};
use crate::support::policy::{
    AUDIENCE, Folder, credential, inbound, inbound_with, issuer_discovered, outbound, usual_rules,
};
use crate::support::ports::Port;
use crate::support::process::temporary;
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::Upstream;
use crate::support::{wait_for_state, wait_until};

/// The issuer itself, without a sidecar: what fails here is not our fault.
#[test]
fn the_issuer_gives_an_rfc_9068_token() {
    let issuer = Issuer::start(&json!({}));
    let claims = jose::decode(&issuer.token("orders:read"));
    assert_eq!(claims["iss"], issuer.url);
    assert_eq!(claims["aud"], AUDIENCE);
    assert_eq!(claims["scope"], "orders:read");
    assert_eq!(claims["client_id"], "checkout");
    assert_eq!(issuer.requests("/token"), 1);
}

fn orders(issuer_url: &str, upstream: &Upstream) -> (Settings, Folder) {
    let folder = Folder::with(&[
        ("issuer.yaml", &issuer_discovered(issuer_url)),
        ("orders.yaml", &inbound_with(&usual_rules(), &json!({"forwardClaims": {"X-Client-Id": "@client"}}))),
    ]);
    (Settings::policies(folder.path(), "orders").before(upstream.address()), folder)
}

/// The first demand of the product, in both algorithms that the issuer is likely to use.
#[test]
fn standalone_no_token_401_good_token_200_wrong_scope_403() {
    for alg in ["ES256", "RS256"] {
        let (issuer, upstream) = (Issuer::start(&json!({"alg": alg})), Upstream::start());
        let (settings, _folder) = orders(&issuer.url, &upstream);
        let proxy = settings.start();
        let to = proxy.inbound();

        let missing = get(to, "/orders", &[]);
        assert_eq!((missing.status, missing.reason().as_str()), (401, "missing_token"));
        let challenge = missing.header("www-authenticate").unwrap();
        assert!(challenge.starts_with("Bearer realm=") && !challenge.contains("error"), "{challenge}");

        let token = issuer.token("orders:read");
        let good = get_with(to, "/orders/7?x=1", &token);
        assert_eq!(good.status, 200, "{}", good.text());
        let seen = upstream.last();
        assert_eq!(seen.all("x-client-id"), ["checkout"]);
        assert_eq!(
            seen.all("authorization"),
            [format!("Bearer {token}")],
            "forwardToken: keep is the default"
        );
        assert_eq!(seen.target, "/orders/7?x=1");

        let bearer = format!("Bearer {token}");
        let scope = request(to, "POST", "/orders", &[("Authorization", &bearer)], b"{}");
        assert_eq!((scope.status, scope.reason().as_str()), (403, "insufficient_scope"));
        let challenge = scope.header("www-authenticate").unwrap();
        assert!(
            challenge.contains(r#"error="insufficient_scope""#)
                && challenge.contains(r#"scope="orders:write""#)
        );

        let both = issuer.token("orders:read orders:write");
        let both = request(to, "POST", "/orders", &[("Authorization", &format!("Bearer {both}"))], b"{}");
        assert_eq!(both.status, 200, "{}", both.text());
        assert_eq!(upstream.count(), 2);
    }
}

#[test]
fn an_issuer_that_is_down_before_the_first_key_set_is_503_and_recovers() {
    let upstream = Upstream::start();
    let port = Port::lease();
    let url = format!("http://{}", port.address());
    let (settings, _folder) = orders(&url, &upstream);
    let proxy = settings.start();
    let token = Key::new("k1").token(&claims(&url, &json!({})));
    let down = get_with(proxy.inbound(), "/orders", &token);
    assert_eq!((down.status, down.reason().as_str()), (503, "keys_unavailable"));
    assert!(down.header("retry-after").is_some());
    assert_eq!(get(proxy.inbound(), "/orders", &[]).status, 401, "no token is still the caller's fault");

    let issuer = Issuer::start(&json!({"port": port.number()}));
    let token = issuer.token("orders:read");
    wait_until("the first keys", Duration::from_secs(30), || {
        let status = get_with(proxy.inbound(), "/orders", &token).status;
        assert!(matches!(status, 200 | 503), "{status}");
        status == 200
    });
}

#[test]
fn a_rotated_key_fails_no_request() {
    let (issuer, upstream) = (Issuer::start(&json!({})), Upstream::start());
    let (settings, _folder) = orders(&issuer.url, &upstream);
    let proxy = settings.start();
    let old = issuer.token("orders:read");
    assert_eq!(get_with(proxy.inbound(), "/orders", &old).status, 200);

    // Used at once, without having been published before: the request waits for the one fetch.
    issuer.rotate("");
    let before = issuer.requests("/jwks");
    let new = issuer.token("orders:read");
    let answer = get_with(proxy.inbound(), "/orders", &new);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(get_with(proxy.inbound(), "/orders", &old).status, 200);
    assert_eq!(issuer.requests("/jwks"), before + 1);

    // A flood of key ids that nobody has is no further fetch within the cooldown.
    let stranger = Key::new("stranger");
    for n in 0..200 {
        let header = json!({"alg": "ES256", "typ": "at+jwt", "kid": format!("random-{n}")});
        let token = stranger.sign(&header, &claims(&issuer.url, &json!({})));
        assert_eq!(get_with(proxy.inbound(), "/orders", &token).reason(), "unknown_key");
    }
    assert_eq!(issuer.requests("/jwks"), before + 1);
}

#[test]
fn an_outage_of_the_issuer_is_survived_across_a_restart() {
    let (mut issuer, upstream) = (Issuer::start(&json!({})), Upstream::start());
    let (_state, state) = temporary();
    let (settings, _folder) = orders(&issuer.url, &upstream);
    let mut proxy = settings.with(&["--state-dir", &state.join("s").to_string_lossy()]).start();
    let token = issuer.token("orders:read");
    assert_eq!(get_with(proxy.inbound(), "/orders", &token).status, 200);
    wait_for_state(&state.join("s"), "keys");
    issuer.kill();
    assert_eq!(get_with(proxy.inbound(), "/orders", &token).status, 200);
    proxy.restart();
    proxy.wait_ready();
    let start = Instant::now();
    wait_until("the keys from disk", Duration::from_secs(5), || {
        get_with(proxy.inbound(), "/orders", &token).status == 200
    });
    println!("keys from disk after {:?}", start.elapsed());
}

#[test]
fn an_expired_token_is_refused_although_it_was_cached() {
    let (issuer, upstream) = (Issuer::start(&json!({"ttl": 3})), Upstream::start());
    let (settings, folder) = orders(&issuer.url, &upstream);
    folder.write(
        "issuer.yaml",
        &issuer_discovered(&issuer.url).replace("\"insecure\":true", "\"insecure\":true,\"leeway\":\"0s\""),
    );
    let proxy = settings.start();
    let token = issuer.token("orders:read");
    assert_eq!(get_with(proxy.inbound(), "/orders", &token).status, 200);
    wait_until("the expiry", Duration::from_secs(10), || {
        get_with(proxy.inbound(), "/orders", &token).status == 401
    });
    let refused = get_with(proxy.inbound(), "/orders", &token);
    assert_eq!(refused.reason(), "expired");
    assert!(refused.header("www-authenticate").unwrap().contains(r#"error="invalid_token""#));
}

/// A rule may be tried before it is enforced: counted, logged, without effect.
#[test]
fn a_shadow_rule_counts_and_changes_nothing() {
    let (issuer, upstream) = (Issuer::start(&json!({})), Upstream::start());
    let (settings, folder) = orders(&issuer.url, &upstream);
    let mut rules = usual_rules();
    let shadow = json!({"name": "soon", "shadow": true, "effect": "deny", "to": {"paths": ["/orders/v1/*"]}});
    rules.as_array_mut().unwrap().push(shadow);
    folder.write("orders.yaml", &inbound(&rules));
    let proxy: Proxy = settings.start();
    let token = issuer.token("orders:read");
    for _ in 0..3 {
        assert_eq!(get_with(proxy.inbound(), "/orders/v1/a", &token).status, 200);
    }
    assert_eq!(get_with(proxy.inbound(), "/orders/v2/a", &token).status, 200);
    let labels = [("policy", "shop/orders"), ("rule", "soon"), ("would", "deny")];
    let counted = proxy.scrape().sum("countersign_shadow_decisions_total", &labels);
    assert!((counted - 3.0).abs() < f64::EPSILON, "{counted}");
}

/// Every metric that README.md lists moves when its subject does.
#[test]
fn every_metric_is_alive() {
    let (issuer, upstream) = (Issuer::start(&json!({"ttl": 4})), Upstream::start());
    let mut rules = usual_rules();
    rules.as_array_mut().unwrap().push(json!(
        {"name": "soon", "shadow": true, "effect": "deny", "to": {"paths": ["/orders"]}}
    ));
    let everybody = json!({"workloads": {"labels": {"app": "checkout"}}});
    let scopes = ["orders:delete", "orders:read"];
    let more_than_granted =
        json!({"token": {"credential": "checkout", "scopes": scopes, "resource": AUDIENCE}});
    let text = issuer_discovered(&issuer.url)
        + &inbound_with(&rules, &everybody)
        + &credential()
        + &outbound(upstream.port(), &more_than_granted);
    let folder = Folder::with(&[("policy.yaml", &text), ("client-secret", SECRET)]);
    let settings = Settings::policies(folder.path(), "checkout").before(upstream.address());
    let proxy = settings.with(&["--max-memory", "4096"]).start();
    let token = issuer.token("orders:read");
    let authority = format!("localhost:{}", upstream.port());
    for _ in 0..2 {
        assert_eq!(get_with(proxy.inbound(), "/orders", &token).status, 200);
        assert_eq!(get(proxy.outbound(), "/", &[("Host", &authority)]).status, 200);
    }
    assert_eq!(get(proxy.outbound(), "/", &[("Host", &upstream.address().to_string())]).status, 200);
    assert_eq!(get(proxy.inbound(), "/orders", &[]).status, 401);
    // The destination refuses the token, and the next one too.
    assert_eq!(get(proxy.outbound(), "/status/401", &[("Host", &authority)]).status, 401);
    // The next refresh fails.
    folder.write("client-secret", "wrong");
    let _open = [proxy.inbound(), proxy.outbound()].map(|to| {
        let mut connection = Connection::open(to).unwrap();
        connection.request("GET", "/healthz", &[("Host", &authority), ("X_A", "1")], b"").unwrap();
        connection
    });

    // Not before workload certificates exist; on ports with `tls` alone (`tls.rs`); zero where two clocks agree; where tokens
    // are opaque (`with_oidc_provider_opaque.rs`); in a flood (`access_log.rs`, `connections.rs`, `short_memory.rs`); where callers are slow (`slow_callers.rs`); where streams end (`open_streams.rs`), bytes
    // pass (`with_pods_transparent.rs`) and names have no answer (`with_dnsmasq.rs`); with a control plane (`control_plane_faults.rs`).
    let asleep = [
        "countersign_identity_expiry_timestamp_seconds",
        "countersign_tls_handshakes_total",
        "countersign_issuer_clock_skew_seconds",
        "countersign_introspection_requests_total",
        "countersign_introspection_duration_seconds",
        "countersign_access_log_dropped_total",
        "countersign_memory_short",
        "countersign_streams_ended_total",
        "countersign_connections_refused_total",
        "countersign_connections_timed_out_total",
        "countersign_tcp_bytes_total",
        "countersign_names_unanswered",
        "countersign_policy_polls_total",
    ];
    wait_until("every metric", Duration::from_secs(20), || {
        let scrape = proxy.scrape();
        let moved =
            |name: &str| ["", "_count"].iter().any(|end| scrape.sum(&format!("{name}{end}"), &[]) > 0.0);
        let still: Vec<_> =
            METRICS.iter().map(|m| m.name).filter(|name| !moved(name) && !asleep.contains(name)).collect();
        println!("not yet: {still:?}");
        still.is_empty()
    });
    let scrape = proxy.scrape();
    let series = |name: &str, labels: &[(&str, &str)]| scrape.sum(name, labels) > 0.0;
    for (name, labels) in [
        ("countersign_verified_token_cache_total", [("result", "miss")]),
        ("countersign_verified_token_cache_total", [("result", "hit")]),
        ("countersign_token_requests_total", [("result", "hit")]),
        ("countersign_jwks_refreshes_total", [("issuer", "corp")]),
        ("countersign_policy_decisions_total", [("rule", "read")]),
        ("countersign_outbound_bypassed_total", [("reason", "no_rule")]),
        ("countersign_connections", [("direction", "inbound")]),
        ("countersign_connections", [("direction", "outbound")]),
        ("countersign_token_fetch_failures_total", [("credential", "shop/checkout")]),
    ] {
        assert!(series(name, &labels), "{name} {labels:?}");
    }
}
