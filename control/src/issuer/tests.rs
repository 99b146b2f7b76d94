//! Does the issuer keep the rules for a small authorization server? One test a rule, named after its number.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use jsonwebtoken::jwk::{JwkSet, ThumbprintHash};
use jsonwebtoken::{DecodingKey, Validation};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::keyring::{Keyring, Schedule};
use super::signing_key::SigningKey;
use super::{Algorithm, Issuer, Options, now};

const ISSUER: &str = "https://issuer.test/shop";
const SECRET: &str = "f5d1c0ffee00112233445566778899aabbccddeeff0011223344556677889900";
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A clients file in a folder of its own, an issuer on it, and the key of its client `signer`.
struct Bench {
    folder: tempfile::TempDir,
    issuer: Issuer,
    key: SigningKey,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Bench {
    fn new() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::generate(Algorithm::Es256).unwrap();
        let clients = folder.path().join("clients.yaml");
        fs::write(&clients, clients_file(&key)).unwrap();
        let issuer = Issuer::open(ISSUER, clients, Some(folder.path().join("state")), options).unwrap();
        let mut bench = Self { folder, issuer, key };
        bench.started_at(Duration::ZERO);
        bench
    }

    /// As if the issuer had started then, with an empty memory.
    fn started_at(&mut self, begin: Duration) {
        Arc::get_mut(&mut self.issuer.0).unwrap().replays = super::Replays::since(begin);
    }

    fn clients(&self) -> PathBuf {
        self.folder.path().join("clients.yaml")
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.issuer.router().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Answer { status: head.status, headers: head.headers, text }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    /// A token request of client `checkout` with its secret.
    async fn ask(&self, body: &str) -> Answer {
        self.send(post(Some(&basic("checkout", SECRET)), body)).await
    }

    /// A token request of client `signer`, with this assertion.
    async fn assert(&self, assertion: &str) -> Answer {
        let body = format!(
            "grant_type=client_credentials&client_assertion_type={JWT_BEARER}&client_assertion={assertion}"
        );
        self.send(post(None, &body)).await
    }

    /// An assertion with these changes to a good one's claims.
    fn assertion(&self, changes: Value) -> String {
        let mut claims = json!({
            "iss": "signer", "sub": "signer", "aud": ISSUER, "jti": format!("{:?}", now()),
            "exp": now().as_secs() + 60,
        });
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
                value => drop(claims.as_object_mut().unwrap().insert(name.clone(), value.clone())),
            }
        }
        sign(&self.key, json!({ "alg": "ES256" }), &claims)
    }

    async fn published(&self) -> JwkSet {
        serde_json::from_str(&self.get("/oauth2/jwks").await.text).unwrap()
    }
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn token(&self) -> String {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        self.json()["access_token"].as_str().unwrap().to_owned()
    }

    fn claims(&self) -> Value {
        part(&self.token(), 1)
    }

    fn is(&self, status: u16, error: &str) {
        assert_eq!((self.status.as_u16(), self.error().as_str()), (status, error), "{}", self.text);
        assert_eq!(self.header("cache-control"), "no-store");
        assert_eq!(self.header("content-type"), "application/json");
    }
}

