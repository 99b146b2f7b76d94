//! What does a small YAML file of our own say? Bounded in size, without duplicate keys, with the line of an error.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::de::DeserializeOwned;

/// Largest file, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Reads a whole file into `T`. The error is one line: `file:line: what`.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let text = read_text(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
    parse(&text).map_err(|error| match error.location() {
        Some(at) => format!("{}:{}: {error}", path.display(), at.line()),
        None => format!("{}: {error}", path.display()),
    })
}

fn read_text(path: &Path) -> io::Result<String> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("larger than {MAX_FILE} bytes")));
    }
    Ok(text)
}

/// serde_yaml bounds depth and aliases itself. Duplicate keys of maps it notices only in its own value.
fn parse<T: DeserializeOwned>(text: &str) -> Result<T, serde_yaml::Error> {
    let _: serde_yaml::Value = serde_yaml::from_str(text)?;
    serde_yaml::from_str(text)
}
