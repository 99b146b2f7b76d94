use std::collections::HashSet;

use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::KeyPair;
use jsonwebtoken::{DecodingKey, Validation};
use serde_json::Value;

use super::*;

fn pem(tag: &str, der: &[u8]) -> String {
    format!("-----BEGIN {tag}-----\n{}\n-----END {tag}-----\n", STANDARD.encode(der))
}

fn assertion(algorithm: Algorithm) -> Assertion<'static> {
    let now = i64::try_from(jsonwebtoken::get_current_timestamp()).unwrap();
    Assertion {
        client_id: "checkout",
        audience: "https://login.example.com",
        algorithm,
        key_id: Some("k1"),
        now,
    }
}

/// Header and claims of an assertion that another implementation verifies.
fn verified(assertion: &Secret, algorithm: &str, key: &DecodingKey) -> (jsonwebtoken::Header, Value) {
    let mut validation = Validation::new(algorithm.parse().unwrap());
    validation.set_audience(&["https://login.example.com"]);
    validation.leeway = 0;
    let data = jsonwebtoken::decode::<Value>(assertion.expose(), key, &validation).unwrap();
    (data.header, data.claims)
}

fn rsa(size: KeySize) -> (Vec<u8>, Vec<u8>) {
    let key = RsaKeyPair::generate(size).unwrap();
    let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
    (der.as_ref().to_vec(), key.public_key().as_ref().to_vec())
}

#[test]
fn c5_id_and_secret_are_form_encoded_before_base64() {
    let plain = |value: HeaderValue| {
        let encoded = value.to_str().unwrap().strip_prefix("Basic ").unwrap().to_owned();
        String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap()
    };
    assert_eq!(plain(basic("checkout", "s3cret").unwrap()), "checkout:s3cret");
    assert_eq!(plain(basic("a:b", "+ % & : ~*-._").unwrap()), "a%3Ab:%2B+%25+%26+%3A+%7E*-._");
    assert_eq!(plain(basic("büro", "€ 5").unwrap()), "b%C3%BCro:%E2%82%AC+5");
    assert!(basic("a", "b").unwrap().is_sensitive());
}

#[test]
fn out_7_a_secret_file_is_text_without_one_trailing_newline() {
    assert_eq!(client_secret(b"s3cret"), Ok("s3cret"));
    assert_eq!(client_secret(b"s3cret\n"), Ok("s3cret"));
    assert_eq!(client_secret(b"s3cret\r\n"), Ok("s3cret"));
    assert_eq!(client_secret(b" s3cret \n\n"), Ok(" s3cret \n"));
    assert_eq!(client_secret(b""), Err(CredentialError::Empty));
    assert_eq!(client_secret(b"\n"), Err(CredentialError::Empty));
    assert_eq!(client_secret(b"s\xff"), Err(CredentialError::NotUtf8));
}

#[test]
fn c18_c19_what_an_assertion_says() {
    let (private, public) = rsa(KeySize::Rsa2048);
    let asked = assertion(Algorithm::RS256);
    let signed = asked.sign(pem("PRIVATE KEY", &private).as_bytes()).unwrap();
    let (header, claims) = verified(&signed, "RS256", &DecodingKey::from_rsa_der(&public));
    assert_eq!(header.typ.as_deref(), Some("client-authentication+jwt"));
    assert_eq!(header.kid.as_deref(), Some("k1"));
    assert_eq!((&claims["iss"], &claims["sub"]), (&"checkout".into(), &"checkout".into()));
    assert_eq!(claims["aud"], "https://login.example.com");
    assert_eq!((claims["iat"].as_i64(), claims["exp"].as_i64()), (Some(asked.now), Some(asked.now + 60)));
    let without = Assertion { key_id: None, ..asked }.sign(pem("PRIVATE KEY", &private).as_bytes()).unwrap();
    assert_eq!(verified(&without, "RS256", &DecodingKey::from_rsa_der(&public)).0.kid, None);
}

#[test]
fn c18_every_algorithm_and_form_of_key() {
    let (pkcs8, public) = rsa(KeySize::Rsa2048);
    // PKCS #8 of such a key is 26 bytes around PKCS #1.
    for (tag, der) in [("PRIVATE KEY", &pkcs8[..]), ("RSA PRIVATE KEY", &pkcs8[26..])] {
        for (algorithm, name) in [
            (Algorithm::RS256, "RS256"),
            (Algorithm::RS384, "RS384"),
            (Algorithm::RS512, "RS512"),
            (Algorithm::PS256, "PS256"),
            (Algorithm::PS384, "PS384"),
            (Algorithm::PS512, "PS512"),
        ] {
            let signed = assertion(algorithm).sign(pem(tag, der).as_bytes()).unwrap();
            verified(&signed, name, &DecodingKey::from_rsa_der(&public));
        }
    }
    for (algorithm, name, curve) in [
        (Algorithm::ES256, "ES256", &signature::ECDSA_P256_SHA256_FIXED_SIGNING),
        (Algorithm::ES384, "ES384", &signature::ECDSA_P384_SHA384_FIXED_SIGNING),
    ] {
        let pair = EcdsaKeyPair::generate(curve).unwrap();
        let public = DecodingKey::from_ec_der(pair.public_key().as_ref());
        let pkcs8 = pair.to_pkcs8v1().unwrap();
        let sec1: EcPrivateKeyRfc5915Der<'_> = pair.private_key().as_der().unwrap();
        for key in [pem("PRIVATE KEY", pkcs8.as_ref()), pem("EC PRIVATE KEY", sec1.as_ref())] {
            verified(&assertion(algorithm).sign(key.as_bytes()).unwrap(), name, &public);
        }
    }
    let pair = Ed25519KeyPair::generate().unwrap();
    let public = DecodingKey::from_ed_der(pair.public_key().as_ref());
    for pkcs8 in [pair.to_pkcs8v1().unwrap(), pair.to_pkcs8().unwrap()] {
        let key = pem("PRIVATE KEY", pkcs8.as_ref());
        verified(&assertion(Algorithm::EdDSA).sign(key.as_bytes()).unwrap(), "EdDSA", &public);
    }
}

#[test]
fn c20_each_assertion_has_its_own_jti() {
    let pair = Ed25519KeyPair::generate().unwrap();
    let key = pem("PRIVATE KEY", pair.to_pkcs8().unwrap().as_ref());
    let public = DecodingKey::from_ed_der(pair.public_key().as_ref());
    let jtis: HashSet<_> = (0..50)
        .map(|_| verified(&assertion(Algorithm::EdDSA).sign(key.as_bytes()).unwrap(), "EdDSA", &public).1)
        .map(|claims| claims["jti"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(jtis.len(), 50);
    assert!(jtis.iter().all(|jti| jti.len() >= 22));
}

#[test]
fn a_key_that_does_not_do_is_refused_with_its_reason() {
    let refused = |algorithm, key: &str| assertion(algorithm).sign(key.as_bytes()).unwrap_err();
    let p256 = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let p256 = pem("PRIVATE KEY", p256.to_pkcs8v1().unwrap().as_ref());
    for algorithm in [Algorithm::RS256, Algorithm::ES384, Algorithm::EdDSA] {
        assert_eq!(refused(algorithm, &p256), CredentialError::WrongKey, "{algorithm:?}");
    }
    for text in ["", "s3cret", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        assert_eq!(refused(Algorithm::ES256, text), CredentialError::NotPem);
    }
    assert_eq!(refused(Algorithm::ES256, &pem("PRIVATE KEY", b"nonsense")), CredentialError::WrongKey);
}
