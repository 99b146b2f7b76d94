//! `kind: InboundPolicy`, as written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::words::{Port, Span, Text, TimeoutsSpec, Workloads};
use crate::snapshot::Effect;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct InboundSpec {
    /// The workloads that it is for; left out: every workload of the namespace.
    pub(crate) workloads: Option<Workloads>,
    /// The application's ports; left out: all.
    pub(crate) ports: Option<Vec<Port>>,
    /// Is it enforced, or only recorded?
    #[serde(default)]
    pub(crate) mode: Mode,
    /// What becomes of requests that no rule allows.
    #[serde(default)]
    pub(crate) default: DefaultWord,
    /// What is spoken on the ports. Words of HTTP and of tokens need http.
    #[serde(default)]
    pub(crate) protocol: ProtocolWord,
    /// TLS that is served on the ports, from files.
    pub(crate) tls: Option<ServerTlsSpec>,
    #[schemars(skip)]
    pub(crate) mtls: Option<MtlsWord>,
    /// The tokens that the policy accepts.
    #[serde(default)]
    pub(crate) tokens: Vec<AcceptedSpec>,
    /// Header fields for the application: a claim, or `@client @subject @scopes @roles @peer`.
    #[serde(default)]
    pub(crate) forward_claims: BTreeMap<Text, Text>,
    /// Does the application see the token?
    #[serde(default)]
    pub(crate) forward_token: ForwardToken,
    /// Serves the metadata of the protected resource (RFC 9728), and names it in challenges.
    #[serde(default)]
    pub(crate) resource_metadata: bool,
    /// How long an open stream may outlive its token: `0s` (the default) to `1h`. New requests need a token that is good.
    #[schemars(with = "Option<Span>")]
    pub(crate) expired_token_grace: Option<Text>,
    /// Time limits towards the application.
    #[serde(default)]
    pub(crate) timeouts: TimeoutsSpec,
    /// A deny that matches wins, else an allow, else the request is denied; the order does not count.
    #[serde(default)]
    pub(crate) rules: Vec<InboundRuleSpec>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    #[default]
    Enforce,
    /// Decided apart and recorded; refuses nothing.
    Audit,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DefaultWord {
    #[default]
    Deny,
    /// Only deny rules are added.
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProtocolWord {
    #[default]
    Http,
    /// Bytes, which pass as they are; inside of TLS where the policy has `tls`.
    Tcp,
    /// The application's own TLS, which passes as it is.
    Tls,
    #[schemars(skip)]
    Mqtt,
    #[schemars(skip)]
    Coap,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct ServerTlsSpec {
    /// The certificate chain, in PEM.
    pub(crate) cert_file: Text,
    /// The private key, in PEM.
    pub(crate) key_file: Text,
    /// The CA certificates (PEM) of callers.
    pub(crate) client_ca_file: Option<Text>,
    /// Must callers show a certificate? required where there is a `clientCaFile`.
    pub(crate) client_auth: Option<ClientAuthWord>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ClientAuthWord {
    Required,
    Optional,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MtlsWord {
    Strict,
    Permissive,
}

/// An entry of `tokens`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct AcceptedSpec {
    /// The name of an Issuer.
    pub(crate) issuer: Text,
    /// The audiences that are ours: a token has to be meant for one of them.
    pub(crate) audiences: Vec<Text>,
    /// Only tokens that are bound to a certificate or key of the caller.
    pub(crate) binding: Option<RequiredWord>,
    /// Opaque tokens too: the issuer is asked about them (RFC 7662).
    pub(crate) introspect: Option<IntrospectSpec>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RequiredWord {
    Required,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct IntrospectSpec {
    /// The name of a Credential for that issuer, in the same namespace.
    pub(crate) credential: Text,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ForwardToken {
    #[default]
    Keep,
    Strip,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct InboundRuleSpec {
    /// Unique in the policy.
    pub(crate) name: Text,
    /// allow or deny.
    #[serde(default)]
    pub(crate) effect: Effect,
    /// Everybody may, without a token. Names its `to.paths` or `to.grpc`.
    #[serde(default)]
    pub(crate) public: bool,
    /// Decides nothing; what it would change is counted and logged.
    #[serde(default)]
    pub(crate) shadow: bool,
    /// Admits `%2F`, `%25` and `%3B` below the `*` in which each of its paths ends.
    #[serde(default)]
    pub(crate) raw_paths: bool,
    /// What is asked for; left out: everything. Fields are and-ed, the values of one or-ed.
    #[serde(default)]
    pub(crate) to: ToSpec,
    /// Who asks. `{}` is anybody with a token that the policy accepts, or with a certificate where it accepts none.
    pub(crate) from: Option<FromSpec>,
    /// Of a deny rule: whom it spares.
    pub(crate) unless: Option<FromSpec>,
    /// A condition in CEL, e.g. `claims.tier == "gold"`: on `claims`, `request`, `path`, `peer.id` and `source.ip`.
    pub(crate) when: Option<Text>,
}

/// What is asked for.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct ToSpec {
    /// Exact: GET does not imply HEAD.
    pub(crate) methods: Option<Vec<Text>>,
    /// Whole segments: `/orders`, `/orders/{id}`, `/tenants/{claims.tenant}`, `/orders/*` with all below.
    pub(crate) paths: Option<Vec<Text>>,
    /// The hosts that are asked for; `*.` is exactly one label.
    pub(crate) hosts: Option<Vec<Text>>,
    /// For each name the values of which it must have one.
    pub(crate) headers: Option<BTreeMap<Text, Vec<Text>>>,
    /// `pkg.Service/Method`, or `pkg.Service/*`.
    pub(crate) grpc: Option<Vec<Text>>,
}

/// Who asks: `from` and `unless`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct FromSpec {
    /// Names of Issuers among those of `tokens`.
    pub(crate) issuers: Option<Vec<Text>>,
    /// All of them.
    pub(crate) scopes: Option<Vec<Text>>,
    /// One of these clients.
    pub(crate) clients: Option<Vec<Text>>,
    /// One of these subjects.
    pub(crate) subjects: Option<Vec<Text>>,
    /// One of these roles.
    pub(crate) roles: Option<Vec<Text>>,
    /// Claims in the token's own shape; a list of values means one of them.
    pub(crate) claims: Option<Map<String, Value>>,
    /// SPIFFE IDs in the client certificate; a trailing `/*` means all below.
    pub(crate) peers: Option<Vec<Text>>,
    /// `namespace/name`, short for `spiffe://cluster.local/ns/NAMESPACE/sa/NAME`.
    pub(crate) service_accounts: Option<Vec<Text>>,
    /// Networks of the direct peer, e.g. `10.0.0.0/8`. Never enough alone for an allow.
    pub(crate) sources: Option<Vec<Text>>,
    /// Only with a token that is bound to a certificate or key of the caller.
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
