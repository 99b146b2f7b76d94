//! What did the caller show? The one `Authorization` field of a request, read strictly (RFC 6750 §2.1).

use countersign_policy::Reason;
use http::HeaderMap;
use http::header::AUTHORIZATION;

/// What a request carries as its credential.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shown<'a> {
    /// No token, or the credential of another scheme, which is the application's business.
    Nothing,
    /// A bearer token.
    Bearer(&'a str),
    /// A token with a proof of possession (RFC 9449 §7.1); none where there is not exactly one.
    Dpop { token: &'a str, proof: Option<&'a str> },
}

/// The header field of a proof (RFC 9449 §4.1).
pub const DPOP: &str = "dpop";
/// Of a proof, in bytes: with an RSA key and signature of 8192 bits there is room to spare.
const PROOF_LIMIT: usize = 8 * 1024;

/// Reads the credential. `query` is the request's, which must not carry a second token (RFC 6750 §2.3).
pub fn read<'a>(headers: &'a HeaderMap, query: Option<&str>) -> Result<Shown<'a>, Reason> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let Some(field) = fields.next() else { return Ok(Shown::Nothing) };
    if fields.next().is_some() {
        return Err(Reason::MultipleTokens);
    }
    let bytes = field.as_bytes();
    let scheme_end = bytes.iter().position(|&byte| byte == b' ').unwrap_or(bytes.len());
    let (scheme, rest) = bytes.split_at_checked(scheme_end).unwrap_or((bytes, b""));
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer");
    if !is_bearer && !scheme.eq_ignore_ascii_case(b"dpop") {
        return if names_ours(bytes) { Err(Reason::BadRequest) } else { Ok(Shown::Nothing) };
    }
    if in_query(query) {
        return Err(Reason::MultipleTokens);
    }
    // 1*SP b64token: nothing before, between or behind.
    let token = rest.trim_ascii_start();
    if !is_b64token(token) {
        return Err(if token.contains(&b',') { Reason::MultipleTokens } else { Reason::BadRequest });
    }
    match std::str::from_utf8(token) {
        Ok(token) if is_bearer => Ok(Shown::Bearer(token)),
        Ok(token) => Ok(Shown::Dpop { token, proof: proof(headers) }),
        Err(_) => Err(Reason::BadRequest),
    }
}

/// Is one of our schemes a word of this field, where a lenient application could find it? Also after a tab or another
/// scheme, or between bytes that some take for spaces.
pub(crate) fn names_ours(field: &[u8]) -> bool {
    let mut words = field.split(|byte| *byte == b',' || !byte.is_ascii_graphic());
    words.any(|word| word.eq_ignore_ascii_case(b"bearer") || word.eq_ignore_ascii_case(b"dpop"))
}

/// The one proof of a request (RFC 9449 §4.3, check 1). What is no single JWT is found out where it is parsed.
fn proof(headers: &HeaderMap) -> Option<&str> {
    let mut fields = headers.get_all(DPOP).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else { return None };
    field.to_str().ok().filter(|proof| proof.len() <= PROOF_LIMIT)
}

/// Is there a token in the query (RFC 6750 §2.3)? One more in the header would be two.
pub(crate) fn in_query(query: Option<&str>) -> bool {
    query.is_some_and(|query| query.split('&').any(|pair| pair.starts_with("access_token=")))
}

/// `b64token` (RFC 6750 §2.1). Looks at every byte without a branch, so that the compiler looks at many at once: tokens are
/// long, and this is on the path of every request.
fn is_b64token(token: &[u8]) -> bool {
    let padding = token.iter().rev().take_while(|&&byte| byte == b'=').count();
    let unpadded = token.get(..token.len() - padding).unwrap_or_default();
    let allowed = |byte: u8| {
        byte.is_ascii_lowercase()
            | byte.is_ascii_uppercase()
            | byte.is_ascii_digit()
            | (byte == b'-')
            | (byte == b'.')
            | (byte == b'_')
            | (byte == b'~')
            | (byte == b'+')
            | (byte == b'/')
    };
    !unpadded.is_empty() && unpadded.iter().fold(true, |all, &byte| all & allowed(byte))
}

