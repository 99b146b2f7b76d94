mod dpop;

use countersign_policy::snapshot::Algorithm;

use super::*;
use crate::auth::tokens::server::{Answer, Asked, TokenServer, World};

async fn fetch(world: &World) -> Result<Held, Failure> {
    world.source().fetch().await.0
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
        source.fetch().await.0.unwrap();
        let asked = server.count();
        source.fetch().await.0.unwrap();
        assert_eq!(server.count(), asked + 1);
        world.clock.advance(Duration::from_secs(3600));
        source.fetch().await.0.unwrap();
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
        source.fetch().await.0.unwrap();
        assert_eq!(server.asked(index).header("authorization"), Some(sent));
    }
}
