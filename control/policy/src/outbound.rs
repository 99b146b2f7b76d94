//! What do we show, and to whom? The compiled outbound rules of a workload, looked up by destination (semantics 9).

use std::collections::HashMap;
use std::sync::Arc;

use crate::snapshot::{CertificateFiles, ExchangeId, FileRef, Snapshot, Timeouts, TokenRequestId};

/// Outbound rules by host and port, precedence already settled.
#[derive(Debug, Default)]
pub(crate) struct OutboundTable {
    pub(crate) rules: Vec<OutboundRule>,
    /// By host in normal form: what a request asks for.
    pub(crate) exact: Destinations,
    /// By what follows the `*.` of a wildcard.
    pub(crate) wildcard: Destinations,
    /// The same by port, for connections that do not say which host they are for. Neither serves for the other: a host by port
    /// is a search, and all hosts by port are each of them as often as it has ports. The names themselves are shared.
    pub(crate) ports: HashMap<u16, PortHosts>,
    /// Does a policy deny what no rule names?
    pub(crate) denies_others: bool,
}

/// Places in the table's rules, by host and port.
pub(crate) type Destinations = HashMap<Arc<str>, Vec<(u16, usize)>>;

/// What policy says of a destination.
#[derive(Clone, Copy, Debug)]
pub enum Outbound<'a> {
    /// A rule names it.
    Rule(&'a OutboundRule),
    /// No rule names it, and policy lets such traffic pass without a token.
    Pass,
    /// No rule names it, and policy denies such traffic.
    Denied,
}

/// An outbound rule, compiled.
#[derive(Clone, Debug)]
pub struct OutboundRule {
    /// `namespace/name` of its policy.
    pub policy: String,
    pub name: String,
    /// The workload's own token.
    pub token: Option<TokenRequestId>,
    /// What the token that the application sends is exchanged for. Where it sends none, `token` is shown; where there is
    /// no `token` either, the request is refused.
    pub exchange: Option<ExchangeId>,
    pub tls: OutboundTls,
    pub existing_authorization: ExistingAuthorization,
    pub on_failure: OnFailure,
    pub protocol: Protocol,
    pub timeouts: Timeouts,
    /// Hash of what shapes a connection (tls, protocol, timeouts): pools are keyed by it.
    pub transport: [u8; 32],
}

/// How we speak to the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutboundTls {
    /// Plain text, by written consent.
    None,
    /// The application's own TLS passes as it is: no token.
    Passthrough,
    /// The application speaks http, we speak verified TLS.
    Originate {
        /// Port to connect to; where absent, the named one, 80 becoming 443.
        port: Option<u16>,
        /// Name to verify, and SNI; where absent, the destination host.
        server_name: Option<String>,
        /// Trust instead of the platform's roots.
        ca_file: Option<FileRef>,
        /// The certificate that we present.
        client: Option<CertificateFiles>,
    },
}

/// What to do with an `Authorization` header of the application's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExistingAuthorization {
    #[default]
    Keep,
    Replace,
    Reject,
}

/// What to do when no token can be had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    #[default]
    Reject,
    Pass,
}

/// The HTTP version to speak to the destination, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// By ALPN over TLS, else as the application spoke.
    #[default]
    Auto,
    Http1,
    Http2,
    /// No HTTP: bytes that pass as they are.
    Tcp,
}

/// What travels to the destination of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Carries {
    /// HTTP: each request is looked at.
    Http,
    /// Bytes that pass as they are.
    Tcp,
    /// The application's own TLS, which passes as it is where the name that it asks for (SNI) is one of the rule's.
    Tls,
}

/// What rules name on one port.
#[derive(Debug, Default)]
pub(crate) struct PortHosts {
    hosts: Vec<Arc<str>>,
    /// The place of each host's rule.
    rules: Vec<usize>,
    /// Of the wildcards, each once, in order.
    wildcards: Vec<Carries>,
}

/// The destinations on one port, as rules name them.
#[derive(Clone, Copy, Debug)]
pub struct OutboundHosts<'a> {
    table: &'a OutboundTable,
    named: &'a PortHosts,
}

