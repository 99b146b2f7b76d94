//! How do keys outlive the process? One file in the state directory, for its owner alone, replaced as a whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::keyring::Entry;
use super::options::Algorithm;
use super::signing_key::SigningKey;

/// The file with the signing keys.
#[derive(Debug)]
pub(super) struct Store {
    file: PathBuf,
}

/// Why the signing keys cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot keep signing keys in {}: {error}", path.display())]
    Write { path: PathBuf, error: io::Error },
    #[error("cannot read the signing keys in {}: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{} holds no usable signing keys; move it away to start with a new one", .0.display())]
    Broken(PathBuf),
}

/// As written. Times are milliseconds since the epoch.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KeptKey {
    algorithm: String,
    signs_from: u64,
    in_use: bool,
    pem: String,
}

/// Of the file, in bytes.
const MAX_SIZE: u64 = 1024 * 1024;

// === impl Store ===

impl Store {
    /// Makes the directory, mode 0700, if it is not there.
    pub(super) fn open(directory: PathBuf) -> Result<Self, StoreError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.map_err(|error| StoreError::Write { path: directory.clone(), error })?;
        Ok(Self { file: directory.join("issuer-keys.json") })
    }

    /// The keys kept so far; none if there is no file.
    pub(super) fn load(&self) -> Result<Vec<Entry>, StoreError> {
        let mut text = Zeroizing::new(Vec::new());
        let file = match File::open(&self.file) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StoreError::Read { path: self.file.clone(), error }),
        };
        let read = file.take(MAX_SIZE).read_to_end(&mut text);
        read.map_err(|error| StoreError::Read { path: self.file.clone(), error })?;

        let broken = || StoreError::Broken(self.file.clone());
        let kept: Vec<KeptKey> = serde_json::from_slice(&text).map_err(|_| broken())?;
        kept.into_iter().map(|key| key.into_entry().ok_or_else(broken)).collect()
    }

    pub(super) fn save<'a>(&self, entries: impl Iterator<Item = &'a Entry>) -> Result<(), StoreError> {
        let kept: Vec<KeptKey> = entries.map(KeptKey::from).collect();
        let failed = |error| StoreError::Write { path: self.file.clone(), error };
        let text = Zeroizing::new(serde_json::to_vec_pretty(&kept).map_err(|error| failed(error.into()))?);
        replace(&self.file, &text).map_err(failed)
    }
}

/// Written beside, synced, renamed over: a crash leaves the old file or the new one.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

// === impl KeptKey ===

impl KeptKey {
    fn into_entry(mut self) -> Option<Entry> {
        let algorithm = match self.algorithm.as_str() {
            "ES256" => Algorithm::Es256,
            "RS256" => Algorithm::Rs256,
            _ => return None,
        };
        let pem = Zeroizing::new(std::mem::take(&mut self.pem));
        let key = SigningKey::from_pem(algorithm, pem).ok()?;
        let signs_from = Duration::from_millis(self.signs_from);
        Some(Entry { key: Arc::new(key), signs_from, in_use: self.in_use })
    }
}

impl From<&Entry> for KeptKey {
    fn from(entry: &Entry) -> Self {
        Self {
            algorithm: entry.key.algorithm().name().to_owned(),
            signs_from: u64::try_from(entry.signs_from.as_millis()).unwrap_or(u64::MAX),
            in_use: entry.in_use,
            pem: entry.key.pem().as_str().to_owned(),
        }
    }
}

impl Drop for KeptKey {
    fn drop(&mut self) {
        self.pem.zeroize();
    }
}
