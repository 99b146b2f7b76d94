//! Is this a well-formed JWT? The one strict parse of header and claims, before anything in it is believed.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use countersign_policy::Reason;
use countersign_policy::json;
use countersign_policy::snapshot::Algorithm;
use serde_json::{Map, Value};

/// Of a token, in bytes.
pub(crate) const TOKEN_LIMIT: usize = 16 * 1024;
/// Of `kid`, in bytes.
const KID_LIMIT: usize = 256;

/// A JWS in compact form (RFC 7515 §7.1) whose claims are nobody's word yet: the signature is still to be verified.
#[derive(Debug)]
pub(crate) struct Jwt<'a> {
    pub(crate) header: Header,
    pub(crate) claims: Map<String, Value>,
    /// The exact bytes that were signed.
    pub(crate) signed: &'a [u8],
    pub(crate) signature: Vec<u8>,
}

/// What counts of a JOSE header (RFC 7515 §4). `jwk`, `jku`, `x5u`, `x5c` of a token are not even looked at (RFC 8725 §3.10).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) algorithm: Algorithm,
    pub(crate) typ: Option<String>,
    pub(crate) kid: Option<String>,
}

// === impl Jwt ===

impl<'a> Jwt<'a> {
    /// Parses a token. Fails with `malformed_token`, or `unsupported_algorithm` where all else is in order.
    pub(crate) fn parse(token: &'a str) -> Result<Self, Reason> {
        Self::with_header(token).map(|(jwt, _)| jwt)
    }

    /// The same, with all that its header says: a proof carries its key there (RFC 9449 §4.2).
    pub(crate) fn with_header(token: &'a str) -> Result<(Self, Map<String, Value>), Reason> {
        if token.len() > TOKEN_LIMIT {
            return Err(Reason::MalformedToken);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Reason::MalformedToken)?;
        let (header, claims) = signed.split_once('.').ok_or(Reason::MalformedToken)?;
        let header = json::object(&decode(header)?).ok_or(Reason::MalformedToken)?;
        if is_encrypted(&header, claims) {
            return Err(Reason::UnsupportedAlgorithm);
        }
        // A dot is not in the alphabet: what has more segments fails here.
        let claims = json::object(&decode(claims)?).ok_or(Reason::MalformedToken)?;
        let signature = decode(signature)?;
        let counts = Header::parse(&header)?;
        Ok((Self { header: counts, claims, signed: signed.as_bytes(), signature }, header))
    }

    /// `iss` (RFC 7519 §4.1.1): one string.
    pub(crate) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }
}

/// `alg` of a token whose algorithm is not one of ours, for who has to know why.
pub(crate) fn algorithm_of(token: &str) -> Option<String> {
    let (header, _) = token.split_once('.').filter(|_| token.len() <= TOKEN_LIMIT)?;
    let header = json::object(&decode(header).ok()?)?;
    string(&header, "alg").ok().flatten().map(str::to_owned)
}

/// Base64url without padding, its last character canonical (RFC 7515 §2).
fn decode(segment: &str) -> Result<Vec<u8>, Reason> {
    BASE64_URL_SAFE_NO_PAD.decode(segment).map_err(|_| Reason::MalformedToken)
}

/// A JWE (RFC 7516 §3.1): five segments and `enc`. Well-formed, and nothing that we accept.
fn is_encrypted(header: &Map<String, Value>, rest: &str) -> bool {
    header.contains_key("enc") && rest.bytes().filter(|b| *b == b'.').count() == 2
}

// === impl Header ===

