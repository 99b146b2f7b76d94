//! Which claims does an issuer use for what? The token profiles: named presets, one per kind of issuer.

mod binding;
mod flawed;
mod introspected;
mod said;
mod token;

pub(crate) use said::{Said, Unsayable};

use schemars::JsonSchema;
use serde::Deserialize;

/// How the tokens of an issuer look. Everything is as strict as RFC 9068 but for what [`Shape::relaxes`] says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// JWT access tokens as RFC 9068 wants them. Relaxes nothing.
    #[default]
    Rfc9068,
    /// Any issuer that signs JWTs. Relaxes the type, and demands only issuer, audience and expiry.
    Generic,
    /// Keycloak. Relaxes the type; the client is `azp`.
    Keycloak,
    /// Microsoft Entra ID. Relaxes the type to `JWT`; the client is `azp` or `appid`.
    Entra,
    /// Amazon Cognito user pools. Relaxes the type and the audience, and demands `token_use` instead.
    Cognito,
    /// Service-account tokens of a Kubernetes API server. Relaxes the type; the client is `sub`.
    Kubernetes,
    /// SPIFFE JWT-SVID. Relaxes the type and the issuer claim; the client is `sub`.
    JwtSvid,
}

/// One row of the table of profiles, as data: what the code does and what the README says are both made from it.
#[derive(Debug)]
pub struct Shape {
    /// The name in policy documents.
    pub name: &'static str,
    /// The accepted `typ` headers, without `application/`; `None`: an absent one.
    pub types: &'static [Option<&'static str>],
    /// The claims without which it is no token.
    pub claims: &'static [&'static str],
    /// The members without which an answer about an opaque token is not enough (RFC 7662 §2.2). Empty: issuers of this kind
    /// have no introspection.
    pub answer: &'static [&'static str],
    /// Where the client is found; the first claim that is present counts.
    pub client: &'static [&'static str],
    /// Where the scopes are found; the first claim that is present counts. Empty: nowhere.
    pub scopes: &'static [&'static str],
    /// Whether scopes may be a list of strings beside a space-delimited string.
    pub scope_lists: bool,
    /// Where the roles are found, as the names of nested objects. Empty: nowhere.
    pub roles: &'static [&'static str],
    /// What it relaxes of RFC 9068, and why. A sentence for the README.
    pub relaxes: &'static str,
}

const ABSENT: Option<&str> = None;
const JWT: Option<&str> = Some("jwt");
const AT_JWT: Option<&str> = Some("at+jwt");

static RFC9068: Shape = Shape {
    name: "rfc9068",
    types: &[AT_JWT],
    claims: &["iss", "exp", "aud", "sub", "client_id", "iat", "jti"],
    answer: &["exp", "aud", "client_id"],
    client: &["client_id"],
    scopes: &["scope"],
    scope_lists: false,
    roles: &["roles"],
    relaxes: "Nothing.",
};

static GENERIC: Shape = Shape {
    name: "generic",
    types: &[ABSENT, JWT, AT_JWT],
    claims: &["iss", "exp", "aud"],
    answer: &["exp", "aud"],
    client: &["client_id", "azp"],
    scopes: &["scope", "scp"],
    scope_lists: true,
    roles: &[],
    relaxes: "The type, and most claims: many issuers are older than RFC 9068. Nothing but the audience then tells an \
              access token from an ID token of the same issuer, so never list a client id as an audience.",
};

static KEYCLOAK: Shape = Shape {
    name: "keycloak",
    types: &[ABSENT, JWT, AT_JWT],
    claims: &["iss", "exp", "aud"],
    answer: &["exp", "aud"],
    client: &["azp", "client_id"],
    scopes: &["scope"],
    scope_lists: false,
    roles: &["realm_access", "roles"],
    relaxes: "The type, which is `JWT` unless the client is configured for `at+jwt`; the claim `typ`, where it is there, \
              must be `Bearer` or `DPoP`, which keeps ID and refresh tokens out. The audience stays demanded: add an \
              audience mapper to the client.",
};

