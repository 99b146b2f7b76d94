//! Where is a file that policy names, and may it be read? (Semantics 11.)

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

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

// === impl PolicyFiles ===

impl PolicyFiles {
    /// Reads the whole file.
    pub fn read(&self, file: &FileRef, limit: usize) -> Result<Zeroizing<Vec<u8>>, FileError> {
        let path = match self {
            Self::BesideDocument => beside(file),
            Self::Under(dir) => under(dir, &file.path)?,
        };
        match read(&path, limit) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(FileError::TooLarge { path: path.display().to_string(), limit }),
            Err(error) => Err(FileError::Io { path: path.display().to_string(), error }),
        }
    }
}

fn beside(file: &FileRef) -> PathBuf {
    let document = Path::new(&file.declared_in);
    document.parent().unwrap_or(Path::new("")).join(&file.path)
}

/// Kubernetes mounts secrets as symlinks to symlinks, so these are followed, and what counts is where they lead.
fn under(dir: &Path, written: &str) -> Result<PathBuf, FileError> {
    let outside = || FileError::Outside(written.to_owned());
    let io = |error| FileError::Io { path: written.to_owned(), error };

    // Before the file system is asked, so that errors do not tell which files exist elsewhere.
    let path = dir.join(written);
    let climbs = Path::new(written).components().any(|part| part == Component::ParentDir);
    if climbs || !path.starts_with(dir) {
        return Err(outside());
    }
    let dir = fs::canonicalize(dir).map_err(io)?;
    let path = fs::canonicalize(path).map_err(io)?;
    if path.starts_with(&dir) { Ok(path) } else { Err(outside()) }
}

/// The file's bytes, or none if there are more than `limit`. The buffer never moves, so no copy of a secret stays behind.
pub(super) fn read(path: &Path, limit: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    // Asked before it is opened: opening a FIFO would wait for its writer.
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let Some(length) = usize::try_from(metadata.len()).ok().filter(|length| *length <= limit) else {
        return Ok(None);
    };
    let mut file = File::open(path)?;
    let mut bytes = Zeroizing::new(vec![0; length]);
    file.read_exact(&mut bytes)?;
    if file.read(&mut [0])? != 0 {
        return Err(io::Error::other("changed while it was read"));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn reference(path: &str, declared_in: &str) -> FileRef {
        FileRef { path: path.to_owned(), declared_in: declared_in.to_owned() }
    }

    #[test]
    fn finds_files_beside_the_document() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        fs::write(root.path().join("a/secret"), "s1").unwrap();
        let document = root.path().join("a/policy.yaml").display().to_string();
        let files = PolicyFiles::BesideDocument;
        assert_eq!(*files.read(&reference("secret", &document), 2).unwrap(), b"s1");
        assert_eq!(*files.read(&reference("../a/secret", &document), 2).unwrap(), b"s1");
        assert!(matches!(files.read(&reference("none", &document), 2), Err(FileError::Io { .. })));
    }

    #[test]
    fn follows_a_kubernetes_secret_mount() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("..2026")).unwrap();
        fs::write(root.path().join("..2026/client-secret"), "s1").unwrap();
        symlink("..2026", root.path().join("..data")).unwrap();
        symlink("..data/client-secret", root.path().join("client-secret")).unwrap();
        let files = PolicyFiles::Under(root.path().to_owned());
        assert_eq!(*files.read(&reference("client-secret", "bundle.yaml"), 64).unwrap(), b"s1");
        let absolute = root.path().join("client-secret").display().to_string();
        assert_eq!(*files.read(&reference(&absolute, "bundle.yaml"), 64).unwrap(), b"s1");
    }

    #[test]
    fn refuses_what_leads_outside() {
        let root = tempfile::tempdir().unwrap();
        let secrets = root.path().join("secrets");
        fs::create_dir(&secrets).unwrap();
        fs::write(root.path().join("other"), "not yours").unwrap();
        symlink("../other", secrets.join("link")).unwrap();
        symlink(root.path(), secrets.join("up")).unwrap();
        // A neighbour whose name begins alike.
        fs::create_dir(root.path().join("secrets2")).unwrap();
        fs::write(root.path().join("secrets2/x"), "not yours").unwrap();
        let absolute = root.path().join("other").display().to_string();
        let neighbour = root.path().join("secrets2/x").display().to_string();
        let files = PolicyFiles::Under(secrets);
        for path in [
            "link",
            "up/other",
            "../other",
            "./../other",
            "../missing",
            "/etc/hostname",
            &absolute,
            &neighbour,
        ] {
            let read = files.read(&reference(path, "bundle.yaml"), 64);
            assert!(matches!(read, Err(FileError::Outside(_))), "{path}: {read:?}");
        }
    }

    #[test]
    fn bounds_the_size_and_reads_regular_files_alone() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("secret"), "12345").unwrap();
        let files = PolicyFiles::Under(root.path().to_owned());
        assert!(files.read(&reference("secret", ""), 5).is_ok());
        assert!(matches!(files.read(&reference("secret", ""), 4), Err(FileError::TooLarge { limit: 4, .. })));
        assert!(matches!(files.read(&reference(".", ""), 64), Err(FileError::Io { .. })));
    }
}
