//! Whom do we ask about opaque tokens, and as whom (RFC 7662)? `introspect` in an entry of `tokens`, checked.

use crate::document::inbound::IntrospectSpec;
use crate::field::Field;
use crate::snapshot::{Authentication, Issuer, WorkloadTokenUse};

use super::Reference;
use super::outbound::FindCredential;
use super::report::Report;

/// The place of the credential among the documents' credentials. `issuer` is that of the entry, with its place. `None` only
/// where there is a problem.
pub(crate) fn compile(
    spec: &IntrospectSpec,
    (place, issuer): (usize, &Issuer),
    find: &FindCredential<'_>,
    at: &Field,
    report: &mut Report<'_>,
) -> Option<usize> {
    if !issuer.profile.has_introspection() {
        let profile = issuer.profile.as_str();
        let message = format!(
            "issuers of the profile `{profile}` have no opaque tokens that they could be asked about: \
             remove it, or write `profile: generic` there"
        );
        report.add(at, message);
    }
    let at = at.key("credential");
    let (credential, checked) = match find(&spec.credential) {
        Reference::Found(found) => found,
        Reference::Broken => return None,
        Reference::Missing => {
            let message = format!("there is no Credential `{}` in this namespace", spec.credential);
            report.add(&at, message);
            return None;
        }
    };
    if checked.issuer != place {
        let message = format!(
            "Credential `{}` is for another issuer: name one whose `issuer` is `{}`",
            spec.credential, issuer.name
        );
        report.add(&at, message);
    }
    if let Authentication::WorkloadToken { usage: WorkloadTokenUse::AuthorizationGrant, .. } =
        checked.authentication
    {
        let message =
            "authenticates nobody, since its token is a grant: write `grant: clientCredentials` there";
        report.add(&at, message);
    }
    Some(credential)
}