fn clients_file(key: &SigningKey) -> String {
    let hash = hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, SECRET.as_bytes()).as_ref());
    let jwk = serde_json::to_string(key.public()).unwrap();
    format!(
        "clients:
- clientId: checkout
  secretSha256: {hash}
  scopes: [orders:write, orders:read]
  audiences: [https://orders.shop]
  claims: {{ tenant: acme, roles: [buyer] }}
- clientId: many
  secretsSha256: [{hash}]
  audiences: [https://orders.shop, https://quotes.shop]
- clientId: signer
  keys: {{ keys: [{jwk}] }}
  scopes: [orders:read]
  audiences: [https://orders.shop]
- clientId: old-signer
  keys: {{ keys: [{jwk}] }}
  assertionAudience: tokenEndpoint
  audiences: [https://orders.shop]
- clientId: weak
  secretSha256: {weak}
  audiences: [https://orders.shop]
",
        weak = hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"password").as_ref()),
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")))
}

fn post(authorization: Option<&str>, body: &str) -> Request<Body> {
    let request = Request::post("/oauth2/token").header("content-type", "application/x-www-form-urlencoded");
    let request = match authorization {
        Some(value) => request.header("authorization", value),
        None => request,
    };
    request.body(Body::from(body.to_owned())).unwrap()
}

/// Signed by hand, so that the header can say anything.
fn sign(key: &SigningKey, header: Value, claims: &Value) -> String {
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let signer = jsonwebtoken::EncodingKey::from_ec_pem(key.pem().as_bytes()).unwrap();
    let signature =
        jsonwebtoken::crypto::sign(message.as_bytes(), &signer, jsonwebtoken::Algorithm::ES256).unwrap();
    format!("{message}.{signature}")
}

fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn kid(token: &str) -> String {
    part(token, 0)["kid"].as_str().unwrap().to_owned()
}

const GRANT: &str = "grant_type=client_credentials";

// === C of the standards' requirements ===

#[tokio::test]
async fn a1_takes_post_alone_ignores_unknown_parameters_and_refuses_doubled_ones() {
    let bench = Bench::new();
    for method in ["GET", "PUT", "HEAD", "DELETE"] {
        let request = Request::builder().method(method).uri("/oauth2/token").body(Body::empty()).unwrap();
        let answer = bench.send(request).await;
        assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, "POST"));
    }
    bench.ask("grant_type=client_credentials&colour=blue&scope=").await.token();
    bench
        .ask("grant_type=client_credentials&scope=orders:read&scope=orders:read")
        .await
        .is(400, "invalid_request");
    bench
        .ask("grant_type=client_credentials&grant%5Ftype=client_credentials")
        .await
        .is(400, "invalid_request");
    bench.ask("grant_type=client_credentials&colour=blue&colour=red").await.is(400, "invalid_request");
    bench.ask("grant_type=client_credentials&scope=%zz").await.is(400, "invalid_request");
    bench.ask("grant_type=client_credentials&scope=%ff").await.is(400, "invalid_request");
    bench.ask("scope=orders:read").await.is(400, "invalid_request");
    let large = format!("{GRANT}&padding={}", "x".repeat(64 * 1024));
    bench.ask(&large).await.is(413, "invalid_request");
    let json = Request::post("/oauth2/token").header("content-type", "application/json");
    bench.send(json.body(Body::from("{}")).unwrap()).await.is(400, "invalid_request");
}

#[test]
fn a1_an_issuer_is_https() {
    let folder = tempfile::tempdir().unwrap();
    for url in [
        "http://issuer.test",
        "https://",
        "https://u@issuer.test",
        "https://a/?b",
        "https://a/#b",
        "https://a/{b}",
    ] {
        let issuer = Issuer::open(url, folder.path().join("clients.yaml"), None, Options::default());
        assert!(matches!(issuer, Err(super::Error::Url { .. })), "{url}");
    }
}

#[tokio::test]
async fn a2_authenticates_by_basic_with_form_encoding() {
    let bench = Bench::new();
    assert_eq!(bench.ask(GRANT).await.claims()["client_id"], "checkout");
    let encoded = basic("%63heckout", &SECRET.replace("ff", "%66f"));
    bench.send(post(Some(&encoded), GRANT)).await.token();
    bench.send(post(Some(&basic("checkout", "wrong")), GRANT)).await.is(401, "invalid_client");
    bench.send(post(Some(&basic("nobody", SECRET)), GRANT)).await.is(401, "invalid_client");
    bench.send(post(Some(&basic("signer", SECRET)), GRANT)).await.is(401, "invalid_client");
    bench.send(post(Some("Basic !!"), GRANT)).await.is(400, "invalid_request");
    bench.send(post(None, GRANT)).await.is(401, "invalid_client");
    let body = format!("{GRANT}&client_id=checkout&client_secret={SECRET}");
    bench.send(post(None, &body)).await.is(401, "invalid_client");
    // One way alone, and about one client.
    bench.ask(&body).await.is(400, "invalid_request");
    bench.ask(&format!("{GRANT}&client_assertion=a")).await.is(400, "invalid_request");
    bench.ask(&format!("{GRANT}&client_id=many")).await.is(400, "invalid_request");
    bench.ask(&format!("{GRANT}&client_id=checkout")).await.token();
    let mut twice = post(Some(&basic("checkout", SECRET)), GRANT);
    twice.headers_mut().append("authorization", basic("checkout", SECRET).parse().unwrap());
    bench.send(twice).await.is(400, "invalid_request");
}

#[tokio::test]
async fn a2_guessing_is_slowed_down_per_client() {
    let bench = Bench::new();
    for id in ["checkout", "nobody"] {
        for _ in 0..10 {
            bench.send(post(Some(&basic(id, "guess")), GRANT)).await.is(401, "invalid_client");
        }
        let locked = bench.send(post(Some(&basic(id, "guess")), GRANT)).await;
        locked.is(429, "temporarily_unavailable");
        assert_eq!(locked.header("retry-after"), "1");
    }
    // The right secret tells nothing while the client is locked; others are not concerned.
    bench.ask(GRANT).await.is(429, "temporarily_unavailable");
    let other = format!("{GRANT}&resource=https://orders.shop");
    bench.send(post(Some(&basic("many", SECRET)), &other)).await.token();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    bench.ask(GRANT).await.token();
    bench.send(post(Some(&basic("checkout", "guess")), GRANT)).await.is(401, "invalid_client");
}

#[tokio::test]
async fn a3_authenticates_by_a_key_instead_of_a_secret() {
    let bench = Bench::new();
    assert_eq!(bench.assert(&bench.assertion(json!({}))).await.claims()["sub"], "signer");
    // PEM beside the clients file.
    let spki = spki_of(&bench.key);
    fs::write(bench.folder.path().join("signer.pem"), spki).unwrap();
    let file = "clients: [{ clientId: signer, keyFile: signer.pem, audiences: [https://orders.shop] }]";
    let clients = bench.folder.path().join("other.yaml");
    fs::write(&clients, file).unwrap();
    let issuer = Issuer::open(ISSUER, clients, None, Options::default()).unwrap();
    let mut bench = Bench { issuer, ..bench };
    bench.started_at(Duration::ZERO);
    bench.assert(&bench.assertion(json!({}))).await.token();
}

#[test]
fn a3_rsa_keys_verify_under_each_of_their_algorithms() {
    let key = SigningKey::generate(Algorithm::Rs256).unwrap();
    let mut jwk = serde_json::to_value(key.public()).unwrap();
    jwk.as_object_mut().unwrap().remove("alg");
    let public: super::public_key::PublicKey = serde_json::from_value(jwk.clone()).unwrap();
    let signer = jsonwebtoken::EncodingKey::from_rsa_pem(key.pem().as_bytes()).unwrap();
    for name in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
        let signature = jsonwebtoken::crypto::sign(b"message", &signer, name.parse().unwrap()).unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        assert!(public.verify(name, b"message", &signature));
        assert!(!public.verify(name, b"massage", &signature));
        assert!(!public.verify("ES256", b"message", &signature));
    }
    jwk["n"] = json!(jwk["n"].as_str().unwrap()[..200]);
    assert!(serde_json::from_value::<super::public_key::PublicKey>(jwk).is_err(), "too short");
}

