//! `kind: Credential`, as written.

use serde::Deserialize;

use super::words::Text;
use crate::snapshot::{Algorithm, AssertionAudience};

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
    #[serde(rename = "certFile")]
    pub(crate) _cert_file: Text,
    #[serde(rename = "keyFile")]
    pub(crate) _key_file: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct WorkloadTokenSpec {
    #[serde(rename = "tokenFile")]
    pub(crate) _token_file: Text,
}
