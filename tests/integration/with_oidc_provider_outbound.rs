//! Does the token go along, and only where it should? Outbound against an authorization server that we did not write.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::{Answer, Connection, get, request};
use crate::support::issuer::{Issuer, SECRET, basic, form};
use crate::support::jose::{self, Key};
use crate::support::policy::{self, AUDIENCE, Folder, document, issuer_discovered};
use crate::support::ports::Port;
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::Upstream;
use crate::support::wait_until;

struct World {
    issuer: Issuer,
    upstream: Upstream,
    proxy: Proxy,
    folder: Folder,
}

impl World {
    /// With these fields in the rule, and these settings of the issuer.
    fn new(rule: &Value, issuer: &Value) -> Self {
        let (issuer, upstream) = (Issuer::start(issuer), Upstream::start());
        let text =
            issuer_discovered(&issuer.url) + &policy::credential() + &policy::outbound(upstream.port(), rule);
        // The newline is the editor's, not the secret's.
        let folder = Folder::with(&[("policy.yaml", &text), ("client-secret", &format!("{SECRET}\n"))]);
        let proxy = Settings::policies(folder.path(), "checkout").start();
        Self { issuer, upstream, proxy, folder }
    }

    /// GET through the outbound listener, as an application with a proxy setting does.
    fn get(&self, host: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
        let authority = format!("{host}:{}", self.upstream.port());
        let headers: Vec<_> =
            [("Host", authority.as_str())].into_iter().chain(headers.iter().copied()).collect();
        get(self.proxy.outbound(), &format!("http://{authority}{target}"), &headers)
    }

    fn authorization(&self) -> Vec<String> {
        self.upstream.last().all("authorization")
    }
}

#[test]
fn the_token_is_attached_and_fetched_once() {
    let world = World::new(&json!({}), &json!({}));
    for _ in 0..50 {
        assert_eq!(world.get("localhost", "/a?b", &[]).status, 200);
    }
    let shown = world.authorization();
    assert_eq!(shown.len(), 1, "exactly one Authorization");
    let claims = jose::decode(shown[0].strip_prefix("Bearer ").unwrap());
    assert_eq!((&claims["aud"], &claims["scope"]), (&json!(AUDIENCE), &json!("orders:read")));
    assert_eq!(world.issuer.requests("/token"), 1);
    assert_eq!(world.upstream.last().target, "/a?b");
    let scrape = world.proxy.scrape();
    assert!(
        scrape.sum("countersign_requests_total", &[("direction", "outbound"), ("decision", "attach")])
            >= 50.0
    );
    let expiry = scrape.sum("countersign_token_expiry_timestamp_seconds", &[("credential", "shop/checkout")]);
    let left = expiry - f64::from(u32::try_from(crate::support::now()).unwrap());
    assert!((200.0..=301.0).contains(&left), "{left}");
}

/// The other ways in which HTTP names a destination: origin-form with Host.
#[test]
fn origin_form_names_the_destination_by_host() {
    let world = World::new(&json!({}), &json!({}));
    let authority = format!("localhost:{}", world.upstream.port());
    assert_eq!(get(world.proxy.outbound(), "/a", &[("Host", &authority)]).status, 200);
    assert_eq!(world.authorization().len(), 1);
}

/// With keys of every kind; the request has the assertion, and no secret.
#[test]
fn private_key_jwt_works_with_every_algorithm() {
    for (algorithm, kind) in [
        ("ES256", &rcgen::PKCS_ECDSA_P256_SHA256),
        ("ES384", &rcgen::PKCS_ECDSA_P384_SHA384),
        ("RS256", &rcgen::PKCS_RSA_SHA256),
        ("PS256", &rcgen::PKCS_RSA_SHA256),
        ("EdDSA", &rcgen::PKCS_ED25519),
    ] {
        let key = rcgen::KeyPair::generate_for(kind).unwrap();
        let client = json!({
            "id": "checkout", "publicKey": key.public_key_pem(), "alg": algorithm, "scope": "orders:read",
        });
        let (issuer, upstream) = (Issuer::start(&json!({"clients": [client]})), Upstream::start());
        let credential = json!({
            "issuer": "corp", "clientId": "checkout",
            "authentication": {"privateKeyJwt": {"keyFile": "key.pem", "algorithm": algorithm}},
        });
        let text = issuer_discovered(&issuer.url)
            + &document("Credential", "checkout", &credential)
            + &policy::outbound(upstream.port(), &json!({}));
        let folder = Folder::with(&[("policy.yaml", &text), ("key.pem", &key.serialize_pem())]);
        let proxy = Settings::policies(folder.path(), "checkout").start();
        let authority = format!("localhost:{}", upstream.port());
        let answer = get(proxy.outbound(), "/a", &[("Host", &authority)]);
        assert_eq!(answer.status, 200, "{algorithm}: {} {}", answer.text(), proxy.log());
        assert_eq!(upstream.last().all("authorization").len(), 1);
        let asked = issuer.last();
        assert!(
            asked.headers["authorization"].is_null() && asked.form["client_secret"].is_null(),
            "{asked:?}"
        );
        let claims = jose::decode(asked.form["client_assertion"].as_str().unwrap());
        assert_eq!((&claims["sub"], &claims["aud"]), (&json!("checkout"), &json!(issuer.url)), "{algorithm}");
    }
}

