//! `kind: Credential`, as written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::words::Text;
use crate::snapshot::{Algorithm, AssertionAudience, AssertionType};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct CredentialSpec {
    /// The name of an Issuer.
    pub(crate) issuer: Text,
    /// The client at the issuer; `{namespace}` and `{serviceAccount}` are filled in.
    pub(crate) client_id: Text,
    /// How the workload proves itself; exactly one way. Files are read again when they change.
    pub(crate) authentication: AuthenticationSpec,
}

/// Exactly one of these.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct AuthenticationSpec {
    /// A secret in the `Authorization` field (RFC 6749 §2.3.1).
    pub(crate) client_secret_basic: Option<ClientSecretSpec>,
    /// A secret in the body (RFC 6749 §2.3.1).
    pub(crate) client_secret_post: Option<ClientSecretSpec>,
    /// An assertion, signed with a private key (RFC 7523).
    pub(crate) private_key_jwt: Option<PrivateKeyJwtSpec>,
    /// A client certificate (RFC 8705).
    pub(crate) tls_client_auth: Option<TlsClientAuthSpec>,
    /// A JWT that the platform keeps in a file: a Kubernetes projected token, a JWT-SVID (RFC 7523).
    pub(crate) workload_token: Option<WorkloadTokenSpec>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct ClientSecretSpec {
    /// The file with the secret.
    pub(crate) secret_file: Text,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct PrivateKeyJwtSpec {
    /// The private key, in PEM.
    pub(crate) key_file: Text,
    /// The `kid` of the assertion.
    pub(crate) key_id: Option<Text>,
    /// RS256 where it is left out, the one that every server must know (RFC 7523 §5).
    pub(crate) algorithm: Option<Algorithm>,
    /// The `aud` of the assertion.
    #[serde(default)]
    pub(crate) audience: AssertionAudience,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct TlsClientAuthSpec {
    /// The certificate chain, in PEM.
    pub(crate) cert_file: Text,
    /// The private key, in PEM.
    pub(crate) key_file: Text,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct WorkloadTokenSpec {
    /// The file with the token.
    pub(crate) token_file: Text,
    /// The grant that it is used in.
    #[serde(default)]
    pub(crate) grant: GrantWord,
    /// The `client_assertion_type`; jwtBearer where it is left out.
    pub(crate) assertion_type: Option<AssertionType>,
}

/// The grant in which a workload's token is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum GrantWord {
    /// It authenticates the client (RFC 7523 §2.2).
    #[default]
    ClientCredentials,
    /// It is the grant (RFC 7523 §2.1).
    JwtBearer,
}
