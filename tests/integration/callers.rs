//! Who is it, if not by a token? Callers known by their certificate, by their address, and what they cannot say of themselves.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::{Answer, Connection, get, get_with};
use crate::support::jose::{Key, claims, key_set};
use crate::support::policy::{AUDIENCE, Folder, LOCAL_ISSUER, document, inbound, issuer_with_file};
use crate::support::proxy::{Proxy, Settings};
use crate::support::tls::{Ca, Pair};
use crate::support::upstream::Upstream;
use crate::support::wait_until;

const SOON: Duration = Duration::from_secs(15);
const CHECKOUT: &str = "spiffe://cluster.local/ns/shop/sa/checkout";

/// A sidecar before an echo, with TLS that asks for certificates, and both kinds of callers.
struct World {
    ca: Ca,
    key: Key,
    folder: Folder,
    upstream: Upstream,
    proxy: Proxy,
}

/// A policy with these rules that accepts tokens, or does not, and asks for certificates.
fn policy(rules: &Value, accepts_tokens: bool, client_auth: &str) -> String {
    let mut spec = json!({
        "workloads": {"labels": {"app": "orders"}},
        "tls": {"certFile": "tls.crt", "keyFile": "tls.key", "clientCaFile": "ca.crt", "clientAuth": client_auth},
        "forwardClaims": {"X-Peer": "@peer"},
        "rules": rules,
    });
    if accepts_tokens {
        spec["tokens"] = json!([{"issuer": "corp", "audiences": [AUDIENCE]}]);
        spec["forwardClaims"]["X-Client-Id"] = json!("@client");
    }
    document("InboundPolicy", "orders", &spec)
}

// === impl World ===

impl World {
    fn new(policy: &str) -> Self {
        let (ca, key, upstream) = (Ca::new("ours"), Key::new("k1"), Upstream::start());
        let server = ca.server();
        let folder = Folder::with(&[
            ("issuer.yaml", &issuer_with_file("keys.jwks")),
            ("orders.yaml", policy),
            ("keys.jwks", &key_set(&[&key]).to_string()),
            ("ca.crt", &ca.pem),
            ("tls.crt", &server.cert),
            ("tls.key", &server.key),
        ]);
        let settings = Settings::policies(folder.path(), "orders").before(upstream.address());
        let proxy = settings.with(&["--header-underscores", "pass"]).start();
        Self { ca, key, folder, upstream, proxy }
    }

    fn open(&self, shows: Option<&Pair>) -> io::Result<Connection> {
        Connection::open_tls(self.proxy.inbound(), self.ca.connection(shows)?)
    }

    /// GET on a connection of its own that shows this certificate.
    fn ask(&self, shows: Option<&Pair>, path: &str, fields: &[(&str, &str)]) -> Answer {
        self.open(shows).and_then(|mut connection| connection.request("GET", path, fields, b"")).unwrap()
    }

    fn bearer(&self, over: &Value) -> String {
        format!("Bearer {}", self.key.token(&claims(LOCAL_ISSUER, over)))
    }
}

#[test]
fn in_25_a_certificate_alone_lets_in_whom_a_rule_names() {
    let rules = json!([
        {"name": "checkout", "to": {"paths": ["/orders"]}, "from": {"serviceAccounts": ["shop/checkout"]}},
        {"name": "shop", "to": {"paths": ["/shop"]}, "from": {"peers": ["spiffe://cluster.local/ns/shop/*"]}},
        {"name": "anybody", "to": {"paths": ["/any"]}, "from": {}},
    ]);
    let world = World::new(&policy(&rules, false, "optional"));
    let (ours, other) =
        (world.ca.peer(&[CHECKOUT]), world.ca.peer(&["spiffe://cluster.local/ns/shop/sa/cart"]));
    let status = |shows: Option<&Pair>, path: &str| world.ask(shows, path, &[]).status;
    assert_eq!((status(Some(&ours), "/orders"), status(Some(&ours), "/shop")), (200, 200));
    assert_eq!((status(Some(&other), "/shop"), status(Some(&other), "/any")), (200, 200));
    world.upstream.forget();

    let refused = world.ask(Some(&other), "/orders", &[]);
    assert_eq!((refused.status, refused.reason().as_str()), (403, "no_rule"));
    // What has not exactly one name, and that a SPIFFE ID, has none: the common name says the right one in each of these.
    for uris in [&[][..], &[CHECKOUT, CHECKOUT], &[CHECKOUT, "https://a.test"], &["https://a.test"]] {
        let pair = world.ca.peer(uris);
        assert_eq!(world.ask(Some(&pair), "/orders", &[]).reason(), "no_rule", "{uris:?}");
        assert_eq!(world.ask(Some(&pair), "/shop", &[]).reason(), "no_rule", "{uris:?}");
    }
    for path in ["/orders", "/shop", "/any"] {
        let nobody = world.ask(None, path, &[]);
        assert_eq!((nobody.status, nobody.reason().as_str()), (403, "peer_required"));
        assert_eq!(nobody.header("www-authenticate"), None, "a token would not help");
    }
    assert_eq!(world.ask(Some(&ours), "/else", &[]).reason(), "no_rule");
    // A token that comes along must be good, and here none is.
    let bearer = world.bearer(&json!({}));
    let with_token = world.ask(Some(&ours), "/orders", &[("Authorization", &bearer)]);
    assert_eq!((with_token.status, with_token.reason().as_str()), (401, "unknown_issuer"));
    assert_eq!(world.upstream.count(), 0);

    let world = World::new(&policy(&rules, false, "required"));
    assert_eq!(world.ask(Some(&world.ca.peer(&[CHECKOUT])), "/orders", &[]).status, 200);
    for shows in [None, Some(Ca::new("another").peer(&[CHECKOUT])), Some(world.ca.server())] {
        let answer = world.open(shows.as_ref()).and_then(|mut c| c.request("GET", "/orders", &[], b""));
        assert!(answer.is_err(), "{answer:?}");
    }
    assert_eq!(world.upstream.count(), 1);
}