impl Header {
    fn parse(header: &Map<String, Value>) -> Result<Self, Reason> {
        // `crit` names what has to be understood, and nothing it could name is (RFC 7515 §4.1.11); `b64` changes what is
        // signed (RFC 7797), `zip` what is read.
        if ["crit", "b64", "zip"].iter().any(|name| header.contains_key(*name)) {
            return Err(Reason::MalformedToken);
        }
        let algorithm = string(header, "alg")?.ok_or(Reason::MalformedToken)?;
        let typ = string(header, "typ")?.map(str::to_owned);
        let kid = string(header, "kid")?.map(str::to_owned);
        if kid.as_ref().is_some_and(|kid| kid.len() > KID_LIMIT) {
            return Err(Reason::MalformedToken);
        }
        if string(header, "cty")?.is_some_and(is_jwt) {
            return Err(Reason::MalformedToken);
        }
        Ok(Self { algorithm: algorithm_named(algorithm)?, typ, kid })
    }
}

/// A member that has to be a string where it is present.
fn string<'a>(header: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Reason> {
    match header.get(name) {
        None => Ok(None),
        Some(Value::String(value)) => Ok(Some(value)),
        Some(_) => Err(Reason::MalformedToken),
    }
}

/// `cty` of a nested JWT (RFC 7519 §5.2), which is not unwrapped.
fn is_jwt(cty: &str) -> bool {
    cty.eq_ignore_ascii_case("JWT") || cty.eq_ignore_ascii_case("application/jwt")
}

/// The algorithm of this exact name. HMAC, `none` and encryption have none (RFC 8725 §3.1). `Ed25519` is the new name of the
/// one thing that `EdDSA` stands for here (RFC 9864 §2.2).
pub(crate) fn algorithm_named(name: &str) -> Result<Algorithm, Reason> {
    Ok(match name {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        "EdDSA" | "Ed25519" => Algorithm::EdDSA,
        _ => return Err(Reason::UnsupportedAlgorithm),
    })
}

/// A token of this header and these claims, signed by nobody.
#[cfg(test)]
pub(crate) fn encoded(header: &str, claims: &str) -> String {
    let [header, claims, signature] =
        [header, claims, "signature"].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
    format!("{header}.{claims}.{signature}")
}

#[cfg(test)]
mod tests {
    use super::encoded as token;
    use super::*;

    fn refused(token: &str) -> Reason {
        Jwt::parse(token).map(|_| ()).expect_err(token)
    }

    fn header(header: &str) -> Result<Header, Reason> {
        Jwt::parse(&token(header, "{}")).map(|jwt| jwt.header)
    }

