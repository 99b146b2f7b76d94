use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::reason::Reason;
use crate::request::{Binding, Token};

const ISSUER: &str = "https://login.example.com";

/// A minimal token of each profile.
fn minimal(profile: Profile) -> Map<String, Value> {
    let claims = match profile {
        Profile::Rfc9068 => {
            json!({ "iss": ISSUER, "exp": 2_000_000_000, "aud": "api", "sub": "s", "client_id": "c", "iat": 1, "jti": "j" })
        }
        Profile::Generic | Profile::Keycloak => {
            json!({ "iss": ISSUER, "exp": 2_000_000_000, "aud": "api" })
        }
        Profile::Entra => {
            json!({ "iss": ISSUER, "exp": 2_000_000_000, "aud": "api", "azp": "c" })
        }
        Profile::Cognito => {
            json!({ "iss": ISSUER, "exp": 2_000_000_000, "client_id": "c", "token_use": "access" })
        }
        Profile::Kubernetes => {
            json!({ "iss": ISSUER, "exp": 2_000_000_000, "aud": ["api"], "sub": "system:serviceaccount:shop:orders" })
        }
        Profile::JwtSvid => {
            json!({ "exp": 2_000_000_000, "aud": ["api"], "sub": "spiffe://example.org/orders" })
        }
    };
    object(claims)
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn read(profile: Profile, claims: Map<String, Value>) -> Result<Token, Reason> {
    profile.token(&Arc::from(ISSUER), claims)
}

/// A minimal token with these claims beside or instead; `null` removes one.
fn with(profile: Profile, changes: Value) -> Result<Token, Reason> {
    let mut claims = minimal(profile);
    for (name, value) in object(changes) {
        if value.is_null() {
            claims.remove(&name)
        } else {
            claims.insert(name, value)
        };
    }
    read(profile, claims)
}

fn all() -> impl Iterator<Item = Profile> {
    Profile::ALL.iter().copied()
}

#[test]
fn names_are_those_of_the_documents() {
    let names: Vec<_> = all().map(Profile::as_str).collect();
    assert_eq!(names, ["rfc9068", "generic", "keycloak", "entra", "cognito", "kubernetes", "jwt-svid"]);
    for profile in all() {
        assert_eq!(serde_yaml::from_str::<Profile>(profile.as_str()).unwrap(), profile);
    }
    assert!(serde_yaml::from_str::<Profile>("RFC9068").is_err());
}

#[test]
fn words_without_a_source() {
    let without = |has: fn(Profile) -> bool| {
        all().filter(|profile| !has(*profile)).map(Profile::as_str).collect::<Vec<_>>()
    };
    assert!(without(Profile::has_client).is_empty());
    assert_eq!(without(Profile::has_scopes), ["kubernetes", "jwt-svid"]);
    assert_eq!(without(Profile::has_roles), ["generic", "kubernetes", "jwt-svid"]);
    assert_eq!(without(Profile::demands_audience), ["cognito"]);
}

/// IN-10.
#[test]
fn in_10_types_by_profile() {
    let accepted = |profile: Profile| {
        [None, Some("JWT"), Some("at+jwt"), Some("JOSE")]
            .into_iter()
            .filter(|typ| profile.accepts_type(*typ))
            .collect::<Vec<_>>()
    };
    assert_eq!(accepted(Profile::Rfc9068), [Some("at+jwt")]);
    assert_eq!(accepted(Profile::Generic), [None, Some("JWT"), Some("at+jwt")]);
    assert_eq!(accepted(Profile::Keycloak), [None, Some("JWT"), Some("at+jwt")]);
    assert_eq!(accepted(Profile::Entra), [Some("JWT")]);
    assert_eq!(accepted(Profile::Cognito), [None, Some("JWT")]);
    assert_eq!(accepted(Profile::Kubernetes), [None, Some("JWT")]);
    assert_eq!(accepted(Profile::JwtSvid), [None, Some("JWT"), Some("JOSE")]);

    for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+Jwt"] {
        assert!(Profile::Rfc9068.accepts_type(Some(typ)), "{typ}");
    }
    for typ in [
        "",
        "at",
        "at+jwt ",
        " at+jwt",
        "at+jwt;v=1",
        "application/",
        "application/application/at+jwt",
        "text/at+jwt",
        "/at+jwt",
        "dpop+jwt",
        "jwt+at",
        "at+jwt\0",
        "ａt+jwt",
    ] {
        assert!(!Profile::Rfc9068.accepts_type(Some(typ)), "{typ:?}");
    }
    for profile in all() {
        assert!(
            !profile.accepts_type(Some(""))
                && !profile.accepts_type(Some("dpop+jwt"))
                && !profile.accepts_type(Some("logout+jwt"))
        );
    }
    assert!(Profile::JwtSvid.accepts_type(Some("application/jose")));
}

