//! What do we still know after a restart? The state directory: last good policy and key sets, private and checksummed.

use std::io;
use std::path::Path;

/// A state directory of mode 0700, for one namespace and workload. Files in it are 0600, replaced atomically, and carry a
/// checksum: one that does not fit is as good as absent.
#[derive(Clone, Debug)]
pub struct StateDir {}

impl StateDir {
    /// Opens or creates the directory. What is kept for another namespace or workload is neither read nor touched.
    pub fn open(_path: &Path, _namespace: &str, _workload: &str) -> io::Result<Self> {
        todo!()
    }

    /// Replaces the entry. `name` is a plain file name of our own making, e.g. `policy` or `keys-<hex>`.
    pub fn save(&self, _name: &str, _content: &[u8]) -> io::Result<()> {
        todo!()
    }

    /// The entry and when it was saved (seconds since the epoch), if it is there and whole.
    pub fn load(&self, _name: &str) -> Option<(Vec<u8>, i64)> {
        todo!()
    }

    pub fn remove(&self, _name: &str) -> io::Result<()> {
        todo!()
    }
}
