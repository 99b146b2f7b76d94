//! Which clients are there? The clients file: strict YAML, read as a whole, and read again whenever it or a key file that
//! it names has changed.
//!
//! ```yaml
//! clients:
//! - clientId: checkout
//!   # SECRET=$(openssl rand -hex 32); printf %s "$SECRET" | sha256sum; two in secretsSha256 while a secret is changed
//!   secretSha256: 2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824
//!   scopes: [orders:write, orders:read]
//!   audiences: [https://orders.shop]
//!   claims: { tenant: acme }            # put into its tokens
//! - clientId: billing
//!   keyFile: billing.pem                # or keys: { keys: [...] }: the public half, for private_key_jwt
//!   assertionAudience: issuer           # or tokenEndpoint, for clients that know no better
//!   audiences: [https://orders.shop]
//! ```

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use countersign_policy::yaml;
use serde::Deserialize;

use super::client::{Client, Entry};
use super::options::IssuerUrl;

/// The clients of one version of the file.
#[derive(Debug, Default)]
pub(super) struct Clients {
    by_id: HashMap<String, Client>,
}

/// Looks at the file again and again, by content: so it works with mounted ConfigMaps and atomic replacement alike.
#[derive(Debug)]
pub(super) struct Watch {
    path: PathBuf,
    /// What the last version named, good or not.
    key_files: Vec<PathBuf>,
    /// Fingerprint of all that was read last.
    seen: Option<Vec<u8>>,
}

/// What is wrong with the clients file, in one line.
#[derive(Debug, thiserror::Error)]
pub enum ClientsError {
    #[error("{}: cannot be read: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{}{}: {problem}", path.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
    Invalid {
        path: PathBuf,
        line: Option<usize>,
        /// Begins with the field.
        problem: String,
    },
}

/// As written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    clients: Vec<Entry>,
}

/// Of a file, in bytes.
const MAX_SIZE: u64 = 1024 * 1024;

// === impl Clients ===

impl Clients {
    pub(super) fn find(&self, id: &str) -> Option<&Client> {
        self.by_id.get(id)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    fn check(path: &Path, text: &str, written: Written, url: &IssuerUrl) -> Result<Self, ClientsError> {
        let mut by_id: HashMap<String, Client> = HashMap::new();
        for (index, entry) in written.clients.into_iter().enumerate() {
            let invalid = |(field, problem): (&str, String), line| ClientsError::Invalid {
                path: path.to_owned(),
                line,
                problem: format!("clients[{index}].{field}: {problem}"),
            };
            let id = entry.client_id.0.clone();
            if by_id.contains_key(&id) {
                let line = line_of(text, "clientId", &id, 1);
                return Err(invalid(
                    ("clientId", format!("{id} is the name of another client already")),
                    line,
                ));
            }
            let line = line_of(text, "clientId", &id, 0);
            let pem = match &entry.key_file {
                None => None,
                Some(file) => Some(read(&beside(path, file)).map_err(|error| {
                    invalid(("keyFile", format!("{file}: {error}")), line_of(text, "keyFile", file, 0))
                })?),
            };
            let client = entry.check(pem.as_deref(), url).map_err(|problem| invalid(problem, line))?;
            by_id.insert(id, client);
        }
        Ok(Self { by_id })
    }
}

// === impl Watch ===

impl Watch {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, key_files: Vec::new(), seen: None }
    }

    /// The clients, or what is wrong with them, if anything has changed since the last look.
    pub(super) fn look(&mut self, url: &IssuerUrl) -> Option<Result<Clients, ClientsError>> {
        let content = read(&self.path);
        if self.seen.as_ref() == Some(&fingerprint(&content, &self.key_files)) {
            return None;
        }
        Some(self.take(content, url))
    }

    fn take(&mut self, content: io::Result<Vec<u8>>, url: &IssuerUrl) -> Result<Clients, ClientsError> {
        let parsed = content.as_ref().ok().map(|content| parse(&self.path, content));
        if let Some(Ok((_, written))) = &parsed {
            let named = written.clients.iter().filter_map(|entry| entry.key_file.as_deref());
            self.key_files = named.map(|file| beside(&self.path, file)).collect();
        }
        // Before the key files are read for good: what changes from here on is seen as a change.
        self.seen = Some(fingerprint(&content, &self.key_files));
        if let Err(error) = content {
            return Err(ClientsError::Read { path: self.path.clone(), error });
        }
        let (text, written) = parsed.unwrap_or_else(|| parse(&self.path, b""))?;
        Clients::check(&self.path, &text, written, url)
    }
}

fn parse(path: &Path, content: &[u8]) -> Result<(String, Written), ClientsError> {
    let invalid = |line, problem| ClientsError::Invalid { path: path.to_owned(), line, problem };
    let text = std::str::from_utf8(content).map_err(|_| invalid(None, "is not UTF-8".to_owned()))?;
    let written = yaml::read(text).map_err(|error| {
        let field = if error.field.is_empty() { String::new() } else { format!("{}: ", error.field) };
        invalid((error.line > 0).then_some(error.line), format!("{field}{}", error.message))
    })?;
    Ok((text.to_owned(), written))
}

/// The line of the `nth` place where a field has this value, for the message alone.
fn line_of(text: &str, field: &str, value: &str, nth: usize) -> Option<usize> {
    let is_there = |line: &str| {
        let (_, after) = line.split_once(field)?;
        let written = after.trim_start_matches(['"', '\'']).trim_start().strip_prefix(':')?;
        let written = written.split(" #").next()?.trim_matches([' ', '"', '\'', ',', '{', '}']);
        (written == value || written.starts_with(&format!("{value},"))).then_some(())
    };
    let lines = text.lines().enumerate().filter(|(_, line)| is_there(line).is_some());
    lines.map(|(index, _)| index + 1).nth(nth)
}

fn beside(path: &Path, file: &str) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).join(file)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    std::fs::File::open(path)?.take(MAX_SIZE + 1).read_to_end(&mut content)?;
    if u64::try_from(content.len()).is_ok_and(|size| size > MAX_SIZE) {
        return Err(io::Error::other("is larger than 1 MiB"));
    }
    Ok(content)
}

fn fingerprint(content: &io::Result<Vec<u8>>, key_files: &[PathBuf]) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    let mut add = |content: &io::Result<Vec<u8>>| match content {
        Ok(content) => {
            context.update(&content.len().to_be_bytes());
            context.update(content);
        }
        Err(error) => context.update(error.to_string().as_bytes()),
    };
    add(content);
    for file in key_files {
        add(&read(file));
    }
    context.finish().as_ref().to_vec()
}
