//! `kind: Credential`, as written.

use serde::Deserialize;

use super::words::Text;
use crate::snapshot::{Algorithm, AssertionAudience, AssertionType};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct CredentialSpec {
    pub(crate) issuer: Text,
    pub(crate) client_id: Text,
    pub(crate) authentication: AuthenticationSpec,
}

/// Exactly one of these.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct AuthenticationSpec {
    pub(crate) client_secret_basic: Option<ClientSecretSpec>,
    pub(crate) client_secret_post: Option<ClientSecretSpec>,
    pub(crate) private_key_jwt: Option<PrivateKeyJwtSpec>,
    pub(crate) tls_client_auth: Option<TlsClientAuthSpec>,
    pub(crate) workload_token: Option<WorkloadTokenSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct ClientSecretSpec {
    pub(crate) secret_file: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct PrivateKeyJwtSpec {
    pub(crate) key_file: Text,
    pub(crate) key_id: Option<Text>,
    /// RS256 where it is left out, the one that every server must know (RFC 7523 §5).
    pub(crate) algorithm: Option<Algorithm>,
    #[serde(default)]
    pub(crate) audience: AssertionAudience,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct TlsClientAuthSpec {
    pub(crate) cert_file: Text,
    pub(crate) key_file: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct WorkloadTokenSpec {
    pub(crate) token_file: Text,
    #[serde(default)]
    pub(crate) grant: GrantWord,
    pub(crate) assertion_type: Option<AssertionType>,
}

/// The grant in which a workload's token is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum GrantWord {
    #[default]
    ClientCredentials,
    JwtBearer,
}
