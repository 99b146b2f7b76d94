//! Which headers does the application see, and which do rules ask for? `forwardClaims` and `to.headers`, checked.

use std::collections::BTreeMap;

use crate::document::words::{self, Text};
use crate::field::Field;
use crate::inbound::ClaimSource;
use crate::profile::Profile;
use crate::rule::HeaderTest;

use super::from::{Certificates, Shown};
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
    shown: Shown<'_>,
    at: &Field,
    report: &mut Report<'_>,
) -> Vec<(String, ClaimSource)> {
    let Shown { issuers, certificates } = shown;
    let mut headers: Vec<(String, ClaimSource)> = Vec::new();
    if spec.values().any(|written| **written != *"@peer") && issuers.is_empty() {
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
        if source == ClaimSource::Peer && certificates == Certificates::NotAsked {
            report.add(&at, "`tls` of this policy asks for no certificate: write its `clientCaFile`");
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

// What a rule may ask of them: `to.headers`.

/// Hop-by-hop fields (RFC 9110 §7.6.1), and those that frame a message.
const OF_THE_CONNECTION: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
];
/// What proxies add and anybody can write (security IN-23).
const HEARSAY: [&str; 8] = [
    "client-ip",
    "forwarded",
    "true-client-ip",
    "user-agent",
    "via",
    "x-client-ip",
    "x-real-ip",
    "x-rewrite-url",
];
const HEARSAY_PREFIXES: [&str; 3] = ["x-forwarded-", "x-original-", "x-countersign-"];

/// In the order of the names.
pub(crate) fn tests(
    spec: Option<&BTreeMap<Text, Vec<Text>>>,
    set: &[Text],
    at: &Field,
    report: &mut Report<'_>,
) -> Vec<HeaderTest> {
    let mut tests: Vec<HeaderTest> = Vec::new();
    if spec.is_some_and(BTreeMap::is_empty) {
        report.add(at, "is empty: write a header, or leave the field out");
    }
    for (name, written) in spec.into_iter().flatten() {
        let at = at.key(name);
        report.ok(&at, check_tested(name, set));
        let name = normal(name);
        if tests.iter().any(|other| other.name == name) {
            report.add(&at, "stands twice, since case does not count: gather the values in one list");
        }
        values::not_empty(Some(written), &at, report);
        for (index, value) in written.iter().enumerate() {
            report.ok(&at.index(index), check_value(value));
        }
        tests.push(HeaderTest { name, values: words::strings(written) });
    }
    tests
}

fn check_tested(name: &str, set: &[Text]) -> Result<(), String> {
    if !values::is_http_token(name) {
        return Err("is no header name (RFC 9110 §5.1)".to_owned());
    }
    let normal = normal(name);
    Err(match &*normal {
        _ if name.contains('_') => format!("`_` counts as `-`, as many servers read it: write {}", name.replace('_', "-")),
        "host" => "write `to.hosts`".to_owned(),
        "authorization" | "cookie" | "dpop" => {
            "is a credential: what it shows is verified first, and judged by `from`".to_owned()
        }
        name if OF_THE_CONNECTION.contains(&name) => {
            "is of one connection, and not judged: the application never sees it as it came".to_owned()
        }
        name if HEARSAY.contains(&name) || HEARSAY_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) => {
            "anybody can write it, so nothing is decided by it: for addresses write `sources`, for hosts `to.hosts`".to_owned()
        }
        _ if set.iter().any(|own| self::normal(own) == normal) => {
            "is set by `forwardClaims`, and a caller's own is removed: judge the claim in `from`".to_owned()
        }
        _ => return Ok(()),
    })
}

fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() {
        return Err("is an empty string".to_owned());
    }
    if value.chars().any(char::is_control) || value.trim_matches([' ', '\t']) != value {
        return Err("never matches: no control characters, and no space at either end".to_owned());
    }
    Ok(())
}
