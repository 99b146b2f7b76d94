//! How do we prove that a token is ours? A key that never leaves this process signs one proof for each request (RFC 9449 §4).

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Serialize;

/// The field of a server's nonce (RFC 9449 §8.1).
pub const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");
/// Of a nonce, in bytes: it has to fit into a header field twice, there and back.
const LONGEST_NONCE: usize = 2048;

/// The key that the tokens of one credential are bound to: P-256, made here, in memory alone.
pub(crate) struct ProofKey {
    pair: EcdsaKeyPair,
    /// The header of every proof, encoded, with the dot after it.
    header: String,
    thumbprint: String,
}

/// What one proof says (RFC 9449 §4.2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claims<'a> {
    pub method: &'a Method,
    /// As [`target_uri`] writes it.
    pub uri: &'a str,
    /// Hash of the token that the proof goes along with, by [`token_hash`].
    pub token_hash: Option<&'a str>,
    pub nonce: Option<&'a str>,
    /// NumericDate.
    pub now: i64,
}

/// The random generator or the signature failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no DPoP proof can be signed; the system's random generator does not work")]
pub struct Unprovable;

/// The newest nonce of one server: it goes into every proof for that server until there is another (RFC 9449 §8.2).
#[derive(Default)]
pub struct NewestNonce(Mutex<Option<Arc<str>>>);

// === impl ProofKey ===

impl ProofKey {
    pub(crate) fn generate() -> Result<Self, Unprovable> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| Unprovable)?;
        // An uncompressed point (SEC 1, 2.3.3): a byte that says so, then the coordinates.
        let Some((&4, point)) = pair.public_key().as_ref().split_first() else { return Err(Unprovable) };
        let (x, y) = point.split_at_checked(32).filter(|(_, y)| y.len() == 32).ok_or(Unprovable)?;
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        // The members that are demanded, in the order of their names (RFC 7638 §3.2).
        let jwk = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let header = format!(r#"{{"typ":"dpop+jwt","alg":"ES256","jwk":{jwk}}}"#);
        Ok(Self {
            pair,
            header: format!("{}.", URL_SAFE_NO_PAD.encode(header)),
            thumbprint: URL_SAFE_NO_PAD.encode(digest(&SHA256, jwk.as_bytes())),
        })
    }

    /// JWK thumbprint (RFC 7638): what a token that is bound to this key has as `cnf.jkt` (RFC 9449 §6.1).
    pub(crate) fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// A proof that no other request has had: its `jti` is 128 random bits.
    pub(crate) fn prove(&self, claims: &Claims<'_>) -> Result<HeaderValue, Unprovable> {
        let mut jti = [0; 16];
        rand::fill(&mut jti).map_err(|_| Unprovable)?;
        let payload = serde_json::to_vec(&Payload {
            jti: &URL_SAFE_NO_PAD.encode(jti),
            htm: claims.method.as_str(),
            htu: claims.uri,
            iat: claims.now,
            ath: claims.token_hash,
            nonce: claims.nonce,
        })
        .map_err(|_| Unprovable)?;
        let mut proof = String::with_capacity(self.header.len() + payload.len() * 4 / 3 + 96);
        proof.push_str(&self.header);
        URL_SAFE_NO_PAD.encode_string(payload, &mut proof);
        let signature = self.pair.sign(&SystemRandom::new(), proof.as_bytes()).map_err(|_| Unprovable)?;
        proof.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut proof);
        let mut value = HeaderValue::try_from(proof).map_err(|_| Unprovable)?;
        // Of no use to a table of header fields either: it never comes again.
        value.set_sensitive(true);
        Ok(value)
    }
}

#[derive(Serialize)]
struct Payload<'a> {
    jti: &'a str,
    htm: &'a str,
    htu: &'a str,
    iat: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ath: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<&'a str>,
}

impl fmt::Debug for ProofKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// `ath`: SHA-256 of the token, in base64url.
pub(crate) fn token_hash(token: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, token.as_bytes()))
}

/// `htu`: what is asked for without query and fragment, in normal form but for the path, which is as it is sent (RFC 3986
/// §6.2.2.1, §6.2.3).
pub fn target_uri(scheme: &Scheme, authority: &str, path: &str) -> String {
    let authority = authority.to_ascii_lowercase();
    let default = if *scheme == Scheme::HTTPS { ":443" } else { ":80" };
    let host = authority.strip_suffix(default).or(authority.strip_suffix(':')).unwrap_or(&authority);
    format!("{}://{host}{path}", scheme.as_str())
}

// === impl NewestNonce ===

impl NewestNonce {
    pub fn newest(&self) -> Option<Arc<str>> {
        self.lock().clone()
    }

    /// Remembers what an answer says, whatever its status is. Did it say any?
    pub fn observe(&self, headers: &HeaderMap) -> bool {
        let Some(nonce) = nonce(headers) else { return false };
        let mut newest = self.lock();
        if newest.as_deref() != Some(nonce) {
            *newest = Some(nonce.into());
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<str>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for NewestNonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The one nonce of an answer: `1*NQCHAR` (RFC 9449 §8.1).
fn nonce(headers: &HeaderMap) -> Option<&str> {
    let mut fields = headers.get_all(DPOP_NONCE).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else { return None };
    let is_nqchar = |&byte: &u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    let nonce = field.to_str().ok()?;
    let fits = (1..=LONGEST_NONCE).contains(&nonce.len()) && nonce.as_bytes().iter().all(is_nqchar);
    fits.then_some(nonce)
}

#[cfg(test)]
pub(crate) mod tests;
