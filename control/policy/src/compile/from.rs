//! Who may ask, and for what: the conditions of an inbound rule, checked.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::document::inbound::{FromSpec, ToSpec};
use crate::document::words::{self, Text};
use crate::field::Field;
use crate::host::HostPattern;
use crate::path::PathPattern;
use crate::profile::Profile;
use crate::rule::{self, ClaimTest, From, GrpcPattern, Network, PeerPattern, To};

use super::report::Report;
use super::{headers, values};

/// An issuer whose tokens the policy accepts, as its rules may name it.
#[derive(Debug)]
pub(crate) struct KnownIssuer {
    /// `metadata.name`.
    pub(crate) name: String,
    pub(crate) issuer: Arc<str>,
    pub(crate) profile: Profile,
}

/// What a `from` or `unless` takes the words of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown<'a> {
    /// Whose tokens the policy accepts.
    pub(crate) issuers: &'a [KnownIssuer],
    /// Whether callers show a certificate, as far as this policy says: another one on the port may.
    pub(crate) certificates: Certificates,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Certificates {
    /// `tls` with a `clientCaFile`.
    Asked,
    /// `tls` without.
    NotAsked,
    /// No `tls`.
    Unsaid,
}

/// `set` are the headers that the policy itself sets.
pub(crate) fn to(spec: &ToSpec, set: &[Text], at: &Field, report: &mut Report<'_>) -> To {
    To {
        methods: each(spec.methods.as_deref(), &at.key("methods"), report, method),
        paths: each(spec.paths.as_deref(), &at.key("paths"), report, PathPattern::parse),
        hosts: each(spec.hosts.as_deref(), &at.key("hosts"), report, HostPattern::parse),
        headers: headers::tests(spec.headers.as_ref(), set, &at.key("headers"), report),
        grpc: each(spec.grpc.as_deref(), &at.key("grpc"), report, grpc),
        raw_paths: false,
    }
}

/// Compiles `from` or `unless`.
pub(crate) fn from(spec: &FromSpec, shown: Shown<'_>, at: &Field, report: &mut Report<'_>) -> From {
    let Shown { issuers, certificates } = shown;
    let (says_nothing, accepts_tokens) =
        (!spec.names_caller() && spec.sources.is_none(), !issuers.is_empty());
    let needs_token = spec.has_token_words() || (says_nothing && accepts_tokens);
    let needs_certificate = spec.has_peer_words() || (says_nothing && !accepts_tokens);
    if spec.has_token_words() && !accepts_tokens {
        report.add(at, "demands a token, but this policy accepts none: write `tokens`");
    } else if says_nothing && !accepts_tokens && certificates != Certificates::Asked {
        let message = "demands a token or a certificate, but this policy accepts no token and asks for no \
                       certificate: write `tokens`, or `tls` with `clientCaFile`";
        report.add(at, message);
    }
    if spec.has_peer_words() && certificates == Certificates::NotAsked {
        let message =
            "demands a certificate, but `tls` of this policy asks for none: write its `clientCaFile`";
        report.add(at, message);
    }
    if spec.peers.is_some() && spec.service_accounts.is_some() {
        let message =
            "stands beside `peers`, and a caller would have to be in both: write all of them as `peers`";
        report.add(&at.key("serviceAccounts"), message);
    }
    let named = named_issuers(spec, issuers, at, report);
    let concerned = || issuers.iter().filter(|issuer| named.is_empty() || named.contains(&issuer.issuer));
    if let Some(issuer) = concerned().find(|issuer| !issuer.profile.has_scopes() && spec.scopes.is_some()) {
        report.add(&at.key("scopes"), no_source("scopes", issuer));
    }
    if let Some(issuer) = concerned().find(|issuer| !issuer.profile.has_roles() && spec.roles.is_some()) {
        report.add(&at.key("roles"), no_source("roles", issuer));
    }
    if let Some(issuer) = concerned().find(|issuer| !issuer.profile.has_client() && spec.clients.is_some()) {
        report.add(&at.key("clients"), no_source("clients", issuer));
    }
    let names_somebody = spec.subjects.is_some()
        || spec.clients.is_some()
        || spec.claims.as_ref().is_some_and(|claims| claims.contains_key("sub"));
    if names_somebody && named.is_empty() && several_trust_domains(issuers) {
        let message = "names callers, but whose? Each of several issuers of JWT-SVIDs could sign for any SPIFFE ID: \
                       write `issuers` beside it";
        report.add(at, message);
    }
    values::scopes(spec.scopes.as_deref().unwrap_or_default(), &at.key("scopes"), report);
    From {
        needs_token,
        needs_certificate,
        issuers: named,
        scopes: texts(spec.scopes.as_deref(), &at.key("scopes"), report),
        clients: texts(spec.clients.as_deref(), &at.key("clients"), report),
        subjects: texts(spec.subjects.as_deref(), &at.key("subjects"), report),
        roles: texts(spec.roles.as_deref(), &at.key("roles"), report),
        claims: claims(spec.claims.as_ref(), &at.key("claims"), report),
        bound: spec.binding.is_some(),
        peers: each(spec.peers.as_deref(), &at.key("peers"), report, PeerPattern::parse),
        service_accounts: each(
            spec.service_accounts.as_deref(),
            &at.key("serviceAccounts"),
            report,
            service_account,
        ),
        sources: each(spec.sources.as_deref(), &at.key("sources"), report, Network::parse),
    }
}

