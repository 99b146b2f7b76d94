//! What did the client ask? The parameters of one `application/x-www-form-urlencoded` body, each at most once
//! (RFC 6749 §3.2, appendix B).

use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use super::answer::Refusal;

/// The parameters that we know. Empty ones are as good as omitted; unknown ones are ignored. `Debug` prints nothing,
/// because some of them prove who the client is.
#[derive(Default)]
pub(super) struct Form {
    pub(super) grant_type: Option<String>,
    pub(super) scope: Option<String>,
    /// `resource` (RFC 8707) and `audience`, which may both be written; the grant judges how many there are.
    pub(super) targets: Vec<String>,
    pub(super) client_id: Option<String>,
    /// Only to be refused: secrets come in the header here.
    pub(super) client_secret: bool,
    pub(super) client_assertion: Option<Zeroizing<String>>,
    pub(super) client_assertion_type: Option<String>,
}

// === impl Form ===

impl Form {
    pub(super) fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let text = std::str::from_utf8(body).map_err(|_| Refusal::InvalidRequest("the body is not UTF-8"))?;
        let mut form = Self::default();
        let mut names: Vec<String> = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name)?.to_string();
            let value = decode(value)?;
            let may_repeat = matches!(name.as_str(), "resource" | "audience");
            if !may_repeat && names.contains(&name) {
                return Err(Refusal::InvalidRequest("a parameter is sent twice"));
            }
            if names.len() >= MAX_PARAMETERS {
                return Err(Refusal::InvalidRequest("too many parameters"));
            }
            if !value.is_empty() {
                form.take(&name, value);
            }
            names.push(name);
        }
        Ok(form)
    }

    fn take(&mut self, name: &str, value: Zeroizing<String>) {
        match name {
            "grant_type" => self.grant_type = Some(value.to_string()),
            "scope" => self.scope = Some(value.to_string()),
            "resource" | "audience" => self.targets.push(value.to_string()),
            "client_id" => self.client_id = Some(value.to_string()),
            "client_secret" => self.client_secret = true,
            "client_assertion" => self.client_assertion = Some(value),
            "client_assertion_type" => self.client_assertion_type = Some(value.to_string()),
            _ => {}
        }
    }
}

impl std::fmt::Debug for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Form([redacted])")
    }
}

/// Bounds the search for duplicates.
const MAX_PARAMETERS: usize = 64;

/// One name or value: `+` is a space, every escape must be whole, and the result UTF-8.
pub(super) fn decode(text: &str) -> Result<Zeroizing<String>, Refusal> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        let escape = after.as_bytes().get(..2);
        if !escape.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err(Refusal::InvalidRequest("a parameter holds an escape that is not whole"));
        }
        rest = after;
    }
    let spaced = Zeroizing::new(text.replace('+', " "));
    let decoded = percent_decode_str(&spaced).decode_utf8();
    let decoded = decoded.map_err(|_| Refusal::InvalidRequest("a parameter is not UTF-8"))?;
    Ok(Zeroizing::new(decoded.into_owned()))
}
