//! What a workload shows and to whom, checked: destinations, tokens and how to speak to them.

use crate::document::outbound::{
    BindingWord, DestinationSpec, Egress, OriginateSpec, OtherwiseWord, OutboundRuleSpec, OutboundSpec,
    TlsWord, TokenSpec,
};
use crate::document::words;
use crate::field::Field;
use crate::fingerprint::Fingerprint;
use crate::host::HostPattern;
use crate::outbound::{ExistingAuthorization, OnFailure, OutboundTls, Protocol};
use crate::snapshot::{Authentication, CertificateFiles, Timeouts, TokenBinding, WorkloadTokenUse};
use crate::source::Source;

use super::bytes;
use super::credential::CheckedCredential;
use super::issuer::{with_certificate, with_file};
use super::report::Report;
use super::values::{self, WrittenTimeouts};
use super::{Reference, Selector, url};

/// The most destinations of one policy, each a host with a port.
const MAX_DESTINATIONS: usize = 4_000;
/// The ports of a rule that names none.
const DEFAULT_PORTS: [u16; 2] = [80, 443];
/// The same of one for the application's own TLS.
const DEFAULT_TLS_PORTS: [u16; 1] = [443];
/// Parameters of a token request that have words of their own, or that we set ourselves.
const RESERVED_PARAMETERS: [&str; 15] = [
    "grant_type",
    "assertion",
    "subject_token",
    "subject_token_type",
    "requested_token_type",
    "actor_token",
    "actor_token_type",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "scope",
    "audience",
    "resource",
    "dpop",
];

/// An outbound policy, whoever the workload is.
#[derive(Debug)]
pub(crate) struct CheckedOutbound {
    pub(crate) selector: Selector,
    pub(crate) denies_others: bool,
    pub(crate) rules: Vec<CheckedRule>,
}

#[derive(Debug)]
pub(crate) struct CheckedRule {
    pub(crate) name: String,
    pub(crate) hosts: Vec<HostPattern>,
    pub(crate) ports: Vec<u16>,
    /// Are the ports written, rather than the default?
    pub(crate) names_ports: bool,
    pub(crate) token: Option<CheckedToken>,
    pub(crate) tls: OutboundTls,
    pub(crate) existing_authorization: ExistingAuthorization,
    pub(crate) on_failure: OnFailure,
    pub(crate) protocol: Protocol,
    pub(crate) timeouts: Timeouts,
    pub(crate) transport: [u8; 32],
}

#[derive(Debug)]
pub(crate) struct CheckedToken {
    /// Place of the credential among the documents' credentials.
    pub(crate) credential: usize,
    pub(crate) scopes: Vec<String>,
    pub(crate) audience: Option<String>,
    pub(crate) resource: Option<String>,
    pub(crate) parameters: Vec<(String, String)>,
    pub(crate) binding: TokenBinding,
    /// What becomes of a request without a token to exchange, where one is exchanged.
    pub(crate) exchange: Option<OtherwiseWord>,
}

/// Finds a credential of the policy's namespace by its name: its place and itself.
pub(crate) type FindCredential<'a> = dyn Fn(&str) -> Reference<(usize, &'a CheckedCredential)> + 'a;

pub(crate) fn compile(
    namespace: &str,
    spec: &OutboundSpec,
    find: &FindCredential<'_>,
    source: &Source,
    report: &mut Report<'_>,
) -> CheckedOutbound {
    let mut names: Vec<&str> = Vec::new();
    let mut rules = Vec::new();
    for (index, rule_spec) in spec.rules.iter().enumerate() {
        let at = Field::parse("spec.rules").index(index);
        values::rule_name(&rule_spec.name, &names, &at.key("name"), report);
        names.push(&rule_spec.name);
        rules.push(rule(rule_spec, find, &at, source, report));
    }
    let destinations: usize = rules.iter().map(|rule| rule.hosts.len() * rule.ports.len()).sum();
    if destinations > MAX_DESTINATIONS {
        let message =
            format!("more than {MAX_DESTINATIONS} destinations (hosts times ports): split the policy");
        report.add(&Field::parse("spec.rules"), message);
        // They are not worked through either.
        rules.clear();
    }
    CheckedOutbound {
        selector: Selector::compile(namespace, spec.workloads.as_ref(), report),
        denies_others: spec.egress == Egress::Deny,
        rules,
    }
}