#[test]
fn a2_what_is_remembered_of_failures_is_bounded_and_strangers_go_first() {
    let throttle = super::Throttle::default();
    let now = Duration::from_secs(1_000_000);
    let guesser = super::throttle::Guesser::new;
    let checkout = guesser("checkout", None);
    for _ in 0..20 {
        throttle.failed(&checkout, false, now);
    }
    for stranger in 0..10_000 {
        throttle.failed(&guesser(&stranger.to_string(), None), true, now);
    }
    assert!(throttle.len() <= 4096);
    assert_eq!(throttle.wait(&checkout, now), Some(Duration::from_secs(30)));
    assert_eq!(throttle.wait(&checkout, now + Duration::from_secs(30)), None);
}

#[tokio::test]
async fn a2_who_guesses_does_not_lock_out_the_client() {
    let bench = Bench::new();
    let from = |secret: &str, address: &str| {
        let mut request = post(Some(&basic("checkout", secret)), GRANT);
        request.extensions_mut().insert(crate::server::Caller(address.parse().unwrap()));
        request
    };
    for last in 1..=10 {
        // Whoever has one address of an IPv6 network has all of them.
        bench.send(from("guess", &format!("2001:db8::{last}"))).await.is(401, "invalid_client");
        bench.send(from("guess", "192.0.2.1")).await.is(401, "invalid_client");
    }
    for address in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::ffff"] {
        bench.send(from(SECRET, address)).await.is(429, "temporarily_unavailable");
    }
    for address in ["192.0.2.2", "2001:db8:0:1::1"] {
        bench.send(from(SECRET, address)).await.token();
    }
}

#[test]
fn a4_a_client_with_too_many_live_assertions_waits_and_nothing_is_forgotten() {
    let replays = super::Replays::default();
    let (now, expires) = (Duration::from_secs(1_000_000), Duration::from_secs(1_000_060));
    for jti in 0..16 * 1024 {
        assert_eq!(replays.note("a", &jti.to_string(), expires, now), super::replay::Seen::Fresh);
    }
    assert_eq!(replays.note("a", "one more", expires, now), super::replay::Seen::Full);
    assert_eq!(replays.note("a", "0", expires, now), super::replay::Seen::Again);
    assert_eq!(replays.note("b", "0", expires, now), super::replay::Seen::Fresh);
    assert_eq!(replays.note("a", "0", expires, expires), super::replay::Seen::Fresh);
}

/// The public half as `openssl pkey -pubout` writes it.
fn spki_of(key: &SigningKey) -> String {
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    let body: String = key.pem().lines().filter(|line| !line.starts_with('-')).collect();
    let pair =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &STANDARD.decode(body).unwrap()).unwrap();
    let der: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der.as_ref()))
}