/// A token never goes to a host that no rule names: not by address, not by another port, not after a redirect.
#[test]
fn no_token_for_whom_no_rule_names() {
    let (world, elsewhere) = (World::new(&json!({}), &json!({})), Upstream::start());
    assert_eq!(world.get("127.0.0.1", "/", &[]).status, 200);
    assert_eq!(world.authorization(), Vec::<String>::new(), "a token for an address literal");
    let other = format!("localhost:{}", elsewhere.port());
    assert_eq!(get(world.proxy.outbound(), "/", &[("Host", &other)]).status, 200);
    assert_eq!(elsewhere.last().all("authorization"), Vec::<String>::new(), "a token for another port");
    assert!(world.proxy.scrape().sum("countersign_outbound_bypassed_total", &[("reason", "no_rule")]) >= 2.0);

    let count = elsewhere.count();
    let redirect = world.get("localhost", &format!("/redirect/{}", elsewhere.port()), &[]);
    assert_eq!(redirect.status, 302, "the redirect is the application's to follow");
    assert_eq!(elsewhere.count(), count);

    // The target and Host disagree: no token, no request.
    let (port, count) = (world.upstream.port(), world.upstream.count());
    let target = format!("http://localhost:{port}/");
    let confused = get(world.proxy.outbound(), &target, &[("Host", &format!("127.0.0.1:{port}"))]);
    assert!((400..500).contains(&confused.status), "{confused:?}");
    assert_eq!(world.upstream.count(), count);
}

#[test]
fn what_the_application_shows_itself_is_handled_as_the_rule_says() {
    let own = [("Authorization", "Bearer the-applications-own")];
    let world = World::new(&json!({}), &json!({}));
    assert_eq!(world.get("localhost", "/", &own).status, 200);
    assert_eq!(world.authorization(), ["Bearer the-applications-own"], "keep is the default");

    for (mode, status, kept) in [("keep", 200, true), ("replace", 200, false), ("reject", 403, false)] {
        let world = World::new(&json!({"existingAuthorization": mode}), &json!({}));
        let answer = world.get("localhost", "/", &own);
        assert!(
            answer.status == status || (mode == "reject" && (400..500).contains(&answer.status)),
            "{mode}: {answer:?}"
        );
        if answer.status == 200 {
            assert_eq!(world.authorization().len(), 1);
            assert_eq!(world.authorization()[0] == "Bearer the-applications-own", kept, "{mode}");
        }
    }
}

/// The secret goes to an issuer that can be verified, and to no other.
#[test]
fn an_issuer_over_tls_is_verified() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files =
        Folder::with(&[("cert.pem", &made.cert.pem()), ("key.pem", &made.signing_key.serialize_pem())]);
    let path = |name: &str| files.file(name).display().to_string();
    let issuer = Issuer::start(&json!({"tls": {"cert": path("cert.pem"), "key": path("key.pem")}}));
    assert!(issuer.url.starts_with("https://"));
    for (spec, status) in [
        (json!({"issuer": issuer.url, "caFile": path("cert.pem")}), 200),
        (json!({"issuer": issuer.url}), 503),
    ] {
        let upstream = Upstream::start();
        let text = document("Issuer", "corp", &spec)
            + &policy::credential()
            + &policy::outbound(upstream.port(), &json!({}));
        let folder = Folder::with(&[("policy.yaml", &text), ("client-secret", SECRET)]);
        let proxy = Settings::policies(folder.path(), "checkout").start();
        let authority = format!("localhost:{}", upstream.port());
        let answer = get(proxy.outbound(), "/a", &[("Host", &authority)]);
        assert_eq!(answer.status, status, "{spec}: {answer:?} {}", proxy.log());
        assert_eq!(upstream.count(), usize::from(status == 200));
    }
}

