//! Is the token bound to a key of the caller? The `cnf` claim (RFC 7800), strictly: what is bound in a way that we cannot
//! check is refused, never taken for a bearer token.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::reason::Reason;
use crate::request::Binding;

/// What `cnf` says.
///
/// - absent: [`Binding::None`]
/// - `x5t#S256` (RFC 8705 §3.1) or `jkt` (RFC 9449 §6.1), well-formed: that binding. Other members beside it are ignored,
///   as RFC 7800 §3.1 wants.
/// - both, or neither (empty, or other methods alone): `binding_mismatch`, since no proof that we know could fulfil it
/// - no object, or a thumbprint that is none: `missing_claim`, a claim of the wrong type
pub(super) fn read(cnf: Option<&Value>) -> Result<Binding, Reason> {
    let members = match cnf {
        None => return Ok(Binding::None),
        Some(Value::Object(members)) => members,
        Some(_) => return Err(Reason::MissingClaim),
    };
    match (members.get("x5t#S256"), members.get("jkt")) {
        (Some(certificate), None) => thumbprint(certificate).map(|(_, hash)| Binding::Certificate(hash)),
        (None, Some(key)) => thumbprint(key).map(|(text, _)| Binding::Key(text.to_owned())),
        _ => Err(Reason::BindingMismatch),
    }
}

/// A SHA-256 hash in base64url without padding, in its one canonical spelling.
fn thumbprint(value: &Value) -> Result<(&str, [u8; 32]), Reason> {
    let text = value.as_str().ok_or(Reason::MissingClaim)?;
    let hash = URL_SAFE_NO_PAD.decode(text).map_err(|_| Reason::MissingClaim)?;
    Ok((text, hash.try_into().map_err(|_| Reason::MissingClaim)?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_without_cnf_is_a_bearer_token() {
        assert_eq!(read(None), Ok(Binding::None));
    }

    #[test]
    fn thumbprints_bind() {
        let text = URL_SAFE_NO_PAD.encode([7; 32]);
        assert_eq!(read(Some(&json!({ "x5t#S256": text }))), Ok(Binding::Certificate([7; 32])));
        assert_eq!(read(Some(&json!({ "jkt": text }))), Ok(Binding::Key(text.clone())));
        assert_eq!(read(Some(&json!({ "jkt": text, "kid": "a" }))), Ok(Binding::Key(text)));
    }

    #[test]
    fn what_cannot_be_checked_is_refused() {
        let text = URL_SAFE_NO_PAD.encode([7; 32]);
        for cnf in [
            json!({}),
            json!({ "jwk": {} }),
            json!({ "kid": "a" }),
            json!({ "x5t#S256": text, "jkt": text }),
            json!({ "JKT": text }),
        ] {
            assert_eq!(read(Some(&cnf)), Err(Reason::BindingMismatch), "{cnf}");
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let text = URL_SAFE_NO_PAD.encode([7; 32]);
        let spellings = [
            json!(null),
            json!(7),
            json!([text]),
            json!({}),
            json!(""),
            json!(format!("{text}=")),
            json!(&text[1..]),
            json!(format!("{text}A")),
            json!(URL_SAFE_NO_PAD.encode([7; 31])),
            json!(URL_SAFE_NO_PAD.encode([7; 33])),
            json!(hex()),
            json!(format!(" {text}")),
            // The last character carries bits that the hash has no room for; so does the example of RFC 8705 §3.1.
            json!(format!("{}d", &text[..42])),
            json!("bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"),
            json!("-/".repeat(21) + "A"),
        ];
        for spelling in &spellings {
            for member in ["x5t#S256", "jkt"] {
                assert_eq!(
                    read(Some(&json!({ member: spelling }))),
                    Err(Reason::MissingClaim),
                    "{member} {spelling}"
                );
            }
        }
        for cnf in [json!(null), json!("a"), json!([]), json!(true)] {
            assert_eq!(read(Some(&cnf)), Err(Reason::MissingClaim), "{cnf}");
        }
    }

    fn hex() -> String {
        "07".repeat(32)
    }
}
