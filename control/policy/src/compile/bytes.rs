//! What cannot be said of traffic that we do not look into? Words that HTTP, a token or a certificate would have to answer, on
//! ports and for destinations that are declared not to be HTTP.

use crate::document::inbound::{ForwardToken, FromSpec, InboundRuleSpec, InboundSpec, ServerTlsSpec};
use crate::document::outbound::{BindingWord, OutboundRuleSpec, TlsWord};
use crate::document::words::TimeoutsSpec;
use crate::field::Field;
use crate::inbound::PortProtocol;
use crate::outbound::Protocol;
use crate::rule::{RuleBody, To};
use crate::snapshot::Effect;

use super::report::Report;

// Inbound.

/// Fields of an inbound policy whose ports do not speak HTTP to us.
pub(crate) fn check_policy(spec: &InboundSpec, protocol: PortProtocol, at: &Field, report: &mut Report<'_>) {
    let InboundSpec { tokens, forward_claims, forward_token, resource_metadata, timeouts, .. } = spec;
    let message = needs_http(protocol);
    for (word, is_written) in [
        ("tokens", !tokens.is_empty()),
        ("forwardClaims", !forward_claims.is_empty()),
        ("forwardToken", *forward_token != ForwardToken::default()),
        ("resourceMetadata", *resource_metadata),
        ("expiredTokenGrace", spec.expired_token_grace.is_some()),
    ] {
        refuse_if(is_written, &at.key(word), &message, report);
    }
    check_timeouts(timeouts, &at.key("timeouts"), &message, report);
    if protocol == PortProtocol::Tls && spec.tls.is_some() {
        let message = "contradicts `protocol: tls`, which is the application's own TLS: remove it, or write \
                       `protocol: tcp` for bytes inside of TLS that is served here";
        report.add(&at.key("tls"), message);
    }
}

/// Words of a rule on such a port. `false`: it says what cannot be said, and there is no more to be made of it.
pub(crate) fn check_rule(
    spec: &InboundRuleSpec,
    protocol: PortProtocol,
    tls: Option<&ServerTlsSpec>,
    at: &Field,
    report: &mut Report<'_>,
) -> bool {
    let mut checked = Checked { protocol, is_in_order: true, report };
    let to = at.key("to");
    for (word, is_written) in [
        ("methods", spec.to.methods.is_some()),
        ("paths", spec.to.paths.is_some()),
        ("hosts", spec.to.hosts.is_some()),
        ("headers", spec.to.headers.is_some()),
        ("grpc", spec.to.grpc.is_some()),
    ] {
        checked.http(is_written, &to.key(word));
    }
    checked.http(spec.raw_paths, &at.key("rawPaths"));
    for (word, from) in [("from", &spec.from), ("unless", &spec.unless)] {
        if let Some(from) = from {
            checked.from(from, tls, &at.key(word));
        }
    }
    if spec.effect == Effect::Allow
        && spec.from.as_ref().is_some_and(|from| from.sources.is_some() && !from.names_caller())
    {
        let message = match protocol {
            PortProtocol::Tls => {
                "an address is not enough to let a caller in, and with `protocol: tls` nothing else is known: write \
                 `public: true`, and a deny rule with `unless: {sources: [...]}`"
            }
            _ => {
                "an address is not enough to let a caller in: add who it is by a word of its certificate (`peers`, \
                 `serviceAccounts`)"
            }
        };
        checked.add(&at.key("from").key("sources"), message);
    }
    checked.is_in_order
}

/// A rule that says what cannot be said: nothing comes of it, since its policy is refused.
pub(crate) fn no_more(spec: &InboundRuleSpec, line: usize) -> RuleBody {
    RuleBody {
        name: spec.name.to_string(),
        line,
        effect: spec.effect,
        public: false,
        shadow: spec.shadow,
        to: To::default(),
        from: None,
        unless: None,
        when: None,
    }
}

struct Checked<'a, 's> {
    protocol: PortProtocol,
    is_in_order: bool,
    report: &'a mut Report<'s>,
}

// === impl Checked ===

impl Checked<'_, '_> {
    fn add(&mut self, at: &Field, message: &str) {
        self.is_in_order = false;
        self.report.add(at, message);
    }

    fn http(&mut self, is_written: bool, at: &Field) {
        if is_written {
            self.add(at, &needs_http(self.protocol));
        }
    }

