//! How is a request to a token endpoint written? A form, which holds secrets and is wiped.

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::auth::tokens::secret::Secret;

/// A body of `application/x-www-form-urlencoded`, in the making.
pub(crate) struct Form(Secret);

// === impl Form ===

impl Form {
    /// An empty one, with room for a token of so many bytes, each of which may become three.
    pub(crate) fn with_room_for(token: usize) -> Self {
        Self(Secret::with_capacity(8 * 1024 + 3 * token))
    }

    /// Adds a parameter; one without a value is as good as omitted (RFC 6749 §3.2).
    pub(crate) fn add(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        if !self.0.expose().is_empty() {
            self.0.push_str("&");
        }
        form_encode(name, &mut self.0);
        self.0.push_str("=");
        form_encode(value, &mut self.0);
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        self.0.into_bytes()
    }
}

/// The bytes that a form leaves alone, beside letters and digits.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'*').remove(b'-').remove(b'.').remove(b'_');

/// Appends text in the encoding of RFC 6749 App. B: UTF-8, percent-encoded, a space as `+`.
pub(crate) fn form_encode(text: &str, to: &mut Secret) {
    for (index, word) in text.split(' ').enumerate() {
        if index > 0 {
            to.push_str("+");
        }
        for part in utf8_percent_encode(word, FORM) {
            to.push_str(part);
        }
    }
}
