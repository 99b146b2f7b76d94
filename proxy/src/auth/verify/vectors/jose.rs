//! The examples of the RFCs: signed by others, with keys of others. `jose.json` holds them as the RFCs print them, line
//! breaks removed, the private members of keys left out.

use countersign_policy::snapshot::{Algorithm, KeySource};
use countersign_policy::{Profile, Reason};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::auth::issuers::jwks::{KeySet, Lookup};
use crate::auth::testing::issuer;
use crate::auth::verify::jwt::{Jwt, algorithm_named};

#[derive(Deserialize)]
struct Example {
    name: String,
    jwk: Value,
    token: String,
}

/// What becomes of an example.
enum Outcome {
    /// The signature verifies with the example's key. As a token it is refused all the same, for this reason.
    Verified(Algorithm, Option<Reason>),
    /// Refused before any key is asked.
    Refused(Reason),
}

/// Each example, and why it is refused if it is.
fn outcome(name: &str) -> Outcome {
    use Outcome::{Refused, Verified};
    match name {
        // A JWT that expired in 2011 and lacks `aud`: well-formed, so only the claims are wrong.
        "RFC 7515 A.2" => Verified(Algorithm::RS256, None),
        "RFC 7515 A.3" => Verified(Algorithm::ES256, None),
        // The payload is prose, and a token's is a JSON object (RFC 7519 §7.2).
        "RFC 7520 4.1" | "RFC 7520 4.8 first signature" => {
            Verified(Algorithm::RS256, Some(Reason::MalformedToken))
        }
        "RFC 7520 4.2" => Verified(Algorithm::PS384, Some(Reason::MalformedToken)),
        "RFC 8037 A.4" => Verified(Algorithm::EdDSA, Some(Reason::MalformedToken)),
        // HMAC: whoever verifies can sign. Its tokens cannot be reached by any setting (IN-3).
        "RFC 7515 A.1" => Refused(Reason::UnsupportedAlgorithm),
        // `none`.
        "RFC 7515 A.5" => Refused(Reason::UnsupportedAlgorithm),
        // ES512 is not among the algorithms of policy; its payload is prose besides, which is seen first, as in 4.4.
        "RFC 7515 A.4" | "RFC 7520 4.3" | "RFC 7520 4.4" => Refused(Reason::MalformedToken),
        // A detached payload, and the JSON serializations: a token is compact and whole (RFC 7519 §1).
        "RFC 7520 4.5" | "RFC 7520 4.6" | "RFC 7520 4.7" | "RFC 7520 4.8" => Refused(Reason::MalformedToken),
        other => panic!("nothing is said of {other}"),
    }
}

fn examples() -> Vec<Example> {
    let examples: Vec<Example> = serde_json::from_str(include_str!("jose.json")).unwrap();
    assert_eq!(examples.len(), 15);
    examples
}

/// The set with this one key, if it can be used at all.
fn set(jwk: &Value) -> Option<KeySet> {
    let issuer = issuer("joe", KeySource::Discovery);
    KeySet::from_document(&json!({ "keys": [jwk] }), &issuer).ok()
}

/// Does the signature of a compact JWS verify with the key, whatever its payload is?
fn verifies(token: &str, jwk: &Value, algorithm: Algorithm) -> bool {
    use base64::Engine;
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let signature = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
    let set = set(jwk).expect("a usable key");
    let Lookup::Key(key) = set.find(None, algorithm) else { return false };
    key.verify(algorithm, signed.as_bytes(), &signature)
}

#[test]
fn v9_v10_in_3_the_examples_of_the_rfcs() {
    for Example { name, jwk, token } in examples() {
        let parsed = Jwt::parse(&token).map(|_| ()).err();
        match outcome(&name) {
            Outcome::Refused(reason) => {
                assert_eq!(parsed, Some(reason), "{name}");
                // Their keys are no keys to us either, but for those that the JSON forms share with others.
                assert!(set(&jwk).is_none() || name == "RFC 7520 4.8", "{name}");
            }
            Outcome::Verified(algorithm, reason) => {
                assert_eq!(parsed, reason, "{name}");
                assert!(verifies(&token, &jwk, algorithm), "{name}");
            }
        }
    }
}

#[test]
fn v10_a_change_anywhere_in_an_example_is_seen() {
    for Example { name, jwk, token } in examples() {
        let Outcome::Verified(algorithm, _) = outcome(&name) else { continue };
        for at in (0..token.len()).filter(|at| token.as_bytes()[*at] != b'.') {
            let mut changed = token.clone().into_bytes();
            // The alphabet's first character, or its second: at the end of a segment other bits than before, always.
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            let canonical = changed.rsplit_once('.').is_some_and(|(_, signature)| is_base64url(signature));
            assert!(!canonical || !verifies(&changed, &jwk, algorithm), "{name}: byte {at}");
        }
        // With another key of its kind, or another algorithm, it is nothing.
        for other in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
            .map(algorithm_named)
        {
            let other = other.unwrap();
            assert_eq!(verifies(&token, &jwk, other), other == algorithm, "{name} as {other:?}");
        }
    }
}

fn is_base64url(text: &str) -> bool {
    use base64::Engine;
    base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(text).is_ok()
}

/// The claims of RFC 7515 A.2 (`iss`, `exp` of 2011, one more) in the most lenient profile.
#[test]
fn v16_v17_the_jwt_of_the_rfc_is_no_access_token() {
    let a2 = examples().into_iter().find(|example| example.name == "RFC 7515 A.2").unwrap();
    let jwt = Jwt::parse(&a2.token).unwrap();
    assert_eq!(jwt.issuer(), Some("joe"));
    assert_eq!(jwt.claims["exp"], 1_300_819_380);
    assert!(Profile::Generic.accepts_type(jwt.header.typ.as_deref()));
    let claims = jwt.claims.clone();
    assert_eq!(Profile::Generic.token(&"joe".into(), claims).err(), Some(Reason::MissingClaim));
    let mut with_audience = jwt.claims.clone();
    with_audience.insert("aud".to_owned(), json!("orders"));
    let token = Profile::Generic.token(&"joe".into(), with_audience).unwrap();
    let leeway = std::time::Duration::from_secs(30);
    assert_eq!(super::super::in_time(&token, leeway, 1_300_819_380 + 30).err(), Some(Reason::Expired));
    assert_eq!(super::super::in_time(&token, leeway, 1_300_819_380 + 29), Ok(()));
}
