//! How does a token come that is bound to a key of ours? Against an issuer that demands nonces, or does not know DPoP.

use serde_json::{Value, json};

use super::*;
use crate::auth::tokens::dpop::tests::verify;

/// A token of type DPoP, with these header fields more.
fn bound(headers: &str) -> Answer {
    let body = r#"{"access_token":"b0und","token_type":"dpop","expires_in":300}"#;
    Answer::new("200 OK", &format!("content-type: application/json\r\n{headers}"), body)
}

/// A refusal that demands a nonce, and may give one.
fn demand(status: &str, headers: &str) -> Answer {
    Answer::new(status, headers, r#"{"error":"use_dpop_nonce","error_description":"s3cret"}"#)
}

/// A world whose token is to be bound.
fn binding(server: &TokenServer) -> World {
    let mut world = World::new(server);
    world.request.binding = TokenBinding::Key;
    world
}

/// The one proof of a request, verified, and the thumbprint of its key.
fn proof(asked: &Asked) -> (Value, String) {
    let mut proofs = asked.headers.iter().filter(|(name, _)| name == "dpop");
    let (Some((_, proof)), None) = (proofs.next(), proofs.next()) else { panic!("not one proof") };
    verify(proof)
}

#[tokio::test]
async fn c26_a_token_request_carries_a_proof_and_the_token_is_shown_as_dpop() {
    let server = TokenServer::start(|_, _| bound("")).await;
    let world = binding(&server);
    let source = world.source();
    let before = source.services.clock.unix();
    let held = source.fetch(FETCH_LIMIT).await.0.unwrap();
    assert_eq!(held.shown.authorization, "DPoP b0und");
    let (said, thumbprint) = proof(&server.asked(0));
    assert_eq!(
        (&said["htm"], &said["htu"]),
        (&json!("POST"), &json!(format!("http://127.0.0.1:{}/token", server.port)))
    );
    assert!((before..=before + 10).contains(&said["iat"].as_i64().unwrap()));
    assert!(said.get("ath").is_none() && said.get("nonce").is_none(), "{said}");
    assert_eq!(thumbprint, source.key.as_ref().unwrap().thumbprint());

    // What goes along with a request to the destination is signed by the same key.
    let uri = "https://orders.shop/o";
    let shown = held.shown.bound().unwrap().prove(&Method::GET, uri, Some("n")).unwrap();
    let (said, thumbprint) = verify(shown.to_str().unwrap());
    assert_eq!(thumbprint, source.key.as_ref().unwrap().thumbprint());
    assert_eq!((&said["htm"], &said["htu"], &said["nonce"]), (&json!("GET"), &json!(uri), &json!("n")));
    assert_eq!(said["ath"], "s86z-DGusabruaMi6luTWxJt5lHAepy057GkzESBRQc");
    assert!(!format!("{held:?}").contains("b0und"), "{held:?}");
}

#[tokio::test]
async fn c26_a_token_that_is_not_bound_is_discarded_and_so_is_one_that_should_not_be() {
    let server = TokenServer::start(|_, _| Answer::token("b3arer", 300)).await;
    let failure = fetch(&binding(&server)).await.unwrap_err();
    assert_eq!(failure.cause, Cause::TokenType);
    assert!(failure.text.starts_with("the issuer granted a bearer token, which is not bound"), "{failure}");
    assert!(!failure.cause.is_permanent(), "the issuer's settings are not the credential's file");
    let other = cause_of(|_, _| Answer::json(r#"{"access_token":"t","token_type":"PoP"}"#)).await;
    assert_eq!(other, Cause::TokenType);

    let server = TokenServer::start(|_, _| bound("")).await;
    assert_eq!(fetch(&World::new(&server)).await.unwrap_err().cause, Cause::TokenType);
    assert_eq!(server.asked(0).header("dpop"), None);
}

#[tokio::test]
async fn c26_c20_a_nonce_that_is_demanded_goes_into_a_second_try_that_repeats_nothing() {
    use base64::Engine;
    for status in ["400 Bad Request", "401 Unauthorized"] {
        let server = TokenServer::start(move |before, _| match before {
            0 => demand(status, "DPoP-Nonce: first\r\n"),
            _ => bound("DPoP-Nonce: second\r\n"),
        })
        .await;
        let mut world = binding(&server);
        let Authentication::ClientSecretBasic { secret_file } = world.credential.authentication.clone()
        else {
            unreachable!()
        };
        let pair = aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap();
        let der = base64::engine::general_purpose::STANDARD.encode(pair.to_pkcs8().unwrap());
        world.write_secret(format!("-----BEGIN PRIVATE KEY-----\n{der}\n-----END PRIVATE KEY-----\n"));
        world.credential.authentication = Authentication::PrivateKeyJwt {
            key_file: secret_file,
            key_id: None,
            algorithm: Algorithm::EdDSA,
            audience: AssertionAudience::Issuer,
        };
        let source = world.source();
        source.fetch(FETCH_LIMIT).await.0.unwrap();
        assert_eq!(server.count(), 2, "one more, within the flight");
        let [(first, _), (second, _)] = [0, 1].map(|index| proof(&server.asked(index)));
        assert_eq!((first.get("nonce"), &second["nonce"]), (None, &json!("first")));
        assert_ne!(first["jti"], second["jti"]);
        let assertion = |index| server.asked(index).parameter("client_assertion").unwrap();
        assert_ne!(assertion(0), assertion(1), "its jti is fresh too");

        // The newest is remembered, from a token's answer too: the next request needs no second try.
        source.fetch(FETCH_LIMIT).await.0.unwrap();
        assert_eq!(server.count(), 3);
        assert_eq!(proof(&server.asked(2)).0["nonce"], "second");
    }
}

#[tokio::test]
async fn c26_a_nonce_is_asked_for_once_and_none_is_made_up() {
    for (headers, requests) in [("DPoP-Nonce: again\r\n", 2), ("", 1), ("DPoP-Nonce: \"\r\n", 1)] {
        let server = TokenServer::start(move |_, _| demand("400 Bad Request", headers)).await;
        let failure = fetch(&binding(&server)).await.unwrap_err();
        assert_eq!((failure.cause, server.count()), (Cause::UseDpopNonce, requests), "{headers}");
        assert!(!failure.cause.is_permanent() && !failure.text.contains("s3cret"), "{failure}");
    }
    // Whoever sent no proof has nothing to put a nonce into.
    let server = TokenServer::start(|_, _| demand("400 Bad Request", "DPoP-Nonce: n\r\n")).await;
    fetch(&World::new(&server)).await.unwrap_err();
    assert_eq!(server.count(), 1);
    // Another status, or another error, is no demand.
    for (status, error) in [("403 Forbidden", "use_dpop_nonce"), ("400 No", "invalid_grant")] {
        let body = format!(r#"{{"error":"{error}"}}"#);
        let server =
            TokenServer::start(move |_, _| Answer::new(status, "DPoP-Nonce: n\r\n", body.clone())).await;
        fetch(&binding(&server)).await.unwrap_err();
        assert_eq!(server.count(), 1, "{status} {error}");
    }
}

#[tokio::test]
async fn c26_a_proof_that_is_refused_says_to_look_at_the_clock() {
    let server = TokenServer::start(|_, _| Answer::error("400 Bad Request", "invalid_dpop_proof")).await;
    let failure = fetch(&binding(&server)).await.unwrap_err();
    assert_eq!((failure.cause, failure.cause.is_permanent()), (Cause::InvalidDpopProof, false));
    assert!(failure.text.contains("compare the clock"), "{failure}");
}

#[tokio::test]
async fn c26_without_a_key_nobody_is_asked_for_a_bound_token() {
    let server = TokenServer::start(|_, _| bound("")).await;
    let world = binding(&server);
    let source = TokenSource { key: None, ..world.source() };
    assert_eq!(source.fetch(FETCH_LIMIT).await.0.unwrap_err().cause, Cause::Internal);
    assert_eq!(server.count(), 0);
}