#[tokio::test]
async fn a4_an_assertion_is_the_clients_own_for_us_short_and_used_once() {
    let bench = Bench::new();
    let at = |seconds: i64| i64::try_from(now().as_secs()).unwrap() + seconds;
    let good = [
        json!({}),
        json!({ "aud": [ISSUER] }),
        json!({ "exp": at(300) }),
        json!({ "exp": at(60) as f64 + 0.5, "iat": at(0), "nbf": at(0) }),
    ];
    for changes in good {
        bench.assert(&bench.assertion(changes)).await.token();
    }
    let bad = [
        json!({ "iss": "checkout" }),
        json!({ "iss": "checkout", "sub": "checkout" }),
        json!({ "sub": null }),
        json!({ "aud": "https://issuer.test" }),
        json!({ "aud": "https://issuer.test/oauth2/token" }),
        json!({ "aud": [ISSUER, "https://other.test"] }),
        json!({ "aud": [] }),
        json!({ "aud": null }),
        json!({ "exp": at(-31) }),
        json!({ "exp": at(400) }),
        json!({ "exp": null }),
        json!({ "exp": "soon" }),
        json!({ "nbf": at(60) }),
        json!({ "iat": at(60) }),
        json!({ "jti": null }),
        json!({ "jti": "" }),
    ];
    for changes in bad {
        let answer = bench.assert(&bench.assertion(changes.clone())).await;
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (401, "invalid_client"), "{changes}");
    }
    let once = bench.assertion(json!({}));
    bench.assert(&once).await.token();
    bench.assert(&once).await.is(401, "invalid_client");
    // The token endpoint as audience where the entry says so, and only there.
    let old = json!({ "iss": "old-signer", "sub": "old-signer", "aud": "https://issuer.test/oauth2/token" });
    bench.assert(&bench.assertion(old)).await.token();
    // A client_id beside the assertion must be the same.
    let body = format!("{GRANT}&client_id=checkout&client_assertion_type={JWT_BEARER}&client_assertion=");
    let body = body + &bench.assertion(json!({}));
    bench.send(post(None, &body)).await.is(400, "invalid_request");
    let body = format!("{GRANT}&client_assertion_type=other&client_assertion={}", bench.assertion(json!({})));
    bench.send(post(None, &body)).await.is(400, "invalid_request");
}

#[tokio::test]
async fn a4_after_a_restart_no_assertion_is_taken_that_may_have_been_used_before() {
    let mut bench = Bench::new();
    let used = bench.assertion(json!({ "iat": now().as_secs() - 2 }));
    bench.assert(&used).await.token();
    let begin = Duration::from_secs(now().as_secs()) + Duration::from_millis(1);
    bench.started_at(begin);
    let at = |seconds: i64| i64::try_from(begin.as_secs()).unwrap() + seconds;
    let answer = bench.assert(&used).await;
    answer.is(401, "invalid_client");
    assert!(answer.text.contains("before this issuer started"), "{}", answer.text);
    for (changes, expected) in [
        (json!({ "iat": at(-1) }), 401),
        (json!({ "iat": null }), 401),
        (json!({ "exp": at(299) }), 401),
        (json!({ "exp": at(60), "nbf": at(-1), "iat": at(-1) }), 401),
        // The very second: a replay or not, a new one is as good, and soon made.
        (json!({ "iat": at(0) }), 503),
        (json!({ "exp": at(300) }), 503),
        // What cannot have been accepted before.
        (json!({ "iat": at(1) }), 200),
        (json!({ "nbf": at(1) }), 200),
        (json!({ "exp": at(301) }), 200),
    ] {
        let answer = bench.assert(&bench.assertion(changes.clone())).await;
        assert_eq!(answer.status.as_u16(), expected, "{changes}: {}", answer.text);
        assert_eq!(answer.headers.contains_key("retry-after"), expected == 503, "{changes}");
    }
    // Every issuer that is opened begins so.
    let opened = Issuer::open(ISSUER, bench.clients(), None, Options::default()).unwrap();
    assert!(opened.0.replays.begin() >= begin);
}

#[tokio::test]
async fn a4_an_assertion_is_signed_by_an_algorithm_of_the_key() {
    let bench = Bench::new();
    let claims = part(&bench.assertion(json!({})), 1);
    let headers = [
        json!({ "alg": "none" }),
        json!({ "alg": "HS256" }),
        json!({ "alg": "RS256" }),
        json!({ "alg": "ES384" }),
        json!({ "alg": "ES256", "kid": "another" }),
        json!({ "alg": "ES256", "crit": ["exp"] }),
        json!({ "alg": "ES256", "b64": false }),
    ];
    for header in headers {
        let answer = bench.assert(&sign(&bench.key, header.clone(), &claims)).await;
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (401, "invalid_client"), "{header}");
    }
    let other = SigningKey::generate(Algorithm::Es256).unwrap();
    bench.assert(&sign(&other, json!({ "alg": "ES256" }), &claims)).await.is(401, "invalid_client");
    let good = sign(&bench.key, json!({ "alg": "ES256" }), &claims);
    let unsigned = good.rsplit_once('.').unwrap().0.to_owned() + ".";
    bench.assert(&unsigned).await.is(401, "invalid_client");
    for torn in ["", "a", "a.b", "a.b.c", "a.b.c.d"] {
        let answer = bench.assert(torn).await;
        assert!(answer.status.is_client_error(), "{torn}");
    }
    let named = json!({ "alg": "ES256", "kid": bench.key.kid(), "typ": "client-authentication+jwt" });
    bench.assert(&sign(&bench.key, named, &claims)).await.token();
}

#[tokio::test]
async fn a5_an_access_token_is_no_assertion() {
    let bench = Bench::new();
    let token = bench.assert(&bench.assertion(json!({}))).await.token();
    bench.assert(&token).await.is(401, "invalid_client");
    // Not even one that the client itself has signed.
    let claims = part(&bench.assertion(json!({})), 1);
    for typ in ["at+jwt", "application/at+jwt", "AT+JWT", "dpop+jwt"] {
        let dressed = sign(&bench.key, json!({ "alg": "ES256", "typ": typ }), &claims);
        bench.assert(&dressed).await.is(401, "invalid_client");
    }
    bench.assert(&sign(&bench.key, json!({ "alg": "ES256", "typ": "JWT" }), &claims)).await.token();
}

