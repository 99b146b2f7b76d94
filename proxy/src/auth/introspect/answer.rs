//! What does an issuer's answer about a token mean? JSON (RFC 7662 §2.2), or a JWT that it signed for us (RFC 9701); what is
//! not exactly one of the two says nothing of the token, and is the issuer's trouble.

use countersign_policy::json;
use countersign_policy::snapshot::Issuer;
use countersign_policy::{Reason, Token};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value};

use crate::auth::introspect::question::Question;
use crate::auth::tokens::failure::{Cause, Failure};
use crate::auth::verify::in_time;
use crate::auth::verify::jwt::Jwt;

/// How old a signed answer may be, in seconds, beside the issuer's leeway: it was made for this question.
const OLDEST: i64 = 60;

/// Reads the body of a 200. `Ok(Err(_))`: the token will not do.
pub(super) async fn read(
    headers: &HeaderMap,
    body: &[u8],
    question: &Question,
    now: i64,
) -> Result<Result<Token, Reason>, Failure> {
    let members = match is_jwt(headers) {
        true => signed(body, question, now).await?,
        false => json::object(body)
            .ok_or_else(|| malformed("it is not one JSON object, or a name in it is repeated"))?,
    };
    Ok(judge(members, &question.issuer, now))
}

fn judge(members: Map<String, Value>, issuer: &Issuer, now: i64) -> Result<Token, Reason> {
    let token = issuer.profile.introspected(&issuer.issuer, members)?;
    // The issuer has just called it active, by its own clock: there is nothing to be lenient about.
    if now >= token.expires_at {
        return Err(Reason::Expired);
    }
    in_time(&token, issuer.leeway, now)?;
    Ok(token)
}

/// The members in `token_introspection` of a JWT that the issuer made for us, now (RFC 9701 §5).
async fn signed(body: &[u8], question: &Question, now: i64) -> Result<Map<String, Value>, Failure> {
    let Question { issuer, credential, .. } = question;
    let text = std::str::from_utf8(body).map_err(|_| malformed("it is not a JWT"))?;
    let mut jwt = Jwt::parse(text).map_err(|reason| match reason {
        Reason::UnsupportedAlgorithm => {
            malformed("it is encrypted, or signed with an algorithm that is not accepted")
        }
        _ => malformed("it is not a JWT"),
    })?;
    if !jwt.header.typ.as_deref().is_some_and(is_answer_type) {
        return Err(malformed("the typ of its JWT is not token-introspection+jwt"));
    }
    let algorithm = jwt.header.algorithm;
    if !issuer.algorithms.contains(&algorithm) {
        return Err(malformed("its JWT is signed with an algorithm that policy does not accept"));
    }
    let (key, _) =
        question.keys().key(jwt.header.kid.as_deref(), algorithm).await.map_err(|reason| match reason {
            Reason::KeysUnavailable => {
                Failure::new(Cause::Discovery, "the keys for its signed answer are not available")
            }
            _ => malformed("its JWT is signed with a key that the issuer does not publish"),
        })?;
    if !key.verify(algorithm, jwt.signed, &jwt.signature) {
        return Err(malformed("the signature of its JWT is wrong"));
    }
    if jwt.issuer() != Some(&*issuer.issuer) {
        return Err(malformed("the iss of its JWT is another issuer"));
    }
    if !is_for(jwt.claims.get("aud"), &credential.client_id) {
        return Err(malformed("the aud of its JWT is not our client id"));
    }
    let leeway = i64::try_from(issuer.leeway.as_secs()).unwrap_or(0);
    let made = now.saturating_sub(OLDEST.saturating_add(leeway))..=now.saturating_add(leeway);
    if !jwt.claims.get("iat").and_then(Value::as_i64).is_some_and(|iat| made.contains(&iat)) {
        return Err(malformed("the iat of its JWT is missing, too long ago or in the future"));
    }
    match jwt.claims.remove("token_introspection") {
        Some(Value::Object(members)) => Ok(members),
        _ => Err(malformed("its JWT has no token_introspection, or one that is no object")),
    }
}

fn is_jwt(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/token-introspection+jwt")
}

/// A media type, in any case and with or without `application/` (RFC 7515 §4.1.9).
fn is_answer_type(typ: &str) -> bool {
    let subtype = typ
        .split_once('/')
        .map_or(Some(typ), |(kind, subtype)| kind.eq_ignore_ascii_case("application").then_some(subtype));
    subtype.is_some_and(|subtype| subtype.eq_ignore_ascii_case("token-introspection+jwt"))
}

/// One string, or a list that holds it (RFC 7519 §4.1.3).
fn is_for(audience: Option<&Value>, client_id: &str) -> bool {
    match audience {
        Some(Value::String(audience)) => audience == client_id,
        Some(Value::Array(audiences)) => {
            audiences.iter().any(|audience| audience.as_str() == Some(client_id))
        }
        _ => false,
    }
}

fn malformed(text: &str) -> Failure {
    Failure::new(Cause::Malformed, format!("the answer about a token is not usable: {text}"))
}