fn rule(
    spec: &OutboundRuleSpec,
    find: &FindCredential<'_>,
    at: &Field,
    source: &Source,
    report: &mut Report<'_>,
) -> CheckedRule {
    check_words(spec, at, report);
    bytes::check_outbound(spec, at, report);
    let hosts = hosts(&spec.to, &at.key("to"), report);
    let mut tls = tls(spec, at, source, report);
    let token = spec.token.as_ref().and_then(|token| {
        check_audience(token, spec, &hosts, at, report);
        self::token(token, find, &at.key("token"), report)
    });
    let token = token.map(|(token, credential)| CheckedToken {
        binding: binding(spec, credential, &mut tls, at, report),
        ..token
    });
    let timeouts = WrittenTimeouts::compile(&spec.timeouts, &at.key("timeouts"), report);
    let is_http = spec.protocol != Protocol::Tcp && tls != OutboundTls::Passthrough;
    let timeouts = if is_http { timeouts.or_default() } else { timeouts.or_default_of_bytes() };
    let default_ports = if tls == OutboundTls::Passthrough { &DEFAULT_TLS_PORTS[..] } else { &DEFAULT_PORTS };
    CheckedRule {
        name: spec.name.to_string(),
        hosts,
        ports: spec.to.ports.as_deref().map_or_else(|| default_ports.to_vec(), words::ports),
        names_ports: spec.to.ports.is_some(),
        token,
        existing_authorization: spec.existing_authorization.unwrap_or_default(),
        on_failure: spec.on_failure.unwrap_or_default(),
        protocol: spec.protocol,
        timeouts,
        transport: transport(&tls, spec.protocol, timeouts),
        tls,
    }
}

/// Words that contradict each other, whatever they refer to.
fn check_words(spec: &OutboundRuleSpec, at: &Field, report: &mut Report<'_>) {
    let is_http = spec.protocol != Protocol::Tcp && spec.tls != Some(TlsWord::Passthrough);
    if spec.token.is_none() && is_http {
        for (word, is_written) in [
            ("onFailure", spec.on_failure.is_some()),
            ("binding", spec.binding != BindingWord::None),
            ("existingAuthorization", spec.existing_authorization.is_some()),
        ] {
            if is_written {
                report.add(&at.key(word), "means nothing without `token`: remove it");
            }
        }
    }
    let exchanges = spec.token.as_ref().is_some_and(|token| token.exchange.is_some());
    if exchanges && spec.existing_authorization.is_some() {
        let message = "contradicts `token.exchange`, which is for just this token: remove one of them";
        report.add(&at.key("existingAuthorization"), message);
    }
}

