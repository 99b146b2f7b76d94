use std::collections::HashSet;

use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};

use super::*;

/// Reads a proof with an implementation that is not ours, as RFC 9449 §4.3 says: what it claims, and the thumbprint of the key.
pub(crate) fn verify(proof: &str) -> (Value, String) {
    let header = decode_header(proof).unwrap();
    assert_eq!((header.typ.as_deref(), header.alg), (Some("dpop+jwt"), Algorithm::ES256));
    let jwk: Jwk = header.jwk.unwrap();
    let mut validation = Validation::new(Algorithm::ES256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let claims = decode(proof, &DecodingKey::from_jwk(&jwk).unwrap(), &validation).unwrap().claims;
    (claims, jwk.thumbprint(ThumbprintHash::SHA256).unwrap())
}

fn claims() -> Claims<'static> {
    Claims {
        method: &Method::GET,
        uri: "https://orders.shop/o",
        token_hash: None,
        nonce: None,
        now: 1_700_000_000,
    }
}

fn prove(key: &ProofKey, claims: &Claims<'_>) -> String {
    key.prove(claims).unwrap().to_str().unwrap().to_owned()
}

#[test]
fn c26_another_implementation_verifies_a_proof() {
    let key = ProofKey::generate().unwrap();
    let (mut said, thumbprint) = verify(&prove(&key, &claims()));
    assert_eq!(thumbprint, key.thumbprint());
    let jti = said.as_object_mut().unwrap().remove("jti").unwrap();
    assert_eq!(jti.as_str().unwrap().len(), 22, "128 bits");
    assert_eq!(said, json!({"htm": "GET", "htu": "https://orders.shop/o", "iat": 1_700_000_000}));

    let more = Claims { token_hash: Some("h"), nonce: Some("n"), method: &Method::POST, ..claims() };
    let (said, _) = verify(&prove(&key, &more));
    assert_eq!((&said["ath"], &said["nonce"], &said["htm"]), (&json!("h"), &json!("n"), &json!("POST")));
}

#[test]
fn c26_the_header_says_the_public_key_and_no_more() {
    let proof = prove(&ProofKey::generate().unwrap(), &claims());
    let header = URL_SAFE_NO_PAD.decode(proof.split('.').next().unwrap()).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    let members = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<HashSet<_>>();
    assert_eq!(members(&header), HashSet::from(["typ", "alg", "jwk"].map(str::to_owned)));
    assert_eq!(members(&header["jwk"]), HashSet::from(["crv", "kty", "x", "y"].map(str::to_owned)));
}

#[test]
fn c26_no_two_proofs_are_alike_and_no_two_keys() {
    let key = ProofKey::generate().unwrap();
    let jti = |_| verify(&prove(&key, &claims())).0["jti"].as_str().unwrap().to_owned();
    assert_eq!((0..100).map(jti).collect::<HashSet<_>>().len(), 100);
    assert_ne!(key.thumbprint(), ProofKey::generate().unwrap().thumbprint());
}

#[test]
fn c27_the_hash_of_a_token_is_that_of_rfc_9449() {
    // The example of RFC 9449 §7.1.
    let token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
    assert_eq!(token_hash(token), "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo");
}

#[test]
fn c26_c27_the_uri_is_in_normal_form_without_query_and_fragment() {
    for (uri, expected) in [
        ("https://orders.shop/a/b?c=d", "https://orders.shop/a/b"),
        ("HTTPS://Orders.Shop:443/A%2fb", "https://orders.shop/A%2fb"),
        ("https://orders.shop", "https://orders.shop/"),
        ("https://orders.shop:80/", "https://orders.shop:80/"),
        ("http://orders.shop:80/", "http://orders.shop/"),
        ("http://orders.shop:443/?", "http://orders.shop:443/"),
        ("http://[::1]:80/", "http://[::1]/"),
        ("https://[::443]/", "https://[::443]/"),
        ("https://orders.shop:8443/", "https://orders.shop:8443/"),
    ] {
        let uri: http::Uri = uri.parse().unwrap();
        assert_eq!(
            target_uri(uri.scheme().unwrap(), uri.authority().unwrap().as_str(), uri.path()),
            expected
        );
    }
}

#[test]
fn c26_the_newest_nonce_is_kept() {
    let newest = NewestNonce::default();
    let observe = |fields: &[&str]| {
        let field = |value: &&str| (DPOP_NONCE, HeaderValue::from_str(value).unwrap());
        (newest.observe(&fields.iter().map(field).collect()), newest.newest().as_deref().map(str::to_owned))
    };
    let kept = |nonce: &str| Some(nonce.to_owned());
    assert_eq!(observe(&[]), (false, None));
    assert_eq!(observe(&["one"]), (true, kept("one")));
    assert_eq!(observe(&["a~!.-_/+="]), (true, kept("a~!.-_/+=")));
    assert_eq!(observe(&[]), (false, kept("a~!.-_/+=")));
    for unusable in [&["a", "b"][..], &[""], &["a b"], &["a\"b"], &["a\\b"], &["a".repeat(2049).as_str()]] {
        assert_eq!(observe(unusable), (false, kept("a~!.-_/+=")), "{unusable:?}");
    }
}

#[test]
fn out_13_neither_key_nor_nonce_prints() {
    let nonce = NewestNonce::default();
    nonce.observe(&[(DPOP_NONCE, HeaderValue::from_static("n0nce"))].into_iter().collect());
    let key = ProofKey::generate().unwrap();
    assert_eq!(format!("{key:?} {nonce:?}"), "[redacted] [redacted]");
    let proof = key.prove(&claims()).unwrap();
    assert_eq!(format!("{proof:?}"), "Sensitive");
}
