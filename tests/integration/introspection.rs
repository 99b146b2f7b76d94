//! What if a token is opaque, and its issuer answers oddly, slowly or not at all? A canned issuer behind the built sidecar.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::authority::x5t;
use crate::support::client::{Answer, Connection, get, get_with};
use crate::support::fault::{Fault, Mode, answer, granted};
use crate::support::issuer::{SECRET, basic, form};
use crate::support::jose::{Key, claims, key_set};
use crate::support::policy::{
    self, AUDIENCE, Folder, LOCAL_ISSUER, asking, document, inbound, inbound_with, usual_rules,
};
use crate::support::proxy::{Proxy, Settings};
use crate::support::tls::Ca;
use crate::support::upstream::Upstream;
use crate::support::{now, wait_until};

/// Not in any log or page.
const TOKEN: &str = "canary-opaque-5d41402abc4b2a76b9719d911017c592";

struct World {
    fault: Fault,
    key: Key,
    upstream: Upstream,
    proxy: Proxy,
    folder: Folder,
}

// === impl World ===

impl World {
    fn new(mode: Mode) -> Self {
        Self::with(mode, &json!({}))
    }

    /// With these fields of the policy on top.
    fn with(mode: Mode, more: &Value) -> Self {
        let (fault, key, upstream) = (Fault::alone(mode), Key::new("k1"), Upstream::start());
        let issuer = json!({
            "issuer": LOCAL_ISSUER, "jwks": {"file": "keys.jwks"}, "insecure": true,
            "introspectionEndpoint": format!("http://{}/introspect", fault.address()),
        });
        let mut policy = asking();
        policy.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let folder = Folder::with(&[
            ("issuer.yaml", &(document("Issuer", "corp", &issuer) + &policy::credential())),
            ("orders.yaml", &inbound_with(&usual_rules(), &policy)),
            ("keys.jwks", &key_set(&[&key]).to_string()),
            ("client-secret", SECRET),
        ]);
        let settings = Settings::policies(folder.path(), "orders").before(upstream.address()).tracing();
        let proxy = settings.with(&["--access-log", "all"]).start();
        Self { fault, key, upstream, proxy, folder }
    }

    fn show(&self, token: &str) -> Answer {
        get_with(self.proxy.inbound(), "/orders", token)
    }

    /// Neither token nor secret is written anywhere, and nothing that the issuer said.
    fn assert_silent(&self, case: &str) {
        let pages =
            ["/metrics", "/snapshot", "/tokens"].map(|page| get(self.proxy.admin(), page, &[]).text());
        for text in pages.iter().chain([&self.proxy.log()]) {
            for secret in ["canary", SECRET, &form(SECRET), &basic()] {
                assert!(!text.contains(secret), "{case}: {secret} is shown");
            }
        }
    }
}