#[tokio::test]
async fn a6_answers_token_type_lifetime_and_scope() {
    let bench = Bench::new();
    let answer = bench.ask(GRANT).await.json();
    assert_eq!(answer["token_type"], "Bearer");
    assert_eq!(answer["expires_in"], 300);
    assert_eq!(answer["scope"], "orders:write orders:read");
    let answer = bench.ask(&format!("{GRANT}&scope=orders:read+orders:read")).await.json();
    assert_eq!(answer["scope"], "orders:read");
}

#[tokio::test]
async fn a7_tokens_are_never_stored() {
    let answer = Bench::new().ask(GRANT).await;
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("pragma"), "no-cache");
    assert_eq!(answer.header("content-type"), "application/json");
}

#[tokio::test]
async fn a8_there_is_no_refresh_token() {
    let bench = Bench::new();
    assert!(bench.ask(GRANT).await.json().get("refresh_token").is_none());
    bench.ask("grant_type=refresh_token&refresh_token=x").await.is(400, "unsupported_grant_type");
}

#[tokio::test]
async fn a9_errors_are_json_and_an_unknown_client_is_challenged() {
    let bench = Bench::new();
    let answer = bench.send(post(Some(&basic("checkout", "wrong")), GRANT)).await;
    answer.is(401, "invalid_client");
    assert!(answer.header("www-authenticate").starts_with("Basic realm=\"https://issuer.test/shop\""));
    assert_eq!(answer.header("pragma"), "no-cache");
    let answer = bench.ask("grant_type=password").await;
    answer.is(400, "unsupported_grant_type");
    assert_eq!(answer.header("www-authenticate"), "");
    // RFC 6749 §5.2: descriptions are of these characters alone.
    let text = answer.json()["error_description"].as_str().unwrap().to_owned();
    assert!(text.bytes().all(|byte| matches!(byte, 0x20..=0x21 | 0x23..=0x5b | 0x5d..=0x7e)));
}

#[tokio::test]
async fn a10_scope_and_audience_are_the_clients_or_refused() {
    let bench = Bench::new();
    assert_eq!(bench.ask(GRANT).await.claims()["scope"], "orders:write orders:read");
    for scope in
        ["orders:admin", "orders:read+orders:admin", "Orders:read", "orders:read++orders:write", "%22"]
    {
        bench.ask(&format!("{GRANT}&scope={scope}")).await.is(400, "invalid_scope");
    }
    for target in ["resource", "audience"] {
        let asked = bench.ask(&format!("{GRANT}&{target}=https://orders.shop")).await;
        assert_eq!(asked.claims()["aud"], "https://orders.shop");
        for other in ["https://orders.shop/", "https://other.shop", "orders"] {
            bench.ask(&format!("{GRANT}&{target}={other}")).await.is(400, "invalid_target");
        }
    }
    let many = basic("many", SECRET);
    // RFC 8707 §2: invalid_target is also said of a resource that is missing.
    bench.send(post(Some(&many), GRANT)).await.is(400, "invalid_target");
    let two = format!("{GRANT}&resource=https://orders.shop&resource=https://quotes.shop");
    bench.send(post(Some(&many), &two)).await.is(400, "invalid_target");
    let one = format!("{GRANT}&resource=https://quotes.shop&audience=https://quotes.shop");
    let answer = bench.send(post(Some(&many), &one)).await;
    assert_eq!(answer.claims()["aud"], "https://quotes.shop");
    assert!(answer.claims().get("scope").is_none() && answer.json().get("scope").is_none());
}

#[tokio::test]
async fn a11_tokens_are_those_of_rfc_9068() {
    for algorithm in [Algorithm::Es256, Algorithm::Rs256] {
        let bench = Bench::with(Options { algorithm, ..Options::default() });
        let token = bench.ask(GRANT).await.token();
        let header = part(&token, 0);
        assert_eq!((&header["typ"], &header["alg"]), (&json!("at+jwt"), &json!(algorithm.name())));
        // A resource server with another library than our own signing code, and the published set.
        let set = bench.published().await;
        let key = set.find(header["kid"].as_str().unwrap()).unwrap();
        let mut validation = Validation::new(algorithm.name().parse().unwrap());
        validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&["https://orders.shop"]);
        let decoded =
            jsonwebtoken::decode::<Value>(&token, &DecodingKey::from_jwk(key).unwrap(), &validation).unwrap();
        let claims = decoded.claims;
        let names: BTreeSet<&str> = claims.as_object().unwrap().keys().map(String::as_str).collect();
        let expected = ["aud", "client_id", "exp", "iat", "iss", "jti", "roles", "scope", "sub", "tenant"];
        assert_eq!(names, BTreeSet::from(expected));
        assert_eq!(claims["tenant"], "acme");
        assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 300);
    }
}

