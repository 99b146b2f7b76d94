//! Is the token of the application exchanged, and for whom? Outbound against an authorization server that we did not write
//! (RFC 8693).

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::{Answer, get};
use crate::support::issuer::{Issuer, SECRET};
use crate::support::jose::{self, Key, key_set};
use crate::support::now;
use crate::support::policy::{self, AUDIENCE, Folder, LOCAL_ISSUER, issuer_discovered};
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::Upstream;

/// Another issuer, whose tokens the authorization server exchanges, signs for the users.
struct World {
    users: Key,
    issuer: Issuer,
    upstream: Upstream,
    proxy: Proxy,
    _folder: Folder,
}

impl World {
    /// With these words for the exchange, these fields in the rule, and these settings of the exchange there.
    fn new(exchange: &Value, rule: &Value, there: &Value) -> Self {
        let users = Key::new("users");
        let mut settings = json!({"jwks": key_set(&[&users])});
        for (name, value) in there.as_object().unwrap() {
            settings[name] = value.clone();
        }
        let issuer = Issuer::start(&json!({"tokenExchange": settings}));
        let upstream = Upstream::start();
        let mut words = json!({"subject": "request"});
        for (name, value) in exchange.as_object().unwrap() {
            words[name] = value.clone();
        }
        let token = json!({
            "credential": "checkout", "scopes": ["orders:read"], "resource": AUDIENCE, "exchange": words,
        });
        let mut fields = json!({"token": token});
        for (name, value) in rule.as_object().unwrap() {
            fields[name] = value.clone();
        }
        let text = issuer_discovered(&issuer.url)
            + &policy::credential()
            + &policy::outbound(upstream.port(), &fields);
        let folder = Folder::with(&[("policy.yaml", &text), ("client-secret", SECRET)]);
        let proxy = Settings::policies(folder.path(), "checkout").tracing().start();
        Self { users, issuer, upstream, proxy, _folder: folder }
    }

    /// A token of this user, with these claims on top.
    fn user(&self, sub: &str, over: &Value) -> String {
        let mut claims =
            jose::claims(LOCAL_ISSUER, &json!({"sub": sub, "client_id": "web", "aud": "checkout"}));
        for (name, value) in over.as_object().unwrap() {
            claims[name] = value.clone();
        }
        self.users.token(&claims)
    }

    fn get(&self, authorization: &[&str]) -> Answer {
        let authority = format!("localhost:{}", self.upstream.port());
        let fields = authorization.iter().map(|value| ("Authorization", *value));
        let headers: Vec<_> = [("Host", authority.as_str())].into_iter().chain(fields).collect();
        get(self.proxy.outbound(), "/a?b", &headers)
    }

    fn show(&self, token: &str) -> Answer {
        self.get(&[&format!("Bearer {token}")])
    }

    /// The claims of the one token that the upstream saw last.
    fn seen(&self) -> Value {
        let shown = self.upstream.last().all("authorization");
        assert_eq!(shown.len(), 1, "exactly one Authorization");
        jose::decode(shown[0].strip_prefix("Bearer ").unwrap())
    }

    fn exchanges(&self) -> Value {
        get(self.proxy.admin(), "/tokens", &[]).json()["exchanges"].clone()
    }
}

fn assert_refused(answer: &Answer, status: u16, reason: &str) {
    assert_eq!((answer.status, answer.reason().as_str()), (status, reason), "{answer:?}");
    assert_eq!(answer.header("www-authenticate"), None, "it is not us who want to know");
    assert_eq!(answer.header("retry-after").is_some(), status == 503, "{answer:?}");
}

#[test]
fn c25_the_upstream_sees_the_users_token_with_the_client_as_actor() {
    let world = World::new(&json!({}), &json!({}), &json!({}));
    let alice = world.user("alice", &json!({}));
    for _ in 0..20 {
        assert_eq!(world.show(&alice).status, 200, "{}", world.proxy.log());
        let seen = world.seen();
        assert_eq!((&seen["iss"], &seen["sub"]), (&json!(world.issuer.url), &json!("alice")));
        assert_eq!(seen["act"], json!({"sub": "checkout"}));
        assert_eq!((&seen["aud"], &seen["scope"]), (&json!(AUDIENCE), &json!("orders:read")));
    }
    assert_eq!(world.issuer.requests("/token"), 1);
    let form = world.issuer.last().form;
    let names: Vec<_> = form.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected =
        ["grant_type", "subject_token", "subject_token_type", "requested_token_type", "scope", "resource"];
    expected.sort_unstable();
    assert_eq!(names.len(), expected.len(), "{names:?}");
    assert!(expected.iter().all(|name| names.contains(name)), "{names:?}");
    assert_eq!(form["subject_token"], json!(alice));

    assert_eq!(world.show(&world.user("bob", &json!({}))).status, 200);
    assert_eq!(world.seen()["sub"], json!("bob"));
    assert_eq!(world.issuer.requests("/token"), 2);

    // What was exchanged once can be exchanged again, and the chain of actors is kept.
    let chained = world.upstream.last().all("authorization").remove(0);
    assert_eq!(world.get(&[&chained]).status, 200);
    assert_eq!(
        (&world.seen()["sub"], &world.seen()["act"]["act"]["sub"]),
        (&json!("bob"), &json!("checkout"))
    );

    let told = world.exchanges();
    assert_eq!(
        (&told[0]["credential"], &told[0]["subjects"]),
        (&json!("shop/checkout"), &json!(3)),
        "{told}"
    );
    let pages = told.to_string() + &world.proxy.log() + &get(world.proxy.admin(), "/metrics", &[]).text();
    for token in [alice.as_str(), chained.trim_start_matches("Bearer ")] {
        for part in token.split('.').filter(|part| part.len() > 60) {
            assert!(!pages.contains(part), "a token is shown");
        }
    }
    assert!(!told.to_string().contains("alice"));
}

