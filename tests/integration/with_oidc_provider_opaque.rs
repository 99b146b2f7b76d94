//! Does it work with an authorization server that we did not write, where tokens are opaque? Asked, kept, bound, revoked, and
//! answers that it signs.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::{Answer, Connection, get, get_with, request};
use crate::support::issuer::{Issuer, SECRET};
use crate::support::jose::Key;
use crate::support::policy::{self, Folder, asking, inbound_with, issuer_discovered, usual_rules};
use crate::support::ports::Port;
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::Upstream;
use crate::support::{now, wait_until};

const INTROSPECTION: &str = "/token/introspection";

struct World {
    issuer: Issuer,
    upstream: Upstream,
    proxy: Proxy,
    folder: Folder,
}

// === impl World ===

impl World {
    /// With these settings of the issuer on top.
    fn new(over: &Value) -> Self {
        let mut settings = json!({"opaque": true});
        settings.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
        let (issuer, upstream) = (Issuer::start(&settings), Upstream::start());
        let mut fields = asking();
        fields["forwardClaims"] = json!({"X-Client-Id": "@client"});
        let folder = Folder::with(&[
            ("issuer.yaml", &(issuer_discovered(&issuer.url) + &policy::credential())),
            ("orders.yaml", &inbound_with(&usual_rules(), &fields)),
            ("client-secret", SECRET),
        ]);
        let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
        Self { issuer, upstream, proxy, folder }
    }

    fn show(&self, token: &str) -> Answer {
        get_with(self.proxy.inbound(), "/orders", token)
    }

    fn asked(&self) -> u64 {
        self.issuer.requests(INTROSPECTION)
    }
}

#[test]
fn v26_v28_an_opaque_token_is_asked_about_once_and_judged_like_any_other() {
    let world = World::new(&json!({}));
    let token = world.issuer.token("orders:read");
    assert!(!token.contains('.'), "it is opaque");
    world.issuer.set_delay(Duration::from_millis(300));
    thread::scope(|scope| {
        let burst: Vec<_> = (0..200).map(|_| scope.spawn(|| world.show(&token).status)).collect();
        assert!(burst.into_iter().all(|one| one.join().unwrap() == 200), "{}", world.proxy.log());
    });
    assert_eq!((world.asked(), world.upstream.count()), (1, 200));
    assert_eq!(world.upstream.last().all("x-client-id"), ["checkout"]);
    world.issuer.set_delay(Duration::ZERO);

    let bearer = format!("Bearer {token}");
    let post = request(world.proxy.inbound(), "POST", "/orders", &[("Authorization", &bearer)], b"{}");
    assert_eq!(post.reason(), "insufficient_scope");
    assert_eq!(world.show("made-up").reason(), "inactive");
    // What could be a JWT it does not even look at (400), which is no reason to believe that it is ill.
    let jwe = "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ.a.b.c.d";
    assert_eq!(world.show(jwe).reason(), "inactive");
    assert_eq!(world.show(&world.issuer.token("orders:read")).status, 200);
    let scrape = world.proxy.scrape();
    for (result, count) in [("active", 2.0), ("inactive", 2.0), ("failed", 0.0)] {
        let counted =
            scrape.sum("countersign_introspection_requests_total", &[("issuer", "corp"), ("result", result)]);
        assert!((counted - count).abs() < f64::EPSILON, "{result}: {counted}");
    }
    assert!(scrape.sum("countersign_introspection_duration_seconds_count", &[]) >= 4.0);
    let page = get(world.proxy.admin(), "/snapshot", &[]).json();
    assert_eq!(page["introspections"], json!([{"issuer": "corp", "credential": "shop/checkout"}]));
}

/// Revoked before anybody showed it, and another one after (that takes effect within a minute: a unit test turns the clock).
#[test]
fn v26_a_revoked_token_is_refused() {
    let world = World::new(&json!({}));
    let (revoked, good) = (world.issuer.token("orders:read"), world.issuer.token("orders:read"));
    world.issuer.revoke(&revoked);
    assert_eq!((world.show(&revoked).reason().as_str(), world.show(&good).status), ("inactive", 200));
}

#[test]
fn v28_the_audience_of_an_opaque_token_counts() {
    let resources =
        json!({"https://orders.shop": "orders:read orders:write", "https://else.shop": "orders:read"});
    let world = World::new(&json!({ "resources": resources }));
    let token = world.issuer.token("orders:read");
    assert_eq!(world.show(&token).status, 200);
    world
        .folder
        .write("orders.yaml", &inbound_with(&usual_rules(), &asking()).replace("orders.shop", "else.shop"));
    // The same word of the issuer, and another policy: nobody is asked again.
    wait_until("the new policy", Duration::from_secs(5), || world.show(&token).status == 401);
    assert_eq!(world.show(&token).reason(), "wrong_audience");
    assert_eq!(world.asked(), 1);
}

#[test]
fn v27_an_answer_is_not_kept_past_the_end_of_the_token() {
    let world = World::new(&json!({"ttl": 3}));
    let token = world.issuer.token("orders:read");
    assert_eq!(world.show(&token).status, 200);
    let took = wait_until("the expiry", Duration::from_secs(10), || world.show(&token).status == 401);
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(world.show(&token).reason(), "inactive");
}

