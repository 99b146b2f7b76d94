//! What was expected, and what was found? A condition of a rule in words: never a header's value, and of the claims those
//! that the rule names.

use serde::Serialize;
use serde_json::{Value, json};

use super::words::{clip, cut, list};
use crate::request::{AccessRequest, Presented, Token};
use crate::rule::{From, Judged, PeerPattern, RuleBody, Word};
use crate::snapshot::Effect;

/// A condition that is not met, or cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// As it is written in policy, e.g. `from.scopes`.
    pub field: String,
    pub expected: Value,
    pub found: Value,
    /// What was found has a shape that cannot be compared: a match for deny, none for allow.
    #[serde(skip_serializing_if = "is_false")]
    pub unknown: bool,
}

/// What a rule is judged by.
pub(super) struct Seen<'a> {
    pub(super) request: &'a AccessRequest<'a>,
    /// One that the rule's policy accepts.
    pub(super) token: Option<&'a Token>,
    /// It was decided without a look at the token.
    pub(super) is_screened: bool,
}

/// Which part of a rule says who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    From,
    Unless,
}

/// The condition that keeps a rule, or its `unless`, from holding, or that cannot be told.
pub(super) fn of(judged: Judged<'_>, rule: &RuleBody, part: Part, seen: &Seen<'_>) -> Option<Condition> {
    match judged {
        Judged::Yes => None,
        Judged::No(word) => Some(told(word, rule, part, seen)),
        Judged::Unknown(Word::When) => {
            let condition = told(Word::When, rule, part, seen);
            Some(Condition { found: json!("what cannot be evaluated"), unknown: true, ..condition })
        }
        Judged::Unknown(word) => Some(Condition { unknown: true, ..told(word, rule, part, seen) }),
    }
}

fn told(word: Word<'_>, rule: &RuleBody, part: Part, seen: &Seen<'_>) -> Condition {
    let (request, to) = (seen.request, &rule.to);
    let nobody = From::default();
    let (prefix, from) = match part {
        Part::From => ("from", rule.from.as_ref()),
        Part::Unless => ("unless", rule.unless.as_ref()),
    };
    let from = from.unwrap_or(&nobody);
    let who = |word: &str| format!("{prefix}.{word}");
    let said = |text: fn(&Token) -> Option<&String>| {
        seen.token.and_then(text).map_or_else(|| json!("none"), |text| json!(text))
    };
    let peers = |peers: &[PeerPattern]| list(peers.iter().map(ToString::to_string));
    match word {
        Word::Methods => Condition::new("to.methods", list(to.methods.iter()), request.method),
        Word::Paths => {
            Condition::new("to.paths", list(to.paths.iter().map(|path| path.as_str())), path(rule, seen))
        }
        Word::Hosts => {
            Condition::new("to.hosts", list(to.hosts.iter().map(|host| host.as_str())), request.host)
        }
        Word::Header(name) => header(name, rule, request),
        Word::Grpc => Condition::new("to.grpc", list(to.grpc.iter().map(ToString::to_string)), grpc(request)),
        Word::Token => Condition::new(prefix, "a token that the policy accepts", no_token(seen)),
        Word::Certificate => Condition::new(prefix, "a client certificate", "none"),
        Word::Peers => Condition::new(who("peers"), peers(&from.peers), peer(request)),
        Word::ServiceAccounts => {
            Condition::new(who("serviceAccounts"), peers(&from.service_accounts), peer(request))
        }
        Word::Sources => {
            let networks = list(from.sources.iter().map(ToString::to_string));
            Condition::new(who("sources"), networks, request.source.to_string())
        }
        Word::Issuers => {
            let found = seen.token.map_or("none", |token| &token.issuer);
            Condition::new(who("issuers"), list(from.issuers.iter()), found)
        }
        Word::Scopes => {
            Condition::new(who("scopes"), list(from.scopes.iter()), held(seen, |token| &token.scopes))
        }
        Word::Clients => {
            Condition::new(who("clients"), list(from.clients.iter()), said(|token| token.client.as_ref()))
        }
        Word::Subjects => {
            Condition::new(who("subjects"), list(from.subjects.iter()), said(|token| token.subject.as_ref()))
        }
        Word::Roles => {
            Condition::new(who("roles"), list(from.roles.iter()), held(seen, |token| &token.roles))
        }
        Word::Claim(name) => claim(name, prefix, from, seen),
        Word::Binding => Condition::new(who("binding"), "required", "a token that is bound to nothing"),
        Word::Unless => {
            let spared = rule.unless.as_ref().map_or(Value::Null, written);
            Condition::new("unless", json!({ "not": spared }), "a caller who has it, and is spared")
        }
        Word::When => {
            let text = rule.when.as_ref().map_or("", |when| when.as_str());
            Condition::new("when", text, "false")
        }
    }
}