    #[test]
    fn in_2_three_segments_of_base64url_at_most_16_kib() {
        let good = token(r#"{"alg":"RS256"}"#, r#"{"iss":"a"}"#);
        let jwt = Jwt::parse(&good).unwrap();
        assert_eq!((jwt.issuer(), &jwt.signature[..]), (Some("a"), &b"signature"[..]));
        assert_eq!(jwt.signed, good.rsplit_once('.').unwrap().0.as_bytes());
        let (start, end) = good.split_at(10);
        for bad in [
            "",
            ".",
            "..",
            "opaque",
            "a.b",
            &format!("{good}."),
            &format!(".{good}"),
            &format!("{good}.e30"),
            &format!(" {good}"),
            &format!("{good} "),
            &format!("{good}\n"),
            &format!("{good}="),
            &format!("{start}+{end}"),
            &format!("{start}\u{e4}{end}"),
        ] {
            assert_eq!(refused(bad), Reason::MalformedToken, "{bad:?}");
        }
        let claims = |n: usize| format!(r#"{{"a":"{}"}}"#, "x".repeat(n));
        assert!(Jwt::parse(&token(r#"{"alg":"RS256"}"#, &claims(12_000))).is_ok());
        let long = token(r#"{"alg":"RS256"}"#, &claims(12_300));
        assert!(long.len() > TOKEN_LIMIT);
        assert_eq!(refused(&long), Reason::MalformedToken);
    }

    #[test]
    fn in_6_base64url_is_canonical() {
        let good = token(r#"{"alg":"RS256"}"#, "{}");
        // `{}` is `e30`; `e31` decodes to the same bytes where stray bits are ignored.
        assert!(good.contains(".e30."));
        assert_eq!(refused(&good.replace(".e30.", ".e31.")), Reason::MalformedToken);
        assert_eq!(refused(&good.replace(".e30.", ".e30=.")), Reason::MalformedToken);
        assert_eq!(refused(&good.replace(".e30.", ".e 30.")), Reason::MalformedToken);
    }

    #[test]
    fn v12_duplicate_names_in_header_and_claims() {
        assert_eq!(header(r#"{"alg":"RS256","alg":"RS256"}"#), Err(Reason::MalformedToken));
        let claims = [r#"{"sub":"a","sub":"b"}"#, r#"{"cnf":{"jkt":"a","jkt":"b"}}"#, "[]", "null", "1"];
        for bad in claims {
            assert_eq!(refused(&token(r#"{"alg":"RS256"}"#, bad)), Reason::MalformedToken, "{bad}");
        }
    }

    #[test]
    fn v9_in_3_only_named_algorithms() {
        for name in
            ["none", "None", "HS256", "HS512", "RSA-OAEP", "dir", "ES256K", "ES512", "rs256", "RS256 ", ""]
        {
            let result = header(&format!(r#"{{"alg":"{name}"}}"#));
            assert_eq!(result, Err(Reason::UnsupportedAlgorithm), "{name}");
        }
        let unsigned = token(r#"{"alg":"none"}"#, "{}");
        let unsigned = format!("{}.", unsigned.rsplit_once('.').unwrap().0);
        assert_eq!(refused(&unsigned), Reason::UnsupportedAlgorithm);
        for bad in ["{}", r#"{"alg":null}"#, r#"{"alg":["RS256"]}"#, r#"{"alg":1}"#] {
            assert_eq!(header(bad), Err(Reason::MalformedToken), "{bad}");
        }
    }

    #[test]
    fn v25_in_3_a_jwe_is_not_reachable() {
        let jwe = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"RSA-OAEP","enc":"A256GCM"}"#);
        assert_eq!(refused(&format!("{jwe}.a.b.c.d")), Reason::UnsupportedAlgorithm);
        assert_eq!(refused(&format!("{jwe}..b.c.d")), Reason::UnsupportedAlgorithm);
        // Five segments without `enc` are nothing.
        let jws = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#);
        assert_eq!(refused(&format!("{jws}.e30.e30.e30.e30")), Reason::MalformedToken);
    }

    #[test]
    fn v12_v24_in_7_crit_b64_and_zip() {
        for member in
            [r#""crit":["exp"]"#, r#""crit":[]"#, r#""b64":true"#, r#""b64":false"#, r#""zip":"DEF""#]
        {
            let result = header(&format!(r#"{{"alg":"RS256",{member}}}"#));
            assert_eq!(result, Err(Reason::MalformedToken), "{member}");
        }
    }

    #[test]
    fn v10_a_nested_jwt_is_refused() {
        for cty in [r#""JWT""#, r#""jwt""#, r#""application/jwt""#, "1", "null"] {
            let result = header(&format!(r#"{{"alg":"RS256","cty":{cty}}}"#));
            assert_eq!(result, Err(Reason::MalformedToken), "{cty}");
        }
        assert!(header(r#"{"alg":"RS256","cty":"json"}"#).is_ok());
    }

    #[test]
    fn in_4_kid_and_typ_are_strings_of_bounded_length() {
        let with = |member: &str| header(&format!(r#"{{"alg":"RS256",{member}}}"#));
        assert_eq!(with(r#""kid":"k","typ":"at+jwt""#).unwrap().kid.as_deref(), Some("k"));
        for bad in [r#""kid":1"#, r#""kid":null"#, r#""kid":["k"]"#, r#""typ":1"#, r#""typ":null"#] {
            assert_eq!(with(bad), Err(Reason::MalformedToken), "{bad}");
        }
        assert!(with(&format!(r#""kid":"{}""#, "k".repeat(256))).is_ok());
        assert_eq!(with(&format!(r#""kid":"{}""#, "k".repeat(257))), Err(Reason::MalformedToken));
    }
}
