//! A key set, as an issuer could publish it. Whatever it holds, a token is accepted under it only if its key is in there.

use std::sync::LazyLock;

use serde_json::Value;

use crate::sidecar::{SIDECAR, ed25519_jwk};

/// A good token, with the key `ed`.
static TOKEN: LazyLock<String> = LazyLock::new(|| {
    let claims = br#"{"iss":"https://issuer.test/rfc9068","aud":"https://orders.shop","exp":99999999999,"iat":1,"sub":"a","client_id":"a","jti":"1"}"#;
    SIDECAR.sign(br#"{"alg":"EdDSA","typ":"at+jwt","kid":"ed"}"#, claims, false)
});

/// The bytes are a key set.
pub fn check(data: &[u8]) {
    let Ok(key_set) = serde_json::from_slice::<Value>(data) else { return };
    let own = ed25519_jwk(&SIDECAR.ed25519);
    let keys = key_set.get("keys").and_then(Value::as_array).cloned().unwrap_or_default();
    let is_own = |key: &Value| ["kty", "crv", "x", "kid"].iter().all(|name| key.get(name) == own.get(name));
    let (usable, outcome) = SIDECAR.verify_under(&TOKEN, key_set);
    assert!(!usable || (1..=100).contains(&keys.len()), "there is a key to be used");
    assert!(outcome.is_err() || usable && keys.iter().any(is_own), "accepted under {keys:?}");
    let purposes = ["use", "key_ops", "alg"];
    let plain = |key: &Value| is_own(key) && purposes.iter().all(|name| key.get(name).is_none());
    // Alone in its set, and with nothing that forbids it, it has to do.
    if let [key] = keys.as_slice()
        && plain(key)
        && key.as_object().is_some_and(|members| members.len() == 4)
    {
        assert!(outcome.is_ok(), "refused under {key}");
    }
}
