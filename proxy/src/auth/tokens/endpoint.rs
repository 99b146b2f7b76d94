//! Where does an issuer grant tokens, how many requests does it get at once, and which nonce does it want to see? What all
//! slots of one issuer share.

use countersign_policy::snapshot::Issuer;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::auth::issuers::Services;
use crate::auth::tokens::directory::Directory;
use crate::auth::tokens::dpop::NewestNonce;
use crate::auth::tokens::failure::{Cause, Failure};
use crate::auth::tokens::skew::Skew;
use crate::fetch::Trust;
use crate::state::certificate::Certificate;

/// Token requests that one issuer is asked to answer at once.
const AT_ONCE: usize = 4;
/// How many of them may be exchanges: whoever can send us tokens must not hold up the workload's own.
const EXCHANGES_AT_ONCE: usize = AT_ONCE - 1;

/// The token endpoint of one issuer.
#[derive(Debug)]
pub(crate) struct TokenEndpoint {
    permits: Semaphore,
    exchanges: Semaphore,
    pub(crate) directory: Directory,
    /// For proofs that go there.
    pub(crate) nonce: NewestNonce,
    /// How far the issuer's clock is from ours.
    pub skew: Skew,
}

/// One token request may be under way, until this is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    _among_all: SemaphorePermit<'a>,
    _among_exchanges: Option<SemaphorePermit<'a>>,
}

// === impl TokenEndpoint ===

impl TokenEndpoint {
    pub(crate) fn new() -> Self {
        Self {
            permits: Semaphore::new(AT_ONCE),
            exchanges: Semaphore::new(EXCHANGES_AT_ONCE),
            directory: Directory::default(),
            nonce: NewestNonce::default(),
            skew: Skew::default(),
        }
    }

    /// Waits for a turn. None when everything shuts down.
    pub(crate) async fn turn(&self, is_exchange: bool) -> Option<Turn<'_>> {
        let among_exchanges = match is_exchange {
            true => Some(self.exchanges.acquire().await.ok()?),
            false => None,
        };
        Some(Turn { _among_all: self.permits.acquire().await.ok()?, _among_exchanges: among_exchanges })
    }

    /// What policy names, else what the issuer's metadata does for those who present a certificate, or none.
    pub(crate) async fn url(
        &self,
        services: &Services,
        issuer: &Issuer,
        trust: &Trust,
        certificate: Option<&Certificate>,
    ) -> Result<String, Failure> {
        if let Some(url) = &issuer.token_endpoint {
            return Ok(url.clone());
        }
        let metadata = self.directory.metadata(services, issuer, trust).await?;
        let url = match certificate {
            Some(_) => metadata.mtls_token_endpoint(),
            None => metadata.token_endpoint.as_ref(),
        };
        url.cloned().ok_or_else(|| {
            Failure::new(Cause::Discovery, "the issuer's metadata names no token endpoint; set tokenEndpoint")
        })
    }
}
