//! An authorization server, checked.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::document::issuer::{IssuerSpec, JwksSpec};
use crate::document::words;
use crate::field::Field;
use crate::fingerprint::Fingerprint;
use crate::profile::Profile;
use crate::snapshot::{Algorithm, CertificateFiles, FileRef, Issuer, KeySource};
use crate::source::Source;

use super::report::Report;
use super::url::{self, UrlRules};
use super::values;

const DEFAULT_LEEWAY: Duration = Duration::from_secs(30);
const MAX_LEEWAY: Duration = Duration::from_secs(120);

pub(crate) fn compile(name: &str, spec: &IssuerSpec, source: &Source, report: &mut Report<'_>) -> Issuer {
    let at = Field::root().key("spec");
    let insecure = spec.insecure;
    report.ok(&at.key("issuer"), url::check(&spec.issuer, UrlRules { insecure, query: false }));
    if let Some(endpoint) = &spec.token_endpoint {
        report.ok(&at.key("tokenEndpoint"), url::check(endpoint, UrlRules { insecure, query: true }));
    }
    if let Some(endpoint) = &spec.introspection_endpoint {
        let rules = UrlRules { insecure, query: true };
        report.ok(&at.key("introspectionEndpoint"), url::check(endpoint, rules));
    }
    values::not_empty(spec.algorithms.as_deref(), &at.key("algorithms"), report);
    let mut issuer = Issuer {
        name: name.to_owned(),
        issuer: Arc::from(&*spec.issuer),
        jwks: key_source(spec.jwks.as_ref(), insecure, source, report),
        token_endpoint: spec.token_endpoint.as_ref().map(ToString::to_string),
        introspection_endpoint: spec.introspection_endpoint.as_ref().map(ToString::to_string),
        profile: spec.profile,
        algorithms: algorithms(spec, &at.key("algorithms"), report),
        leeway: leeway(spec, &at.key("leeway"), report),
        ca_file: spec.ca_file.as_ref().map(|path| values::file(path, &at.key("caFile"), source, report)),
        insecure,
        fingerprint: [0; 32],
    };
    issuer.fingerprint = fingerprint(&issuer);
    issuer
}

/// JWT-SVIDs are signed with RSA or ECDSA alone (SPIFFE JWT-SVID §2.1).
fn algorithms(spec: &IssuerSpec, at: &Field, report: &mut Report<'_>) -> Vec<Algorithm> {
    let is_possible =
        |algorithm: &Algorithm| spec.profile != Profile::JwtSvid || *algorithm != Algorithm::EdDSA;
    let Some(written) = &spec.algorithms else {
        return Algorithm::ALL.into_iter().filter(is_possible).collect();
    };
    if !written.iter().all(is_possible) {
        report.add(at, "JWT-SVIDs are not signed with EdDSA: leave it out (SPIFFE JWT-SVID, section 2.1)");
    }
    written.clone()
}

fn leeway(spec: &IssuerSpec, at: &Field, report: &mut Report<'_>) -> Duration {
    let Some(text) = &spec.leeway else { return DEFAULT_LEEWAY };
    // Unlike other durations it may be nothing at all.
    if &**text == "0s" {
        return Duration::ZERO;
    }
    let leeway = report.ok(at, words::duration(text)).unwrap_or(DEFAULT_LEEWAY);
    if leeway > MAX_LEEWAY {
        report.add(at, "must be at most 120s");
    }
    leeway
}

fn key_source(
    spec: Option<&JwksSpec>,
    insecure: bool,
    source: &Source,
    report: &mut Report<'_>,
) -> KeySource {
    let Some(spec) = spec else { return KeySource::Discovery };
    let at = Field::parse("spec.jwks");
    match spec {
        JwksSpec { uri: Some(uri), file: None, inline: None } => {
            report.ok(&at.key("uri"), url::check(uri, UrlRules { insecure, query: true }));
            KeySource::Uri(uri.to_string())
        }
        JwksSpec { uri: None, file: Some(path), inline: None } => {
            KeySource::File(values::file(path, &at.key("file"), source, report))
        }
        JwksSpec { uri: None, file: None, inline: Some(keys) } => {
            check_keys(keys, &at.key("inline"), report);
            KeySource::Inline(keys.clone())
        }
        _ => {
            report.add(&at, "exactly one of `uri`, `file` and `inline` is expected");
            KeySource::Discovery
        }
    }
}

/// A JWK set (RFC 7517 §5) of public keys. The keys themselves are read by who verifies with them.
fn check_keys(keys: &Value, at: &Field, report: &mut Report<'_>) {
    let Some(keys) = keys.get("keys").and_then(Value::as_array) else {
        report.add(at, "is no JWK set: write `{ keys: [...] }` (RFC 7517 §5)");
        return;
    };
    for (index, key) in keys.iter().enumerate() {
        if key.get("d").is_some() || key.get("k").is_some() {
            report.add(
                &at.key("keys").index(index),
                "is a private or secret key: publish the public one alone",
            );
        }
    }
}

fn fingerprint(issuer: &Issuer) -> [u8; 32] {
    let algorithms: Vec<&str> = issuer.algorithms.iter().map(|algorithm| algorithm.as_str()).collect();
    let hash = Fingerprint::of("issuer")
        .text(&issuer.name)
        .text(&issuer.issuer)
        .optional(issuer.token_endpoint.as_deref())
        .optional(issuer.introspection_endpoint.as_deref())
        .text(&format!("{:?}", issuer.profile))
        .list(algorithms.into_iter())
        .text(&issuer.leeway.as_millis().to_string())
        .text(if issuer.insecure { "insecure" } else { "secure" });
    let hash = with_file(hash, issuer.ca_file.as_ref());
    match &issuer.jwks {
        KeySource::Discovery => hash.text("discovery"),
        KeySource::Uri(uri) => hash.text("uri").text(uri),
        KeySource::File(file) => with_file(hash.text("file"), Some(file)),
        KeySource::Inline(keys) => hash.text("inline").text(&keys.to_string()),
    }
    .finish()
}

/// The names of both files.
pub(crate) fn with_certificate(hash: Fingerprint, files: Option<&CertificateFiles>) -> Fingerprint {
    let hash = with_file(hash, files.map(|files| &files.cert_file));
    with_file(hash, files.map(|files| &files.key_file))
}

/// Hashes what a file is called, not what it holds: files are watched by who reads them.
pub(crate) fn with_file(hash: Fingerprint, file: Option<&FileRef>) -> Fingerprint {
    hash.optional(file.map(|file| file.path.as_str())).optional(file.map(|file| file.declared_in.as_str()))
}