/// The application speaks plain HTTP, the sidecar TLS that it verifies; to whom it cannot verify goes no token.
#[test]
fn out_3_tls_is_originated_and_verified() {
    let issuer = Issuer::start(&json!({}));
    for (name, trusted, status) in
        [("localhost", true, 200), ("other.test", true, 502), ("localhost", false, 502)]
    {
        let (upstream, certificate) = Upstream::start_tls(name);
        let (_, another) = Upstream::start_tls("localhost");
        let rule = json!({"tls": "originate", "originate": {"caFile": "upstream.pem"}});
        let text = issuer_discovered(&issuer.url)
            + &policy::credential()
            + &policy::outbound(upstream.port(), &rule);
        let ca = if trusted { certificate } else { another };
        let folder =
            Folder::with(&[("policy.yaml", &text), ("client-secret", SECRET), ("upstream.pem", &ca)]);
        let proxy = Settings::policies(folder.path(), "checkout").start();
        let authority = format!("localhost:{}", upstream.port());
        let answer = get(proxy.outbound(), "/a", &[("Host", &authority)]);
        assert_eq!(answer.status, status, "{name} {trusted}: {answer:?} {}", proxy.log());
        match status {
            200 => assert_eq!(upstream.last().all("authorization").len(), 1),
            _ => assert_eq!((answer.reason().as_str(), upstream.count()), ("upstream_unreachable", 0)),
        }
    }
}

/// 503 and never without the token, unless the rule says so; and all waiters share one flight.
#[test]
fn an_issuer_that_is_down_is_503_unless_the_rule_says_pass() {
    for (mode, expected) in [("reject", 503), ("pass", 200)] {
        let mut world = World::new(&json!({"onFailure": mode}), &json!({}));
        world.issuer.kill();
        // What was fetched at the start must not help.
        world.proxy.restart();
        world.proxy.wait_ready();
        let answer = world.get("localhost", "/", &[]);
        assert_eq!(answer.status, expected, "{answer:?}");
        match expected {
            503 => {
                assert_eq!(answer.reason(), "token_unavailable");
                assert!(
                    answer.header("retry-after").is_some() && answer.header("www-authenticate").is_none()
                );
                assert_eq!(world.upstream.count(), 0);
            }
            _ => assert_eq!(world.authorization(), Vec::<String>::new()),
        }
    }
}

/// Before the first token is there, all who want it wait for the one request that is under way.
#[test]
fn a_burst_of_callers_is_one_token_request() {
    let (issuer, upstream) = (Issuer::start(&json!({})), Upstream::start());
    let text = issuer_discovered(&issuer.url)
        + &policy::credential()
        + &policy::outbound(upstream.port(), &json!({}));
    let folder = Folder::with(&[("policy.yaml", &text), ("client-secret", SECRET)]);
    issuer.set_delay(Duration::from_millis(700));
    let proxy = Settings::policies(folder.path(), "checkout").start();
    let authority = format!("localhost:{}", upstream.port());
    thread::scope(|scope| {
        let call = || get(proxy.outbound(), "/", &[("Host", &authority)]).status;
        let burst: Vec<_> = (0..20).map(|_| scope.spawn(call)).collect();
        for one in burst {
            assert_eq!(one.join().unwrap(), 200);
        }
    });
    assert!(upstream.seen().iter().all(|seen| seen.all("authorization").len() == 1));
    assert_eq!(issuer.requests("/token"), 1);
    assert!(proxy.scrape().sum("countersign_token_requests_total", &[("result", "coalesced")]) >= 1.0);
}

/// Tokens of four seconds, over ten: refreshed ahead, never sent expired, no request waits or fails.
#[test]
fn short_tokens_are_refreshed_ahead_and_never_sent_expired() {
    let world = World::new(&json!({}), &json!({"ttl": 4}));
    let to = world.proxy.outbound();
    let authority = format!("localhost:{}", world.upstream.port());
    let mut connection = Connection::open(to).unwrap();
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        let answer = connection.request("GET", "/", &[("Host", &authority)], b"").unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let shown = world.authorization().remove(0);
        let expires = jose::decode(shown.strip_prefix("Bearer ").unwrap())["exp"].as_i64().unwrap();
        assert!(expires > crate::support::now() - 1, "an expired token was sent");
        thread::sleep(Duration::from_millis(20));
    }
    let fetched = world.issuer.requests("/token");
    assert!((3..=8).contains(&fetched), "{fetched} token requests in ten seconds");
}

/// A connection that takes longer to open than the token lives does not get the expired one.
#[test]
fn a_token_that_expires_while_the_connection_opens_is_replaced() {
    let issuer = Issuer::start(&json!({"ttl": 3}));
    let (upstream, certificate) = Upstream::start_tls("localhost");
    let slow = Port::lease();
    delay(&slow, upstream.address(), Duration::from_millis(3500));
    let rule = json!({"tls": "originate", "originate": {"caFile": "upstream.pem"}});
    let text =
        issuer_discovered(&issuer.url) + &policy::credential() + &policy::outbound(slow.number(), &rule);
    let folder =
        Folder::with(&[("policy.yaml", &text), ("client-secret", SECRET), ("upstream.pem", &certificate)]);
    let proxy = Settings::policies(folder.path(), "checkout").start();
    let authority = format!("localhost:{}", slow.number());
    let answer = get(proxy.outbound(), "/a", &[("Host", &authority)]);
    assert_eq!(answer.status, 200, "{answer:?} {}", proxy.log());
    let shown = upstream.last().all("authorization").remove(0);
    let expires = jose::decode(shown.strip_prefix("Bearer ").unwrap())["exp"].as_i64().unwrap();
    assert!(expires >= crate::support::now(), "an expired token was sent");
}

