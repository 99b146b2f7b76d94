//! What is wrong with this token? Asked after it was refused, in words for who has to repair it: the member at fault,
//! expected against found. Never a part of its text, and of what nobody vouched for no more than its issuer, algorithm,
//! type and key id.

use countersign_policy::explain::Condition;
use countersign_policy::snapshot::{Issuer, IssuerId};
use countersign_policy::{PortPolicy, Reason};
use serde_json::{Value, json};

use super::jwt::{Jwt, TOKEN_LIMIT, algorithm_of};

/// What was found.
pub(crate) enum Found {
    Condition(Condition),
    /// The token is bound to this (`cnf`), and the caller shows something else.
    Binding(Value),
}

/// The flaw for which it was refused. `None`: there is no more to say than the reason.
pub(crate) fn find(
    token: &str,
    reason: Reason,
    port: &PortPolicy,
    issuers: &[Issuer],
    now: i64,
) -> Option<Found> {
    let condition = match (reason, Jwt::parse(token)) {
        (Reason::MalformedToken, _) => malformed(token),
        (Reason::UnsupportedAlgorithm, Err(_)) => {
            Condition::new("alg", "one of the issuer's `algorithms`", algorithm_of(token)?)
        }
        (_, Err(_)) => return None,
        (Reason::UnknownIssuer, Ok(jwt)) => port.issuer_flaw(&jwt.claims),
        (Reason::BindingMismatch, Ok(jwt)) => {
            return Some(Found::Binding(jwt.claims.get("cnf").cloned().unwrap_or_default()));
        }
        (_, Ok(jwt)) => match issuer_of(&jwt, port, issuers) {
            None => port.issuer_flaw(&jwt.claims),
            Some(issuer) => of_issuer(&jwt, reason, issuer, now)?,
        },
    };
    Some(Found::Condition(condition))
}

fn malformed(token: &str) -> Condition {
    let expected =
        format!("three segments of base64url, two of them JSON objects, in at most {TOKEN_LIMIT} bytes");
    let found = format!("{} segments in {} bytes", token.split('.').count(), token.len());
    Condition::new("token", expected, found)
}

fn of_issuer(jwt: &Jwt<'_>, reason: Reason, issuer: &Issuer, now: i64) -> Option<Condition> {
    let algorithm = jwt.header.algorithm.as_str();
    let kid = jwt.header.kid.as_deref();
    let key = kid.map_or("no kid".to_owned(), |kid| format!("kid {kid}"));
    let claim = |name: &str| jwt.claims.get(name).cloned().unwrap_or_else(|| json!("absent"));
    let leeway = issuer.leeway.as_secs();
    Some(match reason {
        Reason::UnsupportedAlgorithm => {
            let algorithms: Vec<_> = issuer.algorithms.iter().map(|algorithm| algorithm.as_str()).collect();
            Condition::new("alg", json!(algorithms), algorithm)
        }
        Reason::UnknownKey => {
            let expected = format!("a key that {} publishes for {algorithm}", issuer.issuer);
            Condition::new("kid", expected, key)
        }
        Reason::BadSignature => {
            let expected = format!("of {}, {algorithm} with {key}", issuer.issuer);
            Condition::new("signature", expected, "another")
        }
        Reason::KeysUnavailable => {
            Condition::new("keys", format!("those of {}", issuer.issuer), "none at the time")
        }
        Reason::Expired => {
            Condition::new("exp", format!("after {now} (now), with a leeway of {leeway} s"), claim("exp"))
        }
        Reason::NotYetValid => {
            let found = json!({ "nbf": claim("nbf"), "iat": claim("iat") });
            Condition::new("nbf, iat", format!("until {now} (now), with a leeway of {leeway} s"), found)
        }
        Reason::WrongAudience => Condition::new("aud", "one of a policy's `audiences`", claim("aud")),
        Reason::WrongType if !issuer.profile.accepts_type(jwt.header.typ.as_deref()) => {
            let types = issuer.profile.shape().types.iter().map(|typ| typ.unwrap_or("absent"));
            let found = jwt.header.typ.as_deref().unwrap_or("absent");
            Condition::new("typ (of the header)", json!(types.collect::<Vec<_>>()), found)
        }
        reason => issuer.flaw(reason, &jwt.claims)?,
    })
}