#[tokio::test]
async fn a12_the_subject_is_the_client_and_nothing_a_client_can_choose() {
    let bench = Bench::new();
    let claims = bench.ask(&format!("{GRANT}&sub=admin")).await.claims();
    assert_eq!((&claims["sub"], &claims["client_id"]), (&json!("checkout"), &json!("checkout")));
    for name in ["sub", "client_id", "iss", "aud", "exp", "scope", "cnf", "azp"] {
        let file = format!("clients:\n- clientId: a\n  claims: {{ {name}: b }}\n");
        let problem = refused(&file);
        assert!(problem.contains("clients.yaml:3: clients[0].claims: "), "{problem}");
    }
    assert!(
        refused(&format!("clients: [{{ clientId: '{ISSUER}', secretSha256: '{:064}', audiences: [a] }}]", 1))
            .contains("clientId: is the issuer's own name")
    );
}

#[tokio::test]
async fn a13_tokens_are_short_and_for_one_audience() {
    let claims = Bench::new().ask(GRANT).await.claims();
    assert!(claims["aud"].is_string());
    let long = Options { token_lifetime: Duration::from_secs(86_400), ..Options::default() };
    assert!(long.check().is_err());
}

#[tokio::test]
async fn a14_does_not_pretend_to_bind_tokens() {
    let bench = Bench::new();
    let mut request = post(Some(&basic("checkout", SECRET)), GRANT);
    request.headers_mut().insert("dpop", "a.b.c".parse().unwrap());
    let answer = bench.send(request).await;
    assert_eq!(answer.json()["token_type"], "Bearer");
    assert!(answer.claims().get("cnf").is_none());
    let metadata = bench.get("/.well-known/oauth-authorization-server/shop").await.json();
    assert!(metadata.get("dpop_signing_alg_values_supported").is_none());
    assert!(metadata.get("tls_client_certificate_bound_access_tokens").is_none());
}

#[tokio::test]
async fn a15_nothing_can_be_guessed() {
    let bench = Bench::new();
    let mut seen = BTreeSet::new();
    for _ in 0..100 {
        let jti = bench.ask(GRANT).await.claims()["jti"].as_str().unwrap().to_owned();
        assert!(URL_SAFE_NO_PAD.decode(&jti).unwrap().len() * 8 >= 160);
        assert!(seen.insert(jti));
    }
    let weak = bench.send(post(Some(&basic("weak", "password")), GRANT)).await;
    weak.is(401, "invalid_client");
    assert!(weak.text.contains("openssl rand"));
}

#[tokio::test]
async fn a16_metadata_is_at_the_inserted_path_and_exact() {
    let bench = Bench::new();
    let answer = bench.get("/.well-known/oauth-authorization-server/shop").await;
    assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, "application/json"));
    let metadata = answer.json();
    assert_eq!(metadata["issuer"], ISSUER);
    assert_eq!(metadata["token_endpoint"], "https://issuer.test/oauth2/token");
    assert_eq!(metadata["jwks_uri"], "https://issuer.test/oauth2/jwks");
    assert_eq!(metadata["grant_types_supported"], json!(["client_credentials"]));
    let methods = &metadata["token_endpoint_auth_methods_supported"];
    assert_eq!(methods, &json!(["client_secret_basic", "private_key_jwt"]));
    let algorithms = metadata["token_endpoint_auth_signing_alg_values_supported"].as_array().unwrap();
    assert!(algorithms.contains(&json!("ES256")) && !algorithms.contains(&json!("none")));
    assert_eq!(bench.get("/.well-known/oauth-authorization-server").await.status, StatusCode::NOT_FOUND);
    for (url, path) in [("https://a.test", ""), ("https://a.test/", ""), ("https://a.test/b/c/", "/b/c")] {
        let url = super::IssuerUrl::parse(url).unwrap();
        assert_eq!(url.metadata_path, format!("/.well-known/oauth-authorization-server{path}"));
    }
}

#[tokio::test]
async fn a17_the_key_set_is_public_and_named_by_thumbprint() {
    for algorithm in [Algorithm::Es256, Algorithm::Rs256] {
        let bench = Bench::with(Options { algorithm, ..Options::default() });
        let next = bench.issuer.rotate().unwrap();
        assert_eq!(bench.issuer.rotate().unwrap(), next, "one key waits at a time");
        let answer = bench.get("/oauth2/jwks").await;
        assert_eq!(answer.header("content-type"), "application/jwk-set+json");
        assert_eq!(answer.header("cache-control"), "public, max-age=300");
        let keys = answer.json()["keys"].as_array().unwrap().clone();
        assert_eq!(keys.len(), 2);
        for key in &keys {
            for private in ["d", "p", "q", "dp", "dq", "qi", "k"] {
                assert!(key.get(private).is_none());
            }
            assert_eq!((&key["use"], &key["alg"]), (&json!("sig"), &json!(algorithm.name())));
        }
        let set = bench.published().await;
        for key in &set.keys {
            let thumbprint = key.thumbprint(ThumbprintHash::SHA256).unwrap();
            assert_eq!(key.common.key_id.as_ref(), Some(&thumbprint));
        }
        // The waiting key signs nothing yet.
        assert_ne!(kid(&bench.ask(GRANT).await.token()), next);
        let asked = Request::get("/oauth2/jwks").header("if-none-match", answer.header("etag"));
        let again = bench.send(asked.body(Body::empty()).unwrap()).await;
        assert_eq!((again.status, again.text.as_str()), (StatusCode::NOT_MODIFIED, ""));
    }
}

