//! Is every refusal what README.md says it is? Each reason produced once: status, challenge, body, and nothing at the upstream.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use countersign_policy::Reason;
use serde_json::{Value, json};

use crate::support::client::{Answer, Connection, get, get_with, request};
use crate::support::jose::{Key, claims, key_set};
use crate::support::now;
use crate::support::policy::{
    self, Folder, LOCAL_ISSUER, inbound, inbound_with, issuer_with_file, usual_rules,
};
use crate::support::ports::Port;
use crate::support::proxy::{Proxy, Settings};
use crate::support::tls::Ca;
use crate::support::upstream::Upstream;
use crate::support::ws::{self, Peer};

/// Reasons that what exists so far cannot give; each leaves with the feature that brings it.
const LATER: &[Reason] = &[
    Reason::Revoked,
    // These need ten thousand requests at once, or a defect: unit tests of the worker's shedding and of `http::guarded`.
    Reason::Overloaded,
    Reason::Internal,
];

/// A sidecar before an echo, with the usual rules and a key that the test holds.
struct World {
    key: Key,
    upstream: Upstream,
    proxy: Proxy,
    _folder: Folder,
}

impl World {
    fn new() -> Self {
        let key = Key::new("k1");
        let folder = Folder::with(&[
            ("issuer.yaml", &issuer_with_file("keys.jwks")),
            ("orders.yaml", &inbound_with(&usual_rules(), &json!({"timeouts": {"firstByte": "300ms"}}))),
            ("keys.jwks", &key_set(&[&key]).to_string()),
        ]);
        let upstream = Upstream::start();
        let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
        Self { key, upstream, proxy, _folder: folder }
    }

    /// A good token, but for these claims.
    fn token(&self, over: &Value) -> String {
        self.key.token(&claims(LOCAL_ISSUER, over))
    }

    /// A good token, but for these header parameters.
    fn headed(&self, over: &Value) -> String {
        let mut header = json!({"alg": "ES256", "typ": "at+jwt", "kid": self.key.kid});
        for (name, value) in over.as_object().unwrap() {
            header[name] = value.clone();
        }
        self.key.sign(&header, &claims(LOCAL_ISSUER, &json!({})))
    }

    /// GET /orders with this token.
    fn show(&self, token: &str) -> Answer {
        get_with(self.proxy.inbound(), "/orders", token)
    }
}

#[test]
fn every_reason_is_produced_as_the_design_says() {
    let mut produced = BTreeSet::new();
    let mut expect = |reason: Reason, answer: &Answer| {
        assert_refused(reason, answer);
        produced.insert(reason.as_str());
    };
    let world = World::new();
    tokens_that_do_not_verify(&world, &mut expect);
    requests_that_cannot_be_judged(&world, &mut expect);
    requests_that_policy_refuses(&world, &mut expect);
    a_protocol_that_there_is_not(&world, &mut expect);
    assert_eq!(
        world.upstream.count(),
        0,
        "a refused request reached the application: {:?}",
        world.upstream.seen()
    );
    a_caller_without_certificate(&mut expect);
    upstreams_that_fail(&world, &mut expect);
    what_is_not_there_yet(&mut expect);
    outbound_refusals(&mut expect);

    let later: BTreeSet<_> = LATER.iter().map(|r| r.as_str()).collect();
    let all: BTreeSet<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
    let missing: Vec<_> = all.difference(&produced).filter(|r| !later.contains(*r)).collect();
    assert!(missing.is_empty(), "never produced: {missing:?}");
}

fn tokens_that_do_not_verify(world: &World, expect: &mut impl FnMut(Reason, &Answer)) {
    let other = Key::new("k1");
    let stranger = Key::new("k2");
    let good = claims(LOCAL_ISSUER, &json!({}));
    let token = |over: Value| world.token(&over);
    assert_eq!(world.show(&token(json!({}))).status, 200);
    assert_eq!(world.upstream.count(), 1);
    world.upstream.forget();

    expect(Reason::MissingToken, &get(world.proxy.inbound(), "/orders", &[]));
    expect(Reason::MalformedToken, &world.show("not-a-token"));
    expect(Reason::UnsupportedAlgorithm, &world.show(&world.headed(&json!({"alg": "HS256"}))));
    expect(Reason::UnsupportedAlgorithm, &world.show(&world.headed(&json!({"alg": "none"}))));
    expect(Reason::UnknownIssuer, &world.show(&token(json!({"iss": "https://issuer.test/"}))));
    expect(Reason::UnknownKey, &world.show(&stranger.token(&good)));
    expect(Reason::BadSignature, &world.show(&other.token(&good)));
    expect(Reason::Expired, &world.show(&token(json!({"exp": now() - 60}))));
    expect(Reason::NotYetValid, &world.show(&token(json!({"nbf": now() + 90}))));
    expect(Reason::WrongAudience, &world.show(&token(json!({"aud": "https://orders.shop/"}))));
    expect(Reason::WrongType, &world.show(&world.headed(&json!({"typ": "JWT"}))));
    expect(Reason::MissingClaim, &world.show(&token(json!({"client_id": null}))));
    let bound = token(json!({"cnf": {"jkt": stranger.thumbprint()}}));
    expect(Reason::BindingMismatch, &world.show(&bound));
    let to = world.proxy.inbound();
    let dpop = format!("DPoP {bound}");
    expect(Reason::ProofInvalid, &get(to, "/orders", &[("Authorization", &dpop)]));
    let proof = stranger.proof(&bound, &json!({"htu": format!("http://{to}/orders")}));
    let used = || get(to, "/orders", &[("Authorization", &dpop), ("DPoP", &proof)]);
    assert_eq!(used().status, 200);
    world.upstream.forget();
    expect(Reason::ProofReplayed, &used());
}