/// `namespace/name`, as Kubernetes has them: short for `spiffe://cluster.local/ns/NAMESPACE/sa/NAME`.
fn service_account(text: &str) -> Result<PeerPattern, String> {
    let is_label = |label: &str| words::dns_label(label).is_ok();
    match text.split_once('/') {
        Some((namespace, "*")) if is_label(namespace) => Err(format!(
            "for all accounts of a namespace write `peers: [spiffe://cluster.local/ns/{namespace}/*]`"
        )),
        Some((namespace, name))
            if is_label(namespace) && name.len() <= 253 && name.split('.').all(is_label) =>
        {
            PeerPattern::parse(&format!("spiffe://cluster.local/ns/{namespace}/sa/{name}"))
        }
        _ => Err(format!("`{text}` is no service account: write namespace/name, e.g. shop/checkout")),
    }
}

fn named_issuers(
    spec: &FromSpec,
    known: &[KnownIssuer],
    at: &Field,
    report: &mut Report<'_>,
) -> Vec<Arc<str>> {
    let at = at.key("issuers");
    values::not_empty(spec.issuers.as_deref(), &at, report);
    let mut named = Vec::new();
    for (index, name) in spec.issuers.iter().flatten().enumerate() {
        match known.iter().find(|issuer| issuer.name == **name) {
            Some(issuer) => named.push(issuer.issuer.clone()),
            None => report.add(
                &at.index(index),
                format!("`{name}` is not among the issuers of this policy's `tokens`"),
            ),
        }
    }
    named
}

/// Nothing in an Issuer says which trust domain is its own (SPIFFE JWT-SVID §3.1).
fn several_trust_domains(issuers: &[KnownIssuer]) -> bool {
    issuers.iter().filter(|issuer| issuer.profile == Profile::JwtSvid).count() > 1
}

fn no_source(word: &str, issuer: &KnownIssuer) -> String {
    let KnownIssuer { name, profile, .. } = issuer;
    format!(
        "tokens of Issuer `{name}` have no {word} (profile {}): name the `issuers` that have",
        profile.as_str()
    )
}

// Values.

fn each<T>(
    written: Option<&[Text]>,
    at: &Field,
    report: &mut Report<'_>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Vec<T> {
    values::not_empty(written, at, report);
    let texts = written.unwrap_or_default().iter().enumerate();
    texts.filter_map(|(index, text)| report.ok(&at.index(index), parse(text))).collect()
}

fn texts(written: Option<&[Text]>, at: &Field, report: &mut Report<'_>) -> Vec<String> {
    let written_texts = written.unwrap_or_default();
    values::not_empty(written, at, report);
    values::not_blank(written_texts, at, report);
    words::strings(written_texts)
}

fn method(text: &str) -> Result<String, String> {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let upper = text.to_ascii_uppercase();
    if text == "*" {
        return Err("`*` is no method: leave the field out to mean all".to_owned());
    }
    if upper != text && KNOWN.contains(&&*upper) {
        return Err(format!("methods are case-sensitive: write {upper}"));
    }
    if !values::is_http_token(text) {
        return Err(format!("`{text}` is no method"));
    }
    Ok(text.to_owned())
}

fn grpc(text: &str) -> Result<GrpcPattern, String> {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    match text.split_once('/') {
        Some((service, method)) if service.split('.').all(is_name) && (method == "*" || is_name(method)) => {
            Ok(GrpcPattern {
                service: service.to_owned(),
                method: (method != "*").then(|| method.to_owned()),
            })
        }
        _ => Err(format!("`{text}` is no gRPC method: write pkg.Service/Method or pkg.Service/*")),
    }
}

// Claims.

fn claims(
    written: Option<&Map<String, Value>>,
    at: &Field,
    report: &mut Report<'_>,
) -> Vec<(String, ClaimTest)> {
    let Some(written) = written else { return Vec::new() };
    members(written, at, report)
}

fn members(written: &Map<String, Value>, at: &Field, report: &mut Report<'_>) -> Vec<(String, ClaimTest)> {
    if written.is_empty() {
        report.add(at, "is empty: write a claim, or leave the field out");
    }
    written.iter().map(|(name, value)| (name.clone(), claim(value, &at.key(name), report))).collect()
}

fn claim(written: &Value, at: &Field, report: &mut Report<'_>) -> ClaimTest {
    match written {
        Value::Object(written) => ClaimTest::Members(members(written, at, report)),
        Value::Array(items) => {
            values::not_empty(Some(items), at, report);
            for (index, item) in items.iter().enumerate() {
                check_scalar(item, &at.index(index), report);
            }
            ClaimTest::OneOf(items.clone())
        }
        value => {
            check_scalar(value, at, report);
            ClaimTest::OneOf(vec![value.clone()])
        }
    }
}

fn check_scalar(value: &Value, at: &Field, report: &mut Report<'_>) {
    match value {
        Value::String(text) if reads_otherwise_elsewhere(text) && !report.is_quoted(at) => {
            report.add(at, format!("other parsers read a plain {text} as something else: quote it"));
        }
        value if rule::is_comparable(value) => {}
        _ => report.add(at, "only strings, integers and booleans compare"),
    }
}

/// Strings here that YAML 1.1 takes for a boolean or an octal number, unless they are quoted.
fn reads_otherwise_elsewhere(text: &str) -> bool {
    let is_boolean = ["yes", "no", "on", "off"].iter().any(|word| word.eq_ignore_ascii_case(text));
    let digits = text.trim_start_matches(['+', '-']);
    let has_leading_zero = digits.len() > 1
        && digits.starts_with('0')
        && digits.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    is_boolean || has_leading_zero
}
