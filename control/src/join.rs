//! Whose token is this? The join tokens file: hashes of tokens, and the workload that each stands for.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use countersign_policy::Workload;
use serde::{Deserialize, Deserializer};

use crate::yaml;

/// The SHA-256 of a join token. Tokens are random, of 128 bits or more, so that the hash needs no salt.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct TokenHash([u8; 32]);

/// One token and its workload. A workload may have several tokens, for rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) token: TokenHash,
    pub(crate) workload: Workload,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    workloads: Vec<WrittenMember>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenMember {
    token_sha256: TokenHash,
    namespace: String,
    name: String,
    #[serde(default)]
    labels: std::collections::BTreeMap<String, String>,
    service_account: Option<String>,
}

/// Reads and checks the whole file: at most 1 MiB and 10,000 values, which is some 900 workloads. The error is one line.
pub(crate) fn read(path: &Path) -> Result<Vec<Member>, String> {
    let written: Written = yaml::read(path)?;
    let refuse = |what: String| Err(format!("{}: {what}", path.display()));
    let mut seen = HashSet::new();
    for (index, member) in written.workloads.iter().enumerate() {
        if member.namespace.is_empty() || member.name.is_empty() {
            return refuse(format!("workloads[{index}]: namespace and name must not be empty"));
        }
        if !seen.insert(&member.token_sha256) {
            return refuse(format!("workloads[{index}].tokenSha256: stands there twice"));
        }
    }
    Ok(written.workloads.into_iter().map(Member::from).collect())
}

// === impl Member ===

impl From<WrittenMember> for Member {
    fn from(written: WrittenMember) -> Self {
        let WrittenMember { token_sha256, namespace, name, labels, service_account } = written;
        Self { token: token_sha256, workload: Workload { namespace, name, labels, service_account } }
    }
}

// === impl TokenHash ===

impl TokenHash {
    pub(crate) fn of(token: &str) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(hash)
    }

    /// Takes the same time for any two.
    pub(crate) fn same(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<'de> Deserialize<'de> for TokenHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let error =
            "tokenSha256 is the SHA-256 of the token in 64 hex digits: printf %s \"$TOKEN\" | sha256sum";
        let text = String::deserialize(deserializer)?;
        let hash = unhex(&text).ok_or_else(|| serde::de::Error::custom(error))?;
        Ok(Self(hash))
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.contains('+'))?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::hex;

    fn parse(text: &str) -> Result<Vec<Member>, String> {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("join.yaml");
        std::fs::write(&file, text).unwrap();
        read(&file)
    }

    fn entry(token: &str) -> String {
        let hash = hex(digest(&SHA256, token.as_bytes()).as_ref());
        format!("- {{tokenSha256: {hash}, namespace: shop, name: checkout, labels: {{app: checkout}}}}\n")
    }

    #[test]
    fn finds_the_workload_of_a_token() {
        let members = parse(&format!("workloads:\n{}", entry("t1"))).unwrap();
        assert!(members[0].token.same(&TokenHash::of("t1")));
        assert!(!members[0].token.same(&TokenHash::of("t2")));
        assert_eq!(members[0].workload.labels["app"], "checkout");
        assert!(!format!("{members:?}").contains(&hex(digest(&SHA256, b"t1").as_ref())));
    }

    #[test]
    fn refuses_what_is_ambiguous() {
        let twice = format!("workloads:\n{}{}", entry("t1"), entry("t1"));
        let label = "workloads:\n- {tokenSha256: x, namespace: a, name: b, labels: {app: a, app: b}}\n";
        let hash = "workloads:\n- {tokenSha256: abc, namespace: a, name: b}\n";
        let unknown = "workloads: []\nworkload: []\n";
        let empty = entry("t1").replace("shop", "''");
        for (text, expected) in [
            (twice.as_str(), "twice"),
            (label, "twice"),
            (hash, "64 hex digits"),
            (unknown, "unknown field"),
            ("", "has no value"),
            (&format!("workloads:\n{empty}"), "must not be empty"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
