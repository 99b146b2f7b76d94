//! Which keys of a JWK Set (RFC 7517 §5) can verify, and which of them a token is signed with? Whatever cannot be used is
//! skipped, never fatal; what can is prepared once, so that a verification builds nothing.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use countersign_policy::snapshot::{Algorithm, Issuer};
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, EllipticCurveKeyParameters, Jwk, KeyOperations,
    OctetKeyPairParameters, PublicKeyUse, RSAKeyParameters, ThumbprintHash,
};
use serde_json::Value;

/// Of a JWK Set, in bytes.
pub(crate) const JWKS_LIMIT: usize = 1024 * 1024;
/// Of the members of `keys`.
const KEYS_LIMIT: usize = 100;

/// The usable keys of an issuer at one time. At least one.
#[derive(Debug)]
pub(crate) struct KeySet {
    keys: Vec<Arc<Key>>,
    fingerprint: [u8; 32],
}

/// A key that is ready to verify.
#[derive(Debug)]
pub(crate) struct Key {
    kid: Option<String>,
    /// RFC 7638, base64url.
    thumbprint: String,
    /// One for each algorithm that key and issuer both admit.
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
}

/// Why a document brings no keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JwksError {
    #[error("the key set is larger than 1 MiB")]
    TooLarge,
    #[error("the document is not a JWK Set")]
    NotAKeySet,
    #[error("the key set has more than 100 keys")]
    TooManyKeys,
    #[error("the key set holds no key that can verify with the issuer's algorithms")]
    NoUsableKey,
}

/// What a key set says to a key id and an algorithm.
#[derive(Debug)]
pub(crate) enum Lookup<'a> {
    /// The one key that fits.
    Key(&'a Arc<Key>),
    /// There is such a key id, or none was named, but not exactly one such key fits the algorithm.
    Unfit,
    /// No key has this id.
    UnknownId,
}

// === impl KeySet ===

impl KeySet {
    /// Parses a document. Names that occur twice in it count once, the last of them (RFC 7517 §4).
    pub(crate) fn parse(bytes: &[u8], issuer: &Issuer) -> Result<Self, JwksError> {
        if bytes.len() > JWKS_LIMIT {
            return Err(JwksError::TooLarge);
        }
        let document: Value = serde_json::from_slice(bytes).map_err(|_| JwksError::NotAKeySet)?;
        Self::from_document(&document, issuer)
    }

    pub(crate) fn from_document(document: &Value, issuer: &Issuer) -> Result<Self, JwksError> {
        let members = document.get("keys").and_then(Value::as_array).ok_or(JwksError::NotAKeySet)?;
        if members.len() > KEYS_LIMIT {
            return Err(JwksError::TooManyKeys);
        }
        let mut keys: Vec<Key> = Vec::new();
        for key in members.iter().filter_map(|member| Key::parse(member, &issuer.algorithms)) {
            // Some issuers list one key once per algorithm.
            match keys.iter_mut().find(|k| k.kid == key.kid && k.thumbprint == key.thumbprint) {
                Some(same) => same.admit(key),
                None => keys.push(key),
            }
        }
        if keys.is_empty() {
            return Err(JwksError::NoUsableKey);
        }
        let fingerprint = fingerprint(&issuer.fingerprint, &keys);
        Ok(Self { keys: keys.into_iter().map(Arc::new).collect(), fingerprint })
    }

    /// The one key with this id that fits the algorithm; without an id, the only key that does. Two that fit are none:
    /// which of them was meant is not ours to guess.
    pub(crate) fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Lookup<'_> {
        let mut named = self.keys.iter().filter(|key| kid.is_none() || key.kid.as_deref() == kid).peekable();
        if kid.is_some() && named.peek().is_none() {
            return Lookup::UnknownId;
        }
        let mut fitting = named.filter(|key| key.verifier(algorithm).is_some());
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Lookup::Key(key),
            _ => Lookup::Unfit,
        }
    }

    /// Changes with every key, its id and algorithms, and with the issuer's settings: the tag of verdicts.
    pub(crate) fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }
}

