//! Where is a file that policy names, and may it be read? (Semantics 11.)

use std::path::PathBuf;

use countersign_policy::snapshot::FileRef;
use zeroize::Zeroizing;

/// How file references of policy are found.
#[derive(Clone, Debug)]
pub enum PolicyFiles {
    /// `--policies`: relative to the document that names the file.
    BesideDocument,
    /// `--control`: under this directory, checked after symlinks, so that policy cannot send another file of the pod away.
    Under(PathBuf),
}

/// Why a file cannot be used. Names the file, never its content.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{path}: {error}")]
    Io { path: String, error: std::io::Error },
    #[error("{0} is outside the secrets directory")]
    Outside(String),
    #[error("{path} is larger than {limit} bytes")]
    TooLarge { path: String, limit: usize },
}

impl PolicyFiles {
    /// Reads the whole file.
    pub fn read(&self, _file: &FileRef, _limit: usize) -> Result<Zeroizing<Vec<u8>>, FileError> {
        todo!()
    }
}
