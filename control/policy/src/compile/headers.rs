//! Which headers does the application see? `forwardClaims`, checked.

use std::collections::BTreeMap;

use crate::document::words::Text;
use crate::field::Field;
use crate::inbound::ClaimSource;
use crate::profile::Profile;

use super::from::KnownIssuer;
use super::report::Report;
use super::values;

/// Headers that frame a message, carry credentials or trace it, and so are never set from a claim. In normal form.
const PROTECTED: [&str; 33] = [
    "accept-encoding",
    "age",
    "authorization",
    "baggage",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "dpop",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "max-forwards",
    "origin",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "set-cookie",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "www-authenticate",
    "x-real-ip",
];
const PROTECTED_PREFIXES: [&str; 5] = ["x-countersign-", "x-forwarded-", "grpc-", "sec-", "x-b3-"];

/// In the order of the names, each with the source of its value.
pub(crate) fn compile(
    spec: &BTreeMap<Text, Text>,
    issuers: &[KnownIssuer],
    at: &Field,
    report: &mut Report<'_>,
) -> Vec<(String, ClaimSource)> {
    let mut headers: Vec<(String, ClaimSource)> = Vec::new();
    if !spec.is_empty() && issuers.is_empty() {
        report.add(at, "needs a token to take claims from, but this policy accepts none: write `tokens`");
    }
    for (name, written) in spec {
        let at = at.key(name);
        report.ok(&at, check_name(name));
        if let Some((other, _)) = headers.iter().find(|(other, _)| normal(other) == normal(name)) {
            report.add(&at, format!("is the same header as `{other}`: remove one"));
        }
        let source = report.ok(&at, source(written));
        let Some(source) = source else { continue };
        if source == ClaimSource::Peer {
            report.unsupported(&at);
        }
        let has: fn(Profile) -> bool = match source {
            ClaimSource::Scopes => Profile::has_scopes,
            ClaimSource::Roles => Profile::has_roles,
            _ => |_| true,
        };
        if !issuers.is_empty() && !issuers.iter().any(|issuer| has(issuer.profile)) {
            report.add(&at, format!("none of this policy's issuers has {written} (see their `profile`)"));
        }
        headers.push((name.to_string(), source));
    }
    headers
}

/// Lower case, with `-` for `_`: two names that are alike so are one header to many servers.
pub(crate) fn normal(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

fn check_name(name: &str) -> Result<(), String> {
    if !values::is_http_token(name) {
        return Err("is no header name (RFC 9110 §5.1)".to_owned());
    }
    let normal = normal(name);
    if PROTECTED.contains(&&*normal) || PROTECTED_PREFIXES.iter().any(|prefix| normal.starts_with(prefix)) {
        return Err("is a protected header: choose another name, e.g. X-Client-Id".to_owned());
    }
    Ok(())
}

fn source(written: &str) -> Result<ClaimSource, String> {
    Ok(match written {
        "@client" => ClaimSource::Client,
        "@subject" => ClaimSource::Subject,
        "@scopes" => ClaimSource::Scopes,
        "@roles" => ClaimSource::Roles,
        "@peer" => ClaimSource::Peer,
        "" => return Err("is empty: write the name of a claim".to_owned()),
        _ if written.starts_with('@') => {
            return Err(format!(
                "`{written}` is not known: @client, @subject, @scopes, @roles and @peer are"
            ));
        }
        claim => ClaimSource::Claim(claim.to_owned()),
    })
}
