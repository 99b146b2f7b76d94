//! Where does an issuer grant tokens, how many requests does it get at once, and which nonce does it want to see? What all
//! slots of one issuer share.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_policy::snapshot::Issuer;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::auth::issuers::Services;
use crate::auth::issuers::discovery::{self, IssuerError, Metadata};
use crate::auth::tokens::dpop::NewestNonce;
use crate::auth::tokens::failure::{Cause, Failure};
use crate::auth::tokens::skew::Skew;
use crate::auth::tokens::source::Moment;
use crate::fetch::Trust;
use crate::state::certificate::Certificate;

/// Token requests that one issuer is asked to answer at once.
const AT_ONCE: usize = 4;
/// How many of them may be exchanges: whoever can send us tokens must not hold up the workload's own.
const EXCHANGES_AT_ONCE: usize = AT_ONCE - 1;
/// How long the issuer's metadata is taken for granted.
const METADATA_TTL: Duration = Duration::from_secs(3600);

/// The token endpoint of one issuer.
#[derive(Debug)]
pub(crate) struct TokenEndpoint {
    permits: Semaphore,
    exchanges: Semaphore,
    discovered: Mutex<Option<Discovered>>,
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

/// What the issuer's metadata said.
#[derive(Clone, Debug)]
struct Discovered {
    metadata: Metadata,
    /// None: it did not work there, so the metadata is asked again.
    at: Option<Moment>,
}

// === impl TokenEndpoint ===

impl TokenEndpoint {
    pub(crate) fn new() -> Self {
        Self {
            permits: Semaphore::new(AT_ONCE),
            exchanges: Semaphore::new(EXCHANGES_AT_ONCE),
            discovered: Mutex::default(),
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
        let metadata = self.metadata(services, issuer, trust).await?;
        let url = match certificate {
            Some(_) => metadata.mtls_token_endpoint(),
            None => metadata.token_endpoint.as_ref(),
        };
        url.cloned().ok_or_else(|| {
            Failure::new(Cause::Discovery, "the issuer's metadata names no token endpoint; set tokenEndpoint")
        })
    }

    /// The issuer's metadata. While it cannot be had, what it said last.
    async fn metadata(
        &self,
        services: &Services,
        issuer: &Issuer,
        trust: &Trust,
    ) -> Result<Metadata, Failure> {
        let known = self.lock().clone();
        let fresh = |at: &Moment| at.elapsed(&services.clock) < METADATA_TTL;
        if let Some(Discovered { metadata, at: Some(at) }) = &known
            && fresh(at)
        {
            return Ok(metadata.clone());
        }
        match discovery::discover(services, issuer, trust).await {
            Ok(metadata) => {
                let at = Some(Moment::now(&services.clock));
                *self.lock() = Some(Discovered { metadata: metadata.clone(), at });
                Ok(metadata)
            }
            Err(error) => known.map(|known| known.metadata).ok_or_else(|| undiscovered(error)),
        }
    }

    /// A request there failed so that it may be the wrong place.
    pub(crate) fn doubt(&self, failure: &Failure) {
        let wrong_place = matches!(
            failure.cause,
            Cause::Discovery
                | Cause::Address
                | Cause::Connect
                | Cause::Tls
                | Cause::Redirect
                | Cause::Rejected
        );
        if let (true, Some(known)) = (wrong_place, self.lock().as_mut()) {
            known.at = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Discovered>> {
        self.discovered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn undiscovered(error: IssuerError) -> Failure {
    let text = match error {
        // Without the name that the server gave itself.
        IssuerError::OtherIssuer { url, .. } => {
            format!("{url} is the metadata of another issuer; write that one in policy")
        }
        error => error.to_string(),
    };
    Failure::new(Cause::Discovery, format!("the token endpoint cannot be found: {text}"))
}
