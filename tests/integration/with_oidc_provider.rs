//! Does it work with an authorization server that we did not write?

use serde_json::json;

use crate::support::issuer::Issuer;
use crate::support::jose;
use crate::support::policy::AUDIENCE;

/// The issuer itself, without a sidecar: what fails here is not our fault.
#[test]
fn the_issuer_gives_an_rfc_9068_token() {
    for alg in ["ES256", "RS256"] {
        let issuer = Issuer::start(&json!({"alg": alg}));
        let claims = jose::decode(&issuer.token("orders:read"));
        assert_eq!(claims["iss"], issuer.url);
        assert_eq!(claims["aud"], AUDIENCE);
        assert_eq!(claims["scope"], "orders:read");
        assert_eq!(claims["client_id"], "checkout");
        assert_eq!(issuer.requests("/token"), 1);
    }
}
