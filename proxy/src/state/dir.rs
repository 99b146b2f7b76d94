//! What do we still know after a restart? The state directory: last good policy and key sets, private and checksummed.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;

/// Largest entry that is read back, in bytes. The largest that is written is a bundle of policy.
const MAX_ENTRY: usize = 64 * 1024 * 1024;

/// First line of every entry; another one is another format.
const FORMAT: &str = "countersign-state-1";

/// A state directory of mode 0700, for one namespace and workload. Files in it are 0600, replaced atomically, and carry a
/// checksum: one that does not fit is as good as absent.
///
/// An entry is three lines and the content: the format, the SHA-256 of all that follows in hex, a header in JSON.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
    namespace: String,
    workload: String,
    /// Begins every file name, so that several workloads in one directory stay out of each other's way.
    owner: String,
}

/// Whose entry, and since when.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Header {
    namespace: String,
    workload: String,
    /// The entry's name: a file that was renamed is not read.
    entry: String,
    /// Seconds since the epoch.
    saved_at: i64,
}

// === impl StateDir ===

impl StateDir {
    /// Opens or creates the directory. What is kept for another namespace or workload is neither read nor touched.
    pub fn open(path: &Path, namespace: &str, workload: &str) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(|error| {
                let problem = "is open to others and cannot be closed to them: give it mode 0700, or name a directory in it";
                io::Error::new(error.kind(), format!("{} {problem}: {error}", path.display()))
            })?;
        }
        let (namespace, workload) = (namespace.to_owned(), workload.to_owned());
        let owner = owner(&namespace, &workload);
        Ok(Self { path: path.to_owned(), namespace, workload, owner })
    }

    /// Replaces the entry. `name` is a plain file name of our own making, e.g. `policy` or `keys-<hex>`.
    pub fn save(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let target = self.file(name)?;
        let temporary = target.with_extension("tmp");
        let written = self.write(&temporary, name, content).and_then(|()| fs::rename(&temporary, &target));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written?;
        // Without this the rename itself may be lost with the power.
        File::open(&self.path)?.sync_all()
    }

    /// The entry and when it was saved (seconds since the epoch), if it is there and whole.
    pub fn load(&self, name: &str) -> Option<(Vec<u8>, i64)> {
        let mut bytes = Vec::new();
        let file = File::open(self.file(name).ok()?).ok()?;
        let limit = MAX_ENTRY.saturating_add(4096);
        file.take(u64::try_from(limit).ok()?.saturating_add(1)).read_to_end(&mut bytes).ok()?;
        if bytes.len() > limit {
            return None;
        }
        let parsed = self.parse(name, &bytes);
        if parsed.is_none() {
            tracing::warn!(
                entry = name,
                "an entry of the state directory is damaged or not ours: it is ignored"
            );
        }
        parsed
    }

    /// Removes the entry; one that is not there is fine.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.file(name)?) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn file(&self, name: &str) -> io::Result<PathBuf> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || name.len() > 128 || !name.bytes().all(plain) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a name of an entry"));
        }
        Ok(self.path.join(format!("{}-{name}", self.owner)))
    }

    fn write(&self, path: &Path, name: &str, content: &[u8]) -> io::Result<()> {
        if content.len() > MAX_ENTRY {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the entry is too large"));
        }
        let header = serde_json::to_string(&Header {
            namespace: self.namespace.clone(),
            workload: self.workload.clone(),
            entry: name.to_owned(),
            saved_at: Clock::default().unix(),
        })?;
        // A leftover of a crash; `create_new` below then makes the file ours, with our mode.
        let _ = fs::remove_file(path);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let checksum = checksum(header.as_bytes(), content);
        write!(file, "{FORMAT}\n{checksum}\n{header}\n")?;
        file.write_all(content)?;
        file.sync_all()
    }

    fn parse(&self, name: &str, bytes: &[u8]) -> Option<(Vec<u8>, i64)> {
        let mut parts = bytes.splitn(4, |byte| *byte == b'\n');
        let (format, written, header, content) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if format != FORMAT.as_bytes() || written != checksum(header, content).as_bytes() {
            return None;
        }
        let header: Header = serde_json::from_slice(header).ok()?;
        let ours =
            header.namespace == self.namespace && header.workload == self.workload && header.entry == name;
        ours.then(|| (content.to_vec(), header.saved_at))
    }
}

