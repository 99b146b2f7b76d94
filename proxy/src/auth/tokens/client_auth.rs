//! How do we prove who we are to a token endpoint? A client secret in `Authorization` (RFC 6749 §2.3.1) or a signed
//! assertion (RFC 7523 §2.2). One of the two, never both, never in the URL.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use countersign_policy::snapshot::Algorithm;
use http::HeaderValue;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;
use zeroize::{Zeroize, Zeroizing};

use crate::auth::tokens::form::form_encode;
use crate::auth::tokens::secret::Secret;

/// Seconds that an assertion lives: the request is sent at once.
const ASSERTION_LIFE: i64 = 60;

/// What is wrong with the content of a credential's file. Never holds any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CredentialError {
    #[error("it is empty; write the client secret into it")]
    Empty,
    #[error("it is not UTF-8; a client secret is text")]
    NotUtf8,
    #[error("it holds no PEM private key (PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY)")]
    NotPem,
    #[error("its key does not fit the credential's algorithm (RSA needs 2048 bits or more)")]
    WrongKey,
    #[error("nothing can be signed with its key")]
    Unusable,
    #[error("it holds no JWT (three segments of base64url); the platform has to write one into it")]
    NotJwt,
}

/// The client secret in a file: UTF-8, without one trailing newline.
pub(crate) fn client_secret(file: &[u8]) -> Result<&str, CredentialError> {
    let text = std::str::from_utf8(file).map_err(|_| CredentialError::NotUtf8)?;
    let text = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    if text.is_empty() { Err(CredentialError::Empty) } else { Ok(text) }
}

/// The workload's token in a file: a JWT that somebody else signed for us, sent as it is.
pub(crate) fn workload_token(file: &[u8]) -> Result<Secret, CredentialError> {
    let text = std::str::from_utf8(file).map_err(|_| CredentialError::NotUtf8)?.trim_ascii();
    let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_segment = |segment: &str| !segment.is_empty() && segment.bytes().all(is_base64url);
    if text.split('.').count() != 3 || !text.split('.').all(is_segment) {
        return Err(CredentialError::NotJwt);
    }
    let mut token = Secret::with_capacity(text.len());
    token.push_str(text);
    Ok(token)
}

/// `Authorization: Basic`. Id and secret are form-encoded first, which most clients forget (RFC 6749 §2.3.1, App. B).
pub(crate) fn basic(client_id: &str, secret: &str) -> Result<HeaderValue, CredentialError> {
    let mut pair = Secret::with_capacity(3 * (client_id.len() + secret.len()) + 1);
    form_encode(client_id, &mut pair);
    pair.push_str(":");
    form_encode(secret, &mut pair);
    let encoded = Zeroizing::new(STANDARD.encode(pair.expose()));
    let mut value = Secret::with_capacity(encoded.len() + 6);
    value.push_str("Basic ");
    value.push_str(&encoded);
    let mut value =
        HeaderValue::from_maybe_shared(value.into_bytes()).map_err(|_| CredentialError::Unusable)?;
    value.set_sensitive(true);
    Ok(value)
}

/// What an assertion says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Assertion<'a> {
    pub client_id: &'a str,
    /// The only value of `aud`.
    pub audience: &'a str,
    pub algorithm: Algorithm,
    pub key_id: Option<&'a str>,
    /// NumericDate.
    pub now: i64,
}

// === impl Assertion ===

impl Assertion<'_> {
    /// The signed JWT (RFC 7523 §3), with a `jti` that no other has.
    pub(crate) fn sign(&self, pem: &[u8]) -> Result<Secret, CredentialError> {
        let key = SigningKey::read(pem, self.algorithm)?;
        let mut jti = [0; 16];
        aws_lc_rs::rand::fill(&mut jti).map_err(|_| CredentialError::Unusable)?;
        let mut header = json!({ "alg": name(self.algorithm), "typ": "client-authentication+jwt" });
        if let (Some(key_id), Some(members)) = (self.key_id, header.as_object_mut()) {
            members.insert("kid".to_owned(), key_id.into());
        }
        let claims = json!({
            "iss": self.client_id,
            "sub": self.client_id,
            "aud": self.audience,
            "iat": self.now,
            "exp": self.now.saturating_add(ASSERTION_LIFE),
            "jti": URL_SAFE_NO_PAD.encode(jti),
        });
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes())?);
        let mut assertion = Secret::with_capacity(signed.len() + 1 + signature.len());
        for part in [&signed, ".", &signature] {
            assertion.push_str(part);
        }
        Ok(assertion)
    }
}

