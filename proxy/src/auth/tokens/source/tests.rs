mod dpop;

use countersign_policy::snapshot::{Algorithm, AssertionAudience, AssertionType};

use super::*;
use crate::auth::tokens::authority::{Asks, Authority};
use crate::auth::tokens::lifetime::FETCH_LIMIT;
use crate::auth::tokens::server::{Answer, Asked, TokenServer, World};

async fn fetch(world: &World) -> Result<Held, Failure> {
    world.source().fetch(FETCH_LIMIT).await.0
}

async fn cause_of(answer: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static) -> Cause {
    let server = TokenServer::start(answer).await;
    fetch(&World::new(&server)).await.unwrap_err().cause
}

/// What the client sees of a secret: the file's content, sent and decoded again.
async fn secret_arrives(written: &str) -> String {
    use base64::Engine;
    let server = TokenServer::start(|_, _| Answer::token("t", 300)).await;
    let world = World::new(&server);
    world.write_secret(written);
    fetch(&world).await.unwrap();
    let asked = server.asked(0);
    let encoded = asked.header("authorization").unwrap().strip_prefix("Basic ").unwrap();
    let pair = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(encoded).unwrap()).unwrap();
    let secret = pair.split_once(':').unwrap().1.replace('+', " ");
    percent_encoding::percent_decode_str(&secret).decode_utf8().unwrap().into_owned()
}

#[tokio::test]
async fn c2_c6_the_request_as_it_arrives() {
    let server = TokenServer::start(|_, _| Answer::token("t", 300)).await;
    let world = World::new(&server);
    let held = fetch(&world).await.unwrap();
    assert_eq!(held.shown.authorization, "Bearer t");
    let asked = server.asked(0);
    assert_eq!(asked.line, "POST /token?tenant=acme HTTP/1.1");
    assert_eq!(asked.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(asked.parameter("grant_type").as_deref(), Some("client_credentials"));
    assert_eq!(asked.parameter("scope").as_deref(), Some("orders:write"));
    assert_eq!(asked.parameter("audience").as_deref(), Some("https://orders.shop"));
    assert!(!asked.body.contains("s3cret") && !asked.body.contains("client_id"));
}

#[tokio::test]
async fn c5_secrets_with_any_character_arrive() {
    for secret in ["+ % & : space", "pässwörd €", "a=b&c=d", "trailing ", "%2B"] {
        assert_eq!(secret_arrives(&format!("{secret}\n")).await, secret);
    }
}

#[tokio::test]
async fn c7_c19_the_audience_of_an_assertion_is_the_issuer_or_by_choice_the_endpoint() {
    use base64::Engine;
    let server = TokenServer::start(|_, _| Answer::token("t", 300)).await;
    let mut world = World::new(&server);
    let Authentication::ClientSecretBasic { secret_file } = world.credential.authentication.clone() else {
        unreachable!()
    };
    let pair = aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap();
    let der = base64::engine::general_purpose::STANDARD.encode(pair.to_pkcs8().unwrap());
    world.write_secret(format!("-----BEGIN PRIVATE KEY-----\n{der}\n-----END PRIVATE KEY-----\n"));
    let mut seen = Vec::new();
    for audience in [AssertionAudience::Issuer, AssertionAudience::TokenEndpoint] {
        world.credential.authentication = Authentication::PrivateKeyJwt {
            key_file: secret_file.clone(),
            key_id: None,
            algorithm: Algorithm::EdDSA,
            audience,
        };
        fetch(&world).await.unwrap();
        let asked = server.asked(seen.len());
        assert_eq!(
            (asked.header("authorization"), asked.parameter("client_id")),
            (None, Some("checkout".to_owned()))
        );
        // A key proves who we are without any secret on the wire.
        assert!(!asked.body.contains("secret") && !asked.body.contains("PRIVATE"), "{}", asked.body);
        let assertion = asked.parameter("client_assertion").unwrap();
        let claims = assertion.split('.').nth(1).unwrap();
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).unwrap();
        seen.push(serde_json::from_slice::<serde_json::Value>(&claims).unwrap()["aud"].clone());
    }
    let endpoint = world.issuer.token_endpoint.clone().unwrap();
    assert_eq!(seen, ["https://login.example.com/realms/shop", &endpoint]);
}

