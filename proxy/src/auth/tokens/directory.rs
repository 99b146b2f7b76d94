//! Where are an issuer's endpoints, by what its metadata said last? Kept for an hour, asked again in doubt, and good through
//! an outage.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_policy::snapshot::Issuer;

use crate::auth::issuers::Services;
use crate::auth::issuers::discovery::{self, IssuerError, Metadata};
use crate::auth::tokens::failure::{Cause, Failure};
use crate::auth::tokens::source::Moment;
use crate::fetch::Trust;

/// How long the issuer's metadata is taken for granted.
const METADATA_TTL: Duration = Duration::from_secs(3600);

/// The metadata of one issuer.
#[derive(Debug, Default)]
pub(crate) struct Directory(Mutex<Option<Discovered>>);

/// What the issuer's metadata said.
#[derive(Clone, Debug)]
struct Discovered {
    metadata: Metadata,
    /// None: it did not work there, so the metadata is asked again.
    at: Option<Moment>,
}

// === impl Directory ===

impl Directory {
    /// The issuer's metadata. While it cannot be had, what it said last.
    pub(crate) async fn metadata(
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

    /// A request to an endpoint failed so that it may be the wrong place.
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    Failure::new(Cause::Discovery, format!("the endpoint cannot be found: {text}"))
}
