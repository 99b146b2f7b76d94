//! What is wrong with a token, before any policy is asked? The member that is at fault, expected against found, for who
//! has to repair it. Of what nobody vouched for, the issuer's name alone is shown.

use serde_json::{Map, Value, json};

use super::condition::Condition;
use super::words::list;
use crate::inbound::PortPolicy;
use crate::reason::Reason;
use crate::snapshot::Issuer;

// === impl PortPolicy ===

impl PortPolicy {
    /// The issuer that a token names, and those that are accepted here.
    pub fn issuer_flaw(&self, claims: &Map<String, Value>) -> Condition {
        let found = match claims.get("iss") {
            None => json!("absent"),
            Some(Value::String(iss)) => json!(iss),
            Some(_) => json!("no string"),
        };
        Condition::new("iss", list(self.issuers().into_iter()), found)
    }
}

// === impl Issuer ===

impl Issuer {
    /// What keeps these claims from being a token of this issuer; `reason` is why [`crate::Profile::token`] refuses them.
    pub fn flaw(&self, reason: Reason, claims: &Map<String, Value>) -> Option<Condition> {
        let shown = |name: &str| claims.get(name).cloned().unwrap_or_else(|| json!("absent"));
        Some(match reason {
            Reason::MissingClaim => {
                let name = self.profile.flawed(claims)?;
                let found = match claims.get(name) {
                    None => "absent",
                    Some(Value::Null) => "null",
                    Some(Value::Bool(_)) => "a boolean",
                    Some(Value::Number(_)) => "a number that it cannot be",
                    Some(Value::String(text)) if text.is_empty() => "an empty string",
                    Some(Value::String(_)) => "a string that it cannot be",
                    Some(Value::Array(_)) => "a list that it cannot be",
                    Some(Value::Object(_)) => "an object that it cannot be",
                };
                let profile = self.profile.as_str();
                Condition::new(name, format!("as tokens of profile {profile} have it"), found)
            }
            Reason::UnknownIssuer => Condition::new("iss", &*self.issuer, shown("iss")),
            Reason::WrongType => match claims.get("token_use") {
                Some(_) => Condition::new("token_use", "access", shown("token_use")),
                None => Condition::new("typ", json!(["Bearer", "DPoP"]), shown("typ")),
            },
            Reason::BindingMismatch => {
                Condition::new("cnf", "one of x5t#S256 and jkt", "both, or another method")
            }
            _ => return None,
        })
    }
}
