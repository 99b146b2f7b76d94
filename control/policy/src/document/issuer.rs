//! `kind: Issuer`, as written.

use serde::Deserialize;
use serde_json::Value;

use super::words::Text;
use crate::profile::Profile;
use crate::snapshot::Algorithm;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct IssuerSpec {
    pub(crate) issuer: Text,
    pub(crate) jwks: Option<JwksSpec>,
    pub(crate) token_endpoint: Option<Text>,
    pub(crate) introspection_endpoint: Option<Text>,
    #[serde(default)]
    pub(crate) profile: Profile,
    pub(crate) algorithms: Option<Vec<Algorithm>>,
    pub(crate) leeway: Option<Text>,
    pub(crate) ca_file: Option<Text>,
    #[serde(default)]
    pub(crate) insecure: bool,
}

/// Exactly one of these.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct JwksSpec {
    pub(crate) uri: Option<Text>,
    pub(crate) file: Option<Text>,
    pub(crate) inline: Option<Value>,
}