#[test]
fn a_minimal_token_of_each_profile_is_read() {
    for profile in all() {
        let token = read(profile, minimal(profile)).unwrap();
        assert_eq!(&*token.issuer, ISSUER);
        assert_eq!(token.expires_at, 2_000_000_000);
        assert_eq!(token.not_before, None);
        assert_eq!(token.binding, Binding::None);
        assert_eq!(token.claims, minimal(profile));
        assert_eq!(token.audiences, [if profile == Profile::Cognito { "c" } else { "api" }]);
        assert!(token.scopes.is_empty() && token.roles.is_empty());
    }
}

/// IN-8.
#[test]
fn in_8_each_demanded_claim_is_demanded_in_its_type() {
    let count = |profile: Profile| profile.shape().claims.len();
    assert_eq!(all().map(count).collect::<Vec<_>>(), [7, 3, 3, 3, 4, 4, 3]);
    for profile in all() {
        for name in profile.shape().claims {
            let mut claims = minimal(profile);
            claims.remove(*name);
            assert_eq!(read(profile, claims), Err(Reason::MissingClaim), "{profile:?} without {name}");
            for wrong in [
                json!(null),
                json!(true),
                json!({}),
                json!([]),
                json!(""),
                json!([7]),
                json!([""]),
                json!([["api"]]),
            ] {
                let mut claims = minimal(profile);
                claims.insert((*name).to_owned(), wrong.clone());
                assert_eq!(read(profile, claims), Err(Reason::MissingClaim), "{profile:?} {name}: {wrong}");
            }
            let other = if matches!(*name, "exp" | "iat") { json!("1") } else { json!(1) };
            let mut claims = minimal(profile);
            claims.insert((*name).to_owned(), other);
            assert_eq!(read(profile, claims), Err(Reason::MissingClaim), "{profile:?} {name}");
        }
    }
}

#[test]
fn in_8_claims_that_may_be_missing_may_not_be_wrong() {
    for profile in all() {
        for name in ["nbf", "iat", "exp"] {
            for wrong in [
                json!("1"),
                json!(true),
                json!([1]),
                json!(-1),
                json!(-0.5e3),
                json!(1e12),
                json!(u64::MAX),
                json!(1e300),
                json!(i64::MIN),
            ] {
                assert_eq!(
                    with(profile, json!({ name: wrong })),
                    Err(Reason::MissingClaim),
                    "{profile:?} {name}: {wrong}"
                );
            }
        }
        for wrong in [json!(7), json!([]), json!(""), json!({})] {
            for name in ["sub", "iss"].into_iter().chain(profile.shape().client.iter().copied()) {
                let mut claims = minimal(profile);
                if name == "appid" {
                    claims.remove("azp");
                }
                claims.insert(name.to_owned(), wrong.clone());
                assert_eq!(read(profile, claims), Err(Reason::MissingClaim), "{profile:?} {name}: {wrong}");
            }
        }
        if let Some(scopes) = profile.shape().scopes.first() {
            for wrong in [json!(7), json!({}), json!(true), json!([7]), json!(["a", null])] {
                assert_eq!(
                    with(profile, json!({ *scopes: wrong })),
                    Err(Reason::MissingClaim),
                    "{profile:?} {scopes}: {wrong}"
                );
            }
        }
        if let [claim] = profile.shape().roles {
            for wrong in [json!("admin"), json!({}), json!([7]), json!(["a", ""]), json!([{ "value": "a" }])]
            {
                assert_eq!(
                    with(profile, json!({ *claim: wrong })),
                    Err(Reason::MissingClaim),
                    "{profile:?} {claim}: {wrong}"
                );
            }
        }
        let mut claims = minimal(profile);
        claims.insert("cnf".into(), Value::Null);
        assert_eq!(read(profile, claims), Err(Reason::MissingClaim));
    }
}

