//! How do we know a client's signature? Its public keys, as JWKs (RFC 7517) or PEM, each with the algorithms that fit it.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// What may sign an assertion: neither HMAC nor none.
pub(super) const ASSERTION_ALGORITHMS: [&str; 9] =
    ["ES256", "ES384", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA"];

const RSA_ALGORITHMS: [(&str, &RsaParameters); 6] = [
    ("RS256", &RSA_PKCS1_2048_8192_SHA256),
    ("RS384", &RSA_PKCS1_2048_8192_SHA384),
    ("RS512", &RSA_PKCS1_2048_8192_SHA512),
    ("PS256", &RSA_PSS_2048_8192_SHA256),
    ("PS384", &RSA_PSS_2048_8192_SHA384),
    ("PS512", &RSA_PSS_2048_8192_SHA512),
];

/// A public key that was parsed once and is on its curve.
#[derive(Debug)]
pub(super) struct PublicKey {
    kid: Option<String>,
    by_algorithm: Vec<(&'static str, ParsedPublicKey)>,
}

/// `{keys: [...]}`, every key of which must be usable: it was written by hand, so nothing is skipped in silence.
#[derive(Debug)]
pub(super) struct Jwks(pub(super) Vec<PublicKey>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenJwks {
    keys: Vec<PublicKey>,
}

/// Members that we understand (RFC 7518 §6, RFC 8037); others are ignored, as RFC 7517 §4 wants it.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    public_key_use: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    // Private members, looked for only to be refused.
    d: Option<serde::de::IgnoredAny>,
    k: Option<serde::de::IgnoredAny>,
}

// === impl PublicKey ===

impl PublicKey {
    /// A SubjectPublicKeyInfo in PEM (`openssl pkey -pubout`).
    pub(super) fn from_pem(pem: &[u8]) -> Result<Self, &'static str> {
        let der =
            SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| "holds no PEM block PUBLIC KEY")?;
        let der = der.as_ref();
        if let Ok(key) = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, der) {
            return Ok(Self { kid: None, by_algorithm: vec![("ES256", key)] });
        }
        if let Ok(key) = ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, der) {
            return Ok(Self { kid: None, by_algorithm: vec![("ES384", key)] });
        }
        if let Ok(key) = ParsedPublicKey::new(&ED25519, der) {
            return Ok(Self { kid: None, by_algorithm: vec![("EdDSA", key)] });
        }
        let mut by_algorithm = Vec::new();
        for (name, parameters) in RSA_ALGORITHMS {
            by_algorithm.extend(ParsedPublicKey::new(parameters, der).ok().map(|key| (name, key)));
        }
        if by_algorithm.is_empty() {
            return Err("is a key of a kind that is not supported: use P-256, P-384, Ed25519 or RSA");
        }
        Ok(Self { kid: None, by_algorithm })
    }

    /// Whether this key may be meant by the header of an assertion.
    pub(super) fn may_be(&self, kid: Option<&str>) -> bool {
        match (kid, self.kid.as_deref()) {
            (Some(asked), Some(own)) => asked == own,
            _ => true,
        }
    }

    /// Whether the signature is this key's, under an algorithm that fits it.
    pub(super) fn verify(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        let key = self.by_algorithm.iter().find(|(name, _)| *name == algorithm);
        key.is_some_and(|(_, key)| key.verify_sig(message, signature).is_ok())
    }
}

impl TryFrom<Jwk> for PublicKey {
    type Error = &'static str;

    fn try_from(jwk: Jwk) -> Result<Self, &'static str> {
        if jwk.d.is_some() || jwk.k.is_some() {
            return Err("holds a private or symmetric key: write the public half alone");
        }
        if jwk.public_key_use.as_deref().is_some_and(|it| it != "sig") {
            return Err("is not a key for signatures (use)");
        }
        if jwk.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
            return Err("is not a key to verify with (key_ops)");
        }
        let bytes = |member: &Option<String>| -> Result<Vec<u8>, &'static str> {
            let text = member.as_deref().ok_or("lacks a member of its key type")?;
            URL_SAFE_NO_PAD.decode(text).map_err(|_| "has a member that is not base64url")
        };
        let mut by_algorithm = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("EC", Some("P-256")) => {
                let point = point(&bytes(&jwk.x)?, &bytes(&jwk.y)?, 32)?;
                let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
                vec![("ES256", key.map_err(|_| "is not a point on P-256")?)]
            }
            ("EC", Some("P-384")) => {
                let point = point(&bytes(&jwk.x)?, &bytes(&jwk.y)?, 48)?;
                let key = ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point);
                vec![("ES384", key.map_err(|_| "is not a point on P-384")?)]
            }
            ("OKP", Some("Ed25519")) => {
                let key = ParsedPublicKey::new(&ED25519, bytes(&jwk.x)?);
                vec![("EdDSA", key.map_err(|_| "is not an Ed25519 key")?)]
            }
            ("RSA", _) => rsa(&bytes(&jwk.n)?, &bytes(&jwk.e)?)?,
            _ => return Err("is of a kind that is not supported: use P-256, P-384, Ed25519 or RSA"),
        };
        if let Some(only) = jwk.alg {
            by_algorithm.retain(|(name, _)| *name == only);
        }
        if by_algorithm.is_empty() {
            return Err("has an alg that does not fit it");
        }
        Ok(Self { kid: jwk.kid, by_algorithm })
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(Jwk::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Jwks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = WrittenJwks::deserialize(deserializer)?;
        if written.keys.is_empty() || written.keys.len() > 10 {
            return Err(D::Error::custom("must hold 1 to 10 keys"));
        }
        Ok(Self(written.keys))
    }
}

/// An uncompressed point (SEC 1 §2.3.3); RFC 7518 §6.2.1.2 wants coordinates of full length.
fn point(x: &[u8], y: &[u8], length: usize) -> Result<Vec<u8>, &'static str> {
    if x.len() != length || y.len() != length {
        return Err("has coordinates of a wrong length");
    }
    Ok([&[0x04], x, y].concat())
}

fn rsa(n: &[u8], e: &[u8]) -> Result<Vec<(&'static str, ParsedPublicKey)>, &'static str> {
    let bits = n.len().saturating_mul(8);
    if n.first().is_none_or(|first| *first < 0x80) || !(2048..=8192).contains(&bits) {
        return Err("is not an RSA key of 2048 to 8192 bits");
    }
    let components = RsaPublicKeyComponents { n, e };
    let mut keys = Vec::new();
    for (name, parameters) in RSA_ALGORITHMS {
        let key = components.to_parsed_public_key(parameters).map_err(|_| "is not a usable RSA key")?;
        keys.push((name, key));
    }
    Ok(keys)
}
