//! What holds right now? All policy of one version for one workload, compiled and immutable.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::profile::Profile;
use crate::workload::Workload;

/// Index of an [`Issuer`] in [`Snapshot::issuers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IssuerId(pub usize);
/// Index of a [`Credential`] in [`Snapshot::credentials`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CredentialId(pub usize);
/// Index of a [`TokenRequest`] in [`Snapshot::token_requests`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenRequestId(pub usize);
/// Index of a [`TokenRequest`] in [`Snapshot::exchanges`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExchangeId(pub usize);
/// Index of an [`Introspection`] in [`Snapshot::introspections`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IntrospectionId(pub usize);
/// Index of a [`RuleName`] in [`Snapshot::rules`], inbound rules only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RuleId(pub usize);

/// All policy of one version for one workload. The proxy keeps what runs (keys, token slots, metric handles) in vectors
/// parallel to these, so that a request looks nothing up by name.
#[derive(Debug)]
pub struct Snapshot {
    /// Hash of the workload and of the content of the documents that select it.
    pub version: String,
    pub workload: Workload,
    /// Every issuer that a selected policy refers to; first those whose tokens an inbound policy accepts.
    pub issuers: Vec<Issuer>,
    pub(crate) accepted_issuers: usize,
    /// Every credential that a selected policy refers to.
    pub credentials: Vec<Credential>,
    /// Every distinct token that an outbound rule asks for.
    pub token_requests: Vec<TokenRequest>,
    /// Every distinct exchange that an outbound rule asks for, of the token that the application sends itself (RFC 8693).
    pub exchanges: Vec<TokenRequest>,
    /// Whom opaque tokens are shown to, each once.
    pub introspections: Vec<Introspection>,
    /// Every inbound rule.
    pub rules: Vec<Arc<RuleName>>,
    pub(crate) inbound: crate::inbound::InboundTable,
    pub(crate) outbound: crate::outbound::OutboundTable,
}

impl Snapshot {
    /// The issuers whose tokens an inbound policy accepts: the first of [`Snapshot::issuers`]. Nobody needs the keys of
    /// others.
    pub fn accepted_issuers(&self) -> &[Issuer] {
        self.issuers.get(..self.accepted_issuers).unwrap_or(&self.issuers)
    }
}

/// The name of an inbound rule, as metrics and explanations print it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleName {
    /// `namespace/name` of its policy.
    pub policy: String,
    pub rule: String,
    pub effect: Effect,
    pub shadow: bool,
}

/// What a rule does when it matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    #[default]
    Allow,
    Deny,
}

/// An authorization server, compiled.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// `metadata.name`.
    pub name: String,
    /// The exact `iss`.
    pub issuer: Arc<str>,
    pub jwks: KeySource,
    /// Overrides discovery.
    pub token_endpoint: Option<String>,
    /// Overrides discovery (RFC 7662).
    pub introspection_endpoint: Option<String>,
    pub profile: Profile,
    pub algorithms: Vec<Algorithm>,
    /// Clock difference that is tolerated for `exp`, `nbf` and `iat`.
    pub leeway: Duration,
    /// Trust for its endpoints instead of the platform's roots.
    pub ca_file: Option<FileRef>,
    /// http is allowed on its endpoints.
    pub insecure: bool,
    /// Hash of all of the above: caches keyed by it survive any edit elsewhere.
    pub fingerprint: [u8; 32],
}

/// Where an issuer's keys come from.
#[derive(Clone, Debug, PartialEq)]
pub enum KeySource {
    /// `jwks_uri` of the issuer's metadata (RFC 8414, else OpenID Connect Discovery).
    Discovery,
    Uri(String),
    File(FileRef),
    Inline(Value),
}

/// Signature algorithms that an issuer may use (RFC 7518 §3.1, RFC 8037). HMAC and `none` cannot be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize, schemars::JsonSchema)]
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

// === impl Algorithm ===

impl Algorithm {
    pub const ALL: [Self; 9] = [
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::EdDSA,
    ];

    /// The name in JOSE headers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
        }
    }
}

/// A file that policy names. How it is found depends on where the policy came from (semantics 11).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileRef {
    /// As written.
    pub path: String,
    /// The file of the document that names it.
    pub declared_in: String,
}

/// A certificate chain and its private key, in PEM. Read anew when they change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateFiles {
    pub cert_file: FileRef,
    pub key_file: FileRef,
}

