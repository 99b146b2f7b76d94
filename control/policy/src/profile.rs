//! Which claims does an issuer use for what? The token profiles: named presets, one per kind of issuer.

use serde::Deserialize;

/// How the tokens of an issuer look. The table of DESIGN, as data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// JWT access tokens as RFC 9068 wants them.
    #[default]
    Rfc9068,
    /// Any issuer that signs JWTs.
    Generic,
    Keycloak,
    Entra,
    Cognito,
    /// Service-account tokens of a Kubernetes API server.
    Kubernetes,
    /// SPIFFE JWT-SVID.
    JwtSvid,
}

impl Profile {
    /// Is `typ` (RFC 7515 §4.1.9, as written or absent) one that this profile accepts?
    pub fn accepts_type(self, _typ: Option<&str>) -> bool {
        todo!()
    }

    /// Why these verified claims are not an access token of this profile: a demanded claim is missing or has the wrong
    /// type (`missing_claim`, `wrong_type`), else the token that they describe. `exp` and `nbf` are not compared with a
    /// clock here.
    pub fn token(
        self,
        _issuer: &std::sync::Arc<str>,
        _claims: serde_json::Map<String, serde_json::Value>,
    ) -> Result<crate::Token, crate::Reason> {
        todo!()
    }
}
