//! `kind: InboundPolicy`, as written.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::words::{Port, Text, TimeoutsSpec, Workloads};
use crate::snapshot::Effect;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct InboundSpec {
    pub(crate) workloads: Option<Workloads>,
    pub(crate) ports: Option<Vec<Port>>,
    #[serde(default)]
    pub(crate) mode: Mode,
    #[serde(default)]
    pub(crate) default: DefaultWord,
    #[serde(default)]
    pub(crate) protocol: ProtocolWord,
    pub(crate) tls: Option<ServerTlsSpec>,
    pub(crate) mtls: Option<MtlsWord>,
    #[serde(default)]
    pub(crate) tokens: Vec<AcceptedSpec>,
    #[serde(default)]
    pub(crate) forward_claims: BTreeMap<Text, Text>,
    #[serde(default)]
    pub(crate) forward_token: ForwardToken,
    #[serde(default)]
    pub(crate) resource_metadata: bool,
    #[serde(default)]
    pub(crate) timeouts: TimeoutsSpec,
    #[serde(default)]
    pub(crate) rules: Vec<InboundRuleSpec>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    #[default]
    Enforce,
    Audit,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DefaultWord {
    #[default]
    Deny,
    /// Only deny rules are added.
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProtocolWord {
    #[default]
    Http,
    Tcp,
    Tls,
    Mqtt,
    Coap,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct ServerTlsSpec {
    pub(crate) cert_file: Text,
    pub(crate) key_file: Text,
    pub(crate) client_ca_file: Option<Text>,
    pub(crate) client_auth: Option<ClientAuthWord>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ClientAuthWord {
    Required,
    Optional,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MtlsWord {
    Strict,
    Permissive,
}

/// An entry of `tokens`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct AcceptedSpec {
    pub(crate) issuer: Text,
    pub(crate) audiences: Vec<Text>,
    pub(crate) binding: Option<RequiredWord>,
    pub(crate) introspect: Option<IntrospectSpec>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RequiredWord {
    Required,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct IntrospectSpec {
    pub(crate) credential: Text,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ForwardToken {
    #[default]
    Keep,
    Strip,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct InboundRuleSpec {
    pub(crate) name: Text,
    #[serde(default)]
    pub(crate) effect: Effect,
    #[serde(default)]
    pub(crate) public: bool,
    #[serde(default)]
    pub(crate) shadow: bool,
    #[serde(default)]
    pub(crate) raw_paths: bool,
    #[serde(default)]
    pub(crate) to: ToSpec,
    pub(crate) from: Option<FromSpec>,
    pub(crate) unless: Option<FromSpec>,
    pub(crate) when: Option<Text>,
}

/// What is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct ToSpec {
    pub(crate) methods: Option<Vec<Text>>,
    pub(crate) paths: Option<Vec<Text>>,
    pub(crate) hosts: Option<Vec<Text>>,
    pub(crate) headers: Option<BTreeMap<Text, Vec<Text>>>,
    pub(crate) grpc: Option<Vec<Text>>,
}

/// Who asks: `from` and `unless`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct FromSpec {
    pub(crate) issuers: Option<Vec<Text>>,
    pub(crate) scopes: Option<Vec<Text>>,
    pub(crate) clients: Option<Vec<Text>>,
    pub(crate) subjects: Option<Vec<Text>>,
    pub(crate) roles: Option<Vec<Text>>,
    pub(crate) claims: Option<Map<String, Value>>,
    pub(crate) peers: Option<Vec<Text>>,
    pub(crate) service_accounts: Option<Vec<Text>>,
    pub(crate) sources: Option<Vec<Text>>,
    pub(crate) binding: Option<RequiredWord>,
}

// === impl FromSpec ===

impl FromSpec {
    /// Does it name anything that only a token says?
    pub(crate) fn has_token_words(&self) -> bool {
        let Self { issuers, scopes, clients, subjects, roles, claims, binding, .. } = self;
        let lists = [issuers, scopes, clients, subjects, roles];
        lists.iter().any(|list| list.is_some()) || claims.is_some() || binding.is_some()
    }

    /// Does it name anything that only a certificate says?
    pub(crate) fn has_peer_words(&self) -> bool {
        self.peers.is_some() || self.service_accounts.is_some()
    }

    /// Does it say who it is, rather than where?
    pub(crate) fn names_caller(&self) -> bool {
        self.has_token_words() || self.has_peer_words()
    }
}
