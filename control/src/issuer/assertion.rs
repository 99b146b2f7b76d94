//! Is this assertion the client's own, for us, now, and for the first time? `private_key_jwt` (RFC 7523 §3 and its
//! revision, RFC 8725).

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::answer::Refusal;
use super::client::Client;
use super::clients::Clients;
use super::options::IssuerUrl;
use super::public_key::ASSERTION_ALGORITHMS;
use super::replay::{Replays, Seen};

/// The only value of `client_assertion_type` (RFC 7523 §2.2).
pub(super) const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// An assertion's `exp` lies at most this far ahead.
const MAX_LIFETIME: f64 = 300.0;

/// What clocks may differ by.
const LEEWAY: f64 = 30.0;

/// The header. A member that occurs twice is an error of serde's; what would change the meaning of the rest is looked for
/// only to be refused.
#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
    crit: Option<serde::de::IgnoredAny>,
    b64: Option<serde::de::IgnoredAny>,
    zip: Option<serde::de::IgnoredAny>,
}

/// The claims. NumericDate may be fractional (RFC 7519 §2).
#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: f64,
    nbf: Option<f64>,
    iat: Option<f64>,
    jti: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// The client that signed the assertion. Whose it is said to be decides nothing but which keys are tried.
pub(super) fn verify<'a>(
    assertion: &str,
    clients: &'a Clients,
    url: &IssuerUrl,
    replays: &Replays,
    now: Duration,
) -> Result<&'a Client, Refusal> {
    let invalid = Refusal::InvalidClient;
    let malformed = invalid("the client assertion is malformed");
    let (message, signature) = assertion.rsplit_once('.').ok_or(malformed)?;
    let (header, claims) =
        message.split_once('.').filter(|(_, claims)| !claims.contains('.')).ok_or(malformed)?;
    let header: Header = part(header).ok_or(malformed)?;
    check_header(&header)?;
    let claims: Claims =
        part(claims).ok_or(invalid("the client assertion lacks iss, sub, aud, exp or jti"))?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| malformed)?;

    // An unknown client and a wrong signature are answered alike.
    let untrusted = invalid("no key of a client that is known here fits the client assertion");
    let client = clients.find(&claims.sub).ok_or(untrusted)?;
    let kid = header.kid.as_deref();
    let mut keys = client.keys().iter().filter(|key| key.may_be(kid));
    if !keys.any(|key| key.verify(&header.alg, message.as_bytes(), &signature)) {
        return Err(untrusted);
    }
    check_claims(&claims, client, url, now)?;
    check_memory(&claims, replays.begin())?;
    // For as long as `check_claims` would let it pass again.
    let expires = Duration::try_from_secs_f64(claims.exp + LEEWAY).map_err(|_| malformed)?;
    match replays.note(client.id(), &claims.jti, expires, now) {
        Seen::Fresh => Ok(client),
        Seen::Again => Err(invalid("the client assertion was used before (jti)")),
        Seen::Full => Err(Refusal::Locked { retry_after: Duration::from_secs(30) }),
    }
}

fn check_header(header: &Header) -> Result<(), Refusal> {
    if header.crit.is_some() || header.b64.is_some() || header.zip.is_some() {
        return Err(Refusal::InvalidClient("the client assertion has a header that is not understood"));
    }
    if !ASSERTION_ALGORITHMS.contains(&header.alg.as_str()) {
        return Err(Refusal::InvalidClient("the client assertion's alg is not accepted"));
    }
    // What is not an assertion by its type is refused: our own access tokens (at+jwt) above all (RFC 8725 §3.12).
    let typ = header.typ.as_deref().unwrap_or("JWT").to_ascii_lowercase();
    match typ.strip_prefix("application/").unwrap_or(&typ) {
        "jwt" | "client-authentication+jwt" => Ok(()),
        _ => Err(Refusal::InvalidClient("the client assertion is a token of another type (typ)")),
    }
}

fn check_claims(claims: &Claims, client: &Client, url: &IssuerUrl, now: Duration) -> Result<(), Refusal> {
    let invalid = |text| Err(Refusal::InvalidClient(text));
    let now = now.as_secs_f64();
    if claims.iss != claims.sub {
        return invalid("iss and sub of the client assertion must both be the client_id");
    }
    let audience = match &claims.aud {
        Audience::One(audience) => Some(audience),
        Audience::Many(audiences) => audiences.first().filter(|_| audiences.len() == 1),
    };
    if !audience.is_some_and(|audience| client.accepts_assertion_for(audience, url)) {
        return invalid("aud of the client assertion must be the issuer identifier alone");
    }
    // JSON knows neither NaN nor infinity, so these comparisons hold what they say.
    if claims.exp + LEEWAY <= now {
        return invalid("the client assertion has expired");
    }
    if claims.exp > now + MAX_LIFETIME + LEEWAY {
        return invalid("the client assertion lives too long: exp must be at most 5 minutes ahead");
    }
    if [claims.nbf, claims.iat].into_iter().flatten().any(|from| from > now + LEEWAY) {
        return invalid("the client assertion is from the future (nbf, iat)");
    }
    if claims.jti.is_empty() {
        return invalid("the client assertion has an empty jti");
    }
    Ok(())
}

/// Could a process before this one have accepted it, and taken the memory of that along? It could not before the latest of
/// `iat`, `nbf`, and the time from which `exp` is near enough, so that an assertion with a fresh `iat` is taken at once.
/// A client whose clock is ahead by some of the leeway may be replayed for as long as that, after a restart.
fn check_memory(claims: &Claims, begin: Duration) -> Result<(), Refusal> {
    let earliest =
        [claims.iat, claims.nbf].into_iter().flatten().fold(claims.exp - MAX_LIFETIME, |a, b| a.max(b));
    if earliest >= begin.as_secs_f64() {
        return Ok(());
    }
    // Most clients write whole seconds.
    if earliest >= Duration::from_secs(begin.as_secs()).as_secs_f64() {
        return Err(Refusal::TooEarly);
    }
    Err(Refusal::InvalidClient(
        "the client assertion may have been used before this issuer started; make one anew for each request, with iat",
    ))
}

/// Strict base64url, then JSON.
fn part<T: for<'de> Deserialize<'de>>(text: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}