fn requests_that_cannot_be_judged(world: &World, expect: &mut impl FnMut(Reason, &Answer)) {
    let to = world.proxy.inbound();
    let token = world.token(&json!({}));
    let bearer = format!("Bearer {token}");
    let twice = get(to, "/orders", &[("Authorization", &bearer), ("Authorization", &bearer)]);
    expect(Reason::MultipleTokens, &twice);
    expect(Reason::BadRequest, &get(to, "/orders", &[("Host", "a.test, b.test")]));
    expect(Reason::AmbiguousDestination, &get(to, "http://a.test/orders", &[("Host", "b.test")]));
    expect(Reason::AmbiguousPath, &get_with(to, "/orders/%2e%2e/admin", &token));
    expect(Reason::HeadTooLarge, &get(to, "/orders", &[("X-Long", &"x".repeat(70 * 1024))]));
    expect(Reason::UriTooLong, &get(to, &format!("/orders/{}", "x".repeat(17 * 1024)), &[]));
    for method in ["TRACE", "CONNECT"] {
        let target = if method == "TRACE" { "/orders" } else { "orders.test:443" };
        let answer =
            request(to, method, target, &[("Host", "orders.test:443"), ("Authorization", &bearer)], b"");
        assert!(answer.header("allow").is_some_and(|allow| !allow.contains(method)), "{answer:?}");
        expect(Reason::MethodNotAllowed, &answer);
    }
}

fn a_protocol_that_there_is_not(world: &World, expect: &mut impl FnMut(Reason, &Answer)) {
    let bearer = format!("Bearer {}", world.token(&json!({})));
    let more = json!({"extended": "connect-udp", "headers": {"authorization": bearer}});
    let refused = Peer::client(&format!("ws://{}/orders", world.proxy.inbound()), "echo", &more).end();
    expect(Reason::UnsupportedProtocol, &ws::answer(&refused));
}

