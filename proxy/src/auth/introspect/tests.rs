mod answers;

use std::sync::atomic::{AtomicBool, Ordering};

use countersign_policy::snapshot::KeySource;
use serde_json::{Value, json};

use super::*;
use crate::auth::issuers::Issuers;
use crate::auth::tokens::server::{Answer, Asked, TokenServer, World as Client, eventually};

/// An issuer that is asked, and one client of it.
struct World {
    client: Client,
    server: TokenServer,
    introspector: Arc<Introspector>,
}

impl World {
    async fn new(answer: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static) -> Self {
        let server = TokenServer::start(answer).await;
        Self::with(server, |_| {})
    }

    /// With these changes to issuer and credential.
    fn with(server: TokenServer, change: impl FnOnce(&mut Client)) -> Self {
        let mut client = Client::new(&server);
        client.issuer.introspection_endpoint =
            Some(format!("http://127.0.0.1:{}/introspect?tenant=acme", server.port));
        client.issuer.jwks = KeySource::Inline(json!({"keys": []}));
        change(&mut client);
        let introspector = introspector(&client);
        Self { client, server, introspector }
    }

    /// On a connection of its own.
    async fn verify(&self, token: &str) -> Result<Arc<Token>, Reason> {
        self.introspector.verify(&LastVerdict::default(), token).await
    }

    async fn reason(&self, token: &str) -> Option<Reason> {
        self.verify(token).await.err()
    }

    fn advance(&self, seconds: u64) {
        self.client.clock.advance(Duration::from_secs(seconds));
    }

    fn counted(&self, result: &str) -> u64 {
        self.client.metrics.introspection_requests.with_label_values(&["corp", result]).get()
    }
}

fn introspector(client: &Client) -> Arc<Introspector> {
    let keys = Issuers::new(client.services.clone()).arm(std::slice::from_ref(&client.issuer));
    let question = Question::new(&client.services, &client.issuer, &client.credential, &keys[0]);
    let kept = Kept { active: Verdicts::new(ACTIVE_LIMIT), refused: Verdicts::new(REFUSED_LIMIT) };
    Arc::new(Introspector::new([7; 32], question, Arc::new(kept), &Names::default()))
}

