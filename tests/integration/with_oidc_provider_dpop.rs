//! Are tokens bound to a key of the sidecar, and does it prove so? Against an authorization server that we did not write, which
//! demands nonces, destinations that do, and our own inbound side.

use aws_lc_rs::digest::{SHA256, digest};
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};

use crate::support::client::{Answer, get, request};
use crate::support::issuer::{Issuer, SECRET};
use crate::support::policy::{self, AUDIENCE, Folder, issuer_discovered};
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::{Seen, Upstream};
use crate::support::{jose, now};

struct World {
    issuer: Issuer,
    upstream: Upstream,
    proxy: Proxy,
    _folder: Folder,
}

impl World {
    /// A destination in plain text.
    fn plain() -> Self {
        Self::with(Upstream::start(), &json!({}), "")
    }

    /// A destination for which the rule says this too. One worker, so that it is known how many nonces there are.
    fn with(upstream: Upstream, rule: &Value, certificate: &str) -> Self {
        let issuer = issuer();
        let mut bound = json!({"binding": "dpop"});
        for (name, value) in rule.as_object().unwrap() {
            bound[name] = value.clone();
        }
        let text = issuer_discovered(&issuer.url)
            + &policy::credential()
            + &policy::outbound(upstream.port(), &bound);
        let folder =
            Folder::with(&[("policy.yaml", &text), ("client-secret", SECRET), ("upstream.pem", certificate)]);
        let proxy = Settings::policies(folder.path(), "checkout").with(&["--workers", "1"]).tracing().start();
        Self { issuer, upstream, proxy, _folder: folder }
    }

    fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let authority = format!("localhost:{}", self.upstream.port());
        let headers: Vec<_> =
            [("Host", authority.as_str())].into_iter().chain(headers.iter().copied()).collect();
        request(self.proxy.outbound(), method, target, &headers, body)
    }

    fn get(&self, target: &str) -> Answer {
        self.send("GET", target, &[], b"")
    }

    /// Every request since the last look.
    fn seen(&self) -> Vec<Seen> {
        let seen = self.upstream.seen();
        self.upstream.forget();
        seen
    }
}

/// An authorization server whose client's tokens are bound, and which demands nonces in the proofs.
fn issuer() -> Issuer {
    let scope = "orders:read orders:write";
    Issuer::start(&json!({
        "clients": [{"id": "checkout", "secret": SECRET, "scope": scope, "dpopBound": true}],
        "dpop": {"nonce": true},
    }))
}