impl std::fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Bearer(_) => "Bearer([redacted])",
            Self::Dpop { .. } => "Dpop([redacted])",
        })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn shown(fields: &[&str], query: Option<&str>) -> Result<String, Reason> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(AUTHORIZATION, HeaderValue::from_str(field).unwrap());
        }
        read(&headers, query).map(|shown| match shown {
            Shown::Bearer(token) => token.to_owned(),
            other => format!("{other:?}"),
        })
    }

    fn proof_of(fields: &[&[u8]]) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("dpop a"));
        for field in fields {
            headers.append(DPOP, HeaderValue::from_bytes(field).unwrap());
        }
        let Ok(Shown::Dpop { token: "a", proof }) = read(&headers, None) else { panic!("no token") };
        proof.map(str::to_owned)
    }

    #[test]
    fn v31_there_is_one_proof_of_bounded_length_or_none() {
        assert_eq!(proof_of(&[b"a.b.c"]).as_deref(), Some("a.b.c"));
        assert_eq!(proof_of(&[]), None);
        assert_eq!(proof_of(&[b"a.b.c", b"a.b.c"]), None);
        assert_eq!(proof_of(&["\u{e4}.b.c".as_bytes()]), None);
        assert!(proof_of(&[&[b'a'; 8192]]).is_some());
        assert_eq!(proof_of(&[&[b'a'; 8193]]), None);
    }

    #[test]
    fn v1_the_scheme_is_case_insensitive_and_spaces_separate() {
        for field in ["Bearer a.b.c", "bearer a.b.c", "BEARER   a.b.c"] {
            assert_eq!(shown(&[field], None).unwrap(), "a.b.c");
        }
        assert_eq!(shown(&["Bearer ab=="], Some("x=1")).unwrap(), "ab==");
    }

    /// RFC 6750 §2.1: `1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`.
    #[test]
    fn v1_in_2_a_b64token_has_these_bytes_and_no_others() {
        for byte in 0..=u8::MAX {
            let allowed = byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
            assert_eq!(is_b64token(&[byte]), allowed, "{byte:#x}");
            assert_eq!(is_b64token(&[b'a', byte]), allowed || byte == b'=', "{byte:#x}");
            assert_eq!(is_b64token(&[byte, b'a', b'=', b'=']), allowed, "{byte:#x}");
            assert_eq!(is_b64token(&[b'a', byte, b'a']), allowed, "{byte:#x}");
        }
        assert!(!is_b64token(b""));
    }

    #[test]
    fn v2_more_than_one_or_a_malformed_field_is_the_callers_fault() {
        assert_eq!(shown(&["Bearer a", "Bearer b"], None), Err(Reason::MultipleTokens));
        assert_eq!(shown(&["Bearer a, Bearer b"], None), Err(Reason::MultipleTokens));
        assert_eq!(shown(&["Bearer a"], Some("x=1&access_token=b")), Err(Reason::MultipleTokens));
        for field in ["Bearer", "Bearer ", "Bearer a b", "Bearer a\tb", "Bearer a=b", "Bearer ==", "Bearer é"]
        {
            assert_eq!(shown(&[field], None), Err(Reason::BadRequest), "{field}");
        }
    }

    /// Neither a token to us nor anything that an application may take for one (RFC 9110 §11.4).
    #[test]
    fn v2_in_2_a_credential_of_ours_hidden_in_a_field_is_refused() {
        for field in [
            "Bearer\ta.b.c",
            "bearer,a.b.c",
            "Basic dTpw, Bearer a.b.c",
            "Basic dTpw,bearer a.b.c",
            "Basic dTpw Bearer a.b.c",
            "Basic dTpw,\tDPoP a.b.c",
            "\u{a0}Bearer a.b.c",
            "Bearer\u{a0}a.b.c",
        ] {
            assert_eq!(shown(&[field], None), Err(Reason::BadRequest), "{field}");
        }
        for field in ["Basic YmVhcmVy", "Digest username=\"bearer\", uri=\"/\"", "Bearerish a", "a.b.c"] {
            assert_eq!(shown(&[field], None).unwrap(), "Nothing", "{field}");
        }
    }

    #[test]
    fn v8_a_token_in_the_query_alone_is_no_token() {
        assert_eq!(shown(&[], Some("access_token=a.b.c")).unwrap(), "Nothing");
        assert_eq!(shown(&["Basic dTpw"], Some("access_token=a.b.c")).unwrap(), "Nothing");
    }

    #[test]
    fn other_schemes_are_not_ours() {
        assert_eq!(shown(&["Basic dTpw"], None).unwrap(), "Nothing");
        assert_eq!(shown(&["DPoP a"], None).unwrap(), "Dpop([redacted])");
    }
}
