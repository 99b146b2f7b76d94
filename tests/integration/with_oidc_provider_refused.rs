//! What if a destination refuses our token? Dropped, fetched once and the request repeated once, against an authorization
//! server that we did not write and a destination that forgets tokens.

use std::thread;

use serde_json::json;

use crate::support::client::{Answer, request};
use crate::support::issuer::{Issuer, SECRET};
use crate::support::policy::{self, Folder, issuer_discovered};
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::Upstream;

struct World {
    issuer: Issuer,
    upstream: Upstream,
    proxy: Proxy,
    _folder: Folder,
}

impl World {
    /// A sidecar whose first token has been used.
    fn warm() -> Self {
        let (issuer, upstream) = (Issuer::start(&json!({})), Upstream::start());
        let text = issuer_discovered(&issuer.url)
            + &policy::credential()
            + &policy::outbound(upstream.port(), &json!({}));
        let folder = Folder::with(&[("policy.yaml", &text), ("client-secret", SECRET)]);
        let proxy = Settings::policies(folder.path(), "checkout").start();
        let world = Self { issuer, upstream, proxy, _folder: folder };
        assert_eq!(world.send("GET", "/", &[], b"").status, 200);
        world
    }

    fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let authority = format!("localhost:{}", self.upstream.port());
        let headers: Vec<_> =
            [("Host", authority.as_str())].into_iter().chain(headers.iter().copied()).collect();
        request(self.proxy.outbound(), method, target, &headers, body)
    }

    fn shown(&self) -> String {
        let mut shown = self.upstream.last().all("authorization");
        assert_eq!(shown.len(), 1, "exactly one Authorization");
        shown.remove(0)
    }

    fn fetched(&self) -> u64 {
        self.issuer.requests("/token")
    }

    fn counted(&self, metric: &str, result: &str) -> f64 {
        self.proxy.scrape().sum(metric, &[("result", result)])
    }
}

#[test]
fn out_11_a_hundred_refusals_at_once_are_one_token_request_and_no_request_fails() {
    let world = World::warm();
    world.upstream.refuse(&world.shown());
    thread::scope(|scope| {
        let burst: Vec<_> =
            (0..100).map(|_| scope.spawn(|| world.send("GET", "/", &[], b"").status)).collect();
        for one in burst {
            assert_eq!(one.join().unwrap(), 200);
        }
    });
    assert_eq!(world.fetched(), 2);
    // The fresh one survives.
    assert_eq!(world.send("GET", "/", &[], b"").status, 200);
    assert_eq!(world.fetched(), 2);
    assert_eq!(world.counted("countersign_token_refusals_total", "dropped"), 1.0);
    assert!(world.counted("countersign_token_replays_total", "accepted") >= 1.0);
    assert_eq!(world.counted("countersign_token_replays_total", "refused"), 0.0);
}

#[test]
fn out_11_a_request_is_repeated_with_its_whole_body_or_not_at_all() {
    let small = vec![b'x'; 60 * 1024];
    let large = vec![b'y'; 200 * 1024];
    for (method, body, status) in [("DELETE", &b""[..], 200), ("POST", &small, 200), ("PUT", &large, 401)] {
        let world = World::warm();
        world.upstream.refuse(&world.shown());
        world.upstream.forget();
        let answer = world.send(method, "/a?b=c", &[("X-Own", "kept")], body);
        assert_eq!(answer.status, status, "{method}");
        let seen = world.upstream.seen();
        assert_eq!(seen.len(), if status == 200 { 2 } else { 1 }, "{method}");
        for one in &seen {
            assert_eq!((one.method.as_str(), one.target.as_str()), (method, "/a?b=c"));
            assert_eq!((one.all("x-own"), &one.body[..]), (vec!["kept".to_owned()], body));
        }
        if status == 401 {
            assert!(answer.header("www-authenticate").unwrap().contains("invalid_token"));
            assert_eq!(world.counted("countersign_token_replays_total", "unfit"), 1.0);
            assert_eq!(world.send(method, "/", &[], body).status, 200, "the next one has another token");
        }
        assert_eq!(world.fetched(), 2, "{method}");
    }
}

/// 403 is about what a token may do, and a 401 that does not blame the token is the application's to understand.
#[test]
fn c29_out_11_nothing_but_invalid_token_makes_us_ask_again() {
    let world = World::warm();
    let shown = world.shown();
    for target in ["/status/403", "/status/407", "/challenge/insufficient_scope", "/challenge/none"] {
        world.upstream.forget();
        let answer = world.send("GET", target, &[], b"");
        assert!([401, 403, 407].contains(&answer.status));
        assert_eq!((world.upstream.count(), world.shown()), (1, shown.clone()), "{target}");
    }
    assert_eq!(world.fetched(), 1);
}

#[test]
fn out_11_a_destination_that_refuses_every_token_is_heard_and_costs_one_request() {
    let world = World::warm();
    for _ in 0..20 {
        let answer = world.send("GET", "/status/401", &[], b"");
        assert_eq!((answer.status, answer.text()), (401, "as asked".to_owned()));
        assert_eq!(answer.header("www-authenticate"), Some(r#"Bearer error="invalid_token""#));
    }
    assert_eq!(world.fetched(), 2);
    assert_eq!(world.counted("countersign_token_replays_total", "refused"), 1.0);
    assert_eq!(world.counted("countersign_token_refusals_total", "kept"), 19.0);
    // And it stays the application's own where it showed its own.
    let own = [("Authorization", "Bearer own")];
    assert_eq!(world.send("GET", "/status/401", &own, b"").status, 401);
    assert_eq!((world.fetched(), world.shown()), (2, "Bearer own".to_owned()));
}

#[test]
fn out_11_the_refusal_stands_where_no_other_token_can_be_had() {
    let mut world = World::warm();
    world.upstream.refuse(&world.shown());
    world.issuer.kill();
    let answer = world.send("GET", "/", &[], b"");
    assert_eq!(answer.status, 401, "the destination's own words, not ours");
    assert_eq!(world.counted("countersign_token_replays_total", "failed"), 1.0);
    let answer = world.send("GET", "/", &[], b"");
    assert_eq!((answer.status, answer.reason().as_str()), (503, "token_unavailable"));
}