/// Hands connections on after a while, so that the TLS handshake behind it is late.
fn delay(port: &Port, to: SocketAddr, by: Duration) {
    let listener = TcpListener::bind(port.address()).unwrap();
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            thread::spawn(move || {
                thread::sleep(by);
                let far = TcpStream::connect(to).unwrap();
                let (from, into) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                thread::spawn(move || std::io::copy(&mut &far, &mut &near));
                std::io::copy(&mut &from, &mut &into)
            });
        }
    });
}

/// A secret that is replaced on disk is used without a restart.
#[test]
fn a_rotated_secret_needs_no_restart() {
    let world = World::new(&json!({}), &json!({"ttl": 2}));
    assert_eq!(world.get("localhost", "/", &[]).status, 200);
    fs::write(world.folder.file("client-secret"), "wrong").unwrap();
    wait_until("the refusal of the wrong secret", Duration::from_secs(10), || {
        world.get("localhost", "/", &[]).status == 503
    });
    world.folder.write("client-secret", SECRET);
    wait_until("the right secret", Duration::from_secs(5), || world.get("localhost", "/", &[]).status == 200);
}

/// Nothing of what is secret in this world may be read anywhere.
#[test]
fn no_secret_and_no_token_is_ever_shown() {
    let (issuer, upstream) = (Issuer::start(&json!({})), Upstream::start());
    let rules = json!([{"name": "all", "to": {"paths": ["/*"]}, "from": {"scopes": ["orders:read"]}}]);
    let text = issuer_discovered(&issuer.url)
        + &policy::credential()
        + &policy::outbound(upstream.port(), &json!({}))
        + &policy::inbound_with(&rules, &json!({"workloads": {"labels": {"app": "checkout"}}}));
    let folder = Folder::with(&[("policy.yaml", &text), ("client-secret", SECRET)]);
    let settings = Settings::policies(folder.path(), "checkout").with(&["--access-log", "all"]);
    let proxy = settings.tracing().before(upstream.address()).start();
    let authority = format!("localhost:{}", upstream.port());
    assert_eq!(get(proxy.outbound(), "/a", &[("Host", &authority)]).status, 200);
    let attached = upstream.last().all("authorization").remove(0);
    let (attached, shown) = (attached.trim_start_matches("Bearer ").to_owned(), issuer.token("orders:read"));
    let forged = Key::new("k").token(&jose::claims(&issuer.url, &json!({"canary": "canary-claim"})));
    let mut pages = Vec::new();
    for token in [shown.as_str(), &forged, "canary-opaque-token"] {
        let bearer = format!("Bearer {token}");
        let answer = request(
            proxy.inbound(),
            "POST",
            "/a?access_token=canary-query",
            &[("Authorization", &bearer)],
            b"canary-body",
        );
        if answer.status != 200 {
            pages.push(format!("{answer:?}"));
        }
    }
    let own = [("Authorization", "Basic Y2FuYXJ5OmJhc2lj"), ("Cookie", "session=canary-cookie")];
    pages.push(format!("{:?}", get(proxy.inbound(), "/a", &own)));
    fs::write(folder.file("client-secret"), "canary-second-secret").unwrap();
    thread::sleep(Duration::from_millis(500));
    for page in ["/metrics", "/snapshot", "/tokens", "/readyz", "/", "/explain?decision=x"] {
        pages.push(format!("{:?}", get(proxy.admin(), page, &[]).text()));
    }
    pages.push(proxy.log());
    let parts = |token: &str| token.split('.').map(str::to_owned).collect::<Vec<_>>();
    let mut canaries = [parts(&attached), parts(&shown), parts(&forged)].concat();
    // A header is the same for all tokens of an issuer; what follows it is not.
    canaries.retain(|part| part.len() > 60 || part.contains("canary"));
    canaries.extend([SECRET, "canary", "Y2FuYXJ5OmJhc2lj"].map(str::to_owned));
    canaries.extend([form(SECRET), basic()]);
    assert!(
        canaries.len() >= 6 && pages.iter().map(String::len).sum::<usize>() > 5_000,
        "nothing was looked at"
    );
    for canary in &canaries {
        for page in &pages {
            if let Some(at) = page.find(canary.as_str()) {
                let context: String =
                    page.chars().skip(page[..at].chars().count().saturating_sub(200)).take(500).collect();
                panic!("{canary} is shown: …{context}…");
            }
        }
    }
}
