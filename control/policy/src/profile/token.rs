//! What do these claims say? From the verified claims of a token to the [`Token`] that policy judges, or why not.
//!
//! No coercion: a claim that is read and has the wrong type refuses the token, also where it could be missing.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::{Profile, Shape, binding};
use crate::reason::Reason;
use crate::request::Token;
use crate::spiffe;

pub(super) type Claims = Map<String, Value>;

/// The last second of the year 9999. What lies beyond is no date in seconds (milliseconds are a common mistake, and would
/// make a token that never expires), and adding a leeway to what lies before cannot overflow.
const MAX_DATE: i64 = 253_402_300_799;

// === impl Profile ===

impl Profile {
    /// The token that these verified claims describe, or why they are no access token of this profile:
    ///
    /// - `missing_claim`: a demanded claim is missing, or a claim has the wrong type, is empty or malformed
    /// - `unknown_issuer`: `iss` is another than `issuer`
    /// - `wrong_type`: a token for another use (`token_use` of Cognito, the claim `typ` of Keycloak)
    /// - `binding_mismatch`: bound by a method that cannot be checked here (`cnf`, RFC 7800)
    ///
    /// Times are not compared with a clock here, nor the audience with policy.
    pub fn token(self, issuer: &Arc<str>, claims: Claims) -> Result<Token, Reason> {
        let shape = self.shape();
        for name in shape.claims {
            demand(&claims, name)?;
        }
        if text(&claims, "iss")?.is_some_and(|iss| iss != &**issuer) {
            return Err(Reason::UnknownIssuer);
        }
        if self == Self::Cognito && text(&claims, "token_use")? != Some("access") {
            return Err(Reason::WrongType);
        }
        if self == Self::Keycloak && !matches!(text(&claims, "typ")?, None | Some("Bearer" | "DPoP")) {
            return Err(Reason::WrongType);
        }
        let subject = text(&claims, "sub")?;
        if self == Self::JwtSvid && !subject.is_some_and(spiffe::is_id) {
            return Err(Reason::MissingClaim);
        }
        if self == Self::Entra && first_text(&claims, shape.client)?.is_none() {
            return Err(Reason::MissingClaim);
        }
        read(shape, issuer, claims)
    }
}

/// What the members say that all kinds of tokens have. Which of them are demanded has been looked after, and so has `iss`.
pub(super) fn read(shape: &Shape, issuer: &Arc<str>, claims: Claims) -> Result<Token, Reason> {
    let subject = text(&claims, "sub")?;
    let client = first_text(&claims, shape.client)?;
    Ok(Token {
        issuer: Arc::clone(issuer),
        audiences: audiences(&claims, client)?,
        subject: subject.map(str::to_owned),
        client: client.map(str::to_owned),
        scopes: scopes(&claims, shape)?,
        roles: roles(&claims, shape.roles)?,
        expires_at: date(&claims, "exp", f64::floor)?.ok_or(Reason::MissingClaim)?,
        not_before: date(&claims, "nbf", f64::ceil)?,
        issued_at: date(&claims, "iat", f64::floor)?,
        binding: binding::read(claims.get("cnf"))?,
        introspected: false,
        claims,
    })
}

/// A demanded claim is present; those that are not read otherwise are texts.
pub(super) fn demand(claims: &Claims, name: &str) -> Result<(), Reason> {
    match name {
        "aud" | "exp" | "iat" => claims.get(name).map(|_| ()),
        _ => text(claims, name)?.map(|_| ()),
    }
    .ok_or(Reason::MissingClaim)
}

/// A claim that is a string and not empty.
pub(super) fn text<'a>(claims: &'a Claims, name: &str) -> Result<Option<&'a str>, Reason> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
        Some(_) => Err(Reason::MissingClaim),
    }
}

/// The first of these claims that is present.
pub(super) fn first_text<'a>(claims: &'a Claims, names: &[&str]) -> Result<Option<&'a str>, Reason> {
    names.iter().find(|name| claims.contains_key(**name)).map_or(Ok(None), |name| text(claims, name))
}

/// A NumericDate (RFC 7519 §2): a number of seconds since the epoch, fractions allowed.
pub(super) fn date(claims: &Claims, name: &str, round: fn(f64) -> f64) -> Result<Option<i64>, Reason> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let Value::Number(number) = value else { return Err(Reason::MissingClaim) };
    let seconds = number.as_i64().or_else(|| {
        let whole = Duration::try_from_secs_f64(round(number.as_f64()?)).ok()?;
        i64::try_from(whole.as_secs()).ok()
    });
    match seconds {
        Some(seconds) if (0..=MAX_DATE).contains(&seconds) => Ok(Some(seconds)),
        _ => Err(Reason::MissingClaim),
    }
}

/// `aud` (RFC 7519 §4.1.3), a string or a list of strings. Where a profile does not demand it and it is missing, the
/// client is the audience.
pub(super) fn audiences(claims: &Claims, client: Option<&str>) -> Result<Vec<String>, Reason> {
    match claims.get("aud") {
        None => client.map(|client| vec![client.to_owned()]).ok_or(Reason::MissingClaim),
        Some(Value::String(audience)) if !audience.is_empty() => Ok(vec![audience.clone()]),
        Some(list @ Value::Array(items)) if !items.is_empty() => strings(list),
        Some(_) => Err(Reason::MissingClaim),
    }
}

/// Scopes as a space-delimited string (RFC 6749 §3.3), or where the profile allows it as a list.
pub(super) fn scopes(claims: &Claims, shape: &Shape) -> Result<Vec<String>, Reason> {
    match shape.scopes.iter().find_map(|name| claims.get(*name)) {
        None => Ok(Vec::new()),
        Some(Value::String(scopes)) => {
            Ok(scopes.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned).collect())
        }
        Some(list) if shape.scope_lists => {
            let scopes = strings(list)?;
            // One item that reads as two scopes once it is written in a line is neither.
            if scopes.iter().any(|scope| scope.contains(' ')) {
                Err(Reason::MissingClaim)
            } else {
                Ok(scopes)
            }
        }
        Some(_) => Err(Reason::MissingClaim),
    }
}

/// Roles as a list of strings at the end of this path.
pub(super) fn roles(claims: &Claims, path: &[&str]) -> Result<Vec<String>, Reason> {
    let Some((last, parents)) = path.split_last() else { return Ok(Vec::new()) };
    let mut object = claims;
    for parent in parents {
        object = match object.get(*parent) {
            None => return Ok(Vec::new()),
            Some(Value::Object(object)) => object,
            Some(_) => return Err(Reason::MissingClaim),
        };
    }
    object.get(*last).map_or(Ok(Vec::new()), strings)
}

/// A list of strings, none of them empty.
fn strings(list: &Value) -> Result<Vec<String>, Reason> {
    let Value::Array(items) = list else { return Err(Reason::MissingClaim) };
    items
        .iter()
        .map(|item| match item {
            Value::String(text) if !text.is_empty() => Ok(text.clone()),
            _ => Err(Reason::MissingClaim),
        })
        .collect()
}
