//! How is the issuer set up? Its identifier, checked, and the times and algorithm of its keys and tokens.

use std::time::Duration;

use http::Uri;

use super::Error;

/// What signs the tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA on P-256 (RFC 7518 §3.4).
    #[default]
    Es256,
    /// RSASSA-PKCS1-v1_5 with 2048 bits, which every resource server of RFC 9068 §2.1 knows.
    Rs256,
}

/// Times and algorithm. The defaults are those of production; tests and the demo shorten them.
#[derive(Clone, Debug)]
pub struct Options {
    pub algorithm: Algorithm,
    /// How long a key signs.
    pub rotation: Duration,
    /// How long a key is published before it signs: longer than any verifier keeps a key set without asking again. A
    /// retired key stays published for this and one token's lifetime.
    pub publish_ahead: Duration,
    /// `exp - iat`, in whole seconds.
    pub token_lifetime: Duration,
}

/// The issuer identifier and what follows from it (RFC 8414 §2, §3).
#[derive(Clone, Debug)]
pub(super) struct IssuerUrl {
    /// The exact `iss`.
    pub(super) identifier: String,
    pub(super) token_endpoint: String,
    pub(super) jwks_uri: String,
    /// Path of the metadata: the well-known part inserted before the issuer's own path (RFC 8414 §3.1).
    pub(super) metadata_path: String,
}

// === impl Algorithm ===

impl Algorithm {
    /// The registered name (RFC 7518 §3.1).
    pub fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::default(),
            rotation: Duration::from_secs(24 * 60 * 60),
            publish_ahead: Duration::from_secs(10 * 60),
            token_lifetime: Duration::from_secs(5 * 60),
        }
    }
}

impl Options {
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.token_lifetime < Duration::from_secs(1) || self.token_lifetime > Duration::from_secs(60 * 60)
        {
            return Err(Error::Options("a token must live between one second and one hour"));
        }
        if self.token_lifetime.subsec_nanos() != 0 {
            return Err(Error::Options("a token's lifetime is counted in whole seconds"));
        }
        if self.publish_ahead.is_zero() {
            return Err(Error::Options("a key must be published before it signs: publish_ahead is zero"));
        }
        if self.rotation < self.publish_ahead {
            return Err(Error::Options(
                "keys would rotate faster than they may begin to sign: rotation < publish_ahead",
            ));
        }
        Ok(())
    }
}

// === impl IssuerUrl ===

impl IssuerUrl {
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        let refuse = |problem| Error::Url { url: url.to_owned(), problem };
        // Looked at in the text itself, because `http::Uri` drops a fragment in silence.
        if url.contains(['?', '#']) {
            return Err(refuse("must have neither query nor fragment (RFC 8414)"));
        }
        if !url.starts_with("https://") {
            return Err(refuse("must begin with https://"));
        }
        let uri: Uri = url.parse().map_err(|_| refuse("is not a URL"))?;
        let authority = uri.authority().ok_or_else(|| refuse("names no host"))?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(refuse("must name a host, and no user"));
        }
        let path = uri.path().trim_end_matches('/');
        if !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte)) {
            return Err(refuse("may have letters, digits and - . _ ~ in its path, nothing else"));
        }
        if path.split('/').skip(1).any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(refuse("must have no empty or dot segment in its path"));
        }
        Ok(Self {
            identifier: url.to_owned(),
            token_endpoint: format!("https://{authority}/oauth2/token"),
            jwks_uri: format!("https://{authority}/oauth2/jwks"),
            metadata_path: format!("/.well-known/oauth-authorization-server{path}"),
        })
    }
}