#[test]
fn c25_out_6_a_burst_of_one_user_is_one_exchange() {
    let world = World::new(&json!({}), &json!({}), &json!({}));
    let alice = world.user("alice", &json!({}));
    world.issuer.set_delay(Duration::from_millis(300));
    thread::scope(|scope| {
        let burst: Vec<_> = (0..20).map(|_| scope.spawn(|| world.show(&alice).status)).collect();
        for one in burst {
            assert_eq!(one.join().unwrap(), 200);
        }
    });
    assert_eq!(world.issuer.requests("/token"), 1);
    assert!(world.upstream.seen().iter().all(|seen| seen.all("authorization").len() == 1));
}

#[test]
fn c25_a_request_without_a_token_is_refused_or_shows_the_clients_own() {
    let world = World::new(&json!({}), &json!({}), &json!({}));
    assert_refused(&world.get(&[]), 401, "missing_token");
    assert_refused(&world.get(&["Basic dTpw"]), 401, "malformed_token");
    assert_refused(&world.get(&["Bearer a", "Bearer b"]), 400, "multiple_tokens");
    assert_eq!((world.upstream.count(), world.issuer.requests("/token")), (0, 0));

    let world = World::new(&json!({"otherwise": "client"}), &json!({}), &json!({}));
    assert_eq!(world.get(&[]).status, 200, "{}", world.proxy.log());
    let seen = world.seen();
    assert_eq!((&seen["sub"], seen.get("act")), (&json!("checkout"), None));
    assert_eq!(world.show(&world.user("alice", &json!({}))).status, 200);
    assert_eq!(world.seen()["sub"], json!("alice"));
    let count = world.upstream.count();
    assert_refused(&world.get(&["Basic dTpw"]), 401, "malformed_token");
    assert_eq!(world.upstream.count(), count);
}

#[test]
fn c25_a_token_that_is_refused_or_at_its_end_is_the_callers_fault() {
    let world = World::new(&json!({"otherwise": "client"}), &json!({"onFailure": "pass"}), &json!({}));
    // The one that the client may have for itself.
    assert_eq!(world.get(&[]).status, 200);
    let (asked, count) = (world.issuer.requests("/token"), world.upstream.count());
    // Its own word is enough, and the issuer need not be asked.
    assert_refused(&world.show(&world.user("alice", &json!({"exp": now() - 10}))), 401, "inactive");
    assert_eq!(world.issuer.requests("/token"), asked);
    // Of others the issuer says so, once.
    let forged = Key::new("users").token(&jose::claims(LOCAL_ISSUER, &json!({"sub": "alice"})));
    for _ in 0..5 {
        assert_refused(&world.show(&forged), 401, "inactive");
    }
    assert_refused(&world.show("opaque"), 401, "inactive");
    assert_eq!(world.issuer.requests("/token"), asked + 2);
    assert_eq!(world.upstream.count(), count);
    assert_eq!(world.exchanges()[0]["refused"], json!(2));
}

#[test]
fn c25_what_was_had_ends_with_the_token_that_it_was_had_for() {
    let world = World::new(&json!({}), &json!({}), &json!({}));
    // A margin of five seconds before the end is kept.
    let alice = world.user("alice", &json!({"exp": now() + 8}));
    assert_eq!(world.show(&alice).status, 200);
    assert!(world.seen()["exp"].as_i64().unwrap() > now() + 200, "the issuer would give more");
    thread::sleep(Duration::from_secs(4));
    assert_refused(&world.show(&alice), 401, "inactive");
    assert_eq!((world.upstream.count(), world.issuer.requests("/token")), (1, 1));
}

#[test]
fn c25_an_answer_that_is_no_bearer_access_token_is_not_used() {
    for there in [
        json!({"tokenType": "N_A"}),
        json!({"issuedTokenType": "urn:ietf:params:oauth:token-type:refresh_token"}),
        json!({"issuedTokenType": "urn:ietf:params:oauth:token-type:saml2"}),
    ] {
        let world = World::new(&json!({}), &json!({}), &there);
        assert_refused(&world.show(&world.user("alice", &json!({}))), 503, "token_unavailable");
        assert_eq!(world.upstream.count(), 0);
        assert_eq!(world.exchanges()[0]["last_error_cause"], json!("token_type"), "{there}");
    }
}

#[test]
fn c25_out_9_an_issuer_that_is_down_is_503_or_no_token_at_all() {
    for (mode, status) in [("reject", 503), ("pass", 200)] {
        let mut world = World::new(&json!({}), &json!({"onFailure": mode}), &json!({}));
        world.issuer.kill();
        let answer = world.show(&world.user("alice", &json!({})));
        assert_eq!(answer.status, status, "{answer:?}");
        match status {
            503 => {
                assert_refused(&answer, 503, "token_unavailable");
                assert_eq!(world.upstream.count(), 0);
            }
            _ => assert_eq!(world.upstream.last().all("authorization"), Vec::<String>::new()),
        }
    }
}
