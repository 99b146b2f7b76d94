//! Why does a destination refuse what we show? The challenge of its answer (RFC 9110 §11.6.1, RFC 6750 §3, RFC 9449 §7.1).

use http::header::{HeaderMap, HeaderName, WWW_AUTHENTICATE};
use http::{Response, StatusCode};

/// Did the destination refuse the token as `invalid_token`: expired, revoked, or unknown to it? gRPC says so in the one
/// header block of an answer with status 200. 403 is about what the token may do, and never asks for another one.
pub(super) fn refuses_token<B>(response: &Response<B>) -> bool {
    is_unauthenticated(response) && errors(response.headers()).any(|error| error == "invalid_token")
}

/// Does the destination demand its nonce in the proof that goes along with the token (RFC 9449 §9)?
pub(super) fn demands_nonce<B>(response: &Response<B>) -> bool {
    is_unauthenticated(response) && errors(response.headers()).any(|error| error == "use_dpop_nonce")
}

fn is_unauthenticated<B>(response: &Response<B>) -> bool {
    match response.status() {
        StatusCode::UNAUTHORIZED => true,
        StatusCode::OK => response.headers().get(GRPC_STATUS).is_some_and(|status| status == UNAUTHENTICATED),
        _ => false,
    }
}

/// The value of every `error` in the challenges.
fn errors(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let fields = headers.get_all(WWW_AUTHENTICATE).iter();
    fields.filter_map(|field| field.to_str().ok()).flat_map(error_values)
}

fn error_values(challenges: &str) -> Vec<&str> {
    let mut values = Vec::new();
    let mut rest = challenges;
    while let Some((word, behind)) = next_word(rest) {
        rest = behind;
        let Some(value) = behind.trim_ascii_start().strip_prefix('=') else { continue };
        let value = value.trim_ascii_start();
        let (value, behind) = match value.strip_prefix('"') {
            Some(quoted) => quoted_string(quoted),
            None => value.split_at(value.find(is_separator).unwrap_or(value.len())),
        };
        rest = behind;
        if word.eq_ignore_ascii_case("error") {
            values.push(value);
        }
    }
    values
}

/// The next scheme, parameter name or token68, and what stands behind it.
fn next_word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches(|c| is_separator(c) || c == '=' || c == '"');
    if text.is_empty() {
        return None;
    }
    Some(text.split_at(text.find(|c| is_separator(c) || c == '=').unwrap_or(text.len())))
}

/// What stands before the closing quote, escapes as they are: no error code has any.
fn quoted_string(text: &str) -> (&str, &str) {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return (text.get(..at).unwrap_or_default(), text.get(at..).unwrap_or_default()),
            _ => {}
        }
    }
    (text, "")
}

fn is_separator(c: char) -> bool {
    matches!(c, ' ' | '\t' | ',')
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const UNAUTHENTICATED: &str = "16";

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn response(status: u16, grpc: Option<&'static str>, challenges: &[&'static str]) -> Response<()> {
        let mut response = Response::builder().status(status).body(()).unwrap();
        for challenge in challenges {
            response.headers_mut().append(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(grpc) = grpc {
            response.headers_mut().insert(GRPC_STATUS, HeaderValue::from_static(grpc));
        }
        response
    }

    #[test]
    fn c29_out_11_only_an_invalid_token_is_refused() {
        for challenge in [
            r#"Bearer error="invalid_token""#,
            "Bearer error=invalid_token",
            r#"Bearer realm="a, error=\"x\"", ERROR = "invalid_token", error_description="no, error""#,
            r#"Basic realm="x", Bearer realm="y",error="invalid_token""#,
            r#"Negotiate YWJj==, DPoP algs="ES256", error="invalid_token""#,
        ] {
            assert!(refuses_token(&response(401, None, &[challenge])), "{challenge}");
            assert!(refuses_token(&response(200, Some("16"), &[challenge])), "{challenge}");
            for (status, grpc) in [(403, None), (200, None), (200, Some("7")), (400, None), (503, Some("16"))]
            {
                assert!(!refuses_token(&response(status, grpc, &[challenge])), "{status} {grpc:?}");
            }
        }
        assert!(refuses_token(&response(401, None, &["Basic realm=x", "Bearer error=invalid_token"])));
        let nonce = response(401, None, &[r#"DPoP error="use_dpop_nonce", algs="ES256""#]);
        assert!(demands_nonce(&nonce) && !refuses_token(&nonce));
        assert!(!demands_nonce(&response(403, None, &[r#"DPoP error="use_dpop_nonce""#])));
        assert!(!demands_nonce(&response(401, None, &[r#"DPoP error="invalid_token""#])));
        for challenge in [
            "Bearer",
            "",
            "error",
            "=,=\"",
            r#"Bearer error="insufficient_scope""#,
            r#"Bearer realm="error=invalid_token""#,
            r#"Bearer realm="a\", error=\"invalid_token""#,
            r#"Bearer xerror="invalid_token""#,
            r#"Bearer error_description="invalid_token""#,
            r#"Bearer error="invalid_token"#,
        ] {
            let found = refuses_token(&response(401, None, &[challenge]));
            // An unclosed quote still says what it says.
            assert_eq!(found, challenge == r#"Bearer error="invalid_token"#, "{challenge}");
        }
    }
}
