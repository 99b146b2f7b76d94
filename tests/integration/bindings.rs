//! Is a bound token worth nothing without what it is bound to? DPoP proofs (RFC 9449) at the door, each of their checks broken
//! once, and what the application gets to see of them.

use serde_json::{Value, json};

use crate::support::client::{Answer, get, get_with, request};
use crate::support::jose::{Key, claims, hash, key_set, proof_claims};
use crate::support::now;
use crate::support::policy::{AUDIENCE, Folder, LOCAL_ISSUER, inbound_with, issuer_with_file, usual_rules};
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::Upstream;

/// A sidecar before an echo, the issuer's key, and a caller's, to which its token is bound.
struct World {
    issuer: Key,
    caller: Key,
    token: String,
    upstream: Upstream,
    proxy: Proxy,
    folder: Folder,
}

// === impl World ===

impl World {
    fn new() -> Self {
        Self::with(&json!({}))
    }

    /// With these fields of the policy on top.
    fn with(policy: &Value) -> Self {
        let (issuer, caller) = (Key::new("k1"), Key::new("caller"));
        let folder = Folder::with(&[
            ("issuer.yaml", &issuer_with_file("keys.jwks")),
            ("orders.yaml", &inbound_with(&usual_rules(), policy)),
            ("keys.jwks", &key_set(&[&issuer]).to_string()),
        ]);
        let upstream = Upstream::start();
        let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
        let token = issuer.token(&claims(LOCAL_ISSUER, &json!({"cnf": {"jkt": caller.thumbprint()}})));
        Self { issuer, caller, token, upstream, proxy, folder }
    }

    fn uri(&self, target: &str) -> String {
        format!("http://{}{target}", self.proxy.inbound())
    }

    /// A proof for GET /orders, but for these claims.
    fn proof(&self, over: &Value) -> String {
        self.caller.sign(&self.caller.proof_header(), &self.claims(over))
    }

    fn claims(&self, over: &Value) -> Value {
        let mut claims = proof_claims(&self.token, &json!({"htu": self.uri("/orders")}));
        for (name, value) in over.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        claims
    }

    /// A proof that is in order but for these parameters of its header.
    fn headed(&self, over: &Value) -> String {
        let mut header = self.caller.proof_header();
        for (name, value) in over.as_object().unwrap() {
            header[name] = value.clone();
        }
        header.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        self.caller.sign(&header, &self.claims(&json!({})))
    }

    /// GET /orders with the bound token and these proofs.
    fn show(&self, proofs: &[&str]) -> Answer {
        self.show_at("/orders", proofs)
    }

    fn show_at(&self, target: &str, proofs: &[&str]) -> Answer {
        let credential = format!("DPoP {}", self.token);
        let mut fields = vec![("Authorization", credential.as_str())];
        fields.extend(proofs.iter().map(|proof| ("DPoP", *proof)));
        get(self.proxy.inbound(), target, &fields)
    }

    fn bearer(&self) -> String {
        self.issuer.token(&claims(LOCAL_ISSUER, &json!({})))
    }
}

#[test]
fn v31_a_good_proof_lets_its_token_in_and_goes_on_with_it() {
    let world = World::new();
    for target in ["/orders", "/orders/7?page=2"] {
        let path = target.split('?').next().unwrap();
        let proof = world.proof(&json!({"htu": world.uri(path)}));
        assert_eq!(world.show_at(target, &[&proof]).status, 200, "{target}");
        let seen = world.upstream.last();
        assert_eq!(seen.all("authorization"), [format!("DPoP {}", world.token)]);
        assert_eq!(seen.all("dpop"), [proof]);
    }
    // A name of its own, whatever the connection leads to.
    let proof = world.proof(&json!({"htu": "HTTP://Orders.test/orders?x#y"}));
    let credential = format!("DPoP {}", world.token);
    let fields = [("Host", "orders.test:80"), ("Authorization", &*credential), ("DPoP", &*proof)];
    assert_eq!(get(world.proxy.inbound(), "/orders", &fields).status, 200);
}

