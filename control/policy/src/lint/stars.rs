//! Which words are taken for everybody, and mean hardly anybody? A `*` where values are compared letter by letter, so that a
//! deny rule never hits; and an `unless` that spares whoever comes.

use serde_json::Value;

use crate::compile::inbound::CheckedInbound;
use crate::compile::report::Report;
use crate::documents::Checked;
use crate::field::Field;
use crate::rule::{ClaimTest, From};

use super::all_rules;

const LETTER: &str = "is the letter `*`, not everything";
/// Header fields in which the letter has a meaning of its own (RFC 9110 §13.1).
const WITH_LETTER: [&str; 2] = ["if-match", "if-none-match"];

pub(super) fn inbound(policy: &Checked<CheckedInbound>, report: &mut Report<'_>) {
    for (at, rule) in all_rules(policy) {
        for (word, from) in [("from", &rule.from), ("unless", &rule.unless)] {
            if let Some(from) = from {
                words(from, &at.key(word), report);
            }
        }
        for header in rule.to.headers.iter().filter(|header| header.values.iter().any(|value| value == "*")) {
            if !WITH_LETTER.contains(&&*header.name) {
                report.add(&at.key("to").key("headers"), format!("the value of `{}` {LETTER}", header.name));
            }
        }
        if let Some(unless) = rule.unless.as_ref().filter(|unless| unless.is_anybody()) {
            let what = if unless.needs_token { "a token" } else { "a certificate" };
            let message = format!("spares everybody with {what}: name those who are spared, e.g. by `roles`");
            report.add(&at.key("unless"), message);
        }
    }
}

fn words(from: &From, at: &Field, report: &mut Report<'_>) {
    let lists = [
        ("scopes", &from.scopes),
        ("clients", &from.clients),
        ("subjects", &from.subjects),
        ("roles", &from.roles),
    ];
    for (word, values) in lists {
        if let Some(index) = values.iter().position(|value| value == "*") {
            report.add(&at.key(word).index(index), format!("{LETTER}: leave the field out to mean all"));
        }
    }
    for (name, test) in &from.claims {
        claim(test, &at.key("claims").key(name), report);
    }
}

fn claim(test: &ClaimTest, at: &Field, report: &mut Report<'_>) {
    match test {
        ClaimTest::OneOf(values) if values.contains(&Value::from("*")) => report.add(at, LETTER),
        ClaimTest::OneOf(_) => {}
        ClaimTest::Members(members) => {
            members.iter().for_each(|(name, test)| claim(test, &at.key(name), report));
        }
    }
}
