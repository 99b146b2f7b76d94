//! Why do we refuse, and what do we tell the caller? A refusal, the same for every protocol; each protocol has one
//! function that turns it into an answer.

mod cause;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use countersign_policy::snapshot::RuleName;
use countersign_policy::{Explanation, Reason};

pub use self::cause::Cause;

/// A request that is not let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    /// What went wrong on the way to the upstream, if that is why.
    pub cause: Option<Cause>,
    /// The inbound rule that refused, or whose scopes are lacking.
    pub rule: Option<Arc<RuleName>>,
    /// For `insufficient_scope`: the scopes that would do.
    pub scopes: Vec<String>,
    /// For what may work later: when to come back.
    pub retry_after: Option<Duration>,
    /// What the challenge tells beside the error.
    pub offers: Offers,
    /// The request is under way to the upstream, and sent again it might be carried out twice (RFC 9110 §9.2.2): the challenge does not
    /// ask for another token.
    pub is_unrepeatable: bool,
    /// For the operator; the caller never learns of it.
    pub explained: Explained,
}

/// What there is to say of a refusal beside its reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Explained {
    /// Policy was not asked.
    #[default]
    Nothing,
    /// Too many refusals at once.
    Skipped,
    Fully(Arc<Explanation>),
}

/// What would be welcome in the place of what was shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// Where the metadata of the resource is (RFC 9728 §5.1): a URL from policy, in which nothing needs quoting.
    pub metadata: Option<String>,
    /// A token that is bound to a key, with a proof (RFC 9449 §7.1).
    pub dpop: bool,
}

// === impl Explained ===

impl Explained {
    /// What it takes in memory, about, in bytes.
    pub fn weight(&self) -> usize {
        match self {
            Self::Nothing | Self::Skipped => 0,
            Self::Fully(explanation) => explanation.weight(),
        }
    }
}

// === impl Refusal ===

impl Refusal {
    /// The value of `Retry-After` (RFC 9110 §10.2.3), in whole seconds, at least one.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        let after = match (self.reason.status(), self.retry_after) {
            (503, after) => after.unwrap_or(Duration::from_secs(1)),
            _ => return None,
        };
        Some(after.as_secs().saturating_add(u64::from(after.subsec_nanos() > 0)).max(1))
    }

    /// The value of `Proxy-Status` (RFC 9209): what caused it, in one word of a closed list.
    pub fn proxy_status(&self) -> &'static str {
        self.cause.map_or_else(|| cause::of_ours(self.reason), Cause::proxy_status)
    }

    /// The status that a gRPC caller gets.
    pub fn grpc_status(&self) -> u8 {
        self.cause.map_or_else(|| self.reason.grpc_status(), Cause::grpc_status)
    }

    /// The value of `WWW-Authenticate` (RFC 6750 §3, RFC 9449 §7.1, RFC 9728 §5.1). Made of fixed words, and of scopes and a URL
    /// that policy names, whose characters the policy language has checked, so nothing in it needs quoting.
    pub fn challenge(&self) -> Option<String> {
        let reason = self.reason;
        let error = match reason {
            Reason::MissingToken => None,
            Reason::ProofInvalid | Reason::ProofReplayed => {
                let mut challenge = format!("DPoP error=\"invalid_dpop_proof\", algs=\"{PROOF_ALGORITHMS}\"");
                self.name_metadata(&mut challenge);
                return Some(challenge);
            }
            Reason::MultipleTokens => Some("invalid_request"),
            Reason::InsufficientScope => Some("insufficient_scope"),
            _ if reason.status() == 401 && self.is_unrepeatable => None,
            _ if reason.status() == 401 => Some("invalid_token"),
            _ => return None,
        };
        let mut challenge = format!("Bearer realm=\"{REALM}\"");
        // Writing to a String cannot fail.
        if let Some(error) = error {
            let _ = write!(challenge, ", error=\"{error}\", error_description=\"{}\"", reason.title());
        }
        if reason == Reason::InsufficientScope && !self.scopes.is_empty() {
            let _ = write!(challenge, ", scope=\"{}\"", self.scopes.join(" "));
        }
        self.name_metadata(&mut challenge);
        if self.offers.dpop && reason.status() == 401 {
            let _ = write!(challenge, ", DPoP algs=\"{PROOF_ALGORITHMS}\"");
        }
        Some(challenge)
    }

    fn name_metadata(&self, challenge: &mut String) {
        if let Some(url) = &self.offers.metadata {
            let _ = write!(challenge, ", resource_metadata=\"{url}\"");
        }
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            cause: None,
            rule: None,
            scopes: Vec::new(),
            retry_after: None,
            offers: Offers::default(),
            is_unrepeatable: false,
            explained: Explained::Nothing,
        }
    }
}