/// The certificate is the connection's, the decision each request's.
#[test]
fn in_25_a_connection_that_stays_open_is_judged_anew() {
    let rule = |peer: &str| {
        let rules = json!([
            {"name": "peer", "to": {"paths": ["/orders"]}, "from": {"peers": [peer]}},
            {"name": "live", "public": true, "to": {"paths": ["/healthz"]}},
        ]);
        policy(&rules, false, "optional")
    };
    let world = World::new(&rule(CHECKOUT));
    let ours = world.ca.peer(&[CHECKOUT]);
    let mut connection = world.open(Some(&ours)).unwrap();
    let mut ask = |path: &str| connection.request("GET", path, &[], b"").unwrap();
    for _ in 0..3 {
        assert_eq!((ask("/orders").status, ask("/else").status, ask("/healthz").status), (200, 403, 200));
    }
    world.folder.write("orders.yaml", &rule("spiffe://cluster.local/ns/shop/sa/cart"));
    wait_until("the new policy", SOON, || ask("/orders").status == 403);
    assert_eq!(ask("/orders").reason(), "no_rule");
    assert_eq!(ask("/orders").header("connection"), None, "the TLS of the port is the same");
    world.folder.write("orders.yaml", &rule(CHECKOUT));
    wait_until("the old policy", SOON, || ask("/orders").status == 200);
}

#[test]
fn in_25_token_and_certificate_are_both_demanded_where_a_rule_names_both() {
    let rules = json!([
        {"name": "both", "to": {"paths": ["/both"]}, "from": {"peers": [CHECKOUT], "scopes": ["orders:read"]}},
        {"name": "peer", "to": {"paths": ["/either"]}, "from": {"peers": [CHECKOUT]}},
        {"name": "token", "to": {"paths": ["/either"]}, "from": {"clients": ["checkout"]}},
        {"name": "banned", "effect": "deny", "from": {"peers": ["spiffe://cluster.local/ns/evil/*"]}},
        {"name": "open", "public": true, "to": {"paths": ["/open"]}},
    ]);
    let world = World::new(&policy(&rules, true, "optional"));
    let good = world.bearer(&json!({}));
    let expired = world.bearer(&json!({"exp": crate::support::now() - 60}));
    let weak = world.bearer(&json!({"scope": "mail"}));
    let (ours, other) =
        (world.ca.peer(&[CHECKOUT]), world.ca.peer(&["spiffe://cluster.local/ns/shop/sa/cart"]));
    let evil = world.ca.peer(&["spiffe://cluster.local/ns/evil/sa/a"]);
    for (path, shows, token, expected) in [
        ("/both", Some(&ours), Some(&good), None),
        ("/both", Some(&ours), None, Some((401, "missing_token"))),
        ("/both", Some(&ours), Some(&expired), Some((401, "expired"))),
        ("/both", Some(&ours), Some(&weak), Some((403, "insufficient_scope"))),
        ("/both", Some(&other), Some(&good), Some((403, "no_rule"))),
        ("/both", None, Some(&good), Some((403, "peer_required"))),
        ("/both", None, None, Some((401, "missing_token"))),
        ("/either", Some(&ours), None, None),
        ("/either", None, Some(&good), None),
        ("/either", Some(&ours), Some(&expired), Some((401, "expired"))),
        ("/either", Some(&other), None, Some((401, "missing_token"))),
        ("/either", Some(&evil), Some(&good), Some((403, "denied_by_rule"))),
        ("/open", Some(&evil), None, Some((403, "denied_by_rule"))),
        ("/open", None, None, None),
    ] {
        let fields: Vec<_> = token.iter().map(|token| ("Authorization", token.as_str())).collect();
        let answer = world.ask(shows, path, &fields);
        match expected {
            None => assert_eq!(answer.status, 200, "{path}: {answer:?}"),
            Some(expected) => assert_eq!((answer.status, answer.reason().as_str()), expected, "{path}"),
        }
    }
}