#[test]
fn times_are_whole_or_fractional_seconds_and_rounded_to_the_strict_side() {
    let token = with(Profile::Generic, json!({ "exp": 2000.9, "nbf": 1000.1, "iat": 999.9 })).unwrap();
    assert_eq!((token.expires_at, token.not_before, token.issued_at), (2000, Some(1001), Some(999)));
    let token = with(Profile::Generic, json!({ "exp": 2e9, "nbf": 0, "iat": 0.0 })).unwrap();
    assert_eq!((token.expires_at, token.not_before, token.issued_at), (2_000_000_000, Some(0), Some(0)));
    assert_eq!(
        with(Profile::Generic, json!({ "exp": 253_402_300_799_i64 })).unwrap().expires_at,
        253_402_300_799
    );
    assert_eq!(with(Profile::Generic, json!({ "exp": 253_402_300_800_i64 })), Err(Reason::MissingClaim));
    assert_eq!(
        with(Profile::Generic, json!({ "exp": 2_000_000_000_000_i64 })),
        Err(Reason::MissingClaim),
        "milliseconds"
    );
}

#[test]
fn audiences_are_a_string_or_a_list() {
    assert_eq!(with(Profile::Generic, json!({ "aud": "a" })).unwrap().audiences, ["a"]);
    assert_eq!(with(Profile::Generic, json!({ "aud": "a b" })).unwrap().audiences, ["a b"]);
    assert_eq!(with(Profile::Generic, json!({ "aud": ["a", "b"] })).unwrap().audiences, ["a", "b"]);
    for wrong in [json!([]), json!(["a", 1]), json!(["a", ""]), json!({ "a": "b" }), json!(7)] {
        assert_eq!(with(Profile::Generic, json!({ "aud": wrong })), Err(Reason::MissingClaim), "{wrong}");
    }
}

#[test]
fn the_issuer_must_be_the_one_whose_keys_verified_it() {
    for profile in all() {
        for other in ["https://login.example.com/", "https://LOGIN.example.com", "https://evil.example"] {
            assert_eq!(with(profile, json!({ "iss": other })), Err(Reason::UnknownIssuer), "{profile:?}");
        }
    }
}

#[test]
fn clients_come_from_the_claim_of_the_profile() {
    let client = |profile, claims| with(profile, claims).unwrap().client;
    let both = json!({ "client_id": "a", "azp": "b", "appid": "d", "sub": "e" });
    assert_eq!(client(Profile::Rfc9068, both.clone()).as_deref(), Some("a"));
    assert_eq!(client(Profile::Generic, both.clone()).as_deref(), Some("a"));
    assert_eq!(client(Profile::Generic, json!({ "azp": "b" })).as_deref(), Some("b"));
    assert_eq!(client(Profile::Generic, json!({ "appid": "d" })), None);
    assert_eq!(client(Profile::Keycloak, both.clone()).as_deref(), Some("b"));
    assert_eq!(client(Profile::Keycloak, json!({ "client_id": "a" })).as_deref(), Some("a"));
    assert_eq!(client(Profile::Entra, both.clone()).as_deref(), Some("b"));
    assert_eq!(client(Profile::Entra, json!({ "azp": null, "appid": "d" })).as_deref(), Some("d"));
    assert_eq!(client(Profile::Cognito, both.clone()).as_deref(), Some("a"));
    assert_eq!(client(Profile::Kubernetes, both).as_deref(), Some("e"));
    assert_eq!(
        client(Profile::JwtSvid, json!({ "azp": "b" })).as_deref(),
        Some("spiffe://example.org/orders")
    );
    // The first that is present counts, whatever stands behind it.
    assert_eq!(with(Profile::Generic, json!({ "client_id": 7, "azp": "b" })), Err(Reason::MissingClaim));
}

