//! Do the profiles fit what issuers send? Claims of access tokens as their vendors document them, and of their ID tokens,
//! which must not pass for access tokens.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Profile;
use crate::reason::Reason;
use crate::request::Token;

fn read(profile: Profile, typ: Option<&str>, claims: &Value) -> Result<Token, Reason> {
    if !profile.accepts_type(typ) {
        return Err(Reason::WrongType);
    }
    let issuer = claims["iss"].as_str().unwrap_or("https://spire.example");
    profile.token(&Arc::from(issuer), claims.as_object().unwrap().clone())
}

/// These members on top.
fn with(claims: &Value, over: Value) -> Value {
    let mut claims = claims.clone();
    claims.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
    claims
}

fn without(claims: &Value, name: &str) -> Value {
    let mut claims = claims.clone();
    claims.as_object_mut().unwrap().remove(name).unwrap();
    claims
}

/// Client, subject, scopes and roles.
fn identity(token: &Token) -> (Option<&str>, Option<&str>, Vec<&str>, Vec<&str>) {
    (
        token.client.as_deref(),
        token.subject.as_deref(),
        token.scopes.iter().map(String::as_str).collect(),
        token.roles.iter().map(String::as_str).collect(),
    )
}

/// RFC 9068 §2.2, figure 2.
#[test]
fn v19_v20_the_example_of_rfc_9068() {
    let claims = json!({
        "iss": "https://authorization-server.example.com/", "sub": "5ba552d67", "aud": "https://rs.example.com/",
        "exp": 1_639_528_912, "iat": 1_618_354_090, "jti": "dbe39bf3a3ba4238a513f51d6e1691c4",
        "client_id": "s6BhdRkqt3", "scope": "openid profile reademail",
    });
    let token = read(Profile::Rfc9068, Some("at+JWT"), &claims).unwrap();
    assert_eq!(
        identity(&token),
        (Some("s6BhdRkqt3"), Some("5ba552d67"), vec!["openid", "profile", "reademail"], vec![])
    );
    assert_eq!(token.audiences, ["https://rs.example.com/"]);
    assert_eq!(read(Profile::Rfc9068, Some("JWT"), &claims).err(), Some(Reason::WrongType));
}

/// A service account (client credentials grant) with an audience mapper and a realm role.
#[test]
fn v19_keycloak() {
    let access = json!({
        "exp": 1_763_000_300, "iat": 1_763_000_000, "jti": "trrtcc:1c4d5a4e-6f0a-4a53-a1ff-3a0a9f2c3d4e",
        "iss": "https://sso.example.com/realms/shop", "aud": ["https://orders.shop", "account"],
        "sub": "b6d9f4a2-1f3e-4f64-9d5e-0a6a7c1b2e3f", "typ": "Bearer", "azp": "checkout", "acr": "1",
        "allowed-origins": ["/*"],
        "realm_access": {"roles": ["default-roles-shop", "offline_access", "orders-admin"]},
        "resource_access": {"account": {"roles": ["manage-account", "view-profile"]}},
        "scope": "profile email orders:read", "clientHost": "10.0.0.7", "email_verified": false,
        "preferred_username": "service-account-checkout", "clientAddress": "10.0.0.7", "client_id": "checkout",
    });
    let token = read(Profile::Keycloak, Some("JWT"), &access).unwrap();
    assert_eq!(
        identity(&token),
        (
            Some("checkout"),
            Some("b6d9f4a2-1f3e-4f64-9d5e-0a6a7c1b2e3f"),
            vec!["profile", "email", "orders:read"],
            vec!["default-roles-shop", "offline_access", "orders-admin"]
        )
    );
    assert_eq!(token.audiences, ["https://orders.shop", "account"]);
    // Without the mapper there may be no audience at all.
    assert_eq!(
        read(Profile::Keycloak, Some("JWT"), &without(&access, "aud")).err(),
        Some(Reason::MissingClaim)
    );
    // "Use at+jwt as access token header type" in the client's advanced settings; a DPoP-bound client.
    assert!(read(Profile::Keycloak, Some("at+jwt"), &with(&access, json!({"typ": "DPoP"}))).is_ok());
    for other in ["ID", "Refresh", "Offline", "Logout", "bearer"] {
        let claims = with(&access, json!({"typ": other}));
        assert_eq!(read(Profile::Keycloak, Some("JWT"), &claims).err(), Some(Reason::WrongType), "{other}");
    }
}

