//! Which rules wait for a certificate that nobody asks callers for?

use crate::compile::inbound::CheckedInbound;
use crate::compile::report::Report;
use crate::documents::{Checked, Documents};
use crate::snapshot::ClientAuth;

use super::live_rules;

pub(super) fn inbound(policy: &Checked<CheckedInbound>, documents: &Documents, report: &mut Report<'_>) {
    // A policy that writes `tls` without a CA is in error where its rules demand certificates.
    let asks = |other: &Checked<CheckedInbound>| {
        let tls = other.value.tls.as_ref();
        tls.is_some_and(|tls| tls.client_auth != ClientAuth::None) && other.value.may_meet(&policy.value)
    };
    if documents.inbound.iter().any(asks) {
        return;
    }
    for (at, rule) in live_rules(policy) {
        for (part, from) in [("from", &rule.from), ("unless", &rule.unless)] {
            if from.as_ref().is_some_and(|from| from.needs_certificate) {
                let message = "nobody meets it: no policy of this port asks for a certificate (`tls` with `clientCaFile`)";
                report.add(&at.key(part), message);
            }
        }
    }
}