fn fingerprint(issuer: &[u8; 32], keys: &[Key]) -> [u8; 32] {
    let mut parts: Vec<String> = keys
        .iter()
        .map(|key| {
            let mut algorithms: Vec<_> = key.verifiers.iter().map(|(a, _)| format!("{a:?}")).collect();
            algorithms.sort_unstable();
            // The id comes last and is quoted: no two sets can be written alike.
            format!("{} {} {:?}", key.thumbprint, algorithms.join(","), key.kid)
        })
        .collect();
    parts.sort_unstable();
    let mut context = Context::new(&SHA256);
    context.update(issuer);
    for part in parts {
        context.update(part.as_bytes());
        context.update(b"\n");
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

// === impl Key ===

impl Key {
    /// The key, if it may verify with at least one of these algorithms.
    fn parse(member: &Value, allowed: &[Algorithm]) -> Option<Self> {
        Self::prepare(serde_json::from_value(member.clone()).ok()?, named(member), allowed)
    }

    /// The key in the header of a proof (RFC 9449 §4.2), if it has this thumbprint and may verify with the algorithm. Asks for
    /// the thumbprint first: a key of somebody else's choice costs a hash.
    pub(crate) fn embedded(member: &Value, thumbprint: &str, algorithm: Algorithm) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(member.clone()).ok()?;
        if jwk.thumbprint(ThumbprintHash::SHA256).ok()? != thumbprint {
            return None;
        }
        Self::prepare(jwk, named(member), &[algorithm])
    }

    /// `own`: the one algorithm that the key is for, if it names one.
    fn prepare(jwk: Jwk, own: Option<&str>, allowed: &[Algorithm]) -> Option<Self> {
        if jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
            return None;
        }
        if jwk.common.key_operations.as_ref().is_some_and(|ops| !ops.contains(&KeyOperations::Verify)) {
            return None;
        }
        let admits = |a: &Algorithm| allowed.contains(a) && own.is_none_or(|own| is_name_of(own, *a));
        let verifiers = match &jwk.algorithm {
            AlgorithmParameters::RSA(key) => rsa(key, admits)?,
            AlgorithmParameters::EllipticCurve(key) => elliptic(key, admits)?,
            AlgorithmParameters::OctetKeyPair(key) => edwards(key, admits)?,
            _ => return None,
        };
        if verifiers.is_empty() {
            return None;
        }
        let thumbprint = jwk.thumbprint(ThumbprintHash::SHA256).ok()?;
        Some(Self { kid: jwk.common.key_id, thumbprint, verifiers })
    }

    /// Was this signed with the key? `signature` as JWS has it: R‖S of exact length for ECDSA (RFC 7518 §3.4).
    pub(crate) fn verify(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        self.verifier(algorithm).is_some_and(|key| key.verify_sig(signed, signature).is_ok())
    }

    fn verifier(&self, algorithm: Algorithm) -> Option<&ParsedPublicKey> {
        self.verifiers.iter().find(|(a, _)| *a == algorithm).map(|(_, key)| key)
    }

    fn admit(&mut self, same: Key) {
        for (algorithm, verifier) in same.verifiers {
            if self.verifier(algorithm).is_none() {
                self.verifiers.push((algorithm, verifier));
            }
        }
    }
}

type Verifiers = Vec<(Algorithm, ParsedPublicKey)>;

/// RSA of 2048 to 8192 bits, its exponent odd, at least 3 and of at most 32 bits, since it is what a verification costs
/// (RFC 7518 §3.3, NIST SP 800-56B §6.2).
fn rsa(key: &RSAKeyParameters, admits: impl Fn(&Algorithm) -> bool) -> Option<Verifiers> {
    const ALGORITHMS: [(Algorithm, &RsaParameters); 6] = [
        (Algorithm::RS256, &RSA_PKCS1_2048_8192_SHA256),
        (Algorithm::RS384, &RSA_PKCS1_2048_8192_SHA384),
        (Algorithm::RS512, &RSA_PKCS1_2048_8192_SHA512),
        (Algorithm::PS256, &RSA_PSS_2048_8192_SHA256),
        (Algorithm::PS384, &RSA_PSS_2048_8192_SHA384),
        (Algorithm::PS512, &RSA_PSS_2048_8192_SHA512),
    ];
    let n = integer(&key.n)?;
    let e = integer(&key.e)?;
    let bits = n.len().checked_mul(8)?.checked_sub(usize::try_from(n.first()?.leading_zeros()).ok()?)?;
    let exponent_is_fine = e.last()? % 2 == 1 && e != [1] && e.len() <= 4;
    if !(2048..=8192).contains(&bits) || n.last()? % 2 == 0 || !exponent_is_fine {
        return None;
    }
    let components = RsaPublicKeyComponents { n: &n, e: &e };
    ALGORITHMS
        .into_iter()
        .filter(|(algorithm, _)| admits(algorithm))
        .map(|(algorithm, parameters)| Some((algorithm, components.to_parsed_public_key(parameters).ok()?)))
        .collect()
}

