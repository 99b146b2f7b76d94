//! Which rules are wider than anybody should mean?

use crate::compile::inbound::CheckedInbound;
use crate::compile::outbound::CheckedOutbound;
use crate::compile::report::Report;
use crate::documents::Checked;
use crate::field::Field;
use crate::inbound::PortProtocol;
use crate::path::PathPattern;
use crate::rule::{RuleBody, To};
use crate::snapshot::Effect;

use super::live_rules;

/// Top-level names that are nobody's to register: hosts under them are one's own.
const PRIVATE: [&str; 5] = ["internal", "local", "localhost", "test", "lan"];
/// Under these everybody may have a name too.
const SHARED: [&str; 22] = [
    "co.uk",
    "org.uk",
    "com.au",
    "com.br",
    "com.cn",
    "co.in",
    "co.jp",
    "co.kr",
    "co.nz",
    "co.za",
    "github.io",
    "gitlab.io",
    "herokuapp.com",
    "azurewebsites.net",
    "cloudapp.net",
    "cloudfront.net",
    "amazonaws.com",
    "appspot.com",
    "run.app",
    "web.app",
    "netlify.app",
    "vercel.app",
];

pub(super) fn inbound(policy: &Checked<CheckedInbound>, report: &mut Report<'_>) {
    // Without HTTP there is nothing that a rule could be narrower in.
    if policy.value.protocol != PortProtocol::Http {
        return;
    }
    for (at, rule) in live_rules(policy).filter(|(_, rule)| rule.effect == Effect::Allow) {
        let to = &rule.to;
        if rule.public && is_every_path(to) {
            let message = "makes every path public, or nearly: name those that are, e.g. `/healthz`";
            report.add(&at.key("to").key("paths"), message);
        } else if is_anybody(rule) && is_every_path(to) && to.methods.is_empty() && to.hosts.is_empty() {
            let message =
                "everybody with a token may do everything, or nearly: name `scopes`, `clients` or the like";
            report.add(&at.key("from"), message);
        }
    }
}

fn is_anybody(rule: &RuleBody) -> bool {
    rule.when.is_none() && rule.from.as_ref().is_some_and(crate::rule::From::is_anybody)
}

fn is_every_path(to: &To) -> bool {
    to.grpc.is_empty() && (to.paths.is_empty() || to.paths.iter().any(PathPattern::names_nothing))
}

pub(super) fn outbound(policy: &Checked<CheckedOutbound>, report: &mut Report<'_>) {
    for (index, rule) in policy.value.rules.iter().enumerate() {
        // Without a token nothing goes to strangers.
        if rule.token.is_none() {
            continue;
        }
        for (number, host) in rule.hosts.iter().enumerate() {
            let Some(suffix) = host.suffix() else { continue };
            let is_public = !suffix.contains('.') && !PRIVATE.contains(&suffix);
            if is_public || SHARED.contains(&suffix) {
                let at = Field::parse("spec.rules").index(index).key("to").key("hosts").index(number);
                let message =
                    format!("anybody can have a host under `{suffix}`, and would be sent the token");
                report.add(&at, message);
            }
        }
    }
}
