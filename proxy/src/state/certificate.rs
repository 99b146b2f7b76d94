//! Which certificate do we present? A chain and its private key, as files that policy names.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use countersign_policy::snapshot::CertificateFiles;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroize;

use crate::state::files::{FileError, PolicyFiles};

/// Of each file, in bytes.
const LIMIT: usize = 64 * 1024;

/// A certificate that we can prove to be ours.
#[derive(Clone)]
pub struct Certificate {
    pub key: Arc<CertifiedKey>,
    /// SHA-256 of the certificate in DER, which is what tokens are bound to (RFC 8705 §3.1).
    pub thumbprint: [u8; 32],
}

/// Why the files are no certificate. Never holds any of their content.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("{file} cannot be read: {error}")]
    File { file: String, error: FileError },
    #[error("{0} holds no PEM certificate")]
    NoCertificate(String),
    #[error("{0} holds no PEM private key (PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY)")]
    NoKey(String),
    #[error("the key in {key} is not that of the certificate in {cert}")]
    Mismatch { cert: String, key: String },
}

// === impl Certificate ===

impl Certificate {
    /// Reads both files. While somebody replaces them, one after the other, they do not fit together: the caller keeps what
    /// it has and looks again.
    pub fn read(named: &CertificateFiles, files: &PolicyFiles) -> Result<Self, CertificateError> {
        let CertificateFiles { cert_file, key_file } = named;
        let read = |file| {
            files.read(file, LIMIT).map_err(|error| CertificateError::File { file: file.path.clone(), error })
        };
        let (chain, key) = (read(cert_file)?, read(key_file)?);
        let none = || CertificateError::NoCertificate(cert_file.path.clone());
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(&chain).collect::<Result<_, _>>().map_err(|_| none())?;
        let thumbprint = thumbprint(chain.first().ok_or_else(none)?);
        let mut der = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|_| CertificateError::NoKey(key_file.path.clone()))?;
        let key = any_supported_type(&der);
        der.zeroize();
        let key = key.map(|key| CertifiedKey::new(chain, key)).ok();
        let key = key.filter(|key| key.keys_match().is_ok()).ok_or_else(|| CertificateError::Mismatch {
            cert: cert_file.path.clone(),
            key: key_file.path.clone(),
        })?;
        Ok(Self { key: Arc::new(key), thumbprint })
    }
}

/// `x5t#S256` before its encoding (RFC 8705 §3.1).
pub fn thumbprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, certificate).as_ref());
    hash
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("thumbprint", &self.thumbprint).finish_non_exhaustive()
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.thumbprint == other.thumbprint
    }
}

#[cfg(test)]
mod tests {
    use countersign_policy::snapshot::FileRef;

    use super::*;

    #[test]
    fn a_pair_is_read_and_one_that_does_not_fit_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let declared_in = directory.path().join("policy.yaml").display().to_string();
        let file = |path: &str| FileRef { path: path.to_owned(), declared_in: declared_in.clone() };
        let named = CertificateFiles { cert_file: file("tls.crt"), key_file: file("tls.key") };
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        let read = || Certificate::read(&named, &PolicyFiles::BesideDocument);
        let made = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();

        assert!(matches!(read(), Err(CertificateError::File { .. })));
        write("tls.crt", "hello");
        write("tls.key", "hello");
        assert!(matches!(read(), Err(CertificateError::NoCertificate(_))));
        write("tls.crt", &made.cert.pem());
        assert!(matches!(read(), Err(CertificateError::NoKey(_))));
        write("tls.key", &other.signing_key.serialize_pem());
        assert!(matches!(read(), Err(CertificateError::Mismatch { .. })));
        write("tls.key", &made.signing_key.serialize_pem());
        let certificate = read().unwrap();
        assert_eq!(certificate.thumbprint, thumbprint(made.cert.der()));
        let text = format!("{certificate:?}");
        assert!(!text.contains("PRIVATE") && text.starts_with("Certificate { thumbprint"), "{text}");
    }
}