/// RFC 9449 §4.3, in its order. Each of them alone is wrong, and each is refused before the application hears of it.
#[test]
fn v31_each_of_the_twelve_checks_refuses() {
    let world = World::new();
    let other = Key::new("other");
    let signed_by_another = other.sign(&world.caller.proof_header(), &world.claims(&json!({})));
    let with_another_key = other.sign(&other.proof_header(), &world.claims(&json!({})));
    let mut private = world.caller.embedded();
    private["d"] = json!("AAAA");
    let (good, second) = (world.proof(&json!({})), world.proof(&json!({})));
    for (check, proofs) in [
        ("1: none", vec![]),
        ("1: two", vec![good.clone(), second.clone()]),
        ("1: twice the same", vec![good.clone(), good.clone()]),
        ("1: too long", vec![world.proof(&json!({"more": "x".repeat(8 * 1024)}))]),
        ("2: no JWT", vec!["proof".to_owned()]),
        ("2: two in a list", vec![format!("{good}, {second}")]),
        ("3: no jti", vec![world.proof(&json!({"jti": null}))]),
        ("3: no htm", vec![world.proof(&json!({"htm": null}))]),
        ("3: no htu", vec![world.proof(&json!({"htu": null}))]),
        ("3: no iat", vec![world.proof(&json!({"iat": null}))]),
        ("3: no ath", vec![world.proof(&json!({"ath": null}))]),
        ("4: typ", vec![world.headed(&json!({"typ": "JWT"}))]),
        ("4: no typ", vec![world.headed(&json!({"typ": null}))]),
        ("5: none", vec![world.headed(&json!({"alg": "none"}))]),
        ("5: HMAC", vec![world.headed(&json!({"alg": "HS256"}))]),
        ("6: signature", vec![signed_by_another]),
        ("6: no key", vec![world.headed(&json!({"jwk": null}))]),
        ("7: private key", vec![world.headed(&json!({"jwk": private}))]),
        ("8: htm", vec![world.proof(&json!({"htm": "POST"}))]),
        ("9: host", vec![world.proof(&json!({"htu": "http://elsewhere.test/orders"}))]),
        ("9: path", vec![world.proof(&json!({"htu": world.uri("/orders/7")}))]),
        ("9: scheme", vec![world.proof(&json!({"htu": world.uri("/orders").replace("http:", "https:")}))]),
        // 10: we hand out no nonces.
        ("11: old", vec![world.proof(&json!({"iat": now() - 90}))]),
        ("11: early", vec![world.proof(&json!({"iat": now() + 60}))]),
        ("12: ath", vec![world.proof(&json!({"ath": hash(&world.bearer())}))]),
        ("12: another key", vec![with_another_key]),
    ] {
        let proofs: Vec<&str> = proofs.iter().map(String::as_str).collect();
        let answer = world.show(&proofs);
        assert_eq!((answer.status, answer.reason().as_str()), (401, "proof_invalid"), "{check}");
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(challenge.starts_with("DPoP error=\"invalid_dpop_proof\""), "{challenge}");
    }
    assert_eq!(world.upstream.count(), 0, "{:?}", world.upstream.seen());
    // They were good but for that.
    assert_eq!((world.show(&[&good]).status, world.show(&[&second]).status), (200, 200));
}

#[test]
fn v33_a_proof_is_good_once() {
    let mut world = World::new();
    let proof = world.proof(&json!({}));
    assert_eq!(world.show(&[&proof]).status, 200);
    // Other connections go to other workers.
    for _ in 0..20 {
        let answer = world.show(&[&proof]);
        assert_eq!((answer.status, answer.reason().as_str()), (401, "proof_replayed"));
    }
    // Another proof with the same `jti`, for another request.
    let jti = crate::support::jose::decode(&proof)["jti"].clone();
    let again = world.proof(&json!({"jti": jti, "htu": world.uri("/orders/7")}));
    assert_eq!(world.show_at("/orders/7", &[&again]).reason(), "proof_replayed");
    // Who calls itself the same with another key is another.
    let other = Key::new("other");
    let token = world.issuer.token(&claims(LOCAL_ISSUER, &json!({"cnf": {"jkt": other.thumbprint()}})));
    (world.caller, world.token) = (other, token);
    assert_eq!(world.show(&[&world.proof(&json!({"jti": jti}))]).status, 200);
    assert_eq!(world.upstream.count(), 2);
}

#[test]
fn v32_v30_a_bound_token_is_no_bearer_token_and_the_other_way_round() {
    let world = World::new();
    let to = world.proxy.inbound();
    let proof = world.proof(&json!({}));
    let bound = format!("Bearer {}", world.token);
    let bearer = format!("DPoP {}", world.bearer());
    let certified = claims(LOCAL_ISSUER, &json!({"cnf": {"x5t#S256": hash("a certificate")}}));
    let certified = format!("Bearer {}", world.issuer.token(&certified));
    for fields in [
        vec![("Authorization", &bound)],
        vec![("Authorization", &bound), ("DPoP", &proof)],
        vec![("Authorization", &bearer)],
        vec![("Authorization", &bearer), ("DPoP", &proof)],
        vec![("Authorization", &certified)],
    ] {
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        for _ in 0..2 {
            let answer = get(to, "/orders", &fields);
            assert_eq!((answer.status, answer.reason().as_str()), (401, "binding_mismatch"), "{fields:?}");
            let challenge = answer.header("www-authenticate").unwrap();
            assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
        }
    }
    assert_eq!(world.upstream.count(), 0);
    assert_eq!(world.show(&[&proof]).status, 200);
}