/// Through years of rotations, forced ones and restarts among them, no key signs that was not published `publish_ahead`
/// before, and none disappears while a token that it signed may be alive.
#[test]
fn a17_a_key_is_published_before_it_signs_and_after() {
    let options = Options {
        rotation: Duration::from_secs(3600),
        publish_ahead: Duration::from_secs(600),
        token_lifetime: Duration::from_secs(300),
        ..Options::default()
    };
    let schedule = Schedule::from(&options);
    let key = || Arc::new(SigningKey::generate(Algorithm::Es256).unwrap());
    let names = |keys: &Keyring| -> BTreeSet<String> {
        let set: JwkSet = serde_json::from_slice(keys.jwks()).unwrap();
        set.keys.into_iter().map(|key| key.common.key_id.unwrap()).collect()
    };
    let start = Duration::from_secs(1_000_000);
    let step = Duration::from_secs(7);
    let ahead = 600 / 7;
    let mut keys = Keyring::start(SigningKey::generate(Algorithm::Es256).unwrap(), schedule, start);
    // What a verifier got that fetched at each step; nothing while we were away.
    let mut fetched: Vec<Option<BTreeSet<String>>> = Vec::new();
    let mut signed: Vec<String> = Vec::new();
    let mut switches = 0;
    for tick in 0..20_000_u32 {
        let now = start + step * tick;
        let is_away = tick % 1501 > 1450;
        if is_away {
            fetched.push(None);
            signed.push(String::new());
            continue;
        }
        if tick % 1501 == 0 {
            keys = Keyring::resume(keys.entries().cloned().collect(), schedule, now).unwrap();
        }
        keys = keys.advance(now).unwrap_or(keys);
        if keys.is_due(now, Algorithm::Es256) || (tick % 997 == 0 && keys.waiting(now).is_none()) {
            keys = keys.publish(key(), now);
        }
        let kid = keys.signing(now).kid().to_owned();
        let shown = names(&keys);
        assert!(shown.len() <= 4, "the set stays small");
        let earlier = fetched.iter().rev().skip(ahead - 1).flatten().next();
        if let Some(earlier) = earlier {
            assert!(earlier.contains(&kid), "signs at {tick} with a key that was not to be seen before");
        }
        for alive in signed.iter().rev().take(300 / 7).filter(|kid| !kid.is_empty()) {
            assert!(shown.contains(alive), "at {tick} a living token's key is gone");
        }
        switches += usize::from(signed.last().is_some_and(|last| !last.is_empty() && *last != kid));
        fetched.push(Some(shown));
        signed.push(kid);
    }
    assert!(switches > 30, "keys were rotated: {switches}");
}