static ENTRA: Shape = Shape {
    name: "entra",
    types: &[JWT],
    claims: &["iss", "exp", "aud"],
    answer: &[],
    client: &["azp", "appid"],
    scopes: &["scp"],
    scope_lists: false,
    roles: &["roles"],
    relaxes: "The type, which is `JWT`, and the claims whose names differ: `azp` (v2.0) or `appid` (v1.0) is the client, \
              and one of them is demanded, which keeps ID tokens out. Tokens that a client got for itself have `roles` and no `scp`.",
};

static COGNITO: Shape = Shape {
    name: "cognito",
    types: &[ABSENT, JWT],
    claims: &["iss", "exp", "client_id", "token_use"],
    answer: &[],
    client: &["client_id"],
    scopes: &["scope"],
    scope_lists: false,
    roles: &["cognito:groups"],
    relaxes: "The type and the audience, both of which user pools leave out: `client_id` is the audience where there is no \
              `aud`, and `token_use` must be `access`, which keeps ID tokens out.",
};

static KUBERNETES: Shape = Shape {
    name: "kubernetes",
    types: &[ABSENT, JWT],
    claims: &["iss", "exp", "aud", "sub"],
    answer: &[],
    client: &["sub"],
    scopes: &[],
    scope_lists: false,
    roles: &[],
    relaxes: "The type and the client, neither of which service-account tokens have: `sub` \
              (`system:serviceaccount:NAMESPACE:NAME`) is the client.",
};

static JWT_SVID: Shape = Shape {
    name: "jwt-svid",
    types: &[ABSENT, JWT, Some("jose")],
    claims: &["sub", "exp", "aud"],
    answer: &[],
    client: &["sub"],
    scopes: &[],
    scope_lists: false,
    roles: &[],
    relaxes: "The type, and `iss`, which JWT-SVIDs need not have: the SPIFFE ID in `sub` says who vouches for it, and is \
              the client. An `iss` that is there must be the issuer's.",
};

// === impl Profile ===

impl Profile {
    /// Every profile, in the order of the table in README.md.
    pub const ALL: &'static [Self] = &[
        Self::Rfc9068,
        Self::Generic,
        Self::Keycloak,
        Self::Entra,
        Self::Cognito,
        Self::Kubernetes,
        Self::JwtSvid,
    ];

    /// The row of the table.
    pub fn shape(self) -> &'static Shape {
        match self {
            Self::Rfc9068 => &RFC9068,
            Self::Generic => &GENERIC,
            Self::Keycloak => &KEYCLOAK,
            Self::Entra => &ENTRA,
            Self::Cognito => &COGNITO,
            Self::Kubernetes => &KUBERNETES,
            Self::JwtSvid => &JWT_SVID,
        }
    }

    /// The name in policy documents.
    pub fn as_str(self) -> &'static str {
        self.shape().name
    }

    /// Is `typ` (RFC 7515 §4.1.9, as written or absent) one that this profile accepts? A media type: in any case, and
    /// without a slash it means the same as with `application/` before it.
    pub fn accepts_type(self, typ: Option<&str>) -> bool {
        self.shape().types.iter().any(|accepted| match (accepted, typ) {
            (None, None) => true,
            (Some(accepted), Some(typ)) => is_media_type(typ, accepted),
            _ => false,
        })
    }

    /// Do its tokens name a client? Where not, the word `clients` is a compile error.
    pub fn has_client(self) -> bool {
        !self.shape().client.is_empty()
    }

    /// Do its tokens have scopes? Where not, the word `scopes` is a compile error.
    pub fn has_scopes(self) -> bool {
        !self.shape().scopes.is_empty()
    }

    /// Do its tokens have roles? Where not, the word `roles` is a compile error.
    pub fn has_roles(self) -> bool {
        !self.shape().roles.is_empty()
    }

    /// Can its issuers be asked about opaque tokens (RFC 7662)?
    pub fn has_introspection(self) -> bool {
        !self.shape().answer.is_empty()
    }

    /// Must its tokens have `aud`? Where not, the client's id is the audience of a token without one.
    pub fn demands_audience(self) -> bool {
        self.shape().claims.contains(&"aud")
    }
}

/// Is `typ`, as written, `application/` and this subtype?
fn is_media_type(typ: &str, subtype: &str) -> bool {
    let written = match typ.split_once('/') {
        Some((kind, subtype)) if kind.eq_ignore_ascii_case("application") => subtype,
        Some(_) => return false,
        None => typ,
    };
    written.eq_ignore_ascii_case(subtype)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod vendors;