#[test]
fn policy_demands_bound_tokens() {
    let tokens = json!([{"issuer": "corp", "audiences": [AUDIENCE], "binding": "required"}]);
    let world = World::with(&json!({"tokens": tokens}));
    let to = world.proxy.inbound();
    assert_eq!(get_with(to, "/orders", &world.bearer()).reason(), "binding_mismatch");
    assert_eq!(world.show(&[&world.proof(&json!({}))]).status, 200);
    assert_eq!(get(to, "/healthz", &[]).status, 200);

    // Of some requests alone.
    let rules = json!([
        {"name": "read", "to": {"methods": ["GET"], "paths": ["/orders"]}, "from": {}},
        {"name": "write", "to": {"methods": ["POST"], "paths": ["/orders"]}, "from": {"binding": "required"}},
    ]);
    let before = world.proxy.version();
    world.folder.write("orders.yaml", &inbound_with(&rules, &json!({})));
    crate::support::wait_until("the new policy", std::time::Duration::from_secs(5), || {
        world.proxy.version() != before
    });
    let post = |fields: &[(&str, &str)]| request(to, "POST", "/orders", fields, b"{}");
    assert_eq!(get_with(to, "/orders", &world.bearer()).status, 200);
    let bearer = format!("Bearer {}", world.bearer());
    assert_eq!(post(&[("Authorization", &bearer)]).reason(), "no_rule");
    let (bound, proof) = (format!("DPoP {}", world.token), world.proof(&json!({"htm": "POST"})));
    assert_eq!(post(&[("Authorization", &bound), ("DPoP", &proof)]).status, 200);
}

#[test]
fn a_proof_goes_on_only_with_the_token_that_it_was_verified_for() {
    for (mode, shown) in [("keep", 1), ("strip", 0)] {
        let world = World::with(&json!({"forwardToken": mode}));
        let to = world.proxy.inbound();
        let proof = world.proof(&json!({}));
        assert_eq!(world.show(&[&proof]).status, 200);
        let seen = world.upstream.last();
        assert_eq!((seen.all("authorization").len(), seen.all("dpop").len()), (shown, shown), "{mode}");
        // Beside a bearer token nobody looked at it.
        let bearer = format!("Bearer {}", world.bearer());
        assert_eq!(get(to, "/orders", &[("Authorization", &bearer), ("DPoP", &proof)]).status, 200);
        let seen = world.upstream.last();
        assert_eq!((seen.all("authorization").len(), seen.all("dpop").len()), (shown, 0), "{mode}");
        // On a public path neither.
        assert_eq!(world.show_at("/healthz", &[&proof]).status, 200);
        let seen = world.upstream.last();
        assert_eq!((seen.all("authorization").len(), seen.all("dpop").len()), (0, 0), "{mode}");
    }
}

/// Neither token nor proof reaches a log, however much is logged.
#[test]
fn in_28_no_proof_is_logged() {
    let world = World::new();
    let proxy = Settings::policies(world.folder.path(), "orders").before(world.upstream.address());
    let proxy = proxy.with(&["--access-log", "all"]).tracing().start();
    let credential = format!("DPoP {}", world.token);
    let htu = format!("http://{}/orders", proxy.inbound());
    let (good, bad) = (world.proof(&json!({"htu": htu})), world.proof(&json!({"htm": "POST"})));
    for (proof, reason) in [(&good, None), (&good, Some("proof_replayed")), (&bad, Some("proof_invalid"))] {
        let answer = get(proxy.inbound(), "/orders", &[("Authorization", &credential), ("DPoP", proof)]);
        assert_eq!(answer.header("x-countersign-reason"), reason);
    }
    let log = proxy.log();
    assert!(log.contains("htm is not the method"), "the flaw is told: {log}");
    for secret in [&good, &bad, &world.token] {
        let signature = secret.rsplit('.').next().unwrap();
        assert!(!log.contains(signature), "{log}");
    }
}