/// Client credentials for `api://orders/.default` with an app role, version 2.0 and 1.0.
#[test]
fn v19_entra() {
    let tenant = "aaaabbbb-0000-cccc-1111-dddd2222eeee";
    let v2 = json!({
        "aud": "00001111-aaaa-2222-bbbb-3333cccc4444", "iss": format!("https://login.microsoftonline.com/{tenant}/v2.0"),
        "iat": 1_763_000_000, "nbf": 1_763_000_000, "exp": 1_763_003_900, "aio": "k2RgYNj...", "azp": "55556666-ffff-7777-aaaa-8888bbbb9999",
        "azpacr": "1", "oid": "22aa22aa-bb33-cc44-dd55-ee66ee66ee66", "rh": "1.AXQA...",
        "roles": ["Orders.Read.All"], "sub": "22aa22aa-bb33-cc44-dd55-ee66ee66ee66", "tid": tenant,
        "uti": "abcdefghijklmnopqrstuv", "ver": "2.0",
    });
    let token = read(Profile::Entra, Some("JWT"), &v2).unwrap();
    assert_eq!(
        identity(&token),
        (
            Some("55556666-ffff-7777-aaaa-8888bbbb9999"),
            Some("22aa22aa-bb33-cc44-dd55-ee66ee66ee66"),
            vec![],
            vec!["Orders.Read.All"]
        )
    );
    let v1 = with(
        &without(&v2, "azp"),
        json!({
            "aud": "api://orders", "iss": format!("https://sts.windows.net/{tenant}/"), "appid": "55556666-ffff-7777-aaaa-8888bbbb9999",
            "appidacr": "1", "idp": format!("https://sts.windows.net/{tenant}/"), "ver": "1.0", "scp": "Orders.Read",
        }),
    );
    let token = read(Profile::Entra, Some("JWT"), &v1).unwrap();
    assert_eq!(
        (token.client.as_deref(), &token.scopes[..]),
        (Some("55556666-ffff-7777-aaaa-8888bbbb9999"), &["Orders.Read".to_owned()][..])
    );
    // The ID token of an application that is client and API in one has the same audience and type, but no client.
    let id = json!({
        "aud": "00001111-aaaa-2222-bbbb-3333cccc4444", "iss": v2["iss"], "iat": 1_763_000_000, "nbf": 1_763_000_000,
        "exp": 1_763_003_900, "name": "Alice", "nonce": "n", "oid": "x", "preferred_username": "alice@example.com",
        "rh": "1.AXQA...", "sub": "y", "tid": tenant, "uti": "z", "ver": "2.0",
    });
    assert_eq!(read(Profile::Entra, Some("JWT"), &id).err(), Some(Reason::MissingClaim));
    assert_eq!(read(Profile::Entra, None, &v2).err(), Some(Reason::WrongType));
}

/// Client credentials of a user pool with a resource server; the header has no `typ`.
#[test]
fn v19_cognito() {
    let access = json!({
        "sub": "2bcdefgh3ijklmno4pqrstuv5w", "token_use": "access", "scope": "orders/read orders/write",
        "auth_time": 1_763_000_000, "iss": "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_Example",
        "exp": 1_763_003_600, "iat": 1_763_000_000, "version": 2, "jti": "d8d4c1b0-5f0e-4d1a-9a1b-1c2d3e4f5a6b",
        "client_id": "2bcdefgh3ijklmno4pqrstuv5w",
    });
    let token = read(Profile::Cognito, None, &access).unwrap();
    assert_eq!(token.audiences, ["2bcdefgh3ijklmno4pqrstuv5w"], "the client is the audience");
    assert_eq!(token.scopes, ["orders/read", "orders/write"]);
    let user = with(&access, json!({"cognito:groups": ["admins"], "username": "alice"}));
    assert_eq!(read(Profile::Cognito, None, &user).unwrap().roles, ["admins"]);
    let id = json!({
        "sub": "b", "aud": "2bcdefgh3ijklmno4pqrstuv5w", "email_verified": true, "token_use": "id", "auth_time": 1,
        "iss": access["iss"], "cognito:username": "alice", "exp": 1_763_003_600, "iat": 1_763_000_000,
    });
    assert_eq!(read(Profile::Cognito, None, &id).err(), Some(Reason::MissingClaim));
    let id = with(&id, json!({"client_id": "2bcdefgh3ijklmno4pqrstuv5w"}));
    assert_eq!(read(Profile::Cognito, None, &id).err(), Some(Reason::WrongType));
}