/// P-256 or P-384, the point on its curve; parsing sees to that (RFC 7518 §6.2.1).
fn elliptic(key: &EllipticCurveKeyParameters, admits: impl Fn(&Algorithm) -> bool) -> Option<Verifiers> {
    let (algorithm, parameters, size) = match key.curve {
        EllipticCurve::P256 => (Algorithm::ES256, &ECDSA_P256_SHA256_FIXED, 32),
        EllipticCurve::P384 => (Algorithm::ES384, &ECDSA_P384_SHA384_FIXED, 48),
        _ => return None,
    };
    let (x, y) = (decode(&key.x)?, decode(&key.y)?);
    if x.len() != size || y.len() != size || !admits(&algorithm) {
        return None;
    }
    let point = [&[4], &x[..], &y[..]].concat();
    Some(vec![(algorithm, ParsedPublicKey::new(parameters, point).ok()?)])
}

/// Ed25519 (RFC 8037 §2), without the points for which a signature proves nothing.
fn edwards(key: &OctetKeyPairParameters, admits: impl Fn(&Algorithm) -> bool) -> Option<Verifiers> {
    let x = decode(&key.x)?;
    let usable = key.curve == EllipticCurve::Ed25519 && x.len() == 32 && !is_small_order(&x);
    if !usable || !admits(&Algorithm::EdDSA) {
        return None;
    }
    Some(vec![(Algorithm::EdDSA, ParsedPublicKey::new(&ED25519, x).ok()?)])
}

/// The y coordinates, little-endian, of the points of order 1, 2, 4 and 8, and 0 and 1 written as p and p+1. Such a key
/// "verifies" signatures that nobody made (RFC 8032 §8.9 leaves it to us; the table is that of libsodium).
fn is_small_order(encoded: &[u8]) -> bool {
    const ORDER_8: [[u8; 32]; 2] = [
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
            0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
            0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ],
    ];
    let mut y = encoded.to_vec();
    // The top bit is the sign of x.
    if let Some(last) = y.last_mut() {
        *last &= 0x7f;
    }
    if ORDER_8.iter().any(|point| y == point) {
        return true;
    }
    let Some((first, rest)) = y.split_first() else { return true };
    let Some((last, middle)) = rest.split_last() else { return true };
    let zero_or_one = *first <= 1 && *last == 0 && middle.iter().all(|b| *b == 0);
    // p-1 has order 2; all above it is not canonical.
    let from_p_minus_1 = *first >= 0xec && *last == 0x7f && middle.iter().all(|b| *b == 0xff);
    zero_or_one || from_p_minus_1
}

fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()
}

/// A positive integer (RFC 7518 §2, Base64urlUInt). Some issuers write the zero byte of its DER form; it changes nothing.
fn integer(text: &str) -> Option<Vec<u8>> {
    let bytes = decode(text)?;
    let start = bytes.iter().position(|b| *b != 0)?;
    bytes.get(start..).map(<[u8]>::to_vec)
}

/// `alg` of a JWK (RFC 7517 §4.4). Parsing has made sure that it is a string.
fn named(member: &Value) -> Option<&str> {
    member.get("alg").and_then(Value::as_str)
}

/// `Ed25519` is the new name of the one thing that `EdDSA` stands for here (RFC 9864 §2.2).
fn is_name_of(name: &str, algorithm: Algorithm) -> bool {
    name == algorithm.as_str() || (name == "Ed25519" && algorithm == Algorithm::EdDSA)
}

#[cfg(test)]
mod tests;