#[tokio::test]
async fn a17_a_rotation_under_way_fails_no_token() {
    let options = Options {
        rotation: Duration::from_millis(1500),
        publish_ahead: Duration::from_millis(700),
        ..Options::default()
    };
    let bench = Bench::with(options);
    let running = tokio::spawn(bench.issuer.clone().run(std::future::pending()));
    let mut fetched = vec![(tokio::time::Instant::now(), bench.published().await)];
    let mut kids = BTreeSet::new();
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_millis(4500) {
        let kid = kid(&bench.ask(GRANT).await.token());
        let now = tokio::time::Instant::now();
        // The stalest set that a verifier may hold which asks again within `publish_ahead`.
        let (_, stalest) = fetched.iter().find(|(at, _)| now - *at <= Duration::from_millis(700)).unwrap();
        assert!(stalest.find(&kid).is_some());
        kids.insert(kid);
        fetched.push((now, bench.published().await));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(kids.len() >= 3, "{kids:?}");
    running.abort();
}

#[tokio::test]
async fn a22_offers_neither_passwords_nor_implicit() {
    let bench = Bench::new();
    for grant in ["password", "implicit", "authorization_code", "urn:ietf:params:oauth:grant-type:jwt-bearer"]
    {
        let body = format!("grant_type={grant}&username=a&password=b");
        bench.ask(&body).await.is(400, "unsupported_grant_type");
    }
    assert_eq!(bench.get("/oauth2/authorize").await.status, StatusCode::NOT_FOUND);
}

// === the clients file and the state directory ===

fn refused(file: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let clients = folder.path().join("clients.yaml");
    fs::write(&clients, file).unwrap();
    let error = Issuer::open(ISSUER, clients, None, Options::default()).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

#[test]
fn a_wrong_clients_file_is_told_by_line_and_field() {
    let hash = format!("{:064}", 1);
    let client = format!("clients:\n- clientId: a\n  secretSha256: '{hash}'\n  audiences: [b]\n");
    let cases = [
        (format!("{client}  colour: blue\n"), "clients.yaml:5: clients[0].colour: unknown field"),
        (
            "clients:\n- clientId: a\n  audiences: [b]\n".into(),
            "clients.yaml:2: clients[0].clientId: has neither",
        ),
        (client.replace("[b]", "[]"), "clients.yaml:2: clients[0].audiences: must name one"),
        (client.replace("[b]", "b"), "clients.yaml:4: clients[0].audiences: invalid type"),
        (
            format!("{client}- clientId: a\n  secretSha256: '{hash}'\n  audiences: [b]\n"),
            "clients.yaml:5: clients[1].clientId: a is",
        ),
        (format!("{client}  scopes: [a b]\n"), "clients.yaml:5: clients[0].scopes[0]: must be one scope"),
        (
            format!("{client}  claims: {{ a: 1, a: 2 }}\n"),
            "clients.yaml:5: clients[0].claims.a: is written twice",
        ),
        (
            format!("{client}  claims: {{ sub: b }}\n"),
            "clients.yaml:5: clients[0].claims: sub is the issuer's",
        ),
        (format!("{client}  audiences: [c]\n"), "clients.yaml:5: clients[0].audiences: is written twice"),
        (format!("{client}  keyFile: none.pem\n"), "clients.yaml:5: clients[0].keyFile: none.pem: "),
        (format!("{client}  keys: {{ keys: [{{ kty: oct, k: c2VjcmV0 }}] }}\n"), "private or symmetric"),
        (format!("{client}  keys: {{ keys: [{{ kty: EC, crv: P-256, x: AA, y: AA }}] }}\n"), "wrong length"),
        ("clients: &a [*a]".into(), "clients.yaml"),
        ("- a".into(), "clients.yaml:1: invalid type"),
        (String::new(), "clients.yaml"),
    ];
    let told: Vec<_> = cases.into_iter().map(|(file, expected)| (refused(&file), expected)).collect();
    let wrong: Vec<_> = told.iter().filter(|(problem, expected)| !problem.contains(expected)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    // A secret that was written in place of its hash is not repeated.
    for wrong in ["hunter2", "1234567", "{ hunter2: 1 }"] {
        let problem = refused(&client.replace(&format!("'{hash}'"), wrong));
        assert!(problem.contains("clients[0].secretSha256: "), "{problem}");
        assert!(problem.contains("must be the SHA-256"), "{problem}");
        assert!(!problem.contains("hunter2") && !problem.contains("1234567"), "{problem}");
    }
}

#[tokio::test]
async fn a_changed_clients_file_is_live_within_a_second_and_a_bad_one_changes_nothing() {
    let bench = Bench::new();
    let running = tokio::spawn(bench.issuer.clone().run(std::future::pending()));
    let good = clients_file(&bench.key);
    let admin = format!("{GRANT}&scope=orders:admin");
    bench.ask(&admin).await.is(400, "invalid_scope");

    fs::write(bench.clients(), "clients: [").unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.ask(GRANT).await.token();

    fs::write(bench.clients(), good.replace("orders:write", "orders:admin")).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.ask(&admin).await.token();
    running.abort();
}

#[tokio::test]
async fn keys_outlive_a_restart_and_are_nobody_elses_to_read() {
    let bench = Bench::new();
    let before = kid(&bench.ask(GRANT).await.token());
    let next = bench.issuer.rotate().unwrap();
    let state = bench.folder.path().join("state");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    assert_eq!(mode(&state.join("issuer-keys.json")), 0o600);

    let again = Issuer::open(ISSUER, bench.clients(), Some(state.clone()), Options::default()).unwrap();
    let bench = Bench { issuer: again, ..bench };
    assert_eq!(kid(&bench.ask(GRANT).await.token()), before);
    assert!(bench.published().await.find(&next).is_some());

    // Another algorithm is rotated to, not switched to.
    let options = Options {
        algorithm: Algorithm::Rs256,
        publish_ahead: Duration::from_millis(50),
        ..Options::default()
    };
    fs::remove_file(state.join("issuer-keys.json")).unwrap();
    let first = Issuer::open(ISSUER, bench.clients(), Some(state.clone()), Options::default()).unwrap();
    drop(first);
    let bench = Bench {
        issuer: Issuer::open(ISSUER, bench.clients(), Some(state.clone()), options).unwrap(),
        ..bench
    };
    assert_eq!(part(&bench.ask(GRANT).await.token(), 0)["alg"], "ES256");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(part(&bench.ask(GRANT).await.token(), 0)["alg"], "RS256");

    fs::write(state.join("issuer-keys.json"), "[{").unwrap();
    let broken = Issuer::open(ISSUER, bench.clients(), Some(state), Options::default());
    assert!(broken.unwrap_err().to_string().contains("move it away"));
}

#[test]
fn nothing_secret_is_printed() {
    let bench = Bench::new();
    let printed = format!("{:?} {:?}", bench.issuer, bench.key);
    let hash = hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, SECRET.as_bytes()).as_ref());
    for secret in [SECRET, &hash, "PRIVATE KEY", bench.key.pem().lines().nth(1).unwrap()] {
        assert!(!printed.contains(secret));
    }
    let form = super::form::Form::parse(format!("client_assertion={SECRET}").as_bytes()).unwrap();
    assert!(!format!("{form:?}").contains(SECRET));
}
