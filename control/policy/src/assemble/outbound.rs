//! The outbound side of a snapshot: precedence settled, tokens shared.

use std::collections::{BTreeMap, BTreeSet};

use crate::compile::issuer::with_certificate;
use crate::compile::outbound::{CheckedOutbound, CheckedRule, CheckedToken};
use crate::compile::report::Report;
use crate::document::outbound::OtherwiseWord;
use crate::documents::Checked;
use crate::field::Field;
use crate::fingerprint::Fingerprint;
use crate::host::HostPattern;
use crate::outbound::{OutboundRule, OutboundTable};
use crate::problem::Problem;
use crate::snapshot::{ExchangeId, TokenBinding, TokenRequest, TokenRequestId};

use super::Parts;

type Policies<'d> = [&'d Checked<CheckedOutbound>];

/// A rule among those of several policies, in their order.
#[derive(Clone, Copy)]
struct Candidate<'d> {
    policy: &'d Checked<CheckedOutbound>,
    rule: &'d CheckedRule,
    /// Index in its policy.
    index: usize,
    /// Place among all rules.
    place: usize,
}

/// How closely a rule names a destination, beyond the host: a named port before the default, then a policy with
/// `workloads` before one without. The greater wins.
type Rank = (bool, bool);

/// The rule for each host, port and rank.
type Settled<'d> = BTreeMap<(&'d str, u16, Rank), Candidate<'d>>;

/// What is asked of issuers, each once.
#[derive(Default)]
pub(super) struct Requests {
    pub(super) tokens: Vec<TokenRequest>,
    pub(super) exchanges: Vec<TokenRequest>,
}

pub(super) fn assemble(policies: &Policies<'_>, parts: &mut Parts<'_>) -> (OutboundTable, Requests) {
    let (settled, conflicts) = settle(policies);
    parts.problems.extend(conflicts);
    let mut table = OutboundTable {
        denies_others: policies.iter().any(|policy| policy.value.denies_others),
        ..OutboundTable::default()
    };
    let mut requests = Requests::default();
    for candidate in candidates(policies) {
        let token = candidate.rule.token.as_ref();
        let exchanged = token.filter(|token| token.exchange.is_some());
        // What a rule with an exchange shows of its own, if it may.
        let own = token.filter(|token| token.exchange.is_none_or(|word| word == OtherwiseWord::Client));
        let own = own.and_then(|token| request("token", token, &mut requests.tokens, parts));
        let exchanged =
            exchanged.and_then(|token| request("exchange", token, &mut requests.exchanges, parts));
        table.rules.push(OutboundRule {
            token: own.map(TokenRequestId),
            exchange: exchanged.map(ExchangeId),
            ..rule(candidate)
        });
    }
    // In the order of ranks, so that what comes last is what wins.
    for ((host, port, _), candidate) in settled {
        let (destinations, host) = match host.strip_prefix("*.") {
            Some(suffix) => (&mut table.wildcard, suffix),
            None => (&mut table.exact, host),
        };
        let ports = destinations.entry(host.into()).or_default();
        ports.retain(|(named, _)| *named != port);
        ports.push((port, candidate.place));
    }
    table.index();
    (table, requests)
}

/// Where two rules name a destination equally.
pub(super) fn conflicts(policies: &Policies<'_>) -> Vec<Problem> {
    settle(policies).1
}

/// Which rule names which destination, and where two do so equally.
fn settle<'d>(policies: &Policies<'d>) -> (Settled<'d>, Vec<Problem>) {
    let mut settled: Settled<'d> = BTreeMap::new();
    let mut conflicts = Vec::new();
    let mut told = BTreeSet::new();
    for candidate in candidates(policies) {
        let rank = (candidate.rule.names_ports, candidate.policy.value.selector.is_specific());
        for (index, port, host) in destinations(candidate.rule) {
            let other = *settled.entry((host.as_str(), port, rank)).or_insert(candidate);
            if other.place != candidate.place && told.insert((other.place, candidate.place)) {
                conflicts.extend(conflict(candidate, index, port, other));
            }
        }
    }
    (settled, conflicts)
}

fn conflict(candidate: Candidate<'_>, host: usize, port: u16, other: Candidate<'_>) -> Vec<Problem> {
    let mut report = Report::new(&candidate.policy.source, &candidate.policy.name);
    let at = Field::parse("spec.rules").index(candidate.index).key("to").key("hosts").index(host);
    let (policy, rule) = (&other.policy.name, &other.rule.name);
    let message = format!(
        "rule `{rule}` of {policy} names this host on port {port} too, and just as closely: remove one"
    );
    report.add(&at, message);
    report.into_problems()
}

fn candidates<'d>(policies: &Policies<'d>) -> impl Iterator<Item = Candidate<'d>> {
    let rules = policies
        .iter()
        .flat_map(|policy| policy.value.rules.iter().enumerate().map(move |rule| (*policy, rule)));
    rules.enumerate().map(|(place, (policy, (index, rule)))| Candidate { policy, rule, index, place })
}

fn destinations(rule: &CheckedRule) -> impl Iterator<Item = (usize, u16, &HostPattern)> {
    let ports = |(index, host)| rule.ports.iter().map(move |port| (index, *port, host));
    rule.hosts.iter().enumerate().flat_map(ports)
}

fn rule(candidate: Candidate<'_>) -> OutboundRule {
    let Candidate { policy, rule, .. } = candidate;
    OutboundRule {
        policy: format!("{}/{}", policy.name.namespace, policy.name.name),
        name: rule.name.clone(),
        token: None,
        exchange: None,
        tls: rule.tls.clone(),
        existing_authorization: rule.existing_authorization,
        on_failure: rule.on_failure,
        protocol: rule.protocol,
        timeouts: rule.timeouts,
        transport: rule.transport,
    }
}

/// The place of what a rule asks for, shared with every rule that asks for the same.
fn request(
    what: &str,
    token: &CheckedToken,
    requests: &mut Vec<TokenRequest>,
    parts: &mut Parts<'_>,
) -> Option<usize> {
    let credential = parts.credential(token.credential)?;
    let fingerprint = parts.credentials.all.get(credential.0)?.fingerprint;
    let key = key(what, token, &fingerprint);
    if let Some(place) = requests.iter().position(|request| request.key == key) {
        return Some(place);
    }
    requests.push(TokenRequest {
        credential,
        scopes: token.scopes.clone(),
        audience: token.audience.clone(),
        resource: token.resource.clone(),
        parameters: token.parameters.clone(),
        binding: token.binding.clone(),
        key,
    });
    Some(requests.len() - 1)
}

fn key(what: &str, token: &CheckedToken, credential: &[u8; 32]) -> [u8; 32] {
    let parameters = token.parameters.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
    let hash = Fingerprint::of(what);
    let hash = match &token.binding {
        TokenBinding::None => hash.text("bearer"),
        TokenBinding::Certificate(files) => with_certificate(hash.text("certificate"), Some(files)),
        TokenBinding::Key => hash.text("key"),
    };
    hash.bytes(credential)
        .list(token.scopes.iter().map(String::as_str))
        .optional(token.audience.as_deref())
        .optional(token.resource.as_deref())
        .list(parameters.collect::<Vec<_>>().into_iter())
        .finish()
}
