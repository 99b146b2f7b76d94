//! Who may ask, how does it prove itself, and what may it have? One entry of the clients file, as written and as checked.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::options::IssuerUrl;
use super::public_key::{Jwks, PublicKey};

/// An entry as written. Each field is checked where it is read, so that an error has its line.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) client_id: ClientId,
    secret_sha256: Option<SecretHash>,
    #[serde(default)]
    secrets_sha256: Vec<SecretHash>,
    keys: Option<Jwks>,
    /// PEM, relative to the clients file.
    pub(super) key_file: Option<String>,
    #[serde(default)]
    assertion_audience: AssertionAudience,
    #[serde(default)]
    scopes: Vec<Scope>,
    audiences: Vec<Audience>,
    #[serde(default)]
    claims: Claims,
}

/// A client that may ask for tokens.
#[derive(Debug)]
pub(super) struct Client {
    id: String,
    secrets: Vec<SecretHash>,
    keys: Vec<PublicKey>,
    assertion_audience: AssertionAudience,
    scopes: Vec<String>,
    audiences: Vec<String>,
    claims: Map<String, Value>,
}

/// A client identifier (RFC 6749 appendix A.1), 1 to 256 characters.
#[derive(Debug)]
pub(super) struct ClientId(pub(super) String);

/// SHA-256 of a client secret. A plain hash suffices because a secret is random and of 256 bits: there is nothing that a
/// slow hash would slow down. `Debug` does not print it.
pub(super) struct SecretHash([u8; 32]);

/// The `aud` that a client's assertions may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum AssertionAudience {
    /// The issuer identifier, as RFC 7523bis wants it.
    #[default]
    Issuer,
    /// The URL of the token endpoint too, for clients that know no better.
    TokenEndpoint,
}

#[derive(Debug)]
struct Scope(String);

#[derive(Debug)]
struct Audience(String);

/// Further claims of the client's tokens.
#[derive(Debug, Default)]
struct Claims(Map<String, Value>);

/// Claims that say who issued a token, to whom, for whom, and for how long: ours to set, under any profile's name for them.
const RESERVED_CLAIMS: [&str; 24] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "client_id",
    "azp",
    "appid",
    "scope",
    "scp",
    "cnf",
    "act",
    "may_act",
    "auth_time",
    "acr",
    "amr",
    "nonce",
    "sid",
    "token_use",
    "events",
    "authorization_details",
    "typ",
];

/// Of a client's further claims, in bytes of JSON: a token must fit into a header.
const MAX_CLAIMS: usize = 4096;

/// Shorter secrets cannot hold the 128 bits that RFC 6749 §10.10 demands.
pub(super) const MIN_SECRET: usize = 22;

// === impl Entry ===

impl Entry {
    /// Checks what only the whole entry shows. `pem` is the content of `key_file`.
    pub(super) fn check(self, pem: Option<&[u8]>, url: &IssuerUrl) -> Result<Client, (&'static str, String)> {
        let id = self.client_id.0;
        if id == url.identifier {
            return Err(("clientId", "is the issuer's own name".into()));
        }
        if self.secret_sha256.is_some() && !self.secrets_sha256.is_empty() {
            return Err(("secretsSha256", "write either secretSha256 or secretsSha256".into()));
        }
        if self.keys.is_some() && pem.is_some() {
            return Err(("keyFile", "write either keys or keyFile".into()));
        }
        let keys = match pem {
            Some(pem) => vec![PublicKey::from_pem(pem).map_err(|problem| ("keyFile", problem.to_owned()))?],
            None => self.keys.map(|set| set.0).unwrap_or_default(),
        };
        let secrets: Vec<SecretHash> = self.secret_sha256.into_iter().chain(self.secrets_sha256).collect();
        if secrets.is_empty() && keys.is_empty() {
            return Err((
                "clientId",
                "has neither a secret nor a key: add secretSha256, keys or keyFile".into(),
            ));
        }
        if self.audiences.is_empty() {
            return Err(("audiences", "must name one at least: a token is for somebody".into()));
        }
        Ok(Client {
            id,
            secrets,
            keys,
            assertion_audience: self.assertion_audience,
            scopes: self.scopes.into_iter().map(|scope| scope.0).collect(),
            audiences: self.audiences.into_iter().map(|audience| audience.0).collect(),
            claims: self.claims.0,
        })
    }
}

