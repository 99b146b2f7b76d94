//! Does the caller hold the key that its token is bound to? One DPoP proof against one request: the checks of RFC 9449 §4.3,
//! what costs little first, with the time as an argument.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use countersign_policy::Reason;
use countersign_policy::host;
use countersign_policy::path::CanonicalPath;
use serde_json::Value;

use crate::auth::issuers::jwks::Key;
use crate::auth::verify::jwt::Jwt;

/// How long after its `iat` a proof is good, in seconds: for clocks that go slow and requests that wait (RFC 9449 §11.1).
pub(crate) const LIFE: i64 = 60;
/// How far ahead of ours the caller's clock may be, in seconds. Little: a proof made in advance is a proof to be stolen.
pub(crate) const AHEAD: i64 = 5;

/// The request that a proof has to be made for.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// In normal form.
    pub host: &'a str,
    /// Absent: the scheme's own.
    pub port: Option<u16>,
    pub path: &'a CanonicalPath<'a>,
}

/// What is wrong with a proof. For the log: the caller hears `proof_invalid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("it is not a single well-formed JWT")]
    Malformed,
    #[error("its alg is not one that proofs may have")]
    Algorithm,
    #[error("its typ is not dpop+jwt")]
    Type,
    #[error("jti, htm, htu, iat or ath is missing or of the wrong type")]
    Claim,
    #[error("htm is not the method of the request")]
    Method,
    #[error("htu is not the URI of the request")]
    Uri,
    #[error("iat is too long ago, or in the future")]
    Time,
    #[error("ath is not the hash of the token")]
    TokenHash,
    #[error("jwk is a private key")]
    PrivateKey,
    #[error("jwk is not the key that the token is bound to, or cannot verify")]
    Key,
    #[error("the signature is wrong")]
    Signature,
}

/// Checks a proof that came with this token, which is bound to the key with this thumbprint. Returns its `jti`. We hand out no
/// nonces, so `nonce` means nothing to us; that the proof was not used before remains to be asked.
pub(crate) fn check(
    proof: &str,
    key: &str,
    token: &str,
    target: &Target<'_>,
    now: i64,
) -> Result<String, Flaw> {
    let (jwt, header) = Jwt::with_header(proof).map_err(|reason| match reason {
        Reason::UnsupportedAlgorithm => Flaw::Algorithm,
        _ => Flaw::Malformed,
    })?;
    require(jwt.header.typ.as_deref() == Some("dpop+jwt"), Flaw::Type)?;

    let claim = |name| jwt.claims.get(name).ok_or(Flaw::Claim);
    let text = |name| claim(name)?.as_str().filter(|text| !text.is_empty()).ok_or(Flaw::Claim);
    let (jti, htm, htu, ath) = (text("jti")?, text("htm")?, text("htu")?, text("ath")?);
    let iat = seconds(claim("iat")?).ok_or(Flaw::Claim)?;
    require(htm == target.method, Flaw::Method)?;
    require(target.is_named_by(htu), Flaw::Uri)?;
    require((now.saturating_sub(LIFE)..=now.saturating_add(AHEAD)).contains(&iat), Flaw::Time)?;
    require(ath == hash(token), Flaw::TokenHash)?;

    let jwk = header.get("jwk").ok_or(Flaw::Key)?;
    require(!is_private(jwk), Flaw::PrivateKey)?;
    let algorithm = jwt.header.algorithm;
    let key = Key::embedded(jwk, key, algorithm).ok_or(Flaw::Key)?;
    require(key.verify(algorithm, jwt.signed, &jwt.signature), Flaw::Signature)?;
    Ok(jti.to_owned())
}

fn require(holds: bool, otherwise: Flaw) -> Result<(), Flaw> {
    if holds { Ok(()) } else { Err(otherwise) }
}

/// A NumericDate (RFC 7519 §2), its fraction cut off.
fn seconds(date: &Value) -> Option<i64> {
    date.as_i64().or_else(|| {
        let whole = Duration::try_from_secs_f64(date.as_f64()?).ok()?.as_secs();
        i64::try_from(whole).ok()
    })
}

/// SHA-256 in base64url, as `ath` has it (RFC 9449 §4.2).
fn hash(token: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, token.as_bytes()))
}

/// Does a JWK say more than the public may know (RFC 7518 §6.2.2, §6.3.2, §6.4.1)?
fn is_private(jwk: &Value) -> bool {
    ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"].iter().any(|member| jwk.get(member).is_some())
}

// === impl Target ===

impl Target<'_> {
    /// Does this `htu` name the request, query and fragment left aside? Compared in normal form (RFC 3986 §6.2.2, §6.2.3), for
    /// the path the one in which it is judged and forwarded.
    fn is_named_by(&self, htu: &str) -> bool {
        let uri = htu.split(['?', '#']).next().unwrap_or_default();
        let Some((scheme, rest)) = uri.split_once("://") else { return false };
        let (authority, path) =
            rest.find('/').and_then(|at| rest.split_at_checked(at)).unwrap_or((rest, "/"));
        let Some((host, port)) = host::normalize(authority) else { return false };
        scheme.eq_ignore_ascii_case(self.scheme)
            && host == self.host
            && port.or(self.default_port()) == self.port.or(self.default_port())
            // A raw path is a path here: whether it is admitted was asked of the request.
            && CanonicalPath::parse_raw(path).is_some_and(|path| path == *self.path)
    }

    fn default_port(&self) -> Option<u16> {
        match self.scheme {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
