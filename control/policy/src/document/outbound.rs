//! `kind: OutboundPolicy`, as written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::words::{Port, Text, TimeoutsSpec, Workloads};
use crate::outbound::{ExistingAuthorization, OnFailure, Protocol};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct OutboundSpec {
    /// The workloads that it is for; left out: every workload of the namespace.
    pub(crate) workloads: Option<Workloads>,
    /// What becomes of destinations that no rule names.
    #[serde(default)]
    pub(crate) egress: Egress,
    /// The closest rule to a destination holds: exact host before wildcard, named port before default.
    #[serde(default)]
    pub(crate) rules: Vec<OutboundRuleSpec>,
}

/// What becomes of destinations that no rule names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Egress {
    /// Forwarded without a token.
    #[default]
    Pass,
    /// 403 `egress_denied`.
    Deny,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct OutboundRuleSpec {
    /// Unique in the policy.
    pub(crate) name: Text,
    /// The destinations, as the application dials them.
    pub(crate) to: DestinationSpec,
    /// The token that is attached; left out: none.
    pub(crate) token: Option<TokenSpec>,
    /// How the destination is reached; originate where it is left out.
    pub(crate) tls: Option<TlsWord>,
    /// How TLS is spoken to it.
    pub(crate) originate: Option<OriginateSpec>,
    /// What the token is bound to.
    #[serde(default)]
    pub(crate) binding: BindingWord,
    /// What becomes of an `Authorization` that the application sends itself; keep where it is left out.
    pub(crate) existing_authorization: Option<ExistingAuthorization>,
    /// What becomes of a request for which no token is to be had; reject (503) where it is left out.
    pub(crate) on_failure: Option<OnFailure>,
    /// The HTTP version towards the destination; or tcp: bytes that pass as they are, without a token.
    #[serde(default)]
    pub(crate) protocol: Protocol,
    /// One `audience` or `resource` for several hosts is meant.
    #[serde(default)]
    pub(crate) same_audience: bool,
    /// Time limits towards the destination.
    #[serde(default)]
    pub(crate) timeouts: TimeoutsSpec,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct DestinationSpec {
    /// Host names, or `*.` for exactly one label; never addresses.
    pub(crate) hosts: Vec<Text>,
    /// 80 and 443 where it is left out; 443 with `tls: passthrough`.
    pub(crate) ports: Option<Vec<Port>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct TokenSpec {
    /// The name of a Credential of this namespace.
    pub(crate) credential: Text,
    /// The scopes that are asked for.
    #[serde(default)]
    pub(crate) scopes: Vec<Text>,
    /// The `audience` that is asked for.
    pub(crate) audience: Option<Text>,
    /// The `resource` that is asked for (RFC 8707).
    pub(crate) resource: Option<Text>,
    /// Further parameters of the token request.
    #[serde(default)]
    pub(crate) parameters: BTreeMap<Text, Text>,
    /// Exchanges the token that the application sends itself (RFC 8693).
    pub(crate) exchange: Option<ExchangeSpec>,
}

/// Exchange of the token that the application sends itself (RFC 8693).
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct ExchangeSpec {
    /// Whose token is exchanged: the one in the request.
    #[serde(rename = "subject")]
    pub(crate) _subject: SubjectWord,
    /// What becomes of a request without a token.
    #[serde(default)]
    pub(crate) otherwise: OtherwiseWord,
}

/// Whose token is exchanged.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SubjectWord {
    /// The one in this request.
    Request,
}

/// What becomes of a request without a token to exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OtherwiseWord {
    /// 401 `missing_token`.
    #[default]
    Reject,
    /// It shows the workload's own token.
    Client,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TlsWord {
    /// Verified TLS.
    Originate,
    /// Plain text: written, it is the consent to that.
    None,
    #[schemars(skip)]
    Mesh,
    /// The application's own TLS, which passes as it is, to the name that it asks for; without a token.
    Passthrough,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct OriginateSpec {
    /// The port; that of the rule where it is left out, 80 becoming 443.
    pub(crate) port: Option<Port>,
    /// The name that is asked for and verified; the host where it is left out.
    pub(crate) server_name: Option<Text>,
    /// The CA certificates (PEM) that it is trusted by, instead of those of the platform.
    pub(crate) ca_file: Option<Text>,
    /// The certificate chain (PEM) that we show.
    pub(crate) cert_file: Option<Text>,
    /// The private key (PEM) of the certificate.
    pub(crate) key_file: Option<Text>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BindingWord {
    #[default]
    None,
    /// Our certificate (RFC 8705).
    Mtls,
    /// A key of ours (RFC 9449).
    Dpop,
}
