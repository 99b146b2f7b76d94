//! Is it still the same? SHA-256 over length-prefixed fields, so that no two lists of fields hash alike by their joints.

use aws_lc_rs::digest::{Context, SHA256};

/// A hash in the making.
pub(crate) struct Fingerprint(Context);

// === impl Fingerprint ===

impl Fingerprint {
    /// `domain` keeps the hashes of different things apart.
    pub(crate) fn of(domain: &str) -> Self {
        Self(Context::new(&SHA256)).text(domain)
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        // A usize has at most 64 bits on every platform there is.
        self.0.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        self.0.update(bytes);
        self
    }

    pub(crate) fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    pub(crate) fn optional(self, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.text("some").text(text),
            None => self.text("none"),
        }
    }

    pub(crate) fn list<'a>(self, texts: impl ExactSizeIterator<Item = &'a str>) -> Self {
        let counted = self.text(&texts.len().to_string());
        texts.fold(counted, Self::text)
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.0.finish().as_ref());
        hash
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joints_count() {
        let one = Fingerprint::of("x").text("ab").text("c").finish();
        let other = Fingerprint::of("x").text("a").text("bc").finish();
        assert_ne!(one, other);
        assert_ne!(
            Fingerprint::of("x").optional(None).finish(),
            Fingerprint::of("x").optional(Some("")).finish()
        );
    }

    #[test]
    fn is_sha256() {
        // The hash of the length (8 bytes) and the text, computed with coreutils.
        let hash = hex(&Fingerprint::of("abc").finish());
        assert_eq!(hash, "c3494ca1a2cf8eeb8a11ded316fb55b83c3bbbedb6313cd50415251e5d09e12f");
    }
}
