//! What does a YAML file of our own say? Bounded in size, read by the policy crate's strict reader, with the place of an
//! error.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::de::DeserializeOwned;

/// Largest file, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Reads a whole file into `T`. The error is one line: `file:line: field: what`.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let text = read_text(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
    countersign_policy::yaml::read(&text).map_err(|error| {
        let line = if error.line > 0 { format!(":{}", error.line) } else { String::new() };
        let field = if error.field.is_empty() { String::new() } else { format!(" {}:", error.field) };
        format!("{}{line}:{field} {}", path.display(), error.message)
    })
}

fn read_text(path: &Path) -> io::Result<String> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut text = String::new();
    // One byte more, so that the reader refuses what was cut off here.
    File::open(path)?.take(MAX_FILE.saturating_add(1)).read_to_string(&mut text)?;
    Ok(text)
}