impl Snapshot {
    /// Every destination that a rule names, as `host:port`, with its rule; in order.
    pub fn destinations(&self) -> Vec<(String, &OutboundRule)> {
        let table = &self.outbound;
        let exact = table.exact.iter().map(|(host, ports)| (host.to_string(), ports));
        let wildcard = table.wildcard.iter().map(|(rest, ports)| (format!("*.{rest}"), ports));
        let named = exact.chain(wildcard).flat_map(|(host, ports)| {
            let rule =
                |(port, place): &(u16, usize)| Some((format!("{host}:{port}"), table.rules.get(*place)?));
            ports.iter().filter_map(rule).collect::<Vec<_>>()
        });
        let mut named: Vec<_> = named.collect();
        named.sort_by(|(one, _), (other, _)| one.cmp(other));
        named
    }

    /// Every rule that is in force.
    pub fn outbound_rules(&self) -> &[OutboundRule] {
        &self.outbound.rules
    }

    /// Every host that a rule names exactly, in normal form.
    pub fn exact_hosts(&self) -> impl Iterator<Item = &Arc<str>> {
        self.outbound.exact.keys()
    }

    /// The rule for a destination: exact host, then wildcard; named port before default; a policy with `workloads` before
    /// one without. `host` in normal form ([`crate::host::normalize`]).
    pub fn outbound(&self, host: &str, port: u16) -> Outbound<'_> {
        let table = &self.outbound;
        let exact = || place(&table.exact, host, port);
        let wildcard = || host.split_once('.').and_then(|(_, rest)| place(&table.wildcard, rest, port));
        match exact().or_else(wildcard).and_then(|place| table.rules.get(place)) {
            Some(rule) => Outbound::Rule(rule),
            None if table.denies_others => Outbound::Denied,
            None => Outbound::Pass,
        }
    }

    /// The destinations that rules name on this port. `None`: no rule names it.
    pub fn outbound_hosts(&self, port: u16) -> Option<OutboundHosts<'_>> {
        let table = &self.outbound;
        table.ports.get(&port).map(|named| OutboundHosts { table, named })
    }

    /// Does policy deny what no rule names (`egress: deny`)?
    pub fn denies_egress(&self) -> bool {
        self.outbound.denies_others
    }
}

// === impl OutboundRule ===

impl OutboundRule {
    /// What travels to its destinations.
    pub fn carries(&self) -> Carries {
        match (self.protocol, &self.tls) {
            (Protocol::Tcp, _) => Carries::Tcp,
            (_, OutboundTls::Passthrough) => Carries::Tls,
            _ => Carries::Http,
        }
    }
}

// === impl OutboundHosts ===

impl<'a> OutboundHosts<'a> {
    /// The exact hosts, in normal form and in order.
    pub fn exact(&self) -> &'a [Arc<str>] {
        &self.named.hosts
    }

    /// Each exact host with its rule.
    pub fn rules(&self) -> impl Iterator<Item = (&'a Arc<str>, &'a OutboundRule)> + use<'a> {
        let Self { table, named } = *self;
        let pairs = named.hosts.iter().zip(&named.rules);
        pairs.filter_map(|(host, place)| Some((host, table.rules.get(*place)?)))
    }

    /// What travels to destinations that a wildcard names on the port, each once.
    pub fn wildcards(&self) -> &'a [Carries] {
        &self.named.wildcards
    }
}

// === impl OutboundTable ===

impl OutboundTable {
    /// Gathers by port what has been settled by host.
    pub(crate) fn index(&mut self) {
        let mut ports: HashMap<u16, PortHosts> = HashMap::new();
        let mut exact: Vec<_> = self.exact.iter().collect();
        exact.sort();
        for (host, named) in exact {
            for (port, place) in named {
                let port = ports.entry(*port).or_default();
                port.hosts.push(host.clone());
                port.rules.push(*place);
            }
        }
        for (port, place) in self.wildcard.values().flatten() {
            let wildcards = &mut ports.entry(*port).or_default().wildcards;
            wildcards.extend(self.rules.get(*place).map(OutboundRule::carries));
        }
        for port in ports.values_mut() {
            port.wildcards.sort_unstable();
            port.wildcards.dedup();
        }
        self.ports = ports;
    }
}

fn place(destinations: &Destinations, host: &str, port: u16) -> Option<usize> {
    let ports = destinations.get(host)?;
    ports.iter().find(|(named, _)| *named == port).map(|(_, place)| *place)
}
