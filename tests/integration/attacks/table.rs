//! What is an attack, and what has to become of it? Reads the tables in `tests/attacks`, which say how they are written.

use std::fs;

use countersign_policy::Reason;

use super::notation::{self, Row, latin, repeated, unescaped};
use crate::support::raw_client::Heard;
use crate::support::recorder::Recorded;
use crate::support::root;

/// Bytes that mean harm. A request of its own, `GET /behind`, follows them at once.
#[derive(Clone, Debug)]
pub(super) struct Attack {
    pub(super) name: String,
    /// In the notation of the tables.
    pub(super) sent: String,
    pub(super) inbound: Outcome,
    /// The same, as it is written.
    pub(super) expected: String,
    /// None: nothing is judged there that it could evade.
    pub(super) outbound: Option<Outcome>,
}

/// What the client hears, and what the upstream sees.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// Refused by us for this reason, and the connection is closed.
    Refused(Reason),
    /// Refused by us for this reason; what is behind it is a request.
    Denied(Reason),
    /// Refused by the HTTP library with this status, and the connection is closed.
    Unparsed(u16),
    /// `bad_request`, and the connection is closed. The upstream sees the beginning at most.
    Broken,
    /// Taken for HTTP/2, and closed.
    Binary,
    /// The upstream sees this, and what is behind it.
    Passes(String),
    /// The upstream sees this, and the connection is closed.
    Last(String),
    /// The upstream sees this; what follows is refused by the HTTP library, and the connection is closed.
    ThenRefused(String),
    /// The upstream sees this, and what is behind it is part of it.
    Swallows(String),
}

/// By file, in the order of the tables.
pub(super) const KINDS: [&str; 5] = ["smuggling", "chunks", "syntax", "targets", "hops"];

pub(super) fn all() -> Vec<Attack> {
    KINDS.into_iter().flat_map(rows).map(Attack::of).collect()
}

/// The rows of the table of this name.
pub(super) fn rows(kind: &str) -> Vec<Row> {
    let text = fs::read_to_string(root().join(format!("tests/attacks/{kind}.txt"))).expect("a table");
    notation::rows(&text)
}

// === impl Attack ===

impl Attack {
    fn of(row: Row) -> Self {
        let expected = row.get("inbound").expect("inbound").to_owned();
        let inbound = Outcome::read(&expected);
        let outbound = match row.get("outbound") {
            None => Some(inbound.clone()),
            Some("-") => None,
            Some(other) => Some(Outcome::read(other)),
        };
        Self { sent: row.get("sent").expect("sent").to_owned(), name: row.name, inbound, expected, outbound }
    }

    /// The bytes to send.
    pub(super) fn bytes(&self, host: &str) -> Vec<u8> {
        latin(&unescaped(&repeated(&self.sent), host))
    }
}

/// What is expected of a request at the upstream, and what a request there is written as, in one form.
pub(super) fn comparable(text: &str, host: &str) -> String {
    unescaped(text, host).replace("\r\n", "¶")
}

/// As a cell of a table in Markdown.
pub(super) fn code(text: &str) -> String {
    format!("`{}`", text.replace('`', "'").replace('|', "\\|"))
}

// === impl Outcome ===

impl Outcome {
    fn read(text: &str) -> Self {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let reason = || {
            let mut reasons = Reason::ALL.iter().copied();
            reasons.find(|reason| reason.as_str() == rest).unwrap_or_else(|| panic!("the reason {rest}"))
        };
        match word {
            "refused" => Self::Refused(reason()),
            "denied" => Self::Denied(reason()),
            "unparsed" => Self::Unparsed(rest.parse().expect("a status")),
            "broken" => Self::Broken,
            "binary" => Self::Binary,
            "passes" => Self::Passes(rest.to_owned()),
            "last" => Self::Last(rest.to_owned()),
            "then-refused" => Self::ThenRefused(rest.to_owned()),
            "swallows" => Self::Swallows(rest.to_owned()),
            word => panic!("the outcome {word}"),
        }
    }

    /// Is this what has to become of the attack, in every byte?
    pub(super) fn judge(&self, host: &str, heard: &Heard, recorded: &Recorded) -> Result<(), String> {
        let ours = |reason: Reason| (reason.status(), reason.as_str().to_owned());
        let by_status = |status: u16| (status, String::new());
        let (answers, requests) = match self {
            Self::Refused(reason) => (vec![ours(*reason)], vec![]),
            Self::Denied(reason) => (vec![ours(*reason), by_status(200)], vec![BEHIND_SEEN]),
            Self::Unparsed(status) => (vec![by_status(*status)], vec![]),
            Self::Broken => (vec![ours(Reason::BadRequest)], vec![]),
            Self::Binary => (vec![], vec![]),
            Self::Passes(seen) => (vec![by_status(200); 2], vec![seen.as_str(), BEHIND_SEEN]),
            Self::Last(seen) | Self::Swallows(seen) => (vec![by_status(200)], vec![seen.as_str()]),
            Self::ThenRefused(seen) => (vec![by_status(200), by_status(400)], vec![seen.as_str()]),
        };
        let requests: Vec<String> = requests.into_iter().map(|seen| comparable(seen, host)).collect();
        let seen: Vec<String> = recorded.requests.iter().map(|seen| seen.replace("\r\n", "¶")).collect();
        // What the client leaves open is closed when it ends.
        let has_ended = match self {
            Self::Refused(_) | Self::Unparsed(_) | Self::Binary | Self::Last(_) => heard.is_closed,
            Self::Broken => heard.is_over,
            Self::Swallows(_) | Self::ThenRefused(_) | Self::Denied(_) | Self::Passes(_) => true,
        };
        let is_http1 = heard.rest.is_empty() || matches!(self, Self::Binary);
        let is_sound = recorded.wrong.is_empty() && is_http1;
        if heard.answers == answers && seen == requests && has_ended && is_sound {
            Ok(())
        } else {
            Err(format!("expected {self:?}\n    heard {heard:?}\n    recorded {recorded:?}"))
        }
    }
}

/// What follows each attack: it is answered where the connection goes on, and nowhere else.
pub(super) const BEHIND: &str = "GET /behind HTTP/1.1¶Host: HOST¶¶";
const BEHIND_SEEN: &str = "GET /behind HTTP/1.1¶host: HOST¶¶";
