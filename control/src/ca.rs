//! Who are we, for those who call us? A development CA in the state directory, and the API's certificate from it.
//!
//! The CA's key is on disk, mode 0600, and signs nothing but the API's certificates. Those are made at every start, and
//! again every month; their keys never leave memory.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::state::StateDir;
use crate::versions::now;

/// What sidecars get as `--control-ca`, and its key.
const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca-key.pem";

/// In days.
const CA_LIFETIME: u64 = 3650;
const SERVER_LIFETIME: u64 = 90;
/// How often the API's certificate is made anew.
pub(crate) const RENEWAL: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The CA, loaded.
pub(crate) struct Authority {
    key: KeyPair,
    file: PathBuf,
}

/// Why there is no CA.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{0} and {1} do not belong together: put both back, or remove both to start with a new CA")]
    Mismatch(String, String),
    #[error("no certificate could be made: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("no TLS configuration could be made: {0}")]
    Tls(#[from] rustls::Error),
}

// === impl Authority ===

impl Authority {
    /// Loads the CA, or makes one if there is none. Half a one is an error: a new CA would lock out every sidecar.
    pub(crate) fn open(state: &StateDir) -> Result<Self, CaError> {
        let io = |name: &str| {
            let path = state.path(name);
            move |error| CaError::Io { path, error }
        };
        let certificate = state.read(CERTIFICATE).map_err(io(CERTIFICATE))?;
        let key = state.read(KEY).map_err(io(KEY))?.map(Zeroizing::new);
        let file = state.path(CERTIFICATE);
        let (certificate, key) = match (certificate, key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) => {
                let key = KeyPair::generate()?;
                let certificate = ca()?.self_signed(&key)?;
                let pem = Zeroizing::new(key.serialize_pem());
                state.write(KEY, pem.as_bytes()).map_err(io(KEY))?;
                state.write(CERTIFICATE, certificate.pem().as_bytes()).map_err(io(CERTIFICATE))?;
                tracing::info!(file = %file.display(), "a development CA was made: sidecars trust it with --control-ca");
                return Ok(Self { key, file });
            }
            _ => return Err(mismatch(state)),
        };
        let key = std::str::from_utf8(&key).ok().and_then(|pem| KeyPair::from_pem(pem).ok());
        let key = key.ok_or_else(|| mismatch(state))?;
        let certificate = CertificateDer::from_pem_slice(&certificate).map_err(|_| mismatch(state))?;
        let public = key.public_key_raw();
        if !certificate.windows(public.len()).any(|window| window == public) {
            return Err(mismatch(state));
        }
        Ok(Self { key, file })
    }

    /// The CA's certificate in PEM.
    pub(crate) fn file(&self) -> PathBuf {
        self.file.clone()
    }

    /// TLS for the API: a fresh certificate for this machine's own names and these. TLS 1.2 and 1.3, no client
    /// certificates: callers show a join token.
    pub(crate) fn server_config(&self, names: &[String]) -> Result<ServerConfig, CaError> {
        let own = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let mut params =
            CertificateParams::new(own.into_iter().chain(names.iter().cloned()).collect::<Vec<_>>())?;
        params.distinguished_name = named("Countersign control plane");
        valid_for(&mut params, SERVER_LIFETIME);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let ca = ca()?;
        let certificate = params.signed_by(&key, &Issuer::from_params(&ca, &self.key))?;

        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.into()], key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("file", &self.file).field("key", &"[redacted]").finish()
    }
}

fn mismatch(state: &StateDir) -> CaError {
    let shown = |name| state.path(name).display().to_string();
    CaError::Mismatch(shown(CERTIFICATE), shown(KEY))
}

/// The same for every CA of ours, so that its name need not be read back from its certificate.
fn ca() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = named("Countersign development CA");
    valid_for(&mut params, CA_LIFETIME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// From yesterday, for the sake of clocks that are behind.
fn valid_for(params: &mut CertificateParams, days: u64) {
    let today = now() / (24 * 60 * 60);
    let date = |day| {
        let (year, month, day) = civil(day);
        date_time_ymd(year, month, day)
    };
    params.not_before = date(today.saturating_sub(1));
    params.not_after = date(today.saturating_add(days));
}

/// Year, month and day of a day since the epoch, in the Gregorian calendar.
fn civil(mut days: u64) -> (i32, u8, u8) {
    let leap = |year: i32| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let mut year = 1970;
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, u8::try_from(days).unwrap_or(0).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn refused(state: &StateDir) -> bool {
        matches!(Authority::open(state), Err(CaError::Mismatch(..)))
    }

    #[test]
    fn stays_the_same_and_is_never_half_replaced() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path()).unwrap();
        let first = Authority::open(&state).unwrap();
        let pem = std::fs::read(first.file()).unwrap();
        assert_eq!(std::fs::metadata(state.path(KEY)).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!format!("{first:?}").contains(&first.key.serialize_pem()));
        let again = Authority::open(&state).unwrap();
        assert_eq!(std::fs::read(again.file()).unwrap(), pem);
        assert_eq!(again.key.public_key_raw(), first.key.public_key_raw());

        let key = std::fs::read(state.path(KEY)).unwrap();
        std::fs::remove_file(state.path(KEY)).unwrap();
        assert!(refused(&state), "a certificate alone");
        state.write(KEY, KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap();
        assert!(refused(&state), "another key");
        state.write(KEY, b"rubbish").unwrap();
        assert!(refused(&state), "no key");
        state.write(KEY, &key).unwrap();
        assert!(Authority::open(&state).is_ok());
    }

    #[test]
    fn knows_the_calendar() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (58, (1970, 2, 28)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_322, (2000, 12, 31)),
            (11_323, (2001, 1, 1)),
            (20_781, (2026, 11, 24)),
        ] {
            assert_eq!(civil(days), date);
        }
    }
}
