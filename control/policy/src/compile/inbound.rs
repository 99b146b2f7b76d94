//! Whom a policy lets in, checked: tokens, headers and rules.

use std::sync::Arc;
use std::time::Duration;

use crate::condition::{Condition, Known};
use crate::document::inbound::{
    AcceptedSpec, DefaultWord, ForwardToken, InboundRuleSpec, InboundSpec, Mode, ProtocolWord, ServerTlsSpec,
};
use crate::document::words::{self, Text};
use crate::field::Field;
use crate::inbound::{ClaimSource, PortProtocol};
use crate::rule::{RuleBody, To};
use crate::snapshot::{Effect, InboundTls, Issuer};
use crate::source::Source;
use crate::untrusted;

use super::from::{Certificates, KnownIssuer, Shown};
use super::outbound::FindCredential;
use super::report::Report;
use super::values::{self, WrittenTimeouts};
use super::{Reference, Selector, bytes, from, headers, introspect, resource, tls};

/// The longest that an open stream may outlive its token.
const MAX_GRACE: Duration = Duration::from_secs(60 * 60);
/// The most ports that a policy names.
const MAX_PORTS: usize = 100;

/// An inbound policy, whoever the workload is.
#[derive(Debug)]
pub(crate) struct CheckedInbound {
    pub(crate) selector: Selector,
    /// Absent: every port.
    pub(crate) ports: Option<Vec<u16>>,
    pub(crate) mode: Mode,
    pub(crate) protocol: PortProtocol,
    pub(crate) tls: Option<InboundTls>,
    pub(crate) tokens: Vec<CheckedTokens>,
    pub(crate) forward_claims: Vec<(String, ClaimSource)>,
    pub(crate) strip_token: bool,
    /// With `resourceMetadata`: the resource's identifier.
    pub(crate) resource: Option<String>,
    pub(crate) expired_token_grace: Duration,
    pub(crate) timeouts: WrittenTimeouts,
    pub(crate) rules: Vec<Arc<RuleBody>>,
}

/// Tokens of one issuer that a policy accepts.
#[derive(Debug)]
pub(crate) struct CheckedTokens {
    /// Place of the issuer among the documents' issuers.
    pub(crate) issuer: usize,
    pub(crate) audiences: Vec<String>,
    /// `binding: required`.
    pub(crate) bound: bool,
    /// Place of the credential with which the issuer is asked about opaque tokens, and of the entry in `tokens`.
    pub(crate) introspect: Option<(usize, usize)>,
}

/// Finds an issuer by its name: its place and itself.
pub(crate) type FindIssuer<'a> = dyn Fn(&str) -> Reference<(usize, &'a Issuer)> + 'a;

/// Finds what a policy refers to.
pub(crate) struct Find<'a> {
    pub(crate) issuer: &'a FindIssuer<'a>,
    pub(crate) credential: &'a FindCredential<'a>,
}

pub(crate) fn compile(
    namespace: &str,
    spec: &InboundSpec,
    find: &Find<'_>,
    source: &Source,
    report: &mut Report<'_>,
) -> CheckedInbound {
    let at = Field::root().key("spec");
    refuse_unsupported(spec, &at, report);
    let protocol = protocol(spec.protocol);
    if protocol != PortProtocol::Http {
        bytes::check_policy(spec, protocol, &at, report);
    }
    values::not_empty(spec.ports.as_deref(), &at.key("ports"), report);
    if spec.ports.as_ref().is_some_and(|ports| ports.len() > MAX_PORTS) {
        report.add(&at.key("ports"), format!("more than {MAX_PORTS} ports: leave the field out to mean all"));
    }
    let mut policy = PolicyBeingChecked { spec, protocol, issuers: Vec::new(), all_known: true };
    let tokens = policy.tokens(find, &at.key("tokens"), report);
    let rules = policy.rules(&at.key("rules"), report);
    CheckedInbound {
        selector: Selector::compile(namespace, spec.workloads.as_ref(), report),
        ports: spec.ports.as_deref().map(words::ports),
        mode: spec.mode,
        protocol,
        tls: spec.tls.as_ref().map(|tls| tls::compile(tls, &at.key("tls"), source, report)),
        tokens,
        forward_claims: headers::compile(
            &spec.forward_claims,
            Shown { issuers: &policy.issuers, certificates: certificates(spec.tls.as_ref()) },
            &at.key("forwardClaims"),
            report,
        ),
        strip_token: spec.forward_token == ForwardToken::Strip,
        resource: match spec.resource_metadata && protocol == PortProtocol::Http {
            true => resource::compile(&spec.tokens, &at.key("resourceMetadata"), report),
            false => None,
        },
        expired_token_grace: grace(spec, &at.key("expiredTokenGrace"), report),
        timeouts: WrittenTimeouts::compile(&spec.timeouts, &at.key("timeouts"), report),
        rules: rules.into_iter().map(Arc::new).collect(),
    }
}

