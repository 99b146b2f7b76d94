//! What signs the tokens? One key pair, made here, known by the thumbprint of its public half (RFC 7638).

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::Value;
use zeroize::Zeroizing;

use super::options::Algorithm;

/// A signing key. `Debug` shows its name alone.
pub(super) struct SigningKey {
    algorithm: Algorithm,
    /// PKCS #8, as it is kept on disk.
    pem: Zeroizing<String>,
    signer: EncodingKey,
    public: Jwk,
    kid: String,
}

/// Why a key cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("no {0} signing key could be made")]
    Generate(&'static str),
    #[error("a {0} signing key is not usable: {1}")]
    Unusable(&'static str, jsonwebtoken::errors::Error),
}

// === impl SigningKey ===

impl SigningKey {
    pub(super) fn generate(algorithm: Algorithm) -> Result<Self, KeyError> {
        let failed = |_| KeyError::Generate(algorithm.name());
        let pem = match algorithm {
            Algorithm::Es256 => {
                let random = SystemRandom::new();
                let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
                pem(der.map_err(failed)?.as_ref())
            }
            Algorithm::Rs256 => {
                let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).map_err(failed)?;
                let der: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
                pem(der.as_ref())
            }
        };
        Self::from_pem(algorithm, pem)
    }

    /// A key that was kept.
    pub(super) fn from_pem(algorithm: Algorithm, pem: Zeroizing<String>) -> Result<Self, KeyError> {
        let unusable = |error| KeyError::Unusable(algorithm.name(), error);
        let signer = match algorithm {
            Algorithm::Es256 => EncodingKey::from_ec_pem(pem.as_bytes()),
            Algorithm::Rs256 => EncodingKey::from_rsa_pem(pem.as_bytes()),
        };
        let signer = signer.map_err(unusable)?;
        let mut public = Jwk::from_encoding_key(&signer, jws(algorithm)).map_err(unusable)?;
        let kid = public.thumbprint(ThumbprintHash::SHA256).map_err(unusable)?;
        public.common.key_id = Some(kid.clone());
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self { algorithm, pem, signer, public, kid })
    }

    pub(super) fn kid(&self) -> &str {
        &self.kid
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn pem(&self) -> &Zeroizing<String> {
        &self.pem
    }

    /// The public half alone (RFC 7517).
    pub(super) fn public(&self) -> &Jwk {
        &self.public
    }

    /// A JWS with the header of RFC 9068 §2.1.
    pub(super) fn sign_access_token(&self, claims: &Value) -> jsonwebtoken::errors::Result<String> {
        let mut header = Header::new(jws(self.algorithm));
        header.typ = Some("at+jwt".to_owned());
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.signer)
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

fn jws(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
    }
}

/// PKCS #8 in the textual encoding of RFC 7468 §10.
fn pem(der: &[u8]) -> Zeroizing<String> {
    let encoded = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(String::with_capacity(encoded.len() + encoded.len() / 32 + 64));
    text.push_str("-----BEGIN PRIVATE KEY-----\n");
    for (index, character) in encoded.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str("\n-----END PRIVATE KEY-----\n");
    text
}
