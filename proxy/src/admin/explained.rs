//! How is a refusal told to an operator? What is known of the request, and why policy decided so.

use countersign_policy::{Explanation, Reason};
use serde::Serialize;

use crate::record::Entry;
use crate::rejection::Explained;

/// The record, and with it the explanation or why there is none.
#[derive(Debug, Serialize)]
pub(super) struct Page<'a> {
    #[serde(flatten)]
    entry: &'a Entry,
    #[serde(skip_serializing_if = "Option::is_none")]
    explanation: Option<&'a Explanation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
}

/// What there is in the place of an explanation.
const NOT_ASKED: &str = "policy was not asked, or has nothing to say here: the reason says all";
const SKIPPED: &str = "not explained: too many refusals came at that time";

// === impl Page ===

impl<'a> Page<'a> {
    pub(super) fn new(entry: &'a Entry) -> Self {
        let (explanation, note) = match &entry.explained {
            Explained::Fully(explanation) => (Some(explanation.as_ref()), None),
            Explained::Nothing => (None, Some(NOT_ASKED)),
            Explained::Skipped => (None, Some(SKIPPED)),
        };
        Self { entry, explanation, note }
    }

    /// The same to read, ending in what `countersign-control explain` prints.
    pub(super) fn text(&self) -> String {
        let Entry { decision_id, direction, protocol, status, time, .. } = self.entry;
        let id = decision_id.as_deref().unwrap_or_default();
        let (direction, protocol) = (direction.as_str(), protocol.as_str());
        let head = format!("decision {id}: {direction}, {protocol}, status {status}, at {time:.3}\n");
        match self.explanation {
            Some(explanation) => format!("{head}{explanation}"),
            None => format!("{head}{}{}\n", refused(self.entry), self.note.unwrap_or_default()),
        }
    }
}

/// What was asked stands on one line, whatever is in it.
fn refused(entry: &Entry) -> String {
    let word = entry.reason.unwrap_or_default();
    let title = Reason::ALL.iter().find(|reason| reason.as_str() == word).map_or("", |reason| reason.title());
    let rule = match (&entry.policy, &entry.rule) {
        (Some(policy), Some(rule)) => format!(" (rule {policy}/{rule})"),
        _ => String::new(),
    };
    let (method, path) = (entry.method.escape_debug(), entry.path.escape_debug());
    let (host, source) = (entry.host.escape_debug(), entry.source);
    format!("deny {word}: {title}{rule}\nrequest: {method} {path}, host {host}, from {source}\n")
}