/// What a request proves, verified by an implementation that is not ours (RFC 9449 §4.3), against the token that it shows.
fn proven(seen: &Seen) -> Value {
    let (shown, proofs) = (seen.all("authorization"), seen.all("dpop"));
    assert_eq!((shown.len(), proofs.len()), (1, 1), "{seen:?}");
    let token = shown[0].strip_prefix("DPoP ").expect("the scheme DPoP");
    let header = decode_header(&proofs[0]).unwrap();
    assert_eq!((header.typ.as_deref(), header.alg), (Some("dpop+jwt"), Algorithm::ES256));
    let jwk: Jwk = header.jwk.expect("the public key");
    let mut validation = Validation::new(Algorithm::ES256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    let key = DecodingKey::from_jwk(&jwk).unwrap();
    let claims = decode::<Value>(&proofs[0], &key, &validation).expect("the signature").claims;
    assert_eq!(jose::decode(token)["cnf"]["jkt"], json!(jwk.thumbprint(ThumbprintHash::SHA256).unwrap()));
    assert_eq!(claims["ath"], json!(jose::encode(digest(&SHA256, token.as_bytes()).as_ref())));
    assert_eq!(claims["htm"], json!(seen.method));
    assert!((now() - 30..=now() + 1).contains(&claims["iat"].as_i64().unwrap()));
    claims
}

#[test]
fn c26_c27_tokens_are_bound_and_every_request_proves_it() {
    let world = World::plain();
    let own = [("DPoP", "a.b.c"), ("dpop", "d.e.f")];
    assert_eq!(world.send("GET", "/orders/1?b=c", &own, b"").status, 200, "{}", world.proxy.log());
    assert_eq!(world.send("PUT", "/orders/1", &[], b"x").status, 200);
    let seen = world.seen();
    let [first, second] = [proven(&seen[0]), proven(&seen[1])];
    // What is asked for, without query; nobody demanded a nonce.
    let uri = format!("http://localhost:{}/orders/1", world.upstream.port());
    assert_eq!([&first["htu"], &second["htu"]], [&json!(uri), &json!(uri)]);
    assert_eq!((first.get("nonce"), second.get("nonce")), (None, None));
    assert_ne!(first["jti"], second["jti"]);
    assert_eq!(seen[0].all("authorization"), seen[1].all("authorization"));
    // The first request of a token learned the nonce, the second had it.
    assert_eq!((world.issuer.requests("/token"), world.issuer.last().status), (2, Some(200)));

    let report = get(world.proxy.admin(), "/tokens", &[]);
    let token = seen[0].all("authorization")[0].strip_prefix("DPoP ").unwrap().to_owned();
    assert_eq!(report.json()["tokens"][0]["key_thumbprint"], jose::decode(&token)["cnf"]["jkt"]);
    assert!(!report.text().contains(&token));
    let log = world.proxy.log();
    assert!(![&token, &seen[0].all("dpop")[0]].into_iter().any(|shown| log.contains(shown)));
}

#[test]
fn c26_the_nonce_of_the_issuer_is_remembered_until_it_is_no_good_any_more() {
    let world = World::plain();
    assert_eq!(world.get("/").status, 200);
    let refused = world.upstream.last().all("authorization").remove(0);
    world.upstream.refuse(&refused);
    world.issuer.renew_nonces();
    // The refused token is replaced within the request: asked for, refused for the old nonce, asked for again.
    assert_eq!(world.get("/").status, 200, "{}", world.proxy.log());
    assert_eq!(world.issuer.requests("/token"), 4);
    let seen = world.seen();
    let proofs: Vec<_> = seen.iter().map(proven).collect();
    assert_ne!(seen.last().unwrap().all("authorization"), [refused]);
    assert_ne!(proofs[proofs.len() - 1]["jti"], proofs[proofs.len() - 2]["jti"], "each attempt has its own");
}

#[test]
fn c27_a_destination_gets_its_newest_nonce_and_the_application_sees_none() {
    let world = World::plain();
    for (target, requests) in [
        ("/dpop-nonce/one/two", vec![None, Some("one")]),
        ("/dpop-nonce/two/three", vec![Some("two")]),
        ("/orders/1", vec![Some("three")]),
        ("/dpop-nonce/four/four", vec![Some("three"), Some("four")]),
    ] {
        let answer = world.get(target);
        assert_eq!((answer.status, answer.header("dpop-nonce")), (200, None), "{target}");
        let seen = world.seen();
        let nonces: Vec<_> =
            seen.iter().map(|one| proven(one)["nonce"].as_str().map(str::to_owned)).collect();
        assert_eq!(nonces.iter().map(Option::as_deref).collect::<Vec<_>>(), requests, "{target}");
    }
    // A nonce is no fault of the token.
    assert_eq!(world.issuer.requests("/token"), 2);
    let scrape = world.proxy.scrape();
    assert_eq!(scrape.sum("countersign_token_refusals_total", &[("result", "dropped")]), 0.0);
    assert_eq!(scrape.sum("countersign_token_replays_total", &[("result", "accepted")]), 2.0);
}

#[test]
fn c27_a_request_is_repeated_with_the_nonce_with_its_whole_body_or_not_at_all() {
    let (small, large) = (vec![b'x'; 60 * 1024], vec![b'y'; 200 * 1024]);
    for (body, status) in [(&small, 200), (&large, 401)] {
        let world = World::plain();
        let answer = world.send("POST", "/dpop-nonce/one/one", &[], body);
        assert_eq!((answer.status, answer.header("dpop-nonce")), (status, None));
        assert!(world.seen().iter().all(|one| one.body == *body));
        // It is known for the next request all the same.
        assert_eq!(world.send("POST", "/dpop-nonce/one/one", &[], body).status, 200);
        assert_eq!((world.seen().len(), world.issuer.requests("/token")), (1, 2));
    }
}

#[test]
fn c27_a_destination_that_is_never_content_is_asked_twice_and_heard() {
    let world = World::plain();
    let answer = world.send("GET", "/challenge/use_dpop_nonce", &[], b"");
    assert_eq!((answer.status, world.seen().len()), (401, 1), "it names no nonce");
    let answer = world.get("/dpop-nonce/a\"b/x");
    assert_eq!((answer.status, world.seen().len()), (401, 1), "that is no nonce");
    assert_eq!(world.issuer.requests("/token"), 2);
}

#[test]
fn c27_over_tls_and_http_2_the_proof_names_what_the_destination_sees() {
    for (protocol, version) in [("http1", "HTTP/1.1"), ("http2", "HTTP/2.0")] {
        let (upstream, certificate) = Upstream::start_tls("localhost");
        let rule = json!({"tls": "originate", "originate": {"caFile": "upstream.pem"}, "protocol": protocol});
        let world = World::with(upstream, &rule, &certificate);
        assert_eq!(world.get("/dpop-nonce/one/two?x=y").status, 200, "{}", world.proxy.log());
        let seen = world.seen();
        assert_eq!((seen.len(), seen[1].version.as_str()), (2, version));
        let uri = format!("https://localhost:{}/dpop-nonce/one/two", world.upstream.port());
        assert!(seen.iter().all(|one| proven(one)["htu"] == json!(uri)));
    }
}

/// What an application shows itself stays its own, with its proof and the nonces for it.
#[test]
fn c27_an_application_that_proves_for_itself_is_left_alone() {
    let world = World::plain();
    let own = [("Authorization", "DPoP own"), ("DPoP", "e30.eyJub25jZSI6Im9uZSJ9.")];
    let answer = world.send("GET", "/dpop-nonce/one/two", &own, b"");
    assert_eq!((answer.status, answer.header("dpop-nonce")), (200, Some("two")));
    let answer = world.send("GET", "/dpop-nonce/two/three", &own, b"");
    assert_eq!((answer.status, answer.header("dpop-nonce")), (401, Some("two")));
    for one in world.seen() {
        assert_eq!(
            (one.all("authorization"), one.all("dpop")),
            (vec![own[0].1.into()], vec![own[1].1.into()])
        );
    }
}

#[test]
fn c27_v31_from_sidecar_to_sidecar_a_stolen_token_is_of_no_use() {
    let (issuer, upstream) = (issuer(), Upstream::start());
    let tokens = json!([{"issuer": "corp", "audiences": [AUDIENCE], "binding": "required"}]);
    let text = issuer_discovered(&issuer.url)
        + &policy::inbound_with(&policy::usual_rules(), &json!({"tokens": tokens}));
    let orders_folder = Folder::with(&[("policy.yaml", &text)]);
    let orders = Settings::policies(orders_folder.path(), "orders").before(upstream.address()).start();
    let port = orders.inbound().port();
    let text = issuer_discovered(&issuer.url)
        + &policy::credential()
        + &policy::outbound(port, &json!({"binding": "dpop"}));
    let checkout_folder = Folder::with(&[("policy.yaml", &text), ("client-secret", SECRET)]);
    let checkout = Settings::policies(checkout_folder.path(), "checkout").start();

    let authority = format!("localhost:{port}");
    let host = ("Host", authority.as_str());
    for _ in 0..20 {
        let answer = get(checkout.outbound(), "/orders/7?x=y", &[host]);
        assert_eq!(answer.status, 200, "{} {}", checkout.log(), orders.log());
    }
    let seen = upstream.last();
    proven(&seen);

    // Whoever reads it along the way has a token, and a proof that was used.
    let (shown, proof) = (seen.all("authorization").remove(0), seen.all("dpop").remove(0));
    let stolen = |authorization: &str, proof: Option<&str>, target: &str| {
        let mut headers = vec![host, ("Authorization", authorization)];
        headers.extend(proof.map(|proof| ("DPoP", proof)));
        get(orders.inbound(), target, &headers).reason()
    };
    assert_eq!(stolen(&shown, Some(&proof), "/orders/7"), "proof_replayed");
    assert_eq!(stolen(&shown, Some(&proof), "/orders/8"), "proof_invalid");
    assert_eq!(stolen(&shown, None, "/orders/7"), "proof_invalid");
    assert_eq!(stolen(&shown.replace("DPoP", "Bearer"), None, "/orders/7"), "binding_mismatch");
    assert_eq!(upstream.count(), 20);
}
