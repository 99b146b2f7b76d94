//! What if an issuer answers something else than a yes or a no? What says nothing of the token is the issuer's trouble (503),
//! what says that it will not do is the caller's (401); and answers that are signed are verified (RFC 9701).

use super::*;
use crate::auth::testing::{TestKey, b64};

const JWT_TYPE: &str = "content-type: application/token-introspection+jwt; charset=utf-8\r\n";

/// What comes of a 200 with this JSON.
async fn of(body: &str) -> Option<Reason> {
    let body = body.to_owned();
    World::new(move |_, _| Answer::json(body.clone())).await.reason("opaque").await
}

async fn with(over: Value) -> Option<Reason> {
    of(&active(&over).to_string()).await
}

#[tokio::test]
async fn v26_only_true_is_active() {
    assert_eq!(with(json!({})).await, None);
    for over in
        [json!({"active": null}), json!({"active": false}), json!({"active": "true"}), json!({"active": 1})]
    {
        assert_eq!(with(over.clone()).await, Some(Reason::Inactive), "{over}");
    }
    assert_eq!(of("{}").await, Some(Reason::Inactive));
}

#[tokio::test]
async fn v28_an_active_token_may_not_do_all_the_same() {
    let world = World::new(|_, _| yes()).await;
    let now = world.client.clock.unix();
    for (over, reason) in [
        (json!({"aud": null}), Reason::MissingClaim),
        (json!({"exp": null}), Reason::MissingClaim),
        (json!({"exp": "4000000000"}), Reason::MissingClaim),
        (json!({"scope": ["orders:read"]}), Reason::MissingClaim),
        (json!({"iss": "https://login.example.com/realms/other"}), Reason::UnknownIssuer),
        (json!({"exp": now - 1}), Reason::Expired),
        (json!({"nbf": now + 90}), Reason::NotYetValid),
        (json!({"iat": now + 90}), Reason::NotYetValid),
        (json!({"token_type": "refresh_token"}), Reason::WrongType),
        (json!({"token_use": "refresh_token"}), Reason::WrongType),
        (json!({"token_type": "DPoP"}), Reason::BindingMismatch),
    ] {
        assert_eq!(with(over.clone()).await, Some(reason), "{over}");
    }
    assert_eq!(with(json!({"iss": "https://login.example.com/realms/shop", "nbf": now + 10})).await, None);
}

/// Whatever it is, the issuer is not asked again at once, and nothing of it is remembered of the token.
async fn assert_trouble(case: &str, answer: Answer, cause: &str) {
    let world = World::new(move |_, _| answer.clone()).await;
    assert_eq!(world.reason("canary-token").await, Some(Reason::KeysUnavailable), "{case}");
    assert_eq!(world.reason("another").await, Some(Reason::KeysUnavailable), "{case}");
    assert_eq!((world.server.count(), world.counted("failed")), (1, 1), "{case}");
    let report = world.introspector.report();
    assert_eq!(report.last_error_cause, Some(cause), "{case}: {report:?}");
    assert!(world.introspector.retry_after().is_some(), "{case}");
    assert!(!report.last_error.unwrap().contains("canary"), "{case}");
}