/// A full answer, with these members on top; `null` takes one away.
fn active(over: &Value) -> Value {
    let mut answer = json!({
        "active": true, "client_id": "caller", "scope": "orders:read", "aud": "https://orders.shop",
        "exp": 4_000_000_000_i64, "sub": "caller", "token_type": "Bearer",
    });
    for (name, value) in over.as_object().unwrap() {
        match value {
            Value::Null => answer.as_object_mut().unwrap().remove(name),
            value => answer.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    answer
}

fn yes() -> Answer {
    Answer::json(active(&json!({})).to_string())
}

fn no() -> Answer {
    Answer::json(r#"{"active":false}"#)
}

#[test]
fn in_2_three_segments_of_base64url_are_a_jwt_and_anything_else_is_opaque() {
    for jwt in ["a.b.c", "eyJ_.eyJ-.sig", "a.b.", "..", "a..c"] {
        assert!(!is_opaque(jwt), "{jwt}");
    }
    for opaque in [
        "",
        "a",
        "a.b",
        "a.b.c.d",
        "a.b.c.d.e",
        "a.b.c=",
        "a.b/.c",
        "a~b.c.d",
        "a+.b.c",
        "2YotnFZFEjr1zCsicMWpAA",
    ] {
        assert!(is_opaque(opaque), "{opaque}");
    }
}

#[tokio::test]
async fn v26_the_question_is_a_form_from_an_authenticated_client() {
    let world = World::new(|_, _| yes()).await;
    let token = world.verify("2Yotn+FZ/~=").await.unwrap();
    assert_eq!((token.client.as_deref(), &*token.issuer), (Some("caller"), &*world.client.issuer.issuer));
    let asked = world.server.asked(0);
    assert_eq!(asked.line, "POST /introspect?tenant=acme HTTP/1.1");
    assert_eq!(asked.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(asked.header("accept"), Some("application/json"));
    assert_eq!(asked.parameter("token").as_deref(), Some("2Yotn+FZ/~="));
    assert_eq!(asked.parameter("token_type_hint").as_deref(), Some("access_token"));
    // checkout:s3cret
    assert_eq!(asked.header("authorization"), Some("Basic Y2hlY2tvdXQ6czNjcmV0"));
    assert!(!asked.body.contains("s3cret") && !asked.line.contains("2Yotn"));
}

/// A hundred at once are one question, and those who come later none; who goes away ends nothing.
#[tokio::test]
async fn v27_a_hundred_at_once_are_one_question_that_survives_its_first_caller() {
    let world = World::new(|_, _| yes()).await;
    world.server.hold();
    let first = world.introspector.clone();
    let first = tokio::spawn(async move { first.verify(&LastVerdict::default(), "opaque").await });
    world.server.count_reaches(1).await;
    let others: Vec<_> = (0..100)
        .map(|_| {
            let introspector = world.introspector.clone();
            tokio::spawn(async move { introspector.verify(&LastVerdict::default(), "opaque").await })
        })
        .collect();
    first.abort();
    tokio::time::sleep(Duration::from_millis(50)).await;
    world.server.release();
    for other in others {
        assert!(other.await.unwrap().is_ok());
    }
    assert!(world.verify("opaque").await.is_ok());
    assert_eq!((world.server.count(), world.counted("active")), (1, 1));
}

#[tokio::test]
async fn v27_an_answer_is_kept_for_a_minute_from_when_it_was_asked() {
    let revoked = Arc::new(AtomicBool::new(false));
    let is_revoked = revoked.clone();
    let world = World::new(move |_, _| if is_revoked.load(Ordering::Relaxed) { no() } else { yes() }).await;
    let last = LastVerdict::default();
    for _ in 0..3 {
        assert!(world.introspector.verify(&last, "opaque").await.is_ok());
    }
    revoked.store(true, Ordering::Relaxed);
    world.advance(44);
    assert!(world.introspector.verify(&last, "opaque").await.is_ok() && world.verify("opaque").await.is_ok());
    assert_eq!(world.server.count(), 1);
    world.advance(17);
    // On the old connection and on new ones.
    assert_eq!(world.introspector.verify(&last, "opaque").await.err(), Some(Reason::Inactive));
    assert_eq!(world.reason("opaque").await, Some(Reason::Inactive));
    assert_eq!(world.server.count(), 2);
    // What is refused is asked about again soon, though not at once.
    world.advance(8);
    assert_eq!(world.reason("opaque").await, Some(Reason::Inactive));
    assert_eq!(world.server.count(), 2);
    revoked.store(false, Ordering::Relaxed);
    world.advance(3);
    assert!(world.verify("opaque").await.is_ok());
}

#[tokio::test]
async fn v27_a_token_in_use_is_asked_about_ahead_of_time() {
    let world = World::new(|_, _| yes()).await;
    let last = LastVerdict::default();
    assert!(world.introspector.verify(&last, "opaque").await.is_ok());
    world.advance(50);
    world.server.hold();
    // Its callers do not wait for that.
    for _ in 0..10 {
        assert!(world.introspector.verify(&last, "opaque").await.is_ok());
    }
    world.server.count_reaches(2).await;
    world.server.release();
    eventually(|| world.introspector.flights.count() == 0).await;
    world.advance(15);
    assert!(world.introspector.verify(&last, "opaque").await.is_ok());
    assert_eq!(world.server.count(), 2, "65 s after the first question, 15 s after the second");
}

#[tokio::test]
async fn v27_nothing_is_kept_past_its_own_end() {
    let exp = Client::new(&TokenServer::start(|_, _| yes()).await).clock.unix() + 20;
    let world = World::new(move |_, _| Answer::json(active(&json!({ "exp": exp })).to_string())).await;
    let last = LastVerdict::default();
    assert!(world.introspector.verify(&last, "opaque").await.is_ok());
    world.advance(15);
    assert!(world.introspector.verify(&last, "opaque").await.is_ok());
    assert_eq!(world.server.count(), 1, "one that ends itself is not asked about ahead of time");
    world.advance(6);
    // The server still calls it active, though it says itself that it is not.
    assert_eq!(world.introspector.verify(&last, "opaque").await.err(), Some(Reason::Expired));
    assert_eq!(world.server.count(), 2);
}

#[tokio::test]
async fn through_an_outage_what_is_known_goes_on_and_the_rest_waits() {
    let down = Arc::new(AtomicBool::new(false));
    let is_down = down.clone();
    let error = || Answer::new("503 Service Unavailable", "retry-after: 7\r\n", "");
    let world = World::new(move |_, _| if is_down.load(Ordering::Relaxed) { error() } else { yes() }).await;
    assert!(world.verify("known").await.is_ok());
    down.store(true, Ordering::Relaxed);
    world.advance(50);
    for token in 0..50 {
        assert_eq!(world.reason(&format!("new-{token}")).await, Some(Reason::KeysUnavailable));
        assert!(world.verify("known").await.is_ok());
    }
    assert_eq!((world.server.count(), world.counted("failed")), (2, 1), "a dead issuer is not hammered");
    let left = world.introspector.retry_after().unwrap();
    assert!(left > Duration::from_secs(5) && left <= Duration::from_secs(7), "{left:?}");
    let report = world.introspector.report();
    assert_eq!((report.last_error_cause, report.retry_in_seconds.is_some()), (Some("server_error"), true));
    world.advance(11);
    assert_eq!(world.reason("known").await, Some(Reason::KeysUnavailable), "its minute is over");
    down.store(false, Ordering::Relaxed);
    world.advance(11);
    assert!(world.verify("known").await.is_ok() && world.verify("new-1").await.is_ok());
    assert_eq!(world.introspector.retry_after(), None);
}

/// Whoever sends tokens that nobody has issued is refused at the issuer's expense for a moment only; those whom it knows do not
/// feel it.
#[tokio::test]
async fn a_flood_of_unknown_tokens_is_bounded_and_spares_those_who_are_known() {
    let world = World::new(|_, asked| match asked.parameter("token").as_deref() {
        Some(token) if token.starts_with("good") => yes(),
        _ => no(),
    })
    .await;
    assert!(world.verify("good-known").await.is_ok());
    let flood: Vec<_> = (0..2000)
        .map(|n| {
            let introspector = world.introspector.clone();
            tokio::spawn(
                async move { introspector.verify(&LastVerdict::default(), &format!("random-{n}")).await },
            )
        })
        .collect();
    let (mut inactive, mut shed) = (0, 0);
    for one in flood {
        match one.await.unwrap().unwrap_err() {
            Reason::Inactive => inactive += 1,
            Reason::Overloaded => shed += 1,
            other => panic!("{other}"),
        }
    }
    let asked = world.server.count();
    assert!(
        (100..200).contains(&asked),
        "{asked} questions for 2000 tokens, {inactive} inactive, {shed} shed"
    );
    assert!(world.server.most_at_once() <= 6, "{}", world.server.most_at_once());
    assert_eq!(world.counted("shed"), shed);
    assert_eq!(world.introspector.flights.count(), 0);
    // Known before: asked about as if nothing were, also when its minute is over.
    world.introspector.budget.spend(world.client.clock.now());
    world.advance(61);
    (0..100).for_each(|_| world.introspector.budget.spend(world.client.clock.now()));
    assert_eq!(world.reason("good-new").await, Some(Reason::Overloaded));
    assert!(world.verify("good-known").await.is_ok());
    // New ones again, once the bucket has filled.
    world.advance(1);
    assert!(world.verify("good-new").await.is_ok());
}

#[tokio::test]
async fn one_bad_token_costs_one_question_in_ten_seconds() {
    let world = World::new(|_, _| no()).await;
    for _ in 0..100 {
        assert_eq!(world.reason("bad").await, Some(Reason::Inactive));
    }
    assert_eq!((world.server.count(), world.counted("inactive")), (1, 1));
}

/// Some servers refuse to look at what could be a JWT, or anything else that a caller makes up.
#[tokio::test]
async fn a_token_that_the_issuer_refuses_to_look_at_is_no_trouble_of_the_issuer() {
    for error in ["unsupported_token_type", "invalid_request", "invalid_token"] {
        let world = World::new(move |_, asked| match asked.parameter("token").as_deref() {
            Some("good") => yes(),
            _ => Answer::error("400 Bad Request", error),
        })
        .await;
        assert_eq!(world.reason("a.b.c.d.e").await, Some(Reason::Inactive), "{error}");
        assert_eq!(world.introspector.retry_after(), None);
        assert!(world.verify("good").await.is_ok());
    }
}

#[tokio::test]
async fn a_refused_credential_is_our_fault_and_tried_again_when_its_file_changes() {
    let world = World::new(|_, asked| match asked.header("authorization") {
        Some("Basic Y2hlY2tvdXQ6czNjcmV0") => Answer::error("401 Unauthorized", "invalid_client"),
        _ => yes(),
    })
    .await;
    for _ in 0..5 {
        assert_eq!(world.reason("opaque").await, Some(Reason::KeysUnavailable));
    }
    assert_eq!(world.server.count(), 1);
    assert!(world.introspector.retry_after().unwrap() > Duration::from_secs(25));
    world.client.write_secret("another");
    eventually(|| world.introspector.retry_after().is_none()).await;
    assert!(world.verify("opaque").await.is_ok());

    std::fs::remove_file(world.client.dir.path().join("secret")).unwrap();
    assert_eq!(world.reason("other").await, Some(Reason::KeysUnavailable));
    assert_eq!(world.introspector.report().last_error_cause, Some("credential"));
    assert_eq!(world.server.count(), 2, "nothing is asked as nobody");
}

#[tokio::test]
async fn in_2_tokens_are_bounded() {
    let world = World::new(|_, _| yes()).await;
    assert!(world.verify(&"a".repeat(TOKEN_LIMIT)).await.is_ok());
    assert_eq!(world.reason(&"a".repeat(TOKEN_LIMIT + 1)).await, Some(Reason::MalformedToken));
    assert_eq!(world.server.count(), 1);
}

/// What one issuer said of a token is nothing to another, and neither is what was said under other settings.
#[tokio::test]
async fn the_word_of_an_issuer_is_kept_under_whom_was_asked_and_as_whom() {
    let world = World::new(|_, _| yes()).await;
    let last = LastVerdict::default();
    assert!(world.introspector.verify(&last, "opaque").await.is_ok());
    let question = Question::new(
        &world.client.services,
        &world.client.issuer,
        &world.client.credential,
        &Issuers::new(world.client.services.clone()).arm(std::slice::from_ref(&world.client.issuer))[0],
    );
    let other = Introspector::new([8; 32], question, world.introspector.kept.clone(), &Names::default());
    assert!(Arc::new(other).verify(&last, "opaque").await.is_ok());
    assert_eq!(world.server.count(), 2);
}

/// By every method that a credential has: the code is that of token requests.
#[tokio::test]
async fn v26_every_way_to_authenticate() {
    use base64::Engine;
    use countersign_policy::snapshot::{
        Algorithm, AssertionAudience, AssertionType, Authentication, WorkloadTokenUse,
    };
    let pair = aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap();
    let der = base64::engine::general_purpose::STANDARD.encode(pair.to_pkcs8().unwrap());
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{der}\n-----END PRIVATE KEY-----\n");
    type Make = fn(countersign_policy::snapshot::FileRef) -> Authentication;
    let post: Make = |secret_file| Authentication::ClientSecretPost { secret_file };
    let key: Make = |key_file| Authentication::PrivateKeyJwt {
        key_file,
        key_id: None,
        algorithm: Algorithm::EdDSA,
        audience: AssertionAudience::TokenEndpoint,
    };
    let workload: Make = |token_file| Authentication::WorkloadToken {
        token_file,
        usage: WorkloadTokenUse::ClientAssertion(AssertionType::JwtBearer),
    };
    for (make, file, parameter) in [
        (post, "s3cret", "client_secret"),
        (key, &*pem, "client_assertion"),
        (workload, "a.b.c", "client_assertion"),
    ] {
        let server = TokenServer::start(|_, _| yes()).await;
        let world = World::with(server, |client| {
            client.write_secret(file);
            client.credential.authentication = make(client.file("secret"));
        });
        assert!(world.verify("opaque").await.is_ok(), "{parameter}");
        let asked = world.server.asked(0);
        assert_eq!(asked.header("authorization"), None);
        assert_eq!(asked.parameter("client_id").as_deref(), Some("checkout"));
        let sent = asked.parameter(parameter).unwrap();
        if file == pem {
            let claims = sent.split('.').nth(1).unwrap();
            let claims = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap();
            let claims: Value = serde_json::from_slice(&claims).unwrap();
            assert_eq!(claims["aud"], world.client.issuer.token_endpoint.clone().unwrap());
        } else {
            assert_eq!(sent, file);
        }
    }
}

/// By discovery: with a certificate at the endpoint for those who have one (RFC 8705 §5), without at the one for all.
#[tokio::test]
async fn v26_who_has_a_certificate_turns_to_the_alias() {
    use countersign_policy::snapshot::Authentication;

    use crate::auth::tokens::authority::{Asks, Authority};
    let authority = Authority::new();
    let alias = TokenServer::start_tls(authority.acceptor(Asks::Demands), |_, _| yes()).await;
    let port = Arc::new(std::sync::OnceLock::new());
    let plain = TokenServer::start({
        let (port, alias) = (port.clone(), alias.port);
        move |_, asked| match asked.line.starts_with("GET ") {
            true => {
                let origin = format!("http://127.0.0.1:{}", port.get().unwrap());
                let aliases = json!({"introspection_endpoint": format!("https://localhost:{alias}/alias")});
                let endpoint = format!("{origin}/plain");
                let metadata =
                    json!({"issuer": origin, "introspection_endpoint": endpoint, "mtls_endpoint_aliases": aliases});
                Answer::json(metadata.to_string())
            }
            false => yes(),
        }
    })
    .await;
    port.set(plain.port).unwrap();
    let mut client = Client::new(&plain);
    client.over_tls(&alias, &authority);
    client.issuer.issuer = format!("http://127.0.0.1:{}", plain.port).into();
    client.issuer.jwks = KeySource::Inline(json!({"keys": []}));
    let with_secret = introspector(&client);
    assert!(with_secret.verify(&LastVerdict::default(), "opaque").await.is_ok());
    assert_eq!((plain.asked(1).line.as_str(), alias.count()), ("POST /plain HTTP/1.1", 0));

    let ours = authority.issue("checkout");
    client.write_pair(&ours);
    client.credential.authentication = Authentication::TlsClientAuth(client.pair());
    let with_certificate = introspector(&client);
    assert!(with_certificate.verify(&LastVerdict::default(), "opaque").await.is_ok());
    let asked = alias.asked(0);
    assert_eq!((asked.line.as_str(), asked.certificate), ("POST /alias HTTP/1.1", Some(ours.thumbprint)));
    assert_eq!(asked.parameter("client_id").as_deref(), Some("checkout"));
    assert_eq!(asked.header("authorization"), None);
}

#[tokio::test]
async fn series_go_with_the_introspector() {
    let world = World::new(|_, _| yes()).await;
    assert!(world.verify("opaque").await.is_ok());
    let World { client, introspector, .. } = world;
    let series = || {
        String::from_utf8(client.metrics.encode().unwrap())
            .unwrap()
            .matches("introspection_requests_total{")
            .count()
    };
    assert_eq!(series(), 5);
    eventually(|| Arc::strong_count(&introspector) == 1).await;
    drop(introspector);
    assert_eq!(series(), 0);
}