/// What the rule's token is bound to. The certificate of an mTLS-bound token is the one that the destination sees too.
fn binding(
    spec: &OutboundRuleSpec,
    credential: &CheckedCredential,
    tls: &mut OutboundTls,
    at: &Field,
    report: &mut Report<'_>,
) -> TokenBinding {
    let own = match &credential.authentication {
        Authentication::TlsClientAuth(files) => Some(files),
        _ => None,
    };
    let is_half = |originate: &OriginateSpec| originate.cert_file.is_some() != originate.key_file.is_some();
    let at = at.key("binding");
    match (spec.binding, tls) {
        (BindingWord::None, _) => TokenBinding::None,
        // Told already: not supported, no place for a token, or half a pair.
        (BindingWord::Mtls, OutboundTls::Passthrough) => TokenBinding::None,
        (BindingWord::Mtls, _) if spec.tls == Some(TlsWord::Mesh) => TokenBinding::None,
        (BindingWord::Mtls, _) if spec.originate.as_ref().is_some_and(is_half) => TokenBinding::None,
        (BindingWord::Dpop, _) => TokenBinding::Key,
        (BindingWord::Mtls, OutboundTls::None) => {
            report.add(&at, "a certificate is shown over TLS: remove `tls: none`, or write `binding: dpop`");
            TokenBinding::None
        }
        (BindingWord::Mtls, OutboundTls::Originate { client, .. }) => match (client.as_ref(), own) {
            (Some(shown), Some(own)) if shown != own => {
                let message = "the credential authenticates by another certificate, to which the token would be bound: \
                               leave out `originate.certFile` and `keyFile`";
                report.add(&at, message);
                TokenBinding::None
            }
            (Some(files), _) | (None, Some(files)) => {
                let files = files.clone();
                *client = Some(files.clone());
                TokenBinding::Certificate(files)
            }
            (None, None) => {
                let message = "to which certificate? Write `originate.certFile` and `keyFile`, or a credential with \
                               `tlsClientAuth`";
                report.add(&at, message);
                TokenBinding::None
            }
        },
    }
}

fn hosts(spec: &DestinationSpec, at: &Field, report: &mut Report<'_>) -> Vec<HostPattern> {
    values::not_empty(Some(&spec.hosts), &at.key("hosts"), report);
    values::not_empty(spec.ports.as_deref(), &at.key("ports"), report);
    let at = at.key("hosts");
    let written = spec.hosts.iter().enumerate();
    written.filter_map(|(index, text)| report.ok(&at.index(index), HostPattern::parse(text))).collect()
}

/// A token for one audience must not reach several hosts unawares (semantics 9).
fn check_audience(
    token: &TokenSpec,
    rule: &OutboundRuleSpec,
    hosts: &[HostPattern],
    at: &Field,
    report: &mut Report<'_>,
) {
    let is_several = rule.to.hosts.len() > 1 || hosts.iter().any(HostPattern::is_wildcard);
    if !is_several || rule.same_audience {
        return;
    }
    for (word, is_written) in [("audience", token.audience.is_some()), ("resource", token.resource.is_some())]
    {
        if is_written {
            let message = "one token for several hosts: split the rule, or write `sameAudience: true`";
            report.add(&at.key("token").key(word), message);
        }
    }
}

fn token<'a>(
    spec: &TokenSpec,
    find: &FindCredential<'a>,
    at: &Field,
    report: &mut Report<'_>,
) -> Option<(CheckedToken, &'a CheckedCredential)> {
    values::not_blank(&spec.scopes, &at.key("scopes"), report);
    values::scopes(&spec.scopes, &at.key("scopes"), report);
    if spec.audience.as_ref().is_some_and(|audience| audience.is_empty()) {
        report.add(&at.key("audience"), "is an empty string");
    }
    if let Some(resource) = &spec.resource {
        report.ok(&at.key("resource"), url::check_resource(resource));
    }
    for (name, value) in &spec.parameters {
        let at = at.key("parameters").key(name);
        if RESERVED_PARAMETERS.contains(&&**name) {
            report.add(&at, "is set by other fields: remove it");
        }
        if name.is_empty() || value.is_empty() {
            report.add(&at, "an empty parameter counts as none (RFC 6749 §3.2): remove it");
        }
    }
    let (credential, checked) = match find(&spec.credential) {
        Reference::Found(found) => found,
        Reference::Broken => return None,
        Reference::Missing => {
            let message = format!("there is no Credential `{}` in this namespace", spec.credential);
            report.add(&at.key("credential"), message);
            return None;
        }
    };
    if spec.exchange.is_some()
        && let Authentication::WorkloadToken { usage: WorkloadTokenUse::AuthorizationGrant, .. } =
            checked.authentication
    {
        let message = "is not possible with this credential, whose token is a grant of its own: write \
                       `grant: clientCredentials` there";
        report.add(&at.key("exchange"), message);
    }
    let mut scopes = words::strings(&spec.scopes);
    scopes.sort();
    scopes.dedup();
    let token = CheckedToken {
        credential,
        scopes,
        audience: spec.audience.as_ref().map(ToString::to_string),
        resource: spec.resource.as_ref().map(ToString::to_string),
        parameters: spec
            .parameters
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
        binding: TokenBinding::None,
        exchange: spec.exchange.map(|exchange| exchange.otherwise),
    };
    Some((token, checked))
}

