//! Which tokens does a policy take that it should tell apart?

use std::collections::BTreeSet;

use crate::compile::inbound::CheckedInbound;
use crate::compile::report::Report;
use crate::documents::{Checked, Documents};
use crate::field::Field;
use crate::profile::Profile;
use crate::snapshot::Issuer;

use super::live_rules;

pub(super) fn inbound(policy: &Checked<CheckedInbound>, documents: &Documents, report: &mut Report<'_>) {
    audiences(policy, documents, report);
    names(policy, report);
}

/// An ID token is meant for a client. Where neither type nor claims tell it from an access token, a client's id must not be
/// an audience.
fn audiences(policy: &Checked<CheckedInbound>, documents: &Documents, report: &mut Report<'_>) {
    let clients = clients(documents);
    for (index, tokens) in policy.value.tokens.iter().enumerate() {
        let Some(issuer) = documents.issuers.get(tokens.issuer).map(|issuer| &issuer.value) else { continue };
        if !takes_id_tokens(issuer) {
            continue;
        }
        for (number, audience) in tokens.audiences.iter().enumerate() {
            let is_client = clients.contains(audience.as_str());
            if is_client || issuer.profile == Profile::Generic && looks_like_client(audience) {
                let at = Field::parse("spec.tokens").index(index).key("audiences").index(number);
                let what = if is_client { "is the id of a client" } else { "looks like the id of a client" };
                let message = format!(
                    "`{audience}` {what}: profile {} does not tell its ID tokens from access tokens; use a URL",
                    issuer.profile.as_str()
                );
                report.add(&at, message);
            }
        }
    }
}

fn takes_id_tokens(issuer: &Issuer) -> bool {
    matches!(issuer.profile, Profile::Generic | Profile::Keycloak)
}

/// One word, a UUID or a number; or what Google calls its clients.
fn looks_like_client(audience: &str) -> bool {
    !audience.contains([':', '/', '.']) || audience.ends_with(".apps.googleusercontent.com")
}

/// The ids of clients, as far as policy names them.
fn clients(documents: &Documents) -> BTreeSet<&str> {
    let rules = documents.inbound.iter().flat_map(|policy| &policy.value.rules);
    let named = rules.flat_map(|rule| [&rule.from, &rule.unless]).flatten().flat_map(|from| &from.clients);
    let own = documents.credentials.iter().filter_map(|credential| credential.value.plain_client_id());
    named.map(String::as_str).chain(own).collect()
}

/// A name means something at one issuer only.
fn names(policy: &Checked<CheckedInbound>, report: &mut Report<'_>) {
    let several = policy.value.tokens.len() > 1;
    let mut warn = |at: &Field| {
        report.add(at, "may be somebody else's at another of the policy's issuers: name `issuers` beside it");
    };
    for (at, rule) in live_rules(policy).filter(|_| several) {
        for (part, from) in [("from", &rule.from), ("unless", &rule.unless)] {
            let Some(from) = from.as_ref().filter(|from| from.issuers.is_empty()) else { continue };
            for (word, is_there) in [
                ("clients", !from.clients.is_empty()),
                ("subjects", !from.subjects.is_empty()),
                ("roles", !from.roles.is_empty()),
                ("claims", from.claims.iter().any(|(name, _)| name == SUBJECT)),
            ] {
                if is_there {
                    warn(&at.key(part).key(word));
                }
            }
        }
        // The own part of somebody whose name another issuer may give as well.
        let names_issuers = rule.from.as_ref().is_some_and(|from| !from.issuers.is_empty());
        if !names_issuers && rule.to.paths.iter().any(|path| path.reads_claim(SUBJECT)) {
            warn(&at.key("to").key("paths"));
        }
    }
}

const SUBJECT: &str = "sub";
