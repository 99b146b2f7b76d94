//! What does a port say of itself to clients (RFC 9728)? Gathered from the policies on it that turn it on.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::compile::resource::url_path;
use crate::inbound::{Policy, ProtectedResource};
use crate::path::CanonicalPath;
use crate::snapshot::ClientAuth;

use super::inbound::Selected;

/// Between host and path (§3.1).
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// `None` where no policy turns it on. They name the same resource, or there is a problem.
pub(super) fn describe(here: &[&Selected<'_>]) -> Option<ProtectedResource> {
    let resource = here.iter().find_map(|policy| policy.written.resource.clone())?;
    let policies: Vec<&Arc<Policy>> = here
        .iter()
        .filter(|policy| policy.written.resource.as_ref() == Some(&resource))
        .map(|policy| &policy.policy)
        .collect();
    let entries = || {
        let all = policies.iter().flat_map(|policy| &policy.tokens);
        all.filter(|accepted| accepted.audiences.contains(&resource))
    };
    let rules = policies.iter().flat_map(|policy| &policy.allows).filter(|rule| !rule.body.shadow);
    let scopes: BTreeSet<&String> =
        rules.filter_map(|rule| rule.body.from.as_ref()).flat_map(|from| &from.scopes).collect();
    let tls = here.iter().find_map(|policy| policy.written.tls.as_ref());
    let certificates = tls.is_some_and(|tls| tls.client_auth != ClientAuth::None);
    let mut authorization_servers: Vec<Arc<str>> =
        entries().map(|accepted| accepted.issuer.clone()).collect();
    authorization_servers.sort_unstable();
    authorization_servers.dedup();
    let (metadata_url, metadata_path) = metadata_of(&resource)?;
    Some(ProtectedResource {
        metadata_url,
        metadata_path,
        authorization_servers,
        scopes: scopes.into_iter().cloned().collect(),
        certificates,
        demands_dpop: !certificates && entries().all(|accepted| accepted.bound),
        resource,
    })
}

/// The URL and the canonical path of a resource's metadata: a path of the resource that is only `/` goes away.
fn metadata_of(resource: &str) -> Option<(String, String)> {
    let path = url_path(resource);
    let origin = resource.strip_suffix(path).unwrap_or(resource);
    let path = if path == "/" { "" } else { path };
    let path = format!("{WELL_KNOWN}{path}");
    let canonical = CanonicalPath::parse(&path)?.as_str().to_owned();
    Some((format!("{origin}{path}"), canonical))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v36_the_well_known_path_goes_between_host_and_path() {
        for (resource, url, path) in [
            ("https://a.example", "https://a.example/.well-known/oauth-protected-resource", ""),
            ("https://a.example/", "https://a.example/.well-known/oauth-protected-resource", ""),
            ("https://a:8443/b", "https://a:8443/.well-known/oauth-protected-resource/b", "/b"),
            ("https://a/b/%41/", "https://a/.well-known/oauth-protected-resource/b/%41/", "/b/A/"),
        ] {
            assert_eq!(
                metadata_of(resource),
                Some((url.to_owned(), format!("{WELL_KNOWN}{path}"))),
                "{resource}"
            );
        }
    }
}