/// A projected service-account token; the header has no `typ`. Legacy ones, from a Secret, never expire: refused.
#[test]
fn v17_v19_kubernetes() {
    let bound = json!({
        "aud": ["https://orders.shop"], "exp": 1_763_003_600, "iat": 1_763_000_000,
        "iss": "https://kubernetes.default.svc.cluster.local", "jti": "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
        "kubernetes.io": {
            "namespace": "shop", "node": {"name": "node-1", "uid": "a"}, "pod": {"name": "checkout-7d9f", "uid": "b"},
            "serviceaccount": {"name": "checkout", "uid": "c"},
        },
        "nbf": 1_763_000_000, "sub": "system:serviceaccount:shop:checkout",
    });
    let token = read(Profile::Kubernetes, None, &bound).unwrap();
    let account = Some("system:serviceaccount:shop:checkout");
    assert_eq!(identity(&token), (account, account, vec![], vec![]));
    let legacy = json!({
        "iss": "kubernetes/serviceaccount", "kubernetes.io/serviceaccount/namespace": "shop",
        "kubernetes.io/serviceaccount/secret.name": "checkout-token", "sub": "system:serviceaccount:shop:checkout",
    });
    assert_eq!(read(Profile::Kubernetes, None, &legacy).err(), Some(Reason::MissingClaim));
}

/// SPIRE sets `iat` and `exp`, and `typ: JWT`.
#[test]
fn v37_jwt_svid() {
    let svid = json!({
        "aud": ["https://orders.shop"], "exp": 1_763_000_300, "iat": 1_763_000_000, "sub": "spiffe://shop.test/checkout",
    });
    let token = read(Profile::JwtSvid, Some("JWT"), &svid).unwrap();
    let id = Some("spiffe://shop.test/checkout");
    assert_eq!(identity(&token), (id, id, vec![], vec![]));
    for name in ["aud", "exp", "sub"] {
        assert_eq!(
            read(Profile::JwtSvid, Some("JOSE"), &without(&svid, name)).err(),
            Some(Reason::MissingClaim)
        );
    }
    assert_eq!(read(Profile::JwtSvid, Some("at+jwt"), &svid).err(), Some(Reason::WrongType));
}

/// Okta and Auth0, who have no profile of their own.
#[test]
fn v19_others_by_the_generic_profile() {
    let okta = json!({
        "ver": 1, "jti": "AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMf0D7uX39RE", "iss": "https://example.okta.com/oauth2/default",
        "aud": "api://default", "iat": 1_763_000_000, "exp": 1_763_003_600, "cid": "nmdP1fcyvdVO11AL7ECm",
        "scp": ["orders.read", "orders.write"], "sub": "nmdP1fcyvdVO11AL7ECm",
    });
    let token = read(Profile::Generic, None, &okta).unwrap();
    assert_eq!(
        (token.client.as_deref(), token.scopes.len()),
        (None, 2),
        "the client is the subject of such a token"
    );
    let auth0 = json!({
        "iss": "https://example.eu.auth0.com/", "sub": "AbC123@clients", "aud": "https://orders.shop",
        "iat": 1_763_000_000, "exp": 1_763_086_400, "azp": "AbC123", "scope": "read:orders", "gty": "client-credentials",
    });
    let token = read(Profile::Generic, Some("JWT"), &auth0).unwrap();
    assert_eq!(identity(&token), (Some("AbC123"), Some("AbC123@clients"), vec!["read:orders"], vec![]));
}
