//! Is this value in order? Checks of plain values that several kinds share.

use crate::document::words::{self, Text, TimeoutsSpec};
use crate::field::Field;
use crate::snapshot::{FileRef, Timeouts};
use crate::source::Source;

use super::report::Report;

/// Time limits, each where it is written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WrittenTimeouts {
    connect: Option<std::time::Duration>,
    first_byte: Option<std::time::Duration>,
    idle: Option<std::time::Duration>,
    total: Option<std::time::Duration>,
}

// === impl WrittenTimeouts ===

impl WrittenTimeouts {
    pub(crate) fn compile(spec: &TimeoutsSpec, at: &Field, report: &mut Report<'_>) -> Self {
        let mut read = |key: &str, text: Option<&Text>| {
            text.and_then(|text| report.ok(&at.key(key), words::duration(text)))
        };
        Self {
            connect: read("connect", spec.connect.as_ref()),
            first_byte: read("firstByte", spec.first_byte.as_ref()),
            idle: read("idle", spec.idle.as_ref()),
            total: read("total", spec.total.as_ref()),
        }
    }

    /// The shorter of each that is written.
    pub(crate) fn shortest(self, other: Self) -> Self {
        let shorter = |one: Option<_>, two: Option<_>| one.into_iter().chain(two).min();
        Self {
            connect: shorter(self.connect, other.connect),
            first_byte: shorter(self.first_byte, other.first_byte),
            idle: shorter(self.idle, other.idle),
            total: shorter(self.total, other.total),
        }
    }

    /// Of bytes that pass as they are: only who speaks the protocol knows how long it may be silent.
    pub(crate) fn or_default_of_bytes(self) -> Timeouts {
        Timeouts { idle: self.idle.unwrap_or(Timeouts::NEVER), ..self.or_default() }
    }

    pub(crate) fn or_default(self) -> Timeouts {
        let default = Timeouts::default();
        Timeouts {
            connect: self.connect.unwrap_or(default.connect),
            first_byte: self.first_byte.unwrap_or(default.first_byte),
            idle: self.idle.unwrap_or(default.idle),
            total: self.total,
        }
    }
}

/// A list that says something: an empty one is neither all nor none.
pub(crate) fn not_empty<T>(list: Option<&[T]>, at: &Field, report: &mut Report<'_>) {
    if list.is_some_and(<[T]>::is_empty) {
        report.add(at, "is empty: write a value, or leave the field out");
    }
}

/// A name that no other rule of the policy has.
pub(crate) fn rule_name(name: &Text, before: &[&str], at: &Field, report: &mut Report<'_>) {
    report.ok(at, words::dns_label(name));
    if before.contains(&&**name) {
        report.add(at, format!("another rule of this policy is named `{name}`: rename one"));
    }
}

/// Scope tokens (RFC 6749 §3.3).
pub(crate) fn scopes(scopes: &[Text], at: &Field, report: &mut Report<'_>) {
    for (index, scope) in scopes.iter().enumerate() {
        let is_scope = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        if !scope.bytes().all(is_scope) {
            let message = format!("`{scope}` is no scope: one word of printable ASCII without `\"` and `\\`");
            report.add(&at.index(index), message);
        }
    }
}

/// Strings that are compared with what a token says.
pub(crate) fn not_blank(texts: &[Text], at: &Field, report: &mut Report<'_>) {
    for (index, _) in texts.iter().enumerate().filter(|(_, text)| text.is_empty()) {
        report.add(&at.index(index), "is an empty string");
    }
}

/// A token of HTTP (RFC 9110 §5.6.2): methods and header names.
pub(crate) fn is_http_token(text: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_tchar)
}

/// A file that a document names.
pub(crate) fn file(path: &Text, at: &Field, source: &Source, report: &mut Report<'_>) -> FileRef {
    if path.is_empty() {
        report.add(at, "is an empty path");
    }
    FileRef { path: path.to_string(), declared_in: source.file.clone() }
}