/// A private key that fits its algorithm. Read here and not by `jsonwebtoken`, whose PEM reader leaves copies of the key.
enum SigningKey {
    Rsa(RsaKeyPair, &'static signature::RsaSignatureEncoding),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

// === impl SigningKey ===

impl SigningKey {
    fn read(pem: &[u8], algorithm: Algorithm) -> Result<Self, CredentialError> {
        let mut der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| CredentialError::NotPem)?;
        let key = Self::of(&der, algorithm);
        der.zeroize();
        key
    }

    fn of(der: &PrivateKeyDer<'_>, algorithm: Algorithm) -> Result<Self, CredentialError> {
        let padding: &'static signature::RsaSignatureEncoding = match algorithm {
            Algorithm::RS256 => &signature::RSA_PKCS1_SHA256,
            Algorithm::RS384 => &signature::RSA_PKCS1_SHA384,
            Algorithm::RS512 => &signature::RSA_PKCS1_SHA512,
            Algorithm::PS256 => &signature::RSA_PSS_SHA256,
            Algorithm::PS384 => &signature::RSA_PSS_SHA384,
            Algorithm::PS512 => &signature::RSA_PSS_SHA512,
            Algorithm::ES256 => return ecdsa(der, &signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            Algorithm::ES384 => return ecdsa(der, &signature::ECDSA_P384_SHA384_FIXED_SIGNING),
            Algorithm::EdDSA => return ed25519(der),
        };
        let key = match der {
            PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
            _ => return Err(CredentialError::WrongKey),
        };
        // Fewer than 2048 bits are refused there (RFC 7518 §3.3).
        key.map(|key| Self::Rsa(key, padding)).map_err(|_| CredentialError::WrongKey)
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, CredentialError> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key, padding) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(*padding, &random, message, &mut signature)
                    .map_err(|_| CredentialError::Unusable)?;
                Ok(signature)
            }
            Self::Ecdsa(key) => {
                let signature = key.sign(&random, message).map_err(|_| CredentialError::Unusable)?;
                Ok(signature.as_ref().to_vec())
            }
            Self::Ed25519(key) => Ok(key.sign(message).as_ref().to_vec()),
        }
    }
}

fn ecdsa(
    der: &PrivateKeyDer<'_>,
    algorithm: &'static signature::EcdsaSigningAlgorithm,
) -> Result<SigningKey, CredentialError> {
    match der {
        PrivateKeyDer::Pkcs8(key) => EcdsaKeyPair::from_pkcs8(algorithm, key.secret_pkcs8_der()),
        PrivateKeyDer::Sec1(key) => EcdsaKeyPair::from_private_key_der(algorithm, key.secret_sec1_der()),
        _ => return Err(CredentialError::WrongKey),
    }
    .map(SigningKey::Ecdsa)
    .map_err(|_| CredentialError::WrongKey)
}

fn ed25519(der: &PrivateKeyDer<'_>) -> Result<SigningKey, CredentialError> {
    let PrivateKeyDer::Pkcs8(key) = der else { return Err(CredentialError::WrongKey) };
    Ed25519KeyPair::from_pkcs8(key.secret_pkcs8_der())
        .map(SigningKey::Ed25519)
        .map_err(|_| CredentialError::WrongKey)
}

/// RFC 7518 §3.1, RFC 8037 §3.1.
fn name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::RS256 => "RS256",
        Algorithm::RS384 => "RS384",
        Algorithm::RS512 => "RS512",
        Algorithm::PS256 => "PS256",
        Algorithm::PS384 => "PS384",
        Algorithm::PS512 => "PS512",
        Algorithm::ES256 => "ES256",
        Algorithm::ES384 => "ES384",
        Algorithm::EdDSA => "EdDSA",
    }
}

#[cfg(test)]
mod tests;
