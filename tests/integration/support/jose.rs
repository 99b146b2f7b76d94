//! How is a token made, byte by byte? A signer of our own, so that a test can write whatever a forger could.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::now;

/// A P-256 key of an issuer that exists in the test alone.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) kid: String,
    pair: EcdsaKeyPair,
}

impl Key {
    pub(crate) fn new(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        Self { kid: kid.to_owned(), pair }
    }

    /// The public key as a JWK (RFC 7517).
    pub(crate) fn public(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let coordinate = |range| encode(&point[range]);
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
            "x": coordinate(1..33), "y": coordinate(33..65),
        })
    }

    /// The public key alone, as a proof carries it.
    pub(crate) fn embedded(&self) -> Value {
        let public = self.public();
        json!({"kty": public["kty"], "crv": public["crv"], "x": public["x"], "y": public["y"]})
    }

    /// The thumbprint (RFC 7638 §3.1), as in `cnf.jkt`.
    pub(crate) fn thumbprint(&self) -> String {
        let key = self.public();
        let text = |name: &str| key[name].as_str().expect("a text").to_owned();
        let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, text("x"), text("y"));
        hash(&members)
    }

    /// A DPoP proof (RFC 9449 §4.2) for a GET with this token, with these claims on top; `null` takes a claim away.
    pub(crate) fn proof(&self, token: &str, over: &Value) -> String {
        self.sign(&self.proof_header(), &proof_claims(token, over))
    }

    /// The header of a proof.
    pub(crate) fn proof_header(&self) -> Value {
        json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": self.embedded()})
    }

    /// The private key in PEM (PKCS #8), for `privateKeyJwt`.
    pub(crate) fn private_pem(&self) -> String {
        let document = self.pair.to_pkcs8v1().expect("a generated key can be written");
        let base64 = base64::engine::general_purpose::STANDARD.encode(document.as_ref());
        let lines: Vec<&str> =
            (0..base64.len()).step_by(64).map(|at| &base64[at..base64.len().min(at + 64)]).collect();
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
    }

    /// A compact JWS over exactly this header and these claims.
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        let input =
            format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes()).expect("signs");
        format!("{input}.{}", encode(signature.as_ref()))
    }

    /// A token with the header of an RFC 9068 access token.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.sign(&json!({"alg": "ES256", "typ": "at+jwt", "kid": self.kid}), claims)
    }
}

/// A key set (RFC 7517 §5).
pub(crate) fn key_set(keys: &[&Key]) -> Value {
    json!({ "keys": keys.iter().map(|key| key.public()).collect::<Vec<_>>() })
}

/// The claims of a good token (RFC 9068 §2.2), with these on top; `null` takes a claim away.
pub(crate) fn claims(issuer: &str, over: &Value) -> Value {
    let mut claims = json!({
        "iss": issuer, "aud": "https://orders.shop", "sub": "checkout", "client_id": "checkout",
        "jti": format!("jti-{}", encode(&rand())), "iat": now(), "exp": now() + 300, "scope": "orders:read",
    });
    put(&mut claims, over);
    claims
}

/// The claims of a good proof but for `htu`, with these on top.
pub(crate) fn proof_claims(token: &str, over: &Value) -> Value {
    let mut claims = json!({"jti": encode(&rand()), "htm": "GET", "iat": now(), "ath": hash(token)});
    put(&mut claims, over);
    claims
}

/// Sets these members; `null` takes one away.
fn put(object: &mut Value, over: &Value) {
    for (name, value) in over.as_object().expect("an object") {
        match value {
            Value::Null => object.as_object_mut().expect("an object").remove(name),
            _ => object.as_object_mut().expect("an object").insert(name.clone(), value.clone()),
        };
    }
}

/// SHA-256 in base64url.
pub(crate) fn hash(text: &str) -> String {
    encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref())
}

pub(crate) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The claims of a token, unverified.
pub(crate) fn decode(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64url")).expect("JSON")
}

fn rand() -> [u8; 8] {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("random bytes");
    bytes
}