/// TLS that is served to callers of a port (RFC 8446), from files.
#[derive(Clone, Debug)]
pub struct InboundTls {
    pub certificate: CertificateFiles,
    pub client_auth: ClientAuth,
    /// Hash of all of the above. Equal ones mean the same files, whichever documents name them.
    pub fingerprint: [u8; 32],
}

/// Whether callers show a certificate. One that is shown is verified against the CAs in the file and no others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// None is asked for.
    None,
    Optional(FileRef),
    /// Without one there is no connection.
    Required(FileRef),
}

/// How the workload proves itself to an issuer's token endpoint, compiled.
#[derive(Clone, Debug)]
pub struct Credential {
    /// `namespace/name`.
    pub name: String,
    pub issuer: IssuerId,
    /// With its templates filled in.
    pub client_id: String,
    pub authentication: Authentication,
    /// Hash of all of the above and of the issuer's fingerprint.
    pub fingerprint: [u8; 32],
}

/// A client authentication method (RFC 6749 §2.3.1, RFC 7523 §2.2, RFC 8705 §2).
#[derive(Clone, Debug, PartialEq)]
pub enum Authentication {
    ClientSecretBasic {
        secret_file: FileRef,
    },
    ClientSecretPost {
        secret_file: FileRef,
    },
    PrivateKeyJwt {
        key_file: FileRef,
        key_id: Option<String>,
        algorithm: Algorithm,
        audience: AssertionAudience,
    },
    /// `tls_client_auth` and `self_signed_tls_client_auth`: which of the two is the server's business, the request is the same.
    TlsClientAuth(CertificateFiles),
    /// A JWT that the platform keeps in a file: a Kubernetes projected token, a JWT-SVID.
    WorkloadToken {
        token_file: FileRef,
        usage: WorkloadTokenUse,
    },
}

/// What the workload's token is to the issuer (RFC 7523 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadTokenUse {
    /// It authenticates the client in a client credentials grant (§2.2).
    ClientAssertion(AssertionType),
    /// It is the grant itself: `grant_type` jwt-bearer (§2.1).
    AuthorizationGrant,
}

/// The `client_assertion_type` of a workload's token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AssertionType {
    /// RFC 7523 §2.2.
    #[default]
    JwtBearer,
    /// JWT-SVIDs, by the draft "OAuth SPIFFE Client Authentication".
    JwtSpiffe,
}

/// The `aud` of a client assertion. The issuer identifier is right (RFC 7523bis); the token endpoint is for servers
/// that have not followed yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AssertionAudience {
    #[default]
    Issuer,
    TokenEndpoint,
}

/// What a token is bound to, so that it is of no use to whoever else gets hold of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TokenBinding {
    #[default]
    None,
    /// The certificate that we present to issuer and destination (RFC 8705 §3).
    Certificate(CertificateFiles),
    /// A key of ours, by DPoP (RFC 9449).
    Key,
}

/// One token that outbound rules ask for (RFC 6749 §4.4.2, RFC 8693, RFC 8707).
#[derive(Clone, Debug)]
pub struct TokenRequest {
    pub credential: CredentialId,
    /// Sorted, without duplicates.
    pub scopes: Vec<String>,
    pub audience: Option<String>,
    pub resource: Option<String>,
    /// Extra parameters of the token request, sorted by name.
    pub parameters: Vec<(String, String)>,
    pub binding: TokenBinding,
    /// The cache key: a hash over length-prefixed fields, the credential's fingerprint among them. Never the secret.
    pub key: [u8; 32],
}

/// An issuer that is asked about opaque tokens (RFC 7662), and who we are to it.
#[derive(Clone, Debug)]
pub struct Introspection {
    pub issuer: IssuerId,
    pub credential: CredentialId,
    /// Hash of the fingerprints of both: what it answers is kept under it.
    pub key: [u8; 32],
}

/// Time limits towards an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    /// From the end of the request head to the first byte of the answer.
    pub first_byte: Duration,
    /// Between two bytes in either direction.
    pub idle: Duration,
    /// From when the request was judged to the last byte of the answer. `None`: no limit.
    pub total: Option<Duration>,
}

// === impl Timeouts ===

impl Timeouts {
    /// No limit.
    pub const NEVER: Duration = Duration::MAX;
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            total: None,
        }
    }
}