/// A full answer, with these members on top; `null` takes one away.
fn active(over: &Value) -> String {
    let mut answer = json!({
        "active": true, "aud": AUDIENCE, "client_id": "checkout", "sub": "checkout", "scope": "orders:read",
        "exp": now() + 300, "iss": LOCAL_ISSUER,
    });
    for (name, value) in over.as_object().unwrap() {
        match value {
            Value::Null => answer.as_object_mut().unwrap().remove(name),
            _ => answer.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    answer.to_string()
}

fn yes() -> Mode {
    Mode::Answer(granted(&active(&json!({}))))
}

#[test]
fn in_2_a_jwt_is_verified_by_keys_and_anything_else_is_asked_about() {
    let world = World::new(yes());
    let jwt = world.key.token(&claims(LOCAL_ISSUER, &json!({})));
    assert_eq!(world.show(&jwt).status, 200);
    assert_eq!(world.show("a.b.c").reason(), "malformed_token");
    let forged = Key::new("k1").token(&claims(LOCAL_ISSUER, &json!({})));
    assert_eq!(world.show(&forged).reason(), "bad_signature");
    assert_eq!(world.fault.posts().len(), 0, "nobody is asked about a JWT");
    assert_eq!(world.show(TOKEN).status, 200, "{}", world.proxy.log());
    assert_eq!(world.show("a.b.c.d.e").status, 200);
    assert_eq!(world.fault.posts().len(), 2);
    let long = "a".repeat(16 * 1024 + 1);
    assert_eq!(world.show(&long).reason(), "malformed_token");
    world.assert_silent("good");

    // Policy asks nobody any more: what was said before is forgotten with it.
    world.folder.write("orders.yaml", &inbound(&usual_rules()));
    wait_until("the new policy", Duration::from_secs(5), || world.show(TOKEN).status == 401);
    assert_eq!(world.show(TOKEN).reason(), "malformed_token");
    assert_eq!(world.show(&jwt).status, 200);
    assert_eq!(world.fault.posts().len(), 2);
}

#[test]
fn v26_v28_what_is_not_active_for_us_is_the_callers_fault() {
    for (over, reason) in [
        (json!({"active": "true"}), "inactive"),
        (json!({"active": 1}), "inactive"),
        (json!({"active": false}), "inactive"),
        (json!({"active": null}), "inactive"),
        (json!({"aud": null}), "missing_claim"),
        (json!({"aud": "https://elsewhere.shop"}), "wrong_audience"),
        (json!({"aud": [format!("{AUDIENCE}/")]}), "wrong_audience"),
        (json!({"iss": "https://issuer.test/"}), "unknown_issuer"),
        (json!({"exp": null}), "missing_claim"),
        (json!({"exp": now() - 5}), "expired"),
        (json!({"exp": (now() + 300).to_string()}), "missing_claim"),
        (json!({"nbf": now() + 120}), "not_yet_valid"),
        (json!({"scope": ["orders:read"]}), "missing_claim"),
        (json!({"client_id": null}), "missing_claim"),
        (json!({"token_type": "refresh_token"}), "wrong_type"),
        (json!({"cnf": {"jkt": Key::new("a").thumbprint()}}), "binding_mismatch"),
    ] {
        let world = World::new(Mode::Answer(granted(&active(&over))));
        for _ in 0..3 {
            let refused = world.show(TOKEN);
            assert_eq!((refused.status, refused.reason().as_str()), (401, reason), "{over}");
            let challenge = refused.header("www-authenticate").unwrap();
            assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
        }
        assert_eq!(world.upstream.count(), 0, "{over}");
        assert!(reason == "not_yet_valid" || world.fault.posts().len() == 1, "{over}: asked again and again");
        world.assert_silent(reason);
    }
    let few = World::new(Mode::Answer(granted(&active(&json!({"scope": "orders:delete"})))));
    assert_eq!(few.show(TOKEN).reason(), "insufficient_scope");
}

#[test]
fn what_says_nothing_of_the_token_is_not_the_callers_fault() {
    let yes = active(&json!({}));
    let packed = answer("200 OK", "Content-Encoding: gzip\r\n", yes.as_bytes());
    let large = granted(&active(&json!({"padding": "a".repeat(1024 * 1024)})));
    let json = "Content-Type: application/json\r\n";
    for (case, mode) in [
        ("an array", Mode::Answer(granted(&format!("[{yes}]")))),
        ("a name twice", Mode::Answer(granted(&yes.replacen('{', "{\"active\":true,", 1)))),
        ("1 MiB", Mode::Answer(large)),
        ("gzip", Mode::Answer(packed)),
        (
            "a redirect",
            Mode::Answer(answer("307 Temporary Redirect", "Location: http://127.0.0.1:1/\r\n", b"")),
        ),
        (
            "our credential refused",
            Mode::Answer(answer("401 Unauthorized", json, b"{\"error\":\"invalid_client\"}")),
        ),
        ("500", Mode::Answer(answer("500 Internal Server Error", "", b"canary"))),
        ("closed", Mode::Refuse),
        ("slow", Mode::Hold),
        ("a drip", Mode::Drip(b"HTTP/1.1 200 OK\r\n".to_vec(), Duration::from_millis(100))),
    ] {
        let world = World::new(mode);
        let refused = world.show(TOKEN);
        assert_eq!((refused.status, refused.reason().as_str()), (503, "keys_unavailable"), "{case}");
        assert!(refused.header("retry-after").is_some(), "{case}");
        assert_eq!(refused.header("www-authenticate"), None, "{case}");
        assert_eq!(world.upstream.count(), 0, "{case}");
        wait_until("the failure", Duration::from_secs(5), || {
            let failed = [("issuer", "corp"), ("result", "failed")];
            world.proxy.scrape().sum("countersign_introspection_requests_total", &failed) > 0.0
        });
        let report = get(world.proxy.admin(), "/tokens", &[]).json();
        assert!(report["introspections"][0]["last_error_cause"].is_string(), "{case}: {report}");
        world.assert_silent(case);
    }
}

#[test]
fn an_outage_of_the_issuer_is_survived_by_what_is_known_and_ends_by_itself() {
    let world = World::new(yes());
    assert_eq!(world.show(TOKEN).status, 200);
    world.fault.switch(Mode::Refuse);
    let before = world.fault.connections();
    for n in 0..100 {
        let new = world.show(&format!("new-{n}"));
        assert_eq!((new.status, new.reason().as_str()), (503, "keys_unavailable"));
        assert!(new.header("retry-after").unwrap().parse::<u64>().unwrap() <= 10);
        assert_eq!(world.show(TOKEN).status, 200, "what is known goes on");
    }
    let asked = world.fault.connections() - before;
    assert!(asked < 20, "{asked} connections to an issuer that is down");
    world.fault.switch(yes());
    let took = wait_until("recovery", Duration::from_secs(15), || world.show("new-1").status == 200);
    println!("recovered after {took:?}, {asked} attempts for 100 requests");
}

/// Two hundred at once with a token that nobody has seen: one question, and nobody is refused.
#[test]
fn v27_two_hundred_at_once_are_one_question() {
    let world = World::new(Mode::Hold);
    thread::scope(|scope| {
        let burst: Vec<_> = (0..200).map(|_| scope.spawn(|| world.show(TOKEN).status)).collect();
        world.fault.wait_for_posts(1);
        thread::sleep(Duration::from_millis(500));
        world.fault.switch(yes());
        assert!(burst.into_iter().all(|one| one.join().unwrap() == 200), "{}", world.proxy.log());
    });
    assert_eq!(world.fault.connections(), 1);
    assert_eq!(world.upstream.count(), 200);
}

/// Who makes up tokens makes the issuer work for a moment only, and nobody whom it knows feels it.
#[test]
fn a_flood_of_made_up_tokens_is_bounded() {
    let world = World::new(yes());
    assert_eq!(world.show(TOKEN).status, 200);
    world.fault.switch(Mode::Answer(granted("{\"active\":false}")));
    let mut connection = Connection::open(world.proxy.inbound()).unwrap();
    let (mut inactive, mut shed) = (0, 0);
    for n in 0..3000 {
        let bearer = format!("Bearer made-up-{n}");
        let refused = connection.request("GET", "/orders", &[("Authorization", &bearer)], b"").unwrap();
        match refused.reason().as_str() {
            "inactive" => inactive += 1,
            "overloaded" => shed += 1,
            other => panic!("{other}"),
        }
        if n % 100 == 0 {
            assert_eq!(world.show(TOKEN).status, 200);
        }
    }
    let asked = world.fault.posts().len();
    println!("3000 made-up tokens: {asked} questions, {inactive} inactive, {shed} shed");
    assert!(asked < 600 && shed > 2000, "{asked} questions");
}

/// RFC 8705 §3: the issuer says which certificate, the connection has to show it.
#[test]
fn v30_an_opaque_token_that_is_bound_to_a_certificate() {
    let ca = Ca::new("ours");
    let (ours, other) = (ca.client(), ca.client());
    let bound = active(&json!({"cnf": {"x5t#S256": x5t(&ours.der())}}));
    let tls = json!({"certFile": "tls.crt", "keyFile": "tls.key", "clientCaFile": "ca.crt", "clientAuth": "optional"});
    let world = World::with(Mode::Answer(granted(&bound)), &json!({ "tls": tls }));
    let server = ca.server();
    for (name, text) in [("ca.crt", &ca.pem), ("tls.crt", &server.cert), ("tls.key", &server.key)] {
        world.folder.write(name, text);
    }
    let show = |pair| {
        let mut connection = Connection::open_tls(world.proxy.inbound(), ca.connection(pair)?)?;
        connection.request("GET", "/orders", &[("Authorization", &format!("Bearer {TOKEN}"))], b"")
    };
    wait_until("the certificate", Duration::from_secs(15), || show(None).is_ok());
    assert_eq!(show(Some(&ours)).unwrap().status, 200);
    for pair in [None, Some(&other)] {
        assert_eq!(show(pair).unwrap().reason(), "binding_mismatch");
    }
    assert_eq!(world.fault.posts().len(), 1, "the certificate is the connection's, the answer the token's");
}
