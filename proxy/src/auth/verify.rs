//! Is this token what it claims to be? The verifier of inbound tokens, with its verdict caches in front.

use std::sync::{Arc, Mutex};

use countersign_policy::{PortPolicy, Reason, Token};

use crate::auth::issuers::IssuerKeys;
use crate::clock::Clock;
use crate::metrics::Metrics;

/// The last verdict of one connection, with the token's bytes.
#[derive(Debug, Default)]
pub struct LastVerdict(#[allow(dead_code)] Mutex<Option<()>>);

/// Verifies tokens; shared by all workers.
#[derive(Debug)]
pub struct Verifier {}

impl Verifier {
    pub fn new(_clock: Clock, _metrics: Arc<Metrics>) -> Self {
        todo!()
    }

    /// Verifies everything about a token but its audience: form, issuer, algorithm, key, signature, times, type and
    /// claims. `issuers` and `keys` are the snapshot's, in the same order. Waits only for an issuer's keys.
    pub async fn verify(
        &self,
        _last: &LastVerdict,
        _token: &str,
        _port: &PortPolicy,
        _issuers: &[countersign_policy::snapshot::Issuer],
        _keys: &[Arc<IssuerKeys>],
    ) -> Result<Arc<Token>, Reason> {
        todo!()
    }
}