#[test]
fn scopes_come_from_the_claim_of_the_profile() {
    let scopes = |profile, claims| with(profile, claims).map(|token| token.scopes);
    let both = json!({ "scope": "a  b ", "scp": "c" });
    for profile in [Profile::Rfc9068, Profile::Generic, Profile::Keycloak, Profile::Cognito] {
        assert_eq!(scopes(profile, both.clone()).unwrap(), ["a", "b"], "{profile:?}");
    }
    assert_eq!(scopes(Profile::Entra, both.clone()).unwrap(), ["c"]);
    assert!(scopes(Profile::Kubernetes, both.clone()).unwrap().is_empty());
    assert!(scopes(Profile::JwtSvid, both).unwrap().is_empty());
    assert_eq!(scopes(Profile::Generic, json!({ "scope": ["a", "b"] })).unwrap(), ["a", "b"]);
    assert_eq!(scopes(Profile::Generic, json!({ "scp": ["a"] })).unwrap(), ["a"]);
    assert_eq!(scopes(Profile::Generic, json!({ "scp": "a b" })).unwrap(), ["a", "b"]);
    assert_eq!(scopes(Profile::Generic, json!({ "scope": ["a b"] })), Err(Reason::MissingClaim));
    assert_eq!(scopes(Profile::Generic, json!({ "scope": "a\tb" })).unwrap(), ["a\tb"]);
    assert!(scopes(Profile::Rfc9068, json!({ "scope": "" })).unwrap().is_empty());
    assert!(scopes(Profile::Rfc9068, json!({ "scp": "a" })).unwrap().is_empty());
    for profile in [Profile::Rfc9068, Profile::Keycloak, Profile::Cognito] {
        assert_eq!(scopes(profile, json!({ "scope": ["a"] })), Err(Reason::MissingClaim), "{profile:?}");
    }
    assert_eq!(scopes(Profile::Entra, json!({ "scp": ["a"] })), Err(Reason::MissingClaim));
}

#[test]
fn roles_come_from_the_claim_of_the_profile() {
    let every = json!({ "roles": ["a"], "realm_access": { "roles": ["b"] }, "cognito:groups": ["d", "e f"] });
    let roles = |profile| with(profile, every.clone()).unwrap().roles;
    assert_eq!(roles(Profile::Rfc9068), ["a"]);
    assert_eq!(roles(Profile::Keycloak), ["b"]);
    assert_eq!(roles(Profile::Entra), ["a"]);
    assert_eq!(roles(Profile::Cognito), ["d", "e f"]);
    for profile in [Profile::Generic, Profile::Kubernetes, Profile::JwtSvid] {
        assert!(roles(profile).is_empty(), "{profile:?}");
    }
    assert!(with(Profile::Keycloak, json!({ "realm_access": {} })).unwrap().roles.is_empty());
    assert!(with(Profile::Keycloak, json!({ "realm_access": { "roles": [] } })).unwrap().roles.is_empty());
    for wrong in
        [json!([]), json!("a"), json!({ "roles": "a" }), json!({ "roles": [7] }), json!({ "roles": null })]
    {
        assert_eq!(
            with(Profile::Keycloak, json!({ "realm_access": wrong })),
            Err(Reason::MissingClaim),
            "{wrong}"
        );
    }
}

