//! `kind: Issuer`, as written.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::words::{Span, Text};
use crate::profile::Profile;
use crate::snapshot::Algorithm;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct IssuerSpec {
    /// The exact `iss` of its tokens, an https URL. Its metadata is found by RFC 8414, else OpenID Connect Discovery.
    pub(crate) issuer: Text,
    /// Where its keys are; by discovery where it is left out.
    pub(crate) jwks: Option<JwksSpec>,
    /// Where tokens are asked for; by discovery where it is left out.
    pub(crate) token_endpoint: Option<Text>,
    /// Where opaque tokens are asked about (RFC 7662).
    pub(crate) introspection_endpoint: Option<Text>,
    /// How its tokens look.
    #[serde(default)]
    pub(crate) profile: Profile,
    /// The signature algorithms that it uses; all of these where it is left out.
    pub(crate) algorithms: Option<Vec<Algorithm>>,
    /// The clock difference that is tolerated: at most 120s, default 30s.
    #[schemars(with = "Option<Span>")]
    pub(crate) leeway: Option<Text>,
    /// The CA certificates (PEM) that its endpoints are trusted by, instead of those of the platform.
    pub(crate) ca_file: Option<Text>,
    /// Allows http on its endpoints: for an issuer on this machine.
    #[serde(default)]
    pub(crate) insecure: bool,
}

/// Exactly one of these.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct JwksSpec {
    /// The URL of the key set.
    pub(crate) uri: Option<Text>,
    /// A file with the key set.
    pub(crate) file: Option<Text>,
    /// The key set itself: `{ keys: [...] }` (RFC 7517).
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    pub(crate) inline: Option<Value>,
}
