//! How would a token of this issuer say it? From the words of policy to the claims of a profile: what [`Profile::token`]
//! reads, written.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Profile;

/// The last second of the year 9999: times are not what a test is about.
const NEVER: i64 = 253_402_300_799;
/// What a claim says that the profile demands and the test does not mention.
const SOMEBODY: &str = "policy-test";

/// What a token says, in the words of policy.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) audiences: Vec<String>,
    pub(crate) client: Option<String>,
    pub(crate) subject: Option<String>,
    pub(crate) scopes: Option<Vec<String>>,
    pub(crate) roles: Option<Vec<String>>,
    /// `cnf`, where the token is bound.
    pub(crate) confirmation: Option<Value>,
    /// Every other claim.
    pub(crate) claims: Map<String, Value>,
}

/// A word that a token of the profile cannot say, and why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unsayable {
    pub(crate) word: &'static str,
    pub(crate) message: String,
}

/// Claims, and the word that wrote each.
#[derive(Default)]
struct Writing {
    claims: Map<String, Value>,
    words: BTreeMap<String, &'static str>,
}

// === impl Profile ===

impl Profile {
    /// The claims of a token of this issuer that says so. What the profile demands and nobody mentions is filled in, with
    /// values that no rule asks for.
    pub(crate) fn claims(self, iss: &str, said: &Said) -> Result<Map<String, Value>, Unsayable> {
        let shape = self.shape();
        let mut writing = Writing::default();
        writing.put("issuer", "iss", iss.into())?;
        match said.audiences.as_slice() {
            [] if !self.demands_audience() => {}
            [] => return Err(self.cannot("audience", "have an audience: write one")),
            [one] => writing.put("audience", "aud", one.as_str().into())?,
            several => writing.put("audiences", "aud", several.into())?,
        }
        if let Some(subject) = &said.subject {
            writing.put("subject", "sub", subject.as_str().into())?;
        }
        if let Some(client) = &said.client {
            let name = shape.client.first().ok_or_else(|| self.cannot("client", "name no client"))?;
            writing.put("client", name, client.as_str().into())?;
        }
        if let Some(scopes) = &said.scopes {
            let name = shape.scopes.first().ok_or_else(|| self.cannot("scopes", "have no scopes"))?;
            if !scopes.is_empty() {
                writing.put("scopes", name, scopes.join(" ").into())?;
            }
        }
        if let Some(roles) = &said.roles {
            let (name, below) =
                shape.roles.split_first().ok_or_else(|| self.cannot("roles", "have no roles"))?;
            let nested = below.iter().rev().fold(json!(roles), |inner, name| json!({ *name: inner }));
            writing.put("roles", name, nested)?;
        }
        if let Some(confirmation) = &said.confirmation {
            writing.put("binding", "cnf", confirmation.clone())?;
        }
        for (name, value) in &said.claims {
            writing.put("claims", name, value.clone())?;
        }
        for name in shape.claims {
            writing.claims.entry(*name).or_insert_with(|| self.filled_in(name));
        }
        // Demanded too, under either of its names.
        if self == Self::Entra && !shape.client.iter().any(|name| writing.claims.contains_key(*name)) {
            writing.claims.extend(shape.client.first().map(|name| ((*name).to_owned(), SOMEBODY.into())));
        }
        Ok(writing.claims)
    }

    fn filled_in(self, name: &str) -> Value {
        match (name, self) {
            ("exp", _) => NEVER.into(),
            ("iat", _) => 0.into(),
            ("token_use", _) => "access".into(),
            ("sub", Self::Kubernetes) => format!("system:serviceaccount:default:{SOMEBODY}").into(),
            ("sub", Self::JwtSvid) => format!("spiffe://example.org/{SOMEBODY}").into(),
            _ => SOMEBODY.into(),
        }
    }

    fn cannot(self, word: &'static str, what: &str) -> Unsayable {
        Unsayable { word, message: format!("tokens of profile {} {what}", self.as_str()) }
    }
}

// === impl Writing ===

impl Writing {
    fn put(&mut self, word: &'static str, name: &str, value: Value) -> Result<(), Unsayable> {
        match self.words.get(name) {
            Some(_) if self.claims.get(name) == Some(&value) => Ok(()),
            Some(first) => Err(Unsayable {
                word,
                message: format!("the claim `{name}` is what `{first}` says: write one"),
            }),
            None => {
                self.words.insert(name.to_owned(), word);
                self.claims.insert(name.to_owned(), value);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::request::Binding;

    fn said() -> Said {
        Said { audiences: vec!["https://shop".to_owned()], ..Said::default() }
    }

    fn words(texts: &[&str]) -> Option<Vec<String>> {
        Some(texts.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_profile_reads_what_it_writes() {
        let iss: Arc<str> = "https://login.example.com".into();
        for &profile in Profile::ALL {
            let id = if profile == Profile::JwtSvid { "spiffe://example.org/a" } else { "a" };
            let said = Said {
                client: Some(id.to_owned()),
                scopes: words(&["read", "write"]).filter(|_| profile.has_scopes()),
                roles: words(&["admin"]).filter(|_| profile.has_roles()),
                confirmation: Some(json!({ "x5t#S256": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc" })),
                claims: json!({ "tenant": "acme" }).as_object().unwrap().clone(),
                ..said()
            };
            let token = profile.token(&iss, profile.claims(&iss, &said).unwrap()).unwrap();
            assert_eq!(token.audiences, said.audiences, "{profile:?}");
            assert_eq!(token.client, said.client, "{profile:?}");
            assert_eq!(token.scopes, said.scopes.unwrap_or_default(), "{profile:?}");
            assert_eq!(token.roles, said.roles.unwrap_or_default(), "{profile:?}");
            assert_eq!(token.binding, Binding::Certificate([7; 32]), "{profile:?}");
            assert_eq!(token.claims["tenant"], "acme", "{profile:?}");
        }
    }

    #[test]
    fn what_is_demanded_and_not_said_is_filled_in() {
        let iss: Arc<str> = "https://login.example.com".into();
        for &profile in Profile::ALL {
            assert!(profile.token(&iss, profile.claims(&iss, &said()).unwrap()).is_ok(), "{profile:?}");
        }
        let mut own = said();
        own.claims.insert("sub".to_owned(), json!("alice"));
        assert_eq!(Profile::Rfc9068.claims("i", &own).unwrap()["sub"], "alice");
    }

    #[test]
    fn what_a_profile_cannot_say_is_an_error() {
        let error = |profile: Profile, said: Said| {
            let Unsayable { word, message } = profile.claims("i", &said).unwrap_err();
            format!("{word}: {message}")
        };
        let scopes = || Said { scopes: words(&["read"]), ..said() };
        assert_eq!(
            error(Profile::Kubernetes, scopes()),
            "scopes: tokens of profile kubernetes have no scopes"
        );
        let roles = Said { roles: words(&["a"]), ..said() };
        assert_eq!(error(Profile::Generic, roles), "roles: tokens of profile generic have no roles");
        let none = Said::default;
        assert!(error(Profile::Rfc9068, none()).starts_with("audience: "));
        assert!(Profile::Cognito.claims("i", &none()).is_ok());
        let two = Said { client: Some("a".to_owned()), subject: Some("b".to_owned()), ..said() };
        assert_eq!(
            error(Profile::Kubernetes, two),
            "client: the claim `sub` is what `subject` says: write one"
        );
        let mut twice = scopes();
        twice.claims.insert("scope".to_owned(), json!("write"));
        assert_eq!(
            error(Profile::Rfc9068, twice),
            "claims: the claim `scope` is what `scopes` says: write one"
        );
    }
}