#[test]
fn cognito_tells_access_tokens_by_their_use_and_an_audience_is_never_ignored() {
    assert_eq!(with(Profile::Cognito, json!({ "token_use": "id" })), Err(Reason::WrongType));
    assert_eq!(with(Profile::Cognito, json!({ "token_use": "Access" })), Err(Reason::WrongType));
    assert_eq!(with(Profile::Cognito, json!({ "aud": "api" })).unwrap().audiences, ["api"]);
    assert_eq!(with(Profile::Cognito, json!({ "aud": [] })), Err(Reason::MissingClaim));
}

#[test]
fn the_subject_of_a_jwt_svid_is_a_spiffe_id() {
    for wrong in
        ["orders", "spiffe://", "spiffe://Example.org/a", "spiffe://example.org/a/", "https://example.org/a"]
    {
        assert_eq!(with(Profile::JwtSvid, json!({ "sub": wrong })), Err(Reason::MissingClaim), "{wrong}");
    }
    assert!(with(Profile::JwtSvid, json!({ "iss": ISSUER })).is_ok());
}

#[test]
fn bindings_are_read_whatever_the_profile() {
    let thumbprint = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";
    for profile in all() {
        let token = with(profile, json!({ "cnf": { "x5t#S256": thumbprint } })).unwrap();
        assert_eq!(token.binding, Binding::Certificate([7; 32]));
        assert_eq!(with(profile, json!({ "cnf": { "kid": "a" } })), Err(Reason::BindingMismatch));
        assert_eq!(with(profile, json!({ "cnf": { "jkt": "short" } })), Err(Reason::MissingClaim));
    }
}

// === properties ===

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof![
            Just(ISSUER.to_owned()),
            Just("access".to_owned()),
            Just("spiffe://a/b".to_owned()),
            "\\PC{0,6}"
        ]
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map("roles|jkt|x5t#S256|[a-z]", inner, 0..3)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever the claims are, what is read is what they say, and nothing else.
    #[test]
    fn any_claims_are_read_strictly_or_refused(
        profile in proptest::sample::select(Profile::ALL.to_vec()),
        changes in proptest::collection::btree_map(
            "iss|exp|aud|sub|client_id|iat|nbf|jti|azp|appid|scope|scp|roles|realm_access|cognito:groups|token_use|cnf", json_value(), 0..4),
    ) {
        let mut claims = minimal(profile);
        claims.extend(changes);
        let Ok(token) = read(profile, claims.clone()) else { return Ok(()) };
        prop_assert_eq!(&token.claims, &claims);
        prop_assert!(!token.audiences.is_empty());
        prop_assert!(claims.get("iss").is_none_or(|iss| iss == ISSUER));
        prop_assert_eq!(token.subject.as_deref(), claims.get("sub").map(|sub| sub.as_str().unwrap()));
        prop_assert_eq!(token.binding == Binding::None, !claims.contains_key("cnf"));
        prop_assert_eq!(token.not_before.is_some(), claims.contains_key("nbf"));
        prop_assert!((token.expires_at as f64) <= claims["exp"].as_f64().unwrap());
        prop_assert!(token.expires_at.checked_add(120).is_some());
        if let Some(client) = &token.client {
            prop_assert!(profile.shape().client.iter().any(|name| claims.get(*name).is_some_and(|claim| claim == client)));
        }
        prop_assert!(token.scopes.iter().all(|scope| !scope.is_empty() && !scope.contains(' ')));
        prop_assert!(token.scopes.is_empty() || profile.has_scopes());
        prop_assert!(token.roles.is_empty() || profile.has_roles());
    }

    /// The type is compared without regard to case, and nothing but `application/` may come before it.
    #[test]
    fn types_are_media_types(profile in proptest::sample::select(Profile::ALL.to_vec()), typ in "(application/)?(at\\+)?(jwt|JWT|jose)|\\PC{0,8}") {
        let bare = typ.to_ascii_lowercase();
        let bare = bare.strip_prefix("application/").unwrap_or(&bare);
        prop_assert_eq!(profile.accepts_type(Some(&typ)), profile.shape().types.contains(&Some(bare)));
    }
}