fn refuse_unsupported(spec: &InboundSpec, at: &Field, report: &mut Report<'_>) {
    let is_later = matches!(spec.protocol, ProtocolWord::Mqtt | ProtocolWord::Coap);
    report.unsupported_if(is_later, &at.key("protocol"));
    report.unsupported_if(spec.mtls.is_some(), &at.key("mtls"));
}

fn protocol(word: ProtocolWord) -> PortProtocol {
    match word {
        ProtocolWord::Tcp => PortProtocol::Tcp,
        ProtocolWord::Tls => PortProtocol::Tls,
        // What is not supported is refused above.
        ProtocolWord::Http | ProtocolWord::Mqtt | ProtocolWord::Coap => PortProtocol::Http,
    }
}

fn grace(spec: &InboundSpec, at: &Field, report: &mut Report<'_>) -> Duration {
    // Unlike other durations it may be nothing at all.
    let Some(text) = spec.expired_token_grace.as_ref().filter(|text| &***text != "0s") else {
        return Duration::ZERO;
    };
    let grace = report.ok(at, words::duration(text)).unwrap_or_default();
    if grace > MAX_GRACE {
        report.add(at, "must be at most 1h");
    }
    grace
}

struct PolicyBeingChecked<'s> {
    spec: &'s InboundSpec,
    protocol: PortProtocol,
    issuers: Vec<KnownIssuer>,
    /// Could every entry of `tokens` be resolved? If not, what rules say of issuers cannot be judged.
    all_known: bool,
}

// === impl PolicyBeingChecked ===

