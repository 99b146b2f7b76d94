//! Does the token go along where the authorization server is another: opaque tokens, answers in HTTP/1.0 that end with
//! their connection, and errors where others are silent?

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::client::{Answer, get};
use crate::support::django::Django;
use crate::support::issuer::{SECRET, basic};
use crate::support::policy::{self, Folder};
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::Upstream;

struct World {
    issuer: Django,
    upstream: Upstream,
    proxy: Proxy,
    _folder: Folder,
}

impl World {
    /// With this secret at both ends, and these scopes in the rule.
    fn new(secret: &str, scopes: &[&str], delay: Duration) -> Self {
        let (issuer, upstream) = (Django::start(secret), Upstream::start());
        issuer.set_delay(delay);
        let rule = json!({"token": {"credential": "checkout", "scopes": scopes}});
        let text = issuer.issuer() + &policy::credential() + &policy::outbound(upstream.port(), &rule);
        let folder = Folder::with(&[("policy.yaml", &text), ("client-secret", secret)]);
        let proxy = Settings::policies(folder.path(), "checkout").start();
        Self { issuer, upstream, proxy, _folder: folder }
    }

    fn get(&self) -> Answer {
        let authority = format!("localhost:{}", self.upstream.port());
        get(self.proxy.outbound(), "/a", &[("Host", &authority)])
    }
}

/// It is passed on as it came, since nobody reads it; the issuer knows it.
#[test]
fn an_opaque_token_is_attached() {
    let world = World::new(SECRET, &["orders:read"], Duration::ZERO);
    for _ in 0..20 {
        assert_eq!(world.get().status, 200, "{}", world.proxy.log());
    }
    let shown = world.upstream.last().all("authorization");
    let token = shown[0].strip_prefix("Bearer ").unwrap();
    assert!(shown.len() == 1 && !token.contains('.'), "{shown:?}");
    let known = world.issuer.introspect(token, &basic());
    assert_eq!((&known["active"], &known["scope"]), (&json!(true), &json!("orders:read")), "{known}");
    assert_eq!(world.issuer.token_requests(), 1);
}

/// A cold cache and 200 requests at once: one goes to the issuer.
#[test]
fn out_6_two_hundred_at_once_are_one_token_request() {
    let world = World::new(SECRET, &["orders:read"], Duration::from_millis(1500));
    thread::scope(|scope| {
        let burst: Vec<_> = (0..200).map(|_| scope.spawn(|| world.get().status)).collect();
        assert!(burst.into_iter().all(|one| one.join().unwrap() == 200), "{}", world.proxy.log());
    });
    assert_eq!(world.issuer.token_requests(), 1);
    assert_eq!(world.upstream.count(), 200);
    assert!(world.upstream.seen().iter().all(|seen| seen.all("authorization").len() == 1));
}

/// Whatever RFC 6749 App. B encodes, and what is not ASCII.
#[test]
fn c5_a_secret_of_any_characters_works() {
    let world = World::new("a+b%c&d:e f=g\"h\\i \u{e9}\u{20ac}", &["orders:read"], Duration::ZERO);
    assert_eq!(world.get().status, 200, "{}", world.proxy.log());
}

/// 400 where another issuer drops the scope in silence: it stays so until somebody mends it, so nobody is asked twice.
#[test]
fn c16_a_scope_that_the_issuer_does_not_know_is_503() {
    let world = World::new(SECRET, &["orders:unknown"], Duration::ZERO);
    for _ in 0..10 {
        let answer = world.get();
        assert_eq!((answer.status, answer.reason().as_str()), (503, "token_unavailable"), "{answer:?}");
        assert!(answer.header("retry-after").is_some());
    }
    assert_eq!((world.upstream.count(), world.issuer.token_requests()), (0, 1));
    let report = get(world.proxy.admin(), "/tokens", &[]).text();
    assert!(report.contains("invalid_scope"), "{report}");
    let failures = [("credential", "shop/checkout"), ("cause", "invalid_scope")];
    let failed = world.proxy.scrape().sum("countersign_token_fetch_failures_total", &failures);
    assert!(failed >= 1.0, "{failed}");
}
