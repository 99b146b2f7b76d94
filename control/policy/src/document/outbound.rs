//! `kind: OutboundPolicy`, as written.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::words::{Port, Text, TimeoutsSpec, Workloads};
use crate::outbound::{ExistingAuthorization, OnFailure, Protocol};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct OutboundSpec {
    pub(crate) workloads: Option<Workloads>,
    #[serde(default)]
    pub(crate) egress: Egress,
    #[serde(default)]
    pub(crate) rules: Vec<OutboundRuleSpec>,
}

/// What becomes of destinations that no rule names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Egress {
    #[default]
    Pass,
    Deny,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct OutboundRuleSpec {
    pub(crate) name: Text,
    pub(crate) to: DestinationSpec,
    pub(crate) token: Option<TokenSpec>,
    pub(crate) tls: Option<TlsWord>,
    pub(crate) originate: Option<OriginateSpec>,
    #[serde(default)]
    pub(crate) binding: BindingWord,
    pub(crate) existing_authorization: Option<ExistingAuthorization>,
    pub(crate) on_failure: Option<OnFailure>,
    #[serde(default)]
    pub(crate) protocol: Protocol,
    #[serde(default)]
    pub(crate) same_audience: bool,
    #[serde(default)]
    pub(crate) timeouts: TimeoutsSpec,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct DestinationSpec {
    pub(crate) hosts: Vec<Text>,
    pub(crate) ports: Option<Vec<Port>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct TokenSpec {
    pub(crate) credential: Text,
    #[serde(default)]
    pub(crate) scopes: Vec<Text>,
    pub(crate) audience: Option<Text>,
    pub(crate) resource: Option<Text>,
    #[serde(default)]
    pub(crate) parameters: BTreeMap<Text, Text>,
    pub(crate) exchange: Option<ExchangeSpec>,
}

/// Exchange of the token that the application sends itself (RFC 8693).
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct ExchangeSpec {
    #[serde(rename = "subject")]
    pub(crate) _subject: SubjectWord,
    #[serde(default)]
    pub(crate) otherwise: OtherwiseWord,
}

/// Whose token is exchanged.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SubjectWord {
    /// The one in this request.
    Request,
}

/// What becomes of a request without a token to exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OtherwiseWord {
    #[default]
    Reject,
    /// It shows the workload's own token.
    Client,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TlsWord {
    Originate,
    None,
    Mesh,
    Passthrough,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct OriginateSpec {
    pub(crate) port: Option<Port>,
    pub(crate) server_name: Option<Text>,
    pub(crate) ca_file: Option<Text>,
    pub(crate) cert_file: Option<Text>,
    pub(crate) key_file: Option<Text>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BindingWord {
    #[default]
    None,
    Mtls,
    Dpop,
}