/// Whose token it is.
fn issuer_of<'i>(jwt: &Jwt<'_>, port: &PortPolicy, issuers: &'i [Issuer]) -> Option<&'i Issuer> {
    let IssuerId(index) = port.issuer_of(&jwt.claims, issuers).ok()?;
    issuers.get(index)
}

#[cfg(test)]
mod tests {
    use super::super::jwt::encoded;
    use super::*;
    use crate::auth::testing::compiled;

    const POLICY: &str = "
apiVersion: countersign.dev/v1alpha1
kind: Issuer
metadata: { name: corp }
spec: { issuer: 'https://login.example.com', algorithms: [ES256] }
---
apiVersion: countersign.dev/v1alpha1
kind: InboundPolicy
metadata: { name: orders }
spec:
  tokens: [{ issuer: corp, audiences: [a] }]
  rules: [{ name: all, from: {} }]
";

    fn found(token: &str, reason: Reason) -> String {
        let snapshot = compiled("default", POLICY);
        let port = snapshot.inbound(1).unwrap();
        match find(token, reason, port, &snapshot.issuers, 1_000) {
            Some(Found::Condition(condition)) => condition.to_string(),
            Some(Found::Binding(cnf)) => cnf.to_string(),
            None => "nothing".to_owned(),
        }
    }

    #[test]
    fn every_reason_names_the_member_at_fault_and_nothing_else() {
        let claims = r#"{"iss":"https://login.example.com","aud":"b","exp":1,"nbf":2,"canary":"CANARY","cnf":{"jkt":"a"}}"#;
        let (odd, token) = (
            encoded(r#"{"alg":"HS256"}"#, claims),
            encoded(r#"{"alg":"ES256","kid":"k1","typ":"JWT"}"#, claims),
        );
        let stranger = encoded(r#"{"alg":"ES256"}"#, r#"{"iss":"https://evil","canary":"CANARY"}"#);
        for (token, reason, expected) in [
            (
                "a.b",
                Reason::MalformedToken,
                "token: expected three segments of base64url, two of them JSON objects, in at most 16384 bytes, found 2 segments in 3 bytes",
            ),
            (
                &odd,
                Reason::UnsupportedAlgorithm,
                "alg: expected one of the issuer's `algorithms`, found HS256",
            ),
            (&token, Reason::UnsupportedAlgorithm, "alg: expected ES256, found ES256"),
            (&stranger, Reason::UnknownIssuer, "iss: expected https://login.example.com, found https://evil"),
            (
                &token,
                Reason::UnknownKey,
                "kid: expected a key that https://login.example.com publishes for ES256, found kid k1",
            ),
            (
                &token,
                Reason::BadSignature,
                "signature: expected of https://login.example.com, ES256 with kid k1, found another",
            ),
            (
                &token,
                Reason::KeysUnavailable,
                "keys: expected those of https://login.example.com, found none at the time",
            ),
            (&token, Reason::Expired, "exp: expected after 1000 (now), with a leeway of 30 s, found 1"),
            (
                &token,
                Reason::NotYetValid,
                "nbf, iat: expected until 1000 (now), with a leeway of 30 s, found {iat: absent, nbf: 2}",
            ),
            (&token, Reason::WrongAudience, "aud: expected one of a policy's `audiences`, found b"),
            (&token, Reason::WrongType, "typ (of the header): expected at+jwt, found JWT"),
            (
                &token,
                Reason::MissingClaim,
                "sub: expected as tokens of profile rfc9068 have it, found absent",
            ),
            (&token, Reason::BindingMismatch, r#"{"jkt":"a"}"#),
            (&token, Reason::ProofInvalid, "nothing"),
            ("opaque", Reason::Inactive, "nothing"),
        ] {
            assert_eq!(found(token, reason), expected, "{reason}");
        }
        for &reason in Reason::ALL {
            for token in [&odd, &token, &stranger, "CANARY.CANARY", "CANARY"] {
                assert!(!found(token, reason).contains("CANARY"), "{reason}");
            }
        }
    }
}