#[tokio::test]
async fn answers_that_are_none() {
    let yes = active(&json!({})).to_string();
    let twice = yes.replacen('{', r#"{"active":true,"#, 1);
    let ok = |body: &str| Answer::new("200 OK", "", body);
    let cut = {
        let mut whole = ok(&yes);
        whole.bytes.truncate(whole.bytes.len() - 5);
        whole
    };
    for (case, answer, cause) in [
        ("an array", ok(&format!("[{yes}]")), "malformed"),
        ("a name twice", ok(&twice), "malformed"),
        ("true", ok("true"), "malformed"),
        ("nothing", ok(""), "malformed"),
        ("HTML", Answer::new("200 OK", "content-type: text/html\r\n", "<html>canary"), "malformed"),
        ("more behind it", ok(&format!("{yes}{yes}")), "malformed"),
        ("cut off", cut, "malformed"),
        ("deep", ok(&format!(r#"{{"active":true,"a":{}{}}}"#, "[".repeat(64), "]".repeat(64))), "malformed"),
        ("64 KiB and more", ok(&active(&json!({"a": "a".repeat(64 * 1024)})).to_string()), "malformed"),
        ("gzip", Answer::new("200 OK", "content-encoding: gzip\r\n", &yes), "malformed"),
        ("no JWT", Answer::new("200 OK", JWT_TYPE, &yes), "malformed"),
        ("204", Answer::new("204 No Content", "", ""), "malformed"),
        ("206", Answer::new("206 Partial Content", "", &yes), "malformed"),
        (
            "a redirect",
            Answer::new("307 Temporary Redirect", "location: http://127.0.0.1:1/\r\n", ""),
            "redirect",
        ),
        ("401", Answer::new("401 Unauthorized", "", ""), "invalid_client"),
        ("400 of the client", Answer::error("400 Bad Request", "invalid_client"), "invalid_client"),
        ("403", Answer::error("403 Forbidden", "canary"), "rejected"),
        ("404", Answer::new("404 Not Found", "", "canary"), "rejected"),
        ("429", Answer::new("429 Too Many Requests", "", ""), "rate_limited"),
        ("500", Answer::new("500 Internal Server Error", "", "canary"), "server_error"),
    ] {
        assert_trouble(case, answer, cause).await;
    }
}

// Answers that are signed.

struct Signed {
    key: TestKey,
    header: Value,
    claims: Value,
}

impl Signed {
    fn new() -> Self {
        let claims = json!({
            "iss": "https://login.example.com/realms/shop", "aud": "checkout",
            "iat": crate::clock::Clock::default().unix(), "token_introspection": active(&json!({})),
        });
        let header = json!({"typ": "token-introspection+jwt", "alg": "EdDSA", "kid": "a"});
        Self { key: TestKey::ed25519(), header, claims }
    }

    fn claim(mut self, name: &str, value: Value) -> Self {
        self.claims[name] = value;
        self
    }

    fn header(mut self, name: &str, value: Value) -> Self {
        self.header[name] = value;
        self
    }

    /// What comes of it where the issuer publishes this key, or that of the answer.
    async fn outcome(self, published: Option<&TestKey>) -> Result<Arc<Token>, Reason> {
        let jwt = self.key.sign(&self.header, &self.claims);
        let jwk = published.unwrap_or(&self.key).jwk("a");
        let server = TokenServer::start(move |_, _| Answer::new("200 OK", JWT_TYPE, &jwt)).await;
        let world = World::with(server, |client| {
            client.issuer.jwks = KeySource::Inline(json!({"keys": [jwk]}));
            client.issuer.algorithms = vec![countersign_policy::snapshot::Algorithm::EdDSA];
        });
        world.verify("opaque").await
    }

    async fn reason(self) -> Option<Reason> {
        self.outcome(None).await.err()
    }
}

#[tokio::test]
async fn v29_an_answer_that_the_issuer_signed_for_us_is_read() {
    let token = Signed::new().outcome(None).await.unwrap();
    assert_eq!((token.client.as_deref(), token.introspected), (Some("caller"), true));
    assert!(!token.claims.contains_key("token_introspection"), "the claims are those of the token");
    for same in [
        Signed::new().header("typ", json!("application/Token-Introspection+JWT")),
        Signed::new().claim("aud", json!(["other", "checkout"])),
    ] {
        assert_eq!(same.reason().await, None);
    }
    // What is in it counts as it does without a signature.
    let inactive = Signed::new().claim("token_introspection", json!({"active": false}));
    assert_eq!(inactive.reason().await, Some(Reason::Inactive));
    let other = Signed::new().claim("token_introspection", active(&json!({"iss": "https://elsewhere"})));
    assert_eq!(other.reason().await, Some(Reason::UnknownIssuer));
}

#[tokio::test]
async fn v29_an_answer_that_is_not_signed_for_us_by_the_issuer_now_is_none() {
    let now = crate::clock::Clock::default().unix();
    for (case, signed) in [
        ("typ of an access token", Signed::new().header("typ", json!("at+jwt"))),
        ("no typ", Signed::new().header("typ", json!("JWT"))),
        ("another iss", Signed::new().claim("iss", json!("https://login.example.com/realms/shop/"))),
        ("no iss", Signed::new().claim("iss", json!(null))),
        ("for another client", Signed::new().claim("aud", json!("orders"))),
        ("for the audience of the token", Signed::new().claim("aud", json!(["https://orders.shop"]))),
        ("for nobody", Signed::new().claim("aud", json!(null))),
        ("no iat", Signed::new().claim("iat", json!(null))),
        ("iat in words", Signed::new().claim("iat", json!(now.to_string()))),
        ("of long ago", Signed::new().claim("iat", json!(now - 120))),
        ("of later", Signed::new().claim("iat", json!(now + 90))),
        ("without an answer", Signed::new().claim("token_introspection", json!(null))),
        ("an answer in text", Signed::new().claim("token_introspection", json!("{\"active\":true}"))),
        ("another key", Signed::new().header("kid", json!("b"))),
        ("none", Signed::new().header("alg", json!("none"))),
        ("HMAC", Signed::new().header("alg", json!("HS256"))),
    ] {
        assert_eq!(signed.reason().await, Some(Reason::KeysUnavailable), "{case}");
    }
    let other = TestKey::ed25519();
    assert_eq!(
        Signed::new().outcome(Some(&other)).await.err(),
        Some(Reason::KeysUnavailable),
        "a forged signature"
    );
}

/// An answer for JSON that is a JWT, and the other way round.
#[tokio::test]
async fn v29_the_content_type_says_how_it_is_read() {
    let signed = Signed::new();
    let jwt = signed.key.sign(&signed.header, &signed.claims);
    assert_trouble("a JWT that calls itself JSON", Answer::json(&jwt), "malformed").await;
    let unsigned = format!("{}.{}.", b64(r#"{"alg":"none"}"#), b64(signed.claims.to_string()));
    assert_trouble("unsigned", Answer::new("200 OK", JWT_TYPE, unsigned), "malformed").await;
}