/// What was verified is shown, and nothing else; a public rule shows nothing.
#[test]
fn in_18_the_application_sees_the_verified_peer_and_no_spoofed_one() {
    let rules = json!([
        {"name": "peer", "to": {"paths": ["/orders"]}, "from": {"peers": ["spiffe://cluster.local/*"]}},
        {"name": "token", "to": {"paths": ["/token"]}, "from": {"clients": ["checkout"]}},
        {"name": "open", "public": true, "to": {"paths": ["/open"]}},
    ]);
    let world = World::new(&policy(&rules, true, "optional"));
    let (ours, bearer) = (world.ca.peer(&[CHECKOUT]), world.bearer(&json!({})));
    let evil = "spiffe://cluster.local/ns/shop/sa/admin";
    let shown = |shows: Option<&Pair>, path: &str, token: Option<&str>| {
        let mut fields = vec![("X-Peer", evil), ("x_peer", evil), ("X-PEER", evil), ("X-Client-Id", "admin")];
        fields.extend(token.map(|token| ("Authorization", token)));
        assert_eq!(world.ask(shows, path, &fields).status, 200, "{path}");
        let seen = world.upstream.last();
        assert_eq!(seen.all("x_peer"), Vec::<String>::new());
        (seen.all("x-peer").join(" "), seen.all("x-client-id").join(" "))
    };
    let words = |peer: &str, client: &str| (peer.to_owned(), client.to_owned());
    assert_eq!(shown(Some(&ours), "/orders", None), words(CHECKOUT, ""));
    assert_eq!(shown(Some(&ours), "/orders", Some(&bearer)), words(CHECKOUT, "checkout"));
    assert_eq!(shown(Some(&ours), "/token", Some(&bearer)), words(CHECKOUT, "checkout"));
    assert_eq!(shown(None, "/token", Some(&bearer)), words("", "checkout"));
    assert_eq!(shown(Some(&ours), "/open", Some(&bearer)), words("", ""));
}

/// `sources` is the other end of the connection, whatever it says of itself, and nothing else that it says decides either.
#[test]
fn in_23_no_header_changes_where_a_request_is_from_or_goes_to() {
    let rules = json!([
        {"name": "near", "to": {"paths": ["/near"]}, "from": {"scopes": ["orders:read"], "sources": ["127.0.0.0/8"]}},
        {"name": "far", "to": {"paths": ["/far"]}, "from": {"scopes": ["orders:read"], "sources": ["10.0.0.0/8", "fd00::/8"]}},
        {"name": "all", "to": {"paths": ["/all"]}, "from": {}},
        {"name": "banned", "effect": "deny", "to": {"paths": ["/all"]}, "from": {"sources": ["192.0.2.0/24"]}},
        {"name": "local", "effect": "deny", "to": {"paths": ["/spared"]}, "unless": {"sources": ["10.0.0.0/8"]}},
    ]);
    let (key, upstream) = (Key::new("k1"), Upstream::start());
    let folder = Folder::with(&[
        ("policy.yaml", &(issuer_with_file("keys.jwks") + &inbound(&rules))),
        ("keys.jwks", &key_set(&[&key]).to_string()),
    ]);
    let settings = Settings::policies(folder.path(), "orders").before(upstream.address());
    let proxy = settings.with(&["--header-underscores", "pass"]).start();
    let bearer = format!("Bearer {}", key.token(&claims(LOCAL_ISSUER, &json!({}))));
    let said = |address: &'static str| {
        ["X-Forwarded-For", "X-Real-IP", "Forwarded", "True-Client-IP", "X-Client-IP", "X-Original-For"]
            .map(|name| (name, if name == "Forwarded" { "for=10.1.2.3" } else { address }))
    };
    for address in ["10.1.2.3", "192.0.2.7", "127.0.0.1", "fd00::1", "10.1.2.3, 127.0.0.1"] {
        let ask = |path: &str, token: Option<&str>, more: &[(&str, &str)]| {
            let mut fields = said(address).to_vec();
            fields.extend(token.map(|token| ("Authorization", token)));
            fields.extend(more);
            get(proxy.inbound(), path, &fields)
        };
        assert_eq!(ask("/near", Some(&bearer), &[]).status, 200, "{address}");
        assert_eq!(ask("/far", Some(&bearer), &[]).reason(), "no_rule", "{address}");
        assert_eq!(ask("/all", Some(&bearer), &[]).status, 200, "{address}");
        assert_eq!(ask("/spared", Some(&bearer), &[]).reason(), "denied_by_rule", "{address}");
        assert_eq!(ask("/near", None, &[]).reason(), "missing_token", "an address lets nobody in");
        let elsewhere = [
            ("X-Original-URL", "/near"),
            ("X-Original-Method", "GET"),
            ("X-Rewrite-URL", "/near"),
            ("X-Forwarded-Path", "/near"),
            ("X-Forwarded-Host", "orders.shop"),
            ("User-Agent", "kube-probe/1.30"),
        ];
        assert_eq!(ask("/else", Some(&bearer), &elsewhere).reason(), "no_rule", "{address}");
    }
    assert_eq!(get_with(proxy.inbound(), "/near", "x").reason(), "malformed_token");
}