impl PolicyBeingChecked<'_> {
    fn tokens(&mut self, find: &Find<'_>, at: &Field, report: &mut Report<'_>) -> Vec<CheckedTokens> {
        let mut asking = self.spec.tokens.iter().enumerate().filter(|(_, entry)| entry.introspect.is_some());
        if let (Some(_), Some((second, _))) = (asking.next(), asking.next()) {
            let message = "a second issuer of opaque tokens: nothing in such a token says whose it is, so write it once";
            report.add(&at.index(second).key("introspect"), message);
        }
        let entries = self.spec.tokens.iter().enumerate();
        entries
            .filter_map(|(index, entry)| self.accepted(entry, index, find, &at.index(index), report))
            .collect()
    }

    fn accepted(
        &mut self,
        spec: &AcceptedSpec,
        index: usize,
        find: &Find<'_>,
        at: &Field,
        report: &mut Report<'_>,
    ) -> Option<CheckedTokens> {
        values::not_empty(Some(&spec.audiences), &at.key("audiences"), report);
        values::not_blank(&spec.audiences, &at.key("audiences"), report);
        let (place, issuer) = match (find.issuer)(&spec.issuer) {
            Reference::Found(found) => found,
            Reference::Broken => {
                self.all_known = false;
                return None;
            }
            Reference::Missing => {
                self.all_known = false;
                report.add(&at.key("issuer"), format!("there is no Issuer `{}`", spec.issuer));
                return None;
            }
        };
        if self.issuers.iter().any(|known| known.name == issuer.name) {
            report.add(
                &at.key("issuer"),
                format!("`{}` is named twice: gather the audiences in one entry", issuer.name),
            );
        }
        self.issuers.push(KnownIssuer {
            name: issuer.name.clone(),
            issuer: issuer.issuer.clone(),
            profile: issuer.profile,
        });
        let introspect = spec.introspect.as_ref().and_then(|spec| {
            introspect::compile(spec, (place, issuer), find.credential, &at.key("introspect"), report)
        });
        Some(CheckedTokens {
            issuer: place,
            audiences: words::strings(&spec.audiences),
            bound: spec.binding.is_some(),
            introspect: introspect.map(|credential| (credential, index)),
        })
    }

    fn rules(&self, at: &Field, report: &mut Report<'_>) -> Vec<RuleBody> {
        let mut names: Vec<&str> = Vec::new();
        let mut rules = Vec::new();
        let mut lines = report.item_lines(at).into_iter();
        for (index, spec) in self.spec.rules.iter().enumerate() {
            let at = at.index(index);
            values::rule_name(&spec.name, &names, &at.key("name"), report);
            names.push(&spec.name);
            rules.push(self.rule(spec, lines.next().unwrap_or(0), &at, report));
        }
        rules
    }

    fn rule(&self, spec: &InboundRuleSpec, line: usize, at: &Field, report: &mut Report<'_>) -> RuleBody {
        if self.protocol != PortProtocol::Http
            && !bytes::check_rule(spec, self.protocol, self.spec.tls.as_ref(), at, report)
        {
            return bytes::no_more(spec, line);
        }
        let set: Vec<Text> = self.spec.forward_claims.keys().cloned().collect();
        let mut to = from::to(&spec.to, &set, &at.key("to"), report);
        to.raw_paths = spec.raw_paths;
        if spec.raw_paths {
            check_raw(spec, &to, &at.key("rawPaths"), report);
        }
        match spec.effect {
            Effect::Allow => self.check_allow(spec, &to, at, report),
            Effect::Deny => check_deny(spec, at, report),
        }
        if !spec.public && self.spec.tokens.is_empty() && to.paths.iter().any(|path| path.needs_claims()) {
            let message = "{claims.NAME} needs a token, but this policy accepts none: write `tokens`";
            report.add(&at.key("to").key("paths"), message);
        }
        let shown = Shown { issuers: &self.issuers, certificates: certificates(self.spec.tls.as_ref()) };
        let mut condition = |word: &str, spec: &Option<_>| {
            let spec = spec.as_ref().filter(|_| self.all_known)?;
            Some(from::from(spec, shown, &at.key(word), report))
        };
        let (from, unless) = (condition("from", &spec.from), condition("unless", &spec.unless));
        RuleBody {
            name: spec.name.to_string(),
            line,
            effect: spec.effect,
            public: spec.public,
            shadow: spec.shadow,
            when: self.when(spec, &to, &at.key("when"), report),
            to,
            from,
            unless,
        }
    }

    fn when(
        &self,
        spec: &InboundRuleSpec,
        to: &To,
        at: &Field,
        report: &mut Report<'_>,
    ) -> Option<Condition> {
        let no_claims = if self.protocol != PortProtocol::Http {
            Some("`claims`: without HTTP there is no token to take them from")
        } else if spec.public {
            Some("`claims`: a public rule has no token to take them from, write `from` instead of `public`")
        } else if self.spec.tokens.is_empty() {
            Some("`claims`: this policy accepts no token to take them from: write `tokens`")
        } else {
            None
        };
        let set: Vec<String> = self.spec.forward_claims.keys().map(|name| untrusted::normal(name)).collect();
        let known = Known { no_claims, protocol: self.protocol, patterns: &to.paths, set: &set };
        match Condition::parse(spec.when.as_deref()?, &known) {
            Ok(condition) => Some(condition),
            Err(problems) => {
                problems.into_iter().for_each(|problem| report.add(at, problem));
                None
            }
        }
    }

    /// Semantics 2.
    fn check_allow(&self, spec: &InboundRuleSpec, to: &To, at: &Field, report: &mut Report<'_>) {
        if self.spec.default == DefaultWord::None {
            report.add(
                &at.key("effect"),
                "an allow rule in a policy with `default: none`, which only adds deny rules",
            );
        }
        match (spec.public, &spec.from) {
            (false, None) => report.add(at, "an allow rule says from whom: write `from`, or `public: true`"),
            (true, Some(_)) => report.add(&at.key("from"), "contradicts `public: true`: remove one of them"),
            (true, None)
                if self.protocol == PortProtocol::Http
                    && spec.to.paths.is_none()
                    && spec.to.grpc.is_none() =>
            {
                report.add(&at.key("public"), "a public rule names its `to.paths` or `to.grpc`");
            }
            _ => {}
        }
        if spec.unless.is_some() {
            report.add(&at.key("unless"), "stands in deny rules only");
        }
        if spec.from.as_ref().is_some_and(|from| from.sources.is_some() && !from.names_caller()) {
            let message = "an address is not enough to let a caller in: add who it is by a word of its token (e.g. \
                           `issuers`) or of its certificate (`peers`, `serviceAccounts`)";
            report.add(&at.key("from").key("sources"), message);
        }
        if spec.public && to.paths.iter().any(|path| path.needs_claims()) {
            report.add(&at.key("to").key("paths"), "a public rule has no token to take {claims.NAME} from");
        }
    }
}

/// Semantics 3.
fn check_deny(spec: &InboundRuleSpec, at: &Field, report: &mut Report<'_>) {
    if spec.public {
        report.add(&at.key("public"), "stands in allow rules only");
    }
    let scopes = spec.from.as_ref().and_then(|from| from.scopes.as_ref());
    if scopes.is_some_and(|scopes| scopes.len() > 1) {
        let message = "more than one scope in the `from` of a deny rule: write a rule for each";
        report.add(&at.key("from").key("scopes"), message);
    }
}

/// Semantics 8.
fn check_raw(spec: &InboundRuleSpec, to: &To, at: &Field, report: &mut Report<'_>) {
    if spec.effect == Effect::Deny {
        report.add(at, "stands in allow rules only: a deny rule hits whatever a raw path could mean");
    }
    if spec.to.paths.is_none() || to.paths.iter().any(|path| !path.is_below()) {
        report.add(at, "admits raw paths below a `*`: end each of `to.paths` in one, e.g. /files/*");
    }
    if spec.to.grpc.is_some() {
        report.add(at, "gRPC knows no raw paths: remove `to.grpc`, or write a rule for each");
    }
}

fn certificates(tls: Option<&ServerTlsSpec>) -> Certificates {
    match tls.map(|tls| &tls.client_ca_file) {
        None => Certificates::Unsaid,
        Some(None) => Certificates::NotAsked,
        Some(Some(_)) => Certificates::Asked,
    }
}