#[tokio::test]
async fn out_7_a_credential_that_cannot_be_used_asks_nobody() {
    let server = TokenServer::start(|_, _| Answer::token("t", 300)).await;
    let world = World::new(&server);
    for content in [&b""[..], b"\n", b"s\xff"] {
        world.write_secret(content);
        let failure = fetch(&world).await.unwrap_err();
        assert_eq!(failure.cause, Cause::Credential);
        assert!(failure.text.starts_with("secret cannot be used: "), "{failure}");
    }
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn out_4_a_redirect_is_not_followed() {
    let elsewhere = TokenServer::start(|_, _| Answer::token("stolen", 300)).await;
    let location = format!("location: http://127.0.0.1:{}/token\r\n", elsewhere.port);
    for status in ["302 Found", "307 Temporary", "308 Permanent"] {
        let location = location.clone();
        assert_eq!(cause_of(move |_, _| Answer::new(status, &location, "")).await, Cause::Redirect);
    }
    assert_eq!(elsewhere.count(), 0);
}

#[tokio::test]
async fn an_answer_of_more_than_a_mebibyte_is_cut_off() {
    let body = format!(r#"{{"access_token":"t","token_type":"Bearer","x":"{}"}}"#, "x".repeat(1024 * 1024));
    assert_eq!(cause_of(move |_, _| Answer::json(&body)).await, Cause::Malformed);
}

#[tokio::test]
async fn a_compressed_answer_is_no_token() {
    // gzip of {"access_token":"t","token_type":"Bearer"} would begin so; whether the rest is right does not matter.
    let gzip = || Answer::new("200 OK", "content-encoding: gzip\r\n", [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
    assert_eq!(cause_of(move |_, _| gzip()).await, Cause::Malformed);
    let lying = || {
        Answer::new("200 OK", "content-encoding: gzip\r\n", r#"{"access_token":"t","token_type":"Bearer"}"#)
    };
    assert_eq!(cause_of(move |_, _| lying()).await, Cause::Malformed);
}

#[tokio::test]
async fn an_answer_that_drips_in_is_given_up_after_ten_seconds() {
    let begun = Instant::now();
    let drip =
        |_: usize, _: &Asked| Answer { drip: Some(Duration::from_millis(500)), ..Answer::token("t", 300) };
    assert_eq!(cause_of(drip).await, Cause::Timeout);
    assert!((9..13).contains(&begun.elapsed().as_secs()));
}

#[tokio::test]
async fn nobody_at_the_port_is_a_failed_connection() {
    let server = TokenServer::start(|_, _| Answer::token("t", 300)).await;
    let mut world = World::new(&server);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    world.issuer.token_endpoint = Some(format!("http://127.0.0.1:{free}/token"));
    assert_eq!(fetch(&world).await.unwrap_err().cause, Cause::Connect);
}

#[tokio::test]
async fn c1_http_needs_consent() {
    let server = TokenServer::start(|_, _| Answer::token("t", 300)).await;
    let mut world = World::new(&server);
    world.issuer.insecure = false;
    assert_eq!(fetch(&world).await.unwrap_err().cause, Cause::Address);
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn c14_a_token_is_not_parsed() {
    // A JWT whose own exp passed long ago: the issuer says that it lives for five minutes.
    let jwt = "eyJhbGciOiJub25lIn0.eyJleHAiOjF9.";
    let server = TokenServer::start(move |_, _| Answer::token(jwt, 300)).await;
    assert_eq!(fetch(&World::new(&server)).await.unwrap().lifetime.life, Duration::from_secs(300));
}

#[tokio::test]
async fn a_token_that_arrives_past_its_hard_limit_is_a_failure() {
    let server =
        TokenServer::start(|_, _| Answer { drip: Some(Duration::from_millis(10)), ..Answer::token("t", 1) })
            .await;
    // The answer takes more than the second that the token lives.
    assert_eq!(fetch(&World::new(&server)).await.unwrap_err().cause, Cause::Expired);
}

/// An issuer that serves its own metadata; tokens come from the path that it names.
async fn discovering(path: &'static str, issuer_path: &'static str) -> (TokenServer, World) {
    let port = Arc::new(std::sync::OnceLock::new());
    let server = TokenServer::start({
        let port = port.clone();
        move |_, asked| {
            let origin = format!("http://127.0.0.1:{}", port.get().unwrap());
            if asked.line.starts_with("POST /other ") {
                return Answer::token("t", 300);
            }
            if asked.line.starts_with(&format!("GET {path}")) {
                return Answer::json(format!(
                    r#"{{"issuer":"{origin}{issuer_path}","token_endpoint":"{origin}/other"}}"#
                ));
            }
            Answer::new("404 Not Found", "", "")
        }
    })
    .await;
    port.set(server.port).unwrap();
    let mut world = World::new(&server);
    world.issuer.issuer = format!("http://127.0.0.1:{}/realms/shop", server.port).into();
    world.issuer.token_endpoint = None;
    (server, world)
}

#[tokio::test]
async fn c24_the_token_endpoint_is_found_in_the_metadata_once() {
    for path in [
        "/.well-known/oauth-authorization-server/realms/shop ",
        "/realms/shop/.well-known/openid-configuration ",
    ] {
        let (server, world) = discovering(path, "/realms/shop").await;
        let source = world.source();
        source.fetch(FETCH_LIMIT).await.0.unwrap();
        let asked = server.count();
        source.fetch(FETCH_LIMIT).await.0.unwrap();
        assert_eq!(server.count(), asked + 1);
        world.clock.advance(Duration::from_secs(3600));
        source.fetch(FETCH_LIMIT).await.0.unwrap();
        assert!(server.count() > asked + 2);
    }
}

#[tokio::test]
async fn c24_metadata_of_another_issuer_gets_no_secret() {
    let (server, world) = discovering("/.well-known/oauth-authorization-server/realms/shop ", "/evil").await;
    let failure = fetch(&world).await.unwrap_err();
    assert_eq!(failure.cause, Cause::Discovery);
    assert!(!failure.text.contains("evil"), "{failure}");
    assert!((0..server.count()).all(|index| server.asked(index).line.starts_with("GET ")));
}

#[tokio::test]
async fn out_7_a_secret_that_is_rotated_is_used_for_the_next_token() {
    let server = TokenServer::start(|_, _| Answer::token("t", 300)).await;
    let world = World::new(&server);
    let source = world.source();
    for (index, (secret, sent)) in
        [("s3cret\n", "Basic Y2hlY2tvdXQ6czNjcmV0"), ("new", "Basic Y2hlY2tvdXQ6bmV3")]
            .into_iter()
            .enumerate()
    {
        world.write_secret(secret);
        source.fetch(FETCH_LIMIT).await.0.unwrap();
        assert_eq!(server.asked(index).header("authorization"), Some(sent));
    }
}

/// A JWT, as far as one can see who does not verify it.
const JWT: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzcGlmZmU6Ly9hL2IifQ.c2ln";

/// What arrives from a client that authenticates so.
async fn asked_by(authentication: impl Fn(&World) -> Authentication, content: &str) -> Asked {
    let server = TokenServer::start(|_, _| Answer::token("t", 300)).await;
    let mut world = World::new(&server);
    world.write_secret(content);
    world.credential.authentication = authentication(&world);
    fetch(&world).await.unwrap();
    assert_eq!(server.asked(0).line, "POST /token?tenant=acme HTTP/1.1", "nothing of it is in the URL");
    server.asked(0)
}

fn workload_token(usage: WorkloadTokenUse) -> impl Fn(&World) -> Authentication {
    move |world| Authentication::WorkloadToken { token_file: world.file("secret"), usage }
}

/// The parameters and fields that authenticate a client.
fn proofs(asked: &Asked) -> Vec<&'static str> {
    let sent = |name: &&str| asked.parameter(name).is_some();
    let mut proofs: Vec<_> =
        ["client_secret", "client_assertion", "assertion"].into_iter().filter(sent).collect();
    proofs.extend(asked.header("authorization").map(|_| "authorization"));
    proofs
}

#[tokio::test]
async fn c4_c6_a_secret_in_the_body_is_there_alone() {
    let post = |world: &World| Authentication::ClientSecretPost { secret_file: world.file("secret") };
    let asked = asked_by(post, "s&=+ €\n").await;
    assert_eq!(asked.parameter("client_id").as_deref(), Some("checkout"));
    assert_eq!(asked.parameter("client_secret").as_deref(), Some("s&=+ €"));
    assert_eq!(proofs(&asked), ["client_secret"]);
    let basic = |world: &World| Authentication::ClientSecretBasic { secret_file: world.file("secret") };
    assert_eq!(proofs(&asked_by(basic, "s").await), ["authorization"]);
}

#[tokio::test]
async fn c4_c21_the_token_of_a_platform_is_a_client_assertion_of_the_type_that_policy_says() {
    for (kind, name) in [(AssertionType::JwtBearer, "jwt-bearer"), (AssertionType::JwtSpiffe, "jwt-spiffe")] {
        // With the newline that some write at the end.
        let asked =
            asked_by(workload_token(WorkloadTokenUse::ClientAssertion(kind)), &format!("{JWT}\n")).await;
        assert_eq!(asked.parameter("grant_type").as_deref(), Some("client_credentials"));
        assert_eq!(asked.parameter("client_assertion").as_deref(), Some(JWT));
        let written = format!("urn:ietf:params:oauth:client-assertion-type:{name}");
        assert_eq!(asked.parameter("client_assertion_type"), Some(written));
        assert_eq!(asked.parameter("client_id").as_deref(), Some("checkout"));
        assert_eq!(proofs(&asked), ["client_assertion"]);
    }
}

#[tokio::test]
async fn c4_c21_the_token_of_a_platform_as_a_grant_is_no_client_assertion() {
    let asked = asked_by(workload_token(WorkloadTokenUse::AuthorizationGrant), JWT).await;
    let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
    assert_eq!(asked.parameter("grant_type").as_deref(), Some(grant));
    assert_eq!(asked.parameter("assertion").as_deref(), Some(JWT));
    assert_eq!((asked.parameter("client_assertion_type"), proofs(&asked)), (None, vec!["assertion"]));
    assert_eq!(asked.parameter("scope").as_deref(), Some("orders:write"));
}

#[tokio::test]
async fn c21_what_is_no_jwt_is_not_sent() {
    let server = TokenServer::start(|_, _| Answer::token("t", 300)).await;
    let mut world = World::new(&server);
    world.credential.authentication = workload_token(WorkloadTokenUse::AuthorizationGrant)(&world);
    for content in ["", "s3cret", "a.b", "a..c", "a.b.c.d", "a.b.c d", "a.b.c=", "a.b.\u{e9}"] {
        world.write_secret(content);
        let failure = fetch(&world).await.unwrap_err();
        assert_eq!(failure.cause, Cause::Credential, "{content}");
        assert!(failure.text.starts_with("secret cannot be used: it holds no JWT"), "{failure}");
    }
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn c4_c22_a_client_is_known_by_its_certificate_and_named_by_client_id() {
    let authority = Authority::new();
    let server =
        TokenServer::start_tls(authority.acceptor(Asks::Demands), |_, _| Answer::token("t", 300)).await;
    let mut world = World::new(&server);
    world.over_tls(&server, &authority);
    world.credential.authentication = Authentication::TlsClientAuth(world.pair());
    for index in 0..2 {
        // Rotated: the next fetch has it.
        let ours = authority.issue("checkout");
        world.write_pair(&ours);
        let held = fetch(&world).await.unwrap();
        assert!(held.shown.certificate().is_none(), "bound to nothing, since nobody asked for it");
        let asked = server.asked(index);
        assert_eq!(asked.certificate, Some(ours.thumbprint));
        assert_eq!(asked.parameter("client_id").as_deref(), Some("checkout"));
        assert_eq!(proofs(&asked), Vec::<&str>::new());
    }
}

#[tokio::test]
async fn c22_a_certificate_that_cannot_be_shown_is_an_error_and_asks_nobody() {
    let authority = Authority::new();
    let server = TokenServer::start_tls(authority.acceptor(Asks::No), |_, _| Answer::token("t", 300)).await;
    let mut world = World::new(&server);
    world.over_tls(&server, &authority);
    world.credential.authentication = Authentication::TlsClientAuth(world.pair());
    let failure = fetch(&world).await.unwrap_err();
    assert_eq!(failure.cause, Cause::Credential);
    assert!(failure.text.contains("tls.crt"), "{failure}");

    world.write_pair(&authority.issue("checkout"));
    let failure = fetch(&world).await.unwrap_err();
    assert_eq!(failure.cause, Cause::Tls);
    assert!(failure.text.contains("did not ask for our client certificate"), "{failure}");

    world.issuer.token_endpoint = Some(format!("http://localhost:{}/token", server.port));
    let failure = fetch(&world).await.unwrap_err();
    assert_eq!(failure.cause, Cause::Address);
    assert!(failure.text.contains("over https alone"), "{failure}");
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn c22_who_has_a_certificate_asks_at_the_alias_for_those_and_nobody_else_does() {
    let authority = Authority::new();
    let alias =
        TokenServer::start_tls(authority.acceptor(Asks::Demands), |_, _| Answer::token("bound", 300)).await;
    let port = Arc::new(std::sync::OnceLock::new());
    let plain = TokenServer::start({
        let (port, alias) = (port.clone(), alias.port);
        move |_, asked| match asked.line.starts_with("GET ") {
            true => {
                let origin = format!("http://127.0.0.1:{}", port.get().unwrap());
                let aliases = format!(r#"{{"token_endpoint":"https://localhost:{alias}/token","other":1}}"#);
                Answer::json(format!(
                    r#"{{"issuer":"{origin}","token_endpoint":"{origin}/t","mtls_endpoint_aliases":{aliases}}}"#
                ))
            }
            false => Answer::token("plain", 300),
        }
    })
    .await;
    port.set(plain.port).unwrap();
    let mut world = World::new(&plain);
    world.over_tls(&alias, &authority);
    world.issuer.issuer = format!("http://127.0.0.1:{}", plain.port).into();
    world.issuer.token_endpoint = None;
    let ours = authority.issue("checkout");
    world.write_pair(&ours);
    assert_eq!(fetch(&world).await.unwrap().shown.authorization, "Bearer plain");

    // With a secret still, but bound to the certificate.
    world.request.binding = TokenBinding::Certificate(world.pair());
    let held = fetch(&world).await.unwrap();
    assert_eq!(held.shown.authorization, "Bearer bound");
    assert_eq!(held.shown.certificate().unwrap().thumbprint, ours.thumbprint);
    assert_eq!(alias.asked(0).certificate, Some(ours.thumbprint));
    assert_eq!(proofs(&alias.asked(0)), ["authorization"]);

    // What policy names wins.
    world.issuer.token_endpoint = Some(format!("https://localhost:{}/named", alias.port));
    fetch(&world).await.unwrap();
    assert_eq!(alias.asked(1).line, "POST /named HTTP/1.1");
}