/// RFC 9701, by the server's own implementation; with keys that rotate meanwhile.
#[test]
fn v29_answers_that_the_server_signs_are_verified() {
    let world = World::new(&json!({"signedAnswers": "ES256"}));
    assert_eq!(world.show(&world.issuer.token("orders:read")).status, 200, "{}", world.proxy.log());
    assert_eq!(world.show("made-up").reason(), "inactive");
    world.issuer.rotate("");
    assert_eq!(world.show(&world.issuer.token("orders:read")).status, 200, "{}", world.proxy.log());
}

#[test]
fn an_issuer_that_comes_back_is_asked_again() {
    let mut world = World::new(&json!({"port": Port::lease().number()}));
    let port = world.issuer.address().port();
    let token = world.issuer.token("orders:read");
    assert_eq!(world.show(&token).status, 200);
    world.issuer.kill();
    assert_eq!(world.show(&token).status, 200);
    let new = world.show("new");
    assert_eq!((new.status, new.reason().as_str()), (503, "keys_unavailable"));
    assert!(new.header("retry-after").is_some());
    world.issuer = Issuer::start(&json!({"opaque": true, "port": port}));
    let token = world.issuer.token("orders:read");
    wait_until("recovery", Duration::from_secs(20), || world.show(&token).status == 200);
}

/// A wrong secret is no caller's fault; the right one works as soon as it is written.
#[test]
fn a_credential_that_the_issuer_refuses_is_mended_by_its_file() {
    let world = World::new(&json!({}));
    world.folder.write("client-secret", "wrong");
    let token = world.issuer.token("orders:read");
    let refused = world.show(&token);
    assert_eq!((refused.status, refused.reason().as_str()), (503, "keys_unavailable"));
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() > 20);
    let report = get(world.proxy.admin(), "/tokens", &[]).json();
    assert_eq!(report["introspections"][0]["last_error_cause"], "invalid_client", "{report}");
    world.folder.write("client-secret", SECRET);
    wait_until("the new secret", Duration::from_secs(10), || world.show(&token).status == 200);
}

/// RFC 9449 §6.2: the answer names the key, and the request proves it.
#[test]
fn v31_v32_an_opaque_token_that_is_bound_to_a_key() {
    let world = World::new(&json!({}));
    let key = Key::new("caller");
    let endpoint = format!("{}/token", world.issuer.url);
    let claims = json!({"jti": "one", "htm": "POST", "htu": endpoint, "iat": now()});
    let (token, kind) = world.issuer.bound_token("orders:read", &key.sign(&key.proof_header(), &claims));
    assert_eq!(kind, "DPoP");
    assert_eq!(world.show(&token).reason(), "binding_mismatch");
    let to = world.proxy.inbound();
    let proof = key.proof(&token, &json!({"htu": format!("http://{to}/orders")}));
    let credential = format!("DPoP {token}");
    let proven = || get(to, "/orders", &[("Authorization", &credential), ("DPoP", &proof)]);
    assert_eq!(proven().status, 200, "{}", world.proxy.log());
    assert_eq!(proven().reason(), "proof_replayed");
    assert_eq!(world.asked(), 1);
}

/// Nobody is asked again for a stream that is open: the issuer gave its word until then.
#[test]
fn a_stream_with_an_opaque_token_ends_with_it_and_with_the_policy_that_asks() {
    let world = World::new(&json!({"ttl": 5}));
    let rule = json!([{"name": "listen", "to": {"paths": ["/stream"]}, "from": {"scopes": ["orders:read"]}}]);
    let write = |fields: &Value| {
        let before = world.proxy.version();
        world.folder.write("orders.yaml", &inbound_with(&rule, fields));
        wait_until("the new policy", Duration::from_secs(5), || world.proxy.version() != before);
    };
    let issuer = json!({"issuer": world.issuer.url, "insecure": true, "leeway": "0s"});
    world.folder.write("issuer.yaml", &(policy::document("Issuer", "corp", &issuer) + &policy::credential()));
    write(&asking());
    let open = || {
        let token = world.issuer.token("orders:read");
        let mut stream = Connection::open(world.proxy.inbound()).unwrap();
        let head =
            format!("GET /stream HTTP/1.1\r\nHost: orders.shop\r\nAuthorization: Bearer {token}\r\n\r\n");
        stream.send(head.as_bytes()).unwrap();
        assert_eq!(stream.head().unwrap().0, 200);
        stream
    };
    let cut = |stream: &mut Connection| {
        let start = Instant::now();
        while let Ok(chunk) = stream.chunk() {
            assert!(chunk.is_some() && start.elapsed() < Duration::from_secs(20), "it was not cut");
        }
        start.elapsed()
    };
    let expires = cut(&mut open());
    assert!(expires > Duration::from_secs(2) && expires < Duration::from_secs(8), "{expires:?}");
    let mut stream = open();
    let asked = world.asked();
    let mut timeouts = asking();
    timeouts["timeouts"] = json!({"idle": "50s"});
    write(&timeouts);
    thread::sleep(Duration::from_millis(1500));
    assert!(stream.chunk().unwrap().is_some());
    write(&json!({}));
    assert!(cut(&mut stream) < Duration::from_secs(2), "opaque tokens are accepted no more");
    assert_eq!(world.asked(), asked);
    let ended = |reason| world.proxy.scrape().sum("countersign_streams_ended_total", &[("reason", reason)]);
    assert!(ended("expired") > 0.0 && ended("wrong_audience") > 0.0, "{}", world.proxy.log());
}