    fn from(&mut self, spec: &FromSpec, tls: Option<&ServerTlsSpec>, at: &Field) {
        for (word, is_written) in [
            ("issuers", spec.issuers.is_some()),
            ("scopes", spec.scopes.is_some()),
            ("clients", spec.clients.is_some()),
            ("subjects", spec.subjects.is_some()),
            ("roles", spec.roles.is_some()),
            ("claims", spec.claims.is_some()),
            ("binding", spec.binding.is_some()),
        ] {
            self.http(is_written, &at.key(word));
        }
        let says_nothing = !spec.names_caller() && spec.sources.is_none();
        let asks_certificate = tls.is_some_and(|tls| tls.client_ca_file.is_some());
        match self.protocol {
            PortProtocol::Tls => {
                let passes =
                    "with `protocol: tls` the application's own TLS passes, and no certificate is seen here";
                for (word, is_written) in
                    [("peers", spec.peers.is_some()), ("serviceAccounts", spec.service_accounts.is_some())]
                {
                    if is_written {
                        self.add(&at.key(word), passes);
                    }
                }
                if says_nothing {
                    self.add(at, &format!("demands a certificate, but {passes}"));
                }
            }
            PortProtocol::Tcp if says_nothing && !asks_certificate => {
                let message =
                    "demands a certificate, but this policy asks for none: write `tls` with `clientCaFile`";
                self.add(at, message);
            }
            PortProtocol::Tcp | PortProtocol::Http => {}
        }
    }
}

fn needs_http(protocol: PortProtocol) -> String {
    format!("needs HTTP, and the policy says `protocol: {}`: remove one of them", protocol.as_str())
}

// Outbound.

/// Does the rule let bytes pass as they are? Then nothing of HTTP can be said of them, and no token goes along.
pub(crate) fn check_outbound(spec: &OutboundRuleSpec, at: &Field, report: &mut Report<'_>) {
    let tls = spec.tls.unwrap_or(TlsWord::Originate);
    let why = match (spec.protocol, tls) {
        (Protocol::Tcp, _) => "`protocol: tcp`",
        (_, TlsWord::Passthrough) => "`tls: passthrough`",
        _ => return,
    };
    let message = format!("needs HTTP, and with {why} bytes pass as they are: remove one of them");
    for (word, is_written) in [
        ("token", spec.token.is_some()),
        ("originate", spec.originate.is_some()),
        ("binding", spec.binding != BindingWord::None),
        ("existingAuthorization", spec.existing_authorization.is_some()),
        ("onFailure", spec.on_failure.is_some()),
        ("sameAudience", spec.same_audience),
    ] {
        refuse_if(is_written, &at.key(word), &message, report);
    }
    check_timeouts(&spec.timeouts, &at.key("timeouts"), &message, report);
    match (spec.protocol, tls) {
        (Protocol::Tcp, TlsWord::None) => {}
        (Protocol::Tcp, TlsWord::Passthrough) => {
            let message = "contradicts `tls: passthrough`, by which the name in the application's TLS is looked at: \
                           remove one of them";
            report.add(&at.key("protocol"), message);
        }
        (Protocol::Tcp, _) => {
            let message = "TLS is not originated for bytes (not supported by this version): with `protocol: tcp` write \
                           `tls: none`, they pass as the application sends them";
            report.add(&at.key("tls"), message);
        }
        (Protocol::Auto, _) => {}
        (Protocol::Http1 | Protocol::Http2, _) => report.add(&at.key("protocol"), message),
    }
    for (index, _) in spec.to.hosts.iter().enumerate().filter(|(_, host)| host.starts_with("*.")) {
        if spec.protocol == Protocol::Tcp {
            let message = "stands for names that bytes do not say, and so for no address: with `protocol: tcp` name each \
                           host";
            report.add(&at.key("to").key("hosts").index(index), message);
        }
    }
    if spec.protocol == Protocol::Tcp && spec.to.ports.is_none() {
        let message = "are to be named with `protocol: tcp`: the default ports are those of HTTP";
        report.add(&at.key("to").key("ports"), message);
    }
}

/// Bytes have neither a request nor an answer to it.
fn check_timeouts(spec: &TimeoutsSpec, at: &Field, message: &str, report: &mut Report<'_>) {
    for (word, is_written) in [("firstByte", spec.first_byte.is_some()), ("total", spec.total.is_some())] {
        refuse_if(is_written, &at.key(word), message, report);
    }
}

fn refuse_if(is_written: bool, at: &Field, message: &str, report: &mut Report<'_>) {
    if is_written {
        report.add(at, message);
    }
}