impl From<Cause> for Refusal {
    fn from(cause: Cause) -> Self {
        Self { cause: Some(cause), ..cause.reason().into() }
    }
}

/// What a DPoP proof may be signed with (RFC 9449 §7.1): all that the verifier knows, the usual one first.
pub const PROOF_ALGORITHMS: &str = "ES256 ES384 EdDSA Ed25519 PS256 PS384 PS512 RS256 RS384 RS512";

/// The protection space that challenges name (RFC 9110 §11.5).
const REALM: &str = "countersign";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v3_every_401_has_a_challenge_with_a_parameter() {
        for &reason in Reason::ALL.iter().filter(|reason| reason.status() == 401) {
            let challenge = Refusal::from(reason).challenge().unwrap();
            assert!(challenge.contains('='), "{reason}: {challenge}");
        }
    }

    #[test]
    fn v4_no_credentials_no_error_code() {
        assert_eq!(Refusal::from(Reason::MissingToken).challenge().unwrap(), "Bearer realm=\"countersign\"");
    }

    #[test]
    fn v5_a_token_that_will_not_do_is_invalid_token() {
        let others = [Reason::MissingToken, Reason::ProofInvalid, Reason::ProofReplayed];
        for &reason in Reason::ALL.iter().filter(|reason| !others.contains(reason)) {
            let challenge = Refusal::from(reason).challenge().unwrap_or_default();
            let is_invalid_token =
                challenge.starts_with("Bearer ") && challenge.contains("error=\"invalid_token\"");
            assert_eq!(is_invalid_token, reason.status() == 401, "{reason}: {challenge}");
        }
    }

    #[test]
    fn v6_insufficient_scope_lists_the_scopes() {
        let scopes = vec!["orders:write".to_owned(), "orders:read".to_owned()];
        let refusal = Refusal { scopes, ..Reason::InsufficientScope.into() };
        assert!(refusal.challenge().unwrap().ends_with("scope=\"orders:write orders:read\""));
    }

    #[test]
    fn v36_challenges_name_the_metadata_and_offer_proofs_where_they_are_wanted() {
        let url = "https://orders.shop/.well-known/oauth-protected-resource";
        let offers = Offers { metadata: Some(url.to_owned()), dpop: true };
        let challenge =
            |reason: Reason| Refusal { offers: offers.clone(), ..reason.into() }.challenge().unwrap();
        let named = format!("resource_metadata=\"{url}\"");
        let algorithms = format!("algs=\"{PROOF_ALGORITHMS}\"");
        let missing = challenge(Reason::MissingToken);
        assert_eq!(missing, format!("Bearer realm=\"countersign\", {named}, DPoP {algorithms}"));
        let mismatch = challenge(Reason::BindingMismatch);
        assert!(
            mismatch.contains("error=\"invalid_token\"")
                && mismatch.ends_with(&format!("{named}, DPoP {algorithms}"))
        );
        let under_way = Refusal { is_unrepeatable: true, ..Reason::Expired.into() };
        assert_eq!(
            under_way.challenge().unwrap(),
            "Bearer realm=\"countersign\"",
            "no client tries again by this"
        );
        let proof = challenge(Reason::ProofInvalid);
        assert_eq!(proof, format!("DPoP error=\"invalid_dpop_proof\", {algorithms}, {named}"));
        assert!(challenge(Reason::InsufficientScope).ends_with(&named), "a proof is not what is lacking");
    }

    #[test]
    fn v7_titles_fit_the_charset_of_error_description() {
        for reason in Reason::ALL {
            let fits = |c: char| matches!(c, ' '..='!' | '#'..='[' | ']'..='~');
            assert!(reason.title().chars().all(fits), "{reason}");
        }
    }

    #[test]
    fn only_what_may_work_later_has_retry_after() {
        for &reason in Reason::ALL {
            let refusal = Refusal { retry_after: Some(Duration::from_millis(1500)), ..reason.into() };
            assert_eq!(refusal.retry_after_seconds(), (reason.status() == 503).then_some(2), "{reason}");
        }
    }
}