fn tls(spec: &OutboundRuleSpec, at: &Field, source: &Source, report: &mut Report<'_>) -> OutboundTls {
    let word = spec.tls.unwrap_or(TlsWord::Originate);
    report.unsupported_if(word == TlsWord::Mesh, &at.key("tls"));
    if word == TlsWord::Passthrough {
        return OutboundTls::Passthrough;
    }
    match &spec.originate {
        Some(_) if word == TlsWord::None => {
            report.add(&at.key("originate"), "contradicts `tls: none`: remove one of them");
            OutboundTls::None
        }
        None if word == TlsWord::None => OutboundTls::None,
        Some(originate) => self::originate(originate, &at.key("originate"), source, report),
        None => OutboundTls::Originate { port: None, server_name: None, ca_file: None, client: None },
    }
}

fn originate(spec: &OriginateSpec, at: &Field, source: &Source, report: &mut Report<'_>) -> OutboundTls {
    let server_name = spec.server_name.as_ref().and_then(|name| {
        let pattern = report.ok(&at.key("serverName"), HostPattern::parse(name))?;
        if pattern.is_wildcard() {
            report.add(&at.key("serverName"), "is one name: no wildcard");
        }
        Some(pattern.as_str().to_owned())
    });
    let ca_file = spec.ca_file.as_ref().map(|path| values::file(path, &at.key("caFile"), source, report));
    let client = client_certificate(spec, at, source, report);
    OutboundTls::Originate { port: spec.port.map(|port| port.0), server_name, ca_file, client }
}

fn client_certificate(
    spec: &OriginateSpec,
    at: &Field,
    source: &Source,
    report: &mut Report<'_>,
) -> Option<CertificateFiles> {
    let (certificate, key) = match (&spec.cert_file, &spec.key_file) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) => return None,
        (Some(_), None) => {
            report.add(&at.key("certFile"), "needs its `keyFile` beside it");
            return None;
        }
        (None, Some(_)) => {
            report.add(&at.key("keyFile"), "needs its `certFile` beside it");
            return None;
        }
    };
    Some(CertificateFiles {
        cert_file: values::file(certificate, &at.key("certFile"), source, report),
        key_file: values::file(key, &at.key("keyFile"), source, report),
    })
}

fn transport(tls: &OutboundTls, protocol: Protocol, timeouts: Timeouts) -> [u8; 32] {
    let hash = Fingerprint::of("transport").text(match protocol {
        Protocol::Auto => "auto",
        Protocol::Http1 => "http1",
        Protocol::Http2 => "http2",
        Protocol::Tcp => "tcp",
    });
    let hash = [timeouts.connect, timeouts.first_byte, timeouts.idle]
        .iter()
        .fold(hash, |hash, timeout| hash.text(&timeout.as_millis().to_string()));
    match tls {
        OutboundTls::None => hash.text("none"),
        OutboundTls::Passthrough => hash.text("passthrough"),
        OutboundTls::Originate { port, server_name, ca_file, client } => {
            let port = port.map(|port| port.to_string());
            let hash = hash.text("originate").optional(port.as_deref()).optional(server_name.as_deref());
            with_certificate(with_file(hash, ca_file.as_ref()), client.as_ref())
        }
    }
    .finish()
}
