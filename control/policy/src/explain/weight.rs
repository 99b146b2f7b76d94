//! What does an explanation take in memory? Who keeps many of them has to know.

use serde_json::Value;

use super::{Condition, Explanation, PolicyExplained, RuleExplained, ShownToken, Unselected};

// === impl Explanation ===

impl Explanation {
    /// In bytes, about.
    pub fn weight(&self) -> usize {
        let texts = [&self.request.method, &self.request.path, &self.request.host].map(String::len);
        let optional = [&self.rule, &self.peer].map(|text| text.as_ref().map_or(0, String::len));
        let parts = [
            size_of::<Self>(),
            texts.iter().chain(&optional).sum(),
            self.token.weight(),
            self.flaw.as_ref().map_or(0, Condition::weight),
            self.policies.iter().map(PolicyExplained::weight).sum(),
            self.unselected.iter().map(Unselected::weight).sum(),
        ];
        parts.iter().sum()
    }
}

impl ShownToken {
    fn weight(&self) -> usize {
        let Self::Verified { issuer, audiences, client, subject, scopes, roles, .. } = self else { return 0 };
        let texts = issuer.len()
            + [client, subject].map(|text| text.as_ref().map_or(0, String::len)).iter().sum::<usize>();
        texts + [audiences, scopes, roles].map(heap).iter().sum::<usize>()
    }
}

impl PolicyExplained {
    fn weight(&self) -> usize {
        let own = size_of::<Self>() + self.policy.len() + self.file.len();
        let rules: usize = self.rules.iter().map(RuleExplained::weight).sum();
        own + rules + self.not_accepted.as_ref().map_or(0, Condition::weight)
    }
}

impl RuleExplained {
    fn weight(&self) -> usize {
        let conditions = self.condition.iter().chain(&self.not_spared).map(Condition::weight);
        size_of::<Self>() + self.rule.len() + conditions.sum::<usize>()
    }
}

impl Unselected {
    fn weight(&self) -> usize {
        size_of::<Self>() + self.policy.len() + self.file.len() + self.condition.weight()
    }
}

impl Condition {
    /// Beside the struct itself, which is part of another.
    fn weight(&self) -> usize {
        self.field.len() + heap(&self.expected) + heap(&self.found)
    }
}

fn heap(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(|item| size_of::<Value>() + heap(item)).sum(),
        Value::Object(members) => {
            // A node of the map is allocated for eleven members at once, half of them empty at worst.
            let member = |(name, value): (&String, &Value)| {
                name.len() + 2 * (size_of::<String>() + size_of::<Value>()) + heap(value)
            };
            members.iter().map(member).sum()
        }
    }
}
