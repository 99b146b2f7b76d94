//! What outlives a restart? A directory of mode 0700 with files of mode 0600, replaced as a whole and checksummed where
//! a damaged one could be taken for a good one.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};

/// The state directory of one control plane.
#[derive(Clone, Debug)]
pub(crate) struct StateDir(PathBuf);

// === impl StateDir ===

impl StateDir {
    /// Opens or creates it, and closes it to others.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(path, Permissions::from_mode(0o700))?;
        }
        Ok(Self(path.to_owned()))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Replaces the file.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let temporary = self.0.join(format!(".{name}.tmp"));
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path(name))?;
        // Without this the rename itself may be lost with the power.
        File::open(&self.0)?.sync_all()
    }

    /// The file's content, or none if there is no such file.
    pub(crate) fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path(name)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the file; its first line is the checksum of the rest.
    pub(crate) fn save(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut lines = hex(digest(&SHA256, content).as_ref()).into_bytes();
        lines.push(b'\n');
        lines.extend_from_slice(content);
        self.write(name, &lines)
    }

    /// What was saved, if it is there and whole.
    pub(crate) fn load(&self, name: &str) -> Option<Vec<u8>> {
        let lines = self.read(name).ok()??;
        let end = lines.iter().position(|byte| *byte == b'\n')?;
        let (checksum, content) = (lines.get(..end)?, lines.get(end.checked_add(1)?..)?);
        let whole = hex(digest(&SHA256, content).as_ref()).as_bytes() == checksum;
        if !whole {
            tracing::warn!(name, "a file of the state directory is damaged: it is ignored");
        }
        whole.then(|| content.to_vec())
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
    fn keeps_files_private_and_notices_damage() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(&root.path().join("state")).unwrap();
        assert!(state.load("policy").is_none());
        state.save("policy", b"one\ntwo").unwrap();
        assert_eq!(state.load("policy").unwrap(), b"one\ntwo");
        let file = state.path("policy");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(root.path().join("state")).unwrap().permissions().mode() & 0o777, 0o700);

        let good = fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&file, &bad).unwrap();
            assert!(state.load("policy").is_none(), "a flipped bit at {at} goes unnoticed");
        }
    }
}
