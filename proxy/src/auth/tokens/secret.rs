//! How do we hold what must never be seen? Text that prints as `[redacted]` and is wiped when it is dropped.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

/// A client secret, an assertion, an access token, or a message that holds one.
#[derive(Default)]
pub(crate) struct Secret(Zeroizing<String>);

// === impl Secret ===

impl Secret {
    /// Room for what is about to be written into it: a text that grows leaves copies of itself behind.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(Zeroizing::new(String::with_capacity(bytes)))
    }

    pub(crate) fn push_str(&mut self, text: &str) {
        self.0.push_str(text);
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// The same text for a message of `http`, wiped with the last of its clones.
    pub(crate) fn into_bytes(mut self) -> Bytes {
        let text = std::mem::take(&mut *self.0);
        Bytes::from_owner(Zeroizing::new(text.into_bytes()))
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_13_a_secret_prints_as_redacted() {
        let secret = Secret::from("hunter2".to_owned());
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "[redacted] Some([redacted])");
        assert_eq!(secret.into_bytes(), "hunter2");
    }
}