// === impl Client ===

impl Client {
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn scopes(&self) -> &[String] {
        &self.scopes
    }

    pub(super) fn audiences(&self) -> &[String] {
        &self.audiences
    }

    pub(super) fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    pub(super) fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    pub(super) fn accepts_assertion_for(&self, audience: &str, url: &IssuerUrl) -> bool {
        let is_endpoint =
            self.assertion_audience == AssertionAudience::TokenEndpoint && audience == url.token_endpoint;
        audience == url.identifier || is_endpoint
    }
}

/// Whether the secret is one of the client's. Without a client it takes as long and is false.
pub(super) fn secret_fits(client: Option<&Client>, secret: &str) -> bool {
    let shown = digest(&SHA256, secret.as_bytes());
    let nobody = [SecretHash([0; 32])];
    let known = client.map_or(nobody.as_slice(), |client| &client.secrets);
    // Every hash is compared, so that the time does not say which one it was.
    let fits = known.iter().filter(|known| verify_slices_are_equal(&known.0, shown.as_ref()).is_ok()).count();
    client.is_some() && fits > 0
}

// === impl SecretHash ===

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<'de> Deserialize<'de> for SecretHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The text is not repeated: somebody may have written the secret itself.
        let problem =
            "must be the SHA-256 of the secret in 64 hex digits (`printf %s \"$SECRET\" | sha256sum`)";
        text(deserializer, problem, |text| {
            let (pairs, rest) = text.as_bytes().as_chunks::<2>();
            let mut hash = [0; 32];
            if pairs.len() != hash.len() || !rest.is_empty() {
                return None;
            }
            for (byte, pair) in hash.iter_mut().zip(pairs) {
                let digits = std::str::from_utf8(pair).ok().filter(|digits| !digits.starts_with('+'))?;
                *byte = u8::from_str_radix(digits, 16).ok()?;
            }
            Some(Self(hash))
        })
    }
}

// === the other fields ===

impl<'de> Deserialize<'de> for ClientId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "must be 1 to 256 visible ASCII characters", |text| {
            let fits = (1..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
            fits.then(|| Self(text.to_owned()))
        })
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let problem = "must be one scope: visible ASCII without space, quote and backslash";
        text(deserializer, problem, |text| is_scope(text).then(|| Self(text.to_owned())))
    }
}

impl<'de> Deserialize<'de> for Audience {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "must be an audience without spaces and fragment", |text| {
            let is_clean = !text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '#');
            (is_clean && (1..=1024).contains(&text.len())).then(|| Self(text.to_owned()))
        })
    }
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ClaimsVisitor)
    }
}

struct ClaimsVisitor;

impl<'de> Visitor<'de> for ClaimsVisitor {
    type Value = Claims;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("claims with their values")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Claims, A::Error> {
        let claims: Map<String, Value> = Deserialize::deserialize(MapAccessDeserializer::new(map))?;
        // What JSON has no number for: `.nan` and `.inf`.
        if claims.values().any(holds_null) {
            return Err(A::Error::custom("hold a value that JSON does not know"));
        }
        if let Some(name) = RESERVED_CLAIMS.iter().find(|name| claims.contains_key(**name)) {
            return Err(A::Error::custom(format!("{name} is the issuer's to set")));
        }
        if serde_json::to_vec(&claims).map_or(true, |text| text.len() > MAX_CLAIMS) {
            return Err(A::Error::custom(format!("are larger than {MAX_CLAIMS} bytes")));
        }
        Ok(Claims(claims))
    }
}

/// A scalar that is checked while it is read: an error raised there is told with its own line and field.
fn text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    problem: &'static str,
    check: impl FnOnce(&str) -> Option<T>,
) -> Result<T, D::Error> {
    deserializer.deserialize_str(TextVisitor { problem, check })
}

struct TextVisitor<F> {
    problem: &'static str,
    check: F,
}

impl<T, F: FnOnce(&str) -> Option<T>> Visitor<'_> for TextVisitor<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text: it ")?;
        f.write_str(self.problem)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.check)(text).ok_or_else(|| E::custom(self.problem))
    }
}

fn holds_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(holds_null),
        Value::Object(members) => members.values().any(holds_null),
        _ => false,
    }
}

/// A scope token (RFC 6749 §3.3).
pub(super) fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}
