//! What does an issuer say of an opaque token (RFC 7662 §2.2)? Read as strictly as a JWT's claims: what is demanded depends
//! on the profile, and nothing is coerced.

use std::sync::Arc;

use serde_json::Value;

use super::Profile;
use super::token::{Claims, demand, read, text};
use crate::reason::Reason;
use crate::request::{Binding, Token};

// === impl Profile ===

impl Profile {
    /// The token that this answer of the issuer describes, or why it is none of use here:
    ///
    /// - `inactive`: `active` is anything but `true`
    /// - `missing_claim`: a demanded member is missing, or a member has the wrong type, is empty or malformed
    /// - `unknown_issuer`: `iss` is there, and another than `issuer`
    /// - `wrong_type`: not an access token, or one of a type that is not known here
    /// - `binding_mismatch`: bound by a method that cannot be checked here (`cnf`), or said to be and not bound
    ///
    /// Times are not compared with a clock here, nor the audience with policy.
    pub fn introspected(self, issuer: &Arc<str>, mut answer: Claims) -> Result<Token, Reason> {
        if answer.get("active") != Some(&Value::Bool(true)) {
            return Err(Reason::Inactive);
        }
        for name in self.shape().answer {
            demand(&answer, name)?;
        }
        if text(&answer, "iss")?.is_some_and(|iss| iss != &**issuer) {
            return Err(Reason::UnknownIssuer);
        }
        // Some servers answer for ID and refresh tokens too, and say so here.
        if text(&answer, "token_use")?.is_some_and(|usage| !["access_token", "access"].contains(&usage)) {
            return Err(Reason::WrongType);
        }
        let says_dpop = match text(&answer, "token_type")? {
            None => false,
            Some(kind) if kind.eq_ignore_ascii_case("Bearer") => false,
            Some(kind) if kind.eq_ignore_ascii_case("DPoP") => true,
            Some(_) => return Err(Reason::WrongType),
        };
        // It says something of the answer, and nothing of the token.
        answer.remove("active");
        let token = Token { introspected: true, ..read(self.shape(), issuer, answer)? };
        match token.binding {
            Binding::None | Binding::Certificate(_) if says_dpop => Err(Reason::BindingMismatch),
            _ => Ok(token),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ISSUER: &str = "https://login.example.com";

    /// A full answer with these members on top; `null` takes one away.
    fn with(profile: Profile, over: Value) -> Result<Token, Reason> {
        let mut answer = json!({
            "active": true, "exp": 2_000_000_000, "aud": "https://orders.shop", "client_id": "checkout",
            "sub": "s", "scope": "a b", "iss": ISSUER, "token_type": "bearer",
        });
        let answer = answer.as_object_mut().unwrap();
        for (name, value) in over.as_object().unwrap() {
            match value {
                Value::Null => answer.remove(name),
                value => answer.insert(name.clone(), value.clone()),
            };
        }
        profile.introspected(&Arc::from(ISSUER), answer.clone())
    }

    fn of(over: Value) -> Result<Token, Reason> {
        with(Profile::Rfc9068, over)
    }

    #[test]
    fn v26_active_is_true_or_it_is_not_active() {
        let token = of(json!({})).unwrap();
        assert_eq!(
            (token.client.as_deref(), &*token.scopes),
            (Some("checkout"), &["a".to_owned(), "b".to_owned()][..])
        );
        assert!(token.introspected && token.binding == Binding::None && !token.claims.contains_key("active"));
        for active in [json!(null), json!(false), json!("true"), json!(1), json!([true]), json!({})] {
            assert_eq!(of(json!({ "active": active })), Err(Reason::Inactive), "{active}");
        }
    }

    #[test]
    fn v28_members_are_demanded_by_profile_and_keep_their_types() {
        for name in ["exp", "aud", "client_id"] {
            assert_eq!(of(json!({ name: null })), Err(Reason::MissingClaim), "{name}");
        }
        for profile in [Profile::Generic, Profile::Keycloak] {
            assert!(with(profile, json!({ "client_id": null, "iss": null, "token_type": null })).is_ok());
            for name in ["exp", "aud"] {
                assert_eq!(with(profile, json!({ name: null })), Err(Reason::MissingClaim), "{name}");
            }
        }
        for wrong in [
            json!({"exp": "2000000000"}),
            json!({"exp": -1}),
            json!({"nbf": "1"}),
            json!({"iat": true}),
            json!({"aud": []}),
            json!({"aud": [1]}),
            json!({"aud": ""}),
            json!({"scope": ["a"]}),
            json!({"sub": 7}),
            json!({"client_id": ["checkout"]}),
            json!({"iss": [ISSUER]}),
            json!({"token_type": true}),
            json!({"token_use": 1}),
            json!({"cnf": "x"}),
        ] {
            assert_eq!(of(wrong.clone()), Err(Reason::MissingClaim), "{wrong}");
        }
    }

    #[test]
    fn v28_another_issuer_and_other_kinds_of_tokens_are_refused() {
        assert_eq!(of(json!({"iss": "https://login.example.com/"})), Err(Reason::UnknownIssuer));
        assert!(of(json!({"iss": null})).is_ok());
        for kind in ["refresh_token", "N_A", "mac"] {
            assert_eq!(of(json!({ "token_type": kind })), Err(Reason::WrongType), "{kind}");
        }
        for usage in ["refresh_token", "id_token", "id"] {
            assert_eq!(of(json!({ "token_use": usage })), Err(Reason::WrongType), "{usage}");
        }
        assert!(of(json!({"token_use": "access_token"})).is_ok());
    }

    #[test]
    fn v30_what_it_is_bound_to_counts_whatever_its_type_is_called() {
        let hash = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs";
        let key = of(json!({"token_type": "DPoP", "cnf": {"jkt": hash}})).unwrap();
        assert_eq!(key.binding, Binding::Key(hash.to_owned()));
        assert_eq!(of(json!({"cnf": {"jkt": hash}})).unwrap().binding, key.binding);
        assert!(of(json!({"cnf": {"x5t#S256": hash}})).unwrap().is_bound());
        for not in [json!({}), json!({"cnf": {"x5t#S256": hash}})] {
            let mut over = json!({"token_type": "dpop"});
            over.as_object_mut().unwrap().extend(not.as_object().unwrap().clone());
            assert_eq!(of(over), Err(Reason::BindingMismatch));
        }
        assert_eq!(of(json!({"cnf": {"kid": "a"}})), Err(Reason::BindingMismatch));
    }

    #[test]
    fn only_profiles_whose_issuers_can_be_asked_say_what_they_answer() {
        let asked: Vec<_> = Profile::ALL.iter().filter(|profile| profile.has_introspection()).collect();
        assert_eq!(asked, [&Profile::Rfc9068, &Profile::Generic, &Profile::Keycloak]);
    }
}