fn path(rule: &RuleBody, seen: &Seen<'_>) -> String {
    let path = seen.request.path;
    let note = if path.is_raw() {
        " (raw from an escaped `/`, `%` or `;` on, which other rules than those with `rawPaths` do not admit)"
    } else if seen.token.is_none() && rule.to.paths.iter().any(|pattern| pattern.needs_claims()) {
        " (and no token to take {claims.NAME} from)"
    } else {
        ""
    };
    format!("{}{note}", clip(path.as_str()))
}

fn grpc(request: &AccessRequest<'_>) -> String {
    let note = if request.grpc { "" } else { " (by its content type not a gRPC request)" };
    format!("{}{note}", clip(request.path.as_str()))
}

/// Its value is nobody's business: it may be a secret.
fn header(name: &str, rule: &RuleBody, request: &AccessRequest<'_>) -> Condition {
    let test = rule.to.headers.iter().find(|test| test.name == name);
    let values = test.map(|test| list(test.values.iter())).unwrap_or_default();
    let is_there = test.is_some_and(|test| test.is_there(request.headers));
    let found = match (is_there, rule.effect) {
        (false, _) => "absent",
        (true, Effect::Allow) => "another value, or one beside it",
        (true, Effect::Deny) => "another value",
    };
    Condition::new(format!("to.headers.{}", clip(name)), values, found)
}

fn claim(name: &str, prefix: &str, from: &From, seen: &Seen<'_>) -> Condition {
    let test = from.claims.iter().find(|(named, _)| named == name).map(|(_, test)| test);
    let claim = seen.token.and_then(|token| token.claims.get(name));
    let expected = test.map_or(Value::Null, |test| test.written());
    let found = claim.zip(test).map_or_else(|| json!("absent"), |(claim, test)| test.concerned(claim));
    Condition::new(format!("{prefix}.claims.{}", clip(name)), expected, found)
}

fn held(seen: &Seen<'_>, of: fn(&Token) -> &Vec<String>) -> Value {
    list(seen.token.map(of).map(Vec::as_slice).unwrap_or_default().iter())
}

fn no_token(seen: &Seen<'_>) -> String {
    match seen.request.principal.token {
        _ if seen.is_screened => "no token is looked at".to_owned(),
        Presented::Nothing => "none".to_owned(),
        Presented::Rejected(reason) => format!("one that is refused: {reason}"),
        Presented::Verified(_) => "one that the policy does not accept".to_owned(),
    }
}

fn peer<'a>(request: &AccessRequest<'a>) -> &'a str {
    match request.principal.peer {
        None => "no client certificate",
        Some(peer) => peer.id.as_deref().unwrap_or("a certificate without a SPIFFE ID"),
    }
}

/// A `from` or `unless` as it is written.
fn written(from: &From) -> Value {
    let peers = |peers: &[PeerPattern]| list(peers.iter().map(ToString::to_string));
    let claims: Value = from.claims.iter().map(|(name, test)| (name.clone(), test.written())).collect();
    let words = [
        ("issuers", list(from.issuers.iter())),
        ("scopes", list(from.scopes.iter())),
        ("clients", list(from.clients.iter())),
        ("subjects", list(from.subjects.iter())),
        ("roles", list(from.roles.iter())),
        ("claims", claims),
        ("binding", if from.bound { json!("required") } else { json!([]) }),
        ("peers", peers(&from.peers)),
        ("serviceAccounts", peers(&from.service_accounts)),
        ("sources", list(from.sources.iter().map(ToString::to_string))),
    ];
    let is_said = |value: &Value| *value != json!([]) && *value != json!({});
    words.into_iter().filter(|(_, value)| is_said(value)).collect()
}

// === impl Condition ===

impl Condition {
    /// Both are cut to a bounded length.
    pub fn new(field: impl Into<String>, expected: impl Into<Value>, found: impl Into<Value>) -> Self {
        Self {
            field: field.into(),
            expected: cut(&expected.into()),
            found: cut(&found.into()),
            unknown: false,
        }
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}