fn requests_that_policy_refuses(world: &World, expect: &mut impl FnMut(Reason, &Answer)) {
    let to = world.proxy.inbound();
    let token = world.token(&json!({}));
    let bearer = format!("Bearer {token}");
    let answer = request(to, "POST", "/orders", &[("Authorization", &bearer)], b"{}");
    expect(Reason::InsufficientScope, &answer);
    assert!(answer.header("www-authenticate").unwrap().contains(r#"scope="orders:write""#), "{answer:?}");
    expect(Reason::NoRule, &get_with(to, "/elsewhere", &token));
    expect(Reason::DeniedByRule, &get_with(to, "/orders/secret/1", &token));
}

fn a_caller_without_certificate(expect: &mut impl FnMut(Reason, &Answer)) {
    let (ca, upstream) = (Ca::new("ours"), Upstream::start());
    let server = ca.server();
    let spec = json!({
        "tls": {"certFile": "tls.crt", "keyFile": "tls.key", "clientCaFile": "ca.crt", "clientAuth": "optional"},
        "rules": [{"name": "peers", "from": {"peers": ["spiffe://cluster.local/*"]}}],
    });
    let folder = Folder::with(&[
        ("policy.yaml", &policy::document("InboundPolicy", "orders", &spec)),
        ("tls.crt", &server.cert),
        ("tls.key", &server.key),
        ("ca.crt", &ca.pem),
    ]);
    let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
    let mut connection = Connection::open_tls(proxy.inbound(), ca.connection(None).unwrap()).unwrap();
    expect(Reason::PeerRequired, &connection.request("GET", "/orders", &[], b"").unwrap());
    assert_eq!(upstream.count(), 0);
}

fn upstreams_that_fail(world: &World, expect: &mut impl FnMut(Reason, &Answer)) {
    let token = world.token(&json!({}));
    expect(Reason::UpstreamTimeout, &get_with(world.proxy.inbound(), "/orders/slow/2000", &token));

    let nobody = Port::lease();
    let (proxy, folder) = local(&world.key, nobody.address());
    expect(Reason::UpstreamUnreachable, &get_with(proxy.inbound(), "/orders", &token));
    drop(folder);
}

/// Before the first keys, before the first policy.
fn what_is_not_there_yet(expect: &mut impl FnMut(Reason, &Answer)) {
    let (issuer, upstream, key) = (Port::lease(), Upstream::start(), Key::new("k1"));
    let url = format!("http://{}", issuer.address());
    let folder =
        Folder::with(&[("policy.yaml", &(policy::issuer_discovered(&url) + &inbound(&usual_rules())))]);
    let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
    let token = key.token(&claims(&url, &json!({})));
    let answer = get_with(proxy.inbound(), "/orders", &token);
    expect(Reason::KeysUnavailable, &answer);
    assert!(answer.header("retry-after").is_some(), "{answer:?}");

    let ca_of_nobody = rcgen::generate_simple_self_signed(["nobody.test".to_owned()]).unwrap().cert.pem();
    let secrets = Folder::with(&[("ca.pem", &ca_of_nobody), ("join", "join-token-of-nobody\n")]);
    let control = format!("https://{}", Port::lease().address());
    let (ca, join) = (secrets.file("ca.pem"), secrets.file("join"));
    let proxy = Settings::bare()
        .with(&["--control", &control, "--control-ca", &path(&ca), "--join-token", &path(&join)])
        .before(upstream.address())
        .launch();
    assert!(!proxy.is_ready(), "ready without policy");
    expect(Reason::PolicyUnavailable, &get_with(proxy.inbound(), "/orders", &token));
    assert_eq!(upstream.count(), 0);
}

fn outbound_refusals(expect: &mut impl FnMut(Reason, &Answer)) {
    let (issuer, upstream) = (Port::lease(), Upstream::start());
    let url = format!("http://{}", issuer.address());
    let text = policy::issuer_discovered(&url)
        + &policy::credential()
        + &policy::outbound(upstream.port(), &json!({}));
    let folder = Folder::with(&[
        ("policy.yaml", &text.replace("\"rules\"", "\"egress\":\"deny\",\"rules\"")),
        ("client-secret", "s"),
    ]);
    let proxy = Settings::policies(folder.path(), "checkout").start();
    let to = |host: &str| {
        let authority = format!("{host}:{}", upstream.port());
        get(proxy.outbound(), &format!("http://{authority}/orders"), &[("Host", &authority)])
    };
    let answer = to("localhost");
    expect(Reason::TokenUnavailable, &answer);
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    expect(Reason::EgressDenied, &to("127.0.0.1"));
    expect(Reason::Inactive, &exchange_of_an_expired_token(&url, &upstream));
    assert_eq!(upstream.count(), 0);
}

/// It is refused although nobody can be asked.
fn exchange_of_an_expired_token(issuer: &str, upstream: &Upstream) -> Answer {
    let token = json!({"credential": "checkout", "exchange": {"subject": "request"}});
    let text = policy::issuer_discovered(issuer)
        + &policy::credential()
        + &policy::outbound(upstream.port(), &json!({"token": token}));
    let folder = Folder::with(&[("policy.yaml", &text), ("client-secret", "s")]);
    let proxy = Settings::policies(folder.path(), "checkout").start();
    let bearer = format!("Bearer {}", Key::new("k1").token(&claims(issuer, &json!({"exp": now() - 60}))));
    let authority = format!("localhost:{}", upstream.port());
    get(proxy.outbound(), "/orders", &[("Host", &authority), ("Authorization", &bearer)])
}

/// A sidecar of the orders service before this server.
fn local(key: &Key, target: SocketAddr) -> (Proxy, Folder) {
    let folder = Folder::with(&[
        ("policy.yaml", &(issuer_with_file("keys.jwks") + &inbound(&usual_rules()))),
        ("keys.jwks", &key_set(&[key]).to_string()),
    ]);
    (Settings::policies(folder.path(), "orders").before(target).start(), folder)
}

/// Status, challenge (RFC 6750 §3), body (RFC 9457) and reason, as the table in README.md has them.
fn assert_refused(reason: Reason, answer: &Answer) {
    assert_eq!((answer.reason().as_str(), answer.status), (reason.as_str(), reason.status()), "{answer:?}");
    let challenge = answer.header("www-authenticate");
    let expected = match reason {
        Reason::MissingToken => Some(None),
        // Outbound, where it is not us who want to know who the application is.
        Reason::Inactive => None,
        Reason::MultipleTokens => Some(Some("invalid_request")),
        Reason::InsufficientScope => Some(Some("insufficient_scope")),
        _ if reason.status() == 401 => Some(Some("invalid_token")),
        _ => None,
    };
    let Some(error) = expected else {
        return assert_eq!(challenge, None, "{answer:?}");
    };
    if matches!(reason, Reason::ProofInvalid | Reason::ProofReplayed) {
        let algorithms = countersign_proxy::rejection::PROOF_ALGORITHMS;
        assert!(algorithms.split(' ').any(|algorithm| algorithm == "ES256"), "{algorithms}");
        let expected = format!("DPoP error=\"invalid_dpop_proof\", algs=\"{algorithms}\"");
        return assert_eq!(challenge, Some(&*expected), "{answer:?}");
    }
    let challenge = challenge.unwrap_or_else(|| panic!("no challenge: {answer:?}"));
    assert!(challenge.starts_with("Bearer ") && challenge.contains('='), "{challenge}");
    match error {
        Some(error) => assert!(challenge.contains(&format!("error=\"{error}\"")), "{challenge}"),
        None => assert!(!challenge.contains("error"), "{challenge}"),
    }
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
