//! Which claim keeps a token from being one? Asked after it was refused, by the functions that refused it.

use super::Profile;
use super::binding;
use super::token::{Claims, audiences, date, demand, first_text, roles, scopes, text};
use crate::reason::Reason;
use crate::spiffe;

// === impl Profile ===

impl Profile {
    /// The first claim for whose sake [`Profile::token`] says `missing_claim`.
    pub(crate) fn flawed(self, claims: &Claims) -> Option<&'static str> {
        let shape = self.shape();
        let is_missing = |read: Result<(), Reason>| read == Err(Reason::MissingClaim);
        if let Some(name) = shape.claims.iter().find(|name| is_missing(demand(claims, name))) {
            return Some(name);
        }
        for name in ["iss", "token_use", "typ", "sub"] {
            let is_read = match name {
                "token_use" => self == Self::Cognito,
                "typ" => self == Self::Keycloak,
                _ => true,
            };
            if is_read && is_missing(text(claims, name).map(|_| ())) {
                return Some(name);
            }
        }
        let client = first_text(claims, shape.client);
        let is_id = || text(claims, "sub").is_ok_and(|sub| sub.is_some_and(spiffe::is_id));
        if self == Self::JwtSvid && !is_id() {
            return Some("sub");
        }
        let lacks_client = self == Self::Entra && client == Ok(None);
        if lacks_client || is_missing(client.map(|_| ())) {
            let present = shape.client.iter().find(|name| claims.contains_key(**name));
            return present.or(shape.client.first()).copied();
        }
        let scope = shape.scopes.iter().find(|name| claims.contains_key(**name));
        let read = [
            ("aud", audiences(claims, client.ok().flatten()).map(|_| ())),
            (scope.copied().unwrap_or_default(), scopes(claims, shape).map(|_| ())),
            (shape.roles.first().copied().unwrap_or_default(), roles(claims, shape.roles).map(|_| ())),
            (
                "exp",
                date(claims, "exp", f64::floor).and_then(|exp| exp.map(|_| ()).ok_or(Reason::MissingClaim)),
            ),
            ("nbf", date(claims, "nbf", f64::ceil).map(|_| ())),
            ("iat", date(claims, "iat", f64::floor).map(|_| ())),
            ("cnf", binding::read(claims.get("cnf")).map(|_| ())),
        ];
        read.into_iter().find(|(_, read)| is_missing(*read)).map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::super::Said;
    use super::*;

    #[test]
    fn whatever_is_missing_is_named() {
        let iss: Arc<str> = "https://login.example.com".into();
        let odd = [
            json!(null),
            json!(""),
            json!(-1),
            json!(1.5),
            json!([]),
            json!([1]),
            json!({}),
            json!("a b"),
            json!({ "roles": 1 }),
        ];
        let mut named = 0;
        for &profile in Profile::ALL {
            let said = Said { audiences: vec!["a".to_owned()], ..Said::default() };
            let good = profile.claims(&iss, &said).unwrap();
            assert_eq!(profile.flawed(&good), None);
            let names = [
                "iss",
                "exp",
                "aud",
                "sub",
                "client_id",
                "azp",
                "appid",
                "iat",
                "nbf",
                "jti",
                "cnf",
                "scope",
                "scp",
                "roles",
                "realm_access",
                "cognito:groups",
                "token_use",
                "typ",
            ];
            for name in names {
                for value in odd.iter().map(Some).chain([None]) {
                    let mut claims = good.clone();
                    match value {
                        Some(value) => claims.insert(name.to_owned(), Value::clone(value)),
                        None => claims.remove(name),
                    };
                    let refused = profile.token(&iss, claims.clone());
                    if refused == Err(Reason::MissingClaim) {
                        assert_eq!(profile.flawed(&claims), Some(name), "{profile:?} {name} {value:?}");
                        named += 1;
                    } else if refused.is_ok() {
                        assert_eq!(profile.flawed(&claims), None, "{profile:?} {name} {value:?}");
                    }
                }
            }
        }
        assert!(named > 300, "only {named}");
    }
}