fn checksum(header: &[u8], content: &[u8]) -> String {
    let mut hash = Context::new(&SHA256);
    hash.update(header);
    hash.update(b"\n");
    hash.update(content);
    hex(hash.finish().as_ref())
}

/// 16 hex digits that tell workloads apart in file names; the header has the full names.
fn owner(namespace: &str, workload: &str) -> String {
    let mut hash = Context::new(&SHA256);
    hash.update(namespace.as_bytes());
    hash.update(b"\0");
    hash.update(workload.as_bytes());
    let mut digits = hex(hash.finish().as_ref());
    digits.truncate(16);
    digits
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn keeps_entries_private_and_whole() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("state");
        let dir = StateDir::open(&path, "shop", "checkout").unwrap();
        let before = Clock::default().unix();
        dir.save("policy", b"one\ntwo\n").unwrap();
        dir.save("policy", b"three\n\n\n").unwrap();

        let (content, saved_at) = StateDir::open(&path, "shop", "checkout").unwrap().load("policy").unwrap();
        assert_eq!(content, b"three\n\n\n");
        assert!(saved_at >= before && saved_at <= before + 60);
        assert_eq!(mode(&path), 0o700);
        let files: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "no temporary file is left: {files:?}");
        assert_eq!(mode(&files[0]), 0o600);
        dir.remove("policy").unwrap();
        dir.remove("policy").unwrap();
        assert!(dir.load("policy").is_none());
    }

    #[test]
    fn closes_an_open_directory() {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        StateDir::open(root.path(), "shop", "checkout").unwrap();
        assert_eq!(mode(root.path()), 0o700);
    }

    #[test]
    fn ignores_what_is_damaged() {
        let root = tempfile::tempdir().unwrap();
        let dir = StateDir::open(root.path(), "shop", "checkout").unwrap();
        dir.save("policy", b"content").unwrap();
        let file = dir.file("policy").unwrap();
        let good = fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&file, &bad).unwrap();
            assert!(dir.load("policy").is_none(), "a flipped bit at {at} goes unnoticed");
            fs::write(&file, &good[..at]).unwrap();
            assert!(dir.load("policy").is_none(), "a cut at {at} goes unnoticed");
        }
        fs::write(&file, &good).unwrap();
        assert!(dir.load("policy").is_some());
    }

    #[test]
    fn reads_nothing_of_another_workload() {
        let root = tempfile::tempdir().unwrap();
        let ours = StateDir::open(root.path(), "shop", "checkout").unwrap();
        let theirs = StateDir::open(root.path(), "shop", "orders").unwrap();
        ours.save("policy", b"ours").unwrap();
        assert!(theirs.load("policy").is_none());
        theirs.save("policy", b"theirs").unwrap();
        assert_eq!(ours.load("policy").unwrap().0, b"ours");

        // Not even where the file is under the right name.
        fs::copy(ours.file("policy").unwrap(), theirs.file("policy").unwrap()).unwrap();
        assert!(theirs.load("policy").is_none());
        fs::copy(ours.file("policy").unwrap(), ours.file("keys").unwrap()).unwrap();
        assert!(ours.load("keys").is_none());
    }

    #[test]
    fn refuses_names_that_are_paths() {
        let root = tempfile::tempdir().unwrap();
        let dir = StateDir::open(root.path(), "shop", "checkout").unwrap();
        for name in ["", "../policy", "a/b", ".", "a.tmp"] {
            assert!(dir.save(name, b"x").is_err(), "{name}");
            assert!(dir.load(name).is_none(), "{name}");
        }
    }
}
