//! How does one token come? The whole of one fetch: the credential's file, the endpoint, the request, the answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use countersign_policy::snapshot::{
    AssertionAudience, Authentication, Credential, FileRef, Issuer, TokenRequest,
};
use http::HeaderValue;

use crate::auth::issuers::Services;
use crate::auth::issuers::discovery;
use crate::auth::tokens::client_auth::{self, Assertion, CredentialError};
use crate::auth::tokens::endpoint::TokenEndpoint;
use crate::auth::tokens::failure::{Cause, Failure};
use crate::auth::tokens::grant::{self, Proof};
use crate::auth::tokens::lifetime::Lifetime;
use crate::auth::tokens::metrics::TokenMetrics;
use crate::auth::tokens::secret::Secret;
use crate::clock::Clock;
use crate::fetch::Limits;
use crate::state::backoff;

/// Of one token request.
const LIMITS: Limits = Limits { timeout: Duration::from_secs(10), body: 1024 * 1024 };
/// Of a secret or key, in bytes.
const CREDENTIAL_LIMIT: usize = 64 * 1024;

/// Where one token comes from. Immutable: what policy says of it is part of the slot's key.
#[derive(Debug)]
pub(crate) struct TokenSource {
    pub services: Services,
    pub issuer: Issuer,
    pub credential: Credential,
    pub request: TokenRequest,
    pub endpoint: Arc<TokenEndpoint>,
    pub metrics: Arc<TokenMetrics>,
}

/// A token in hand.
#[derive(Debug)]
pub(crate) struct Held {
    /// The value of `Authorization`; marked sensitive, wiped with its last clone.
    pub authorization: HeaderValue,
    pub sent: Moment,
    pub lifetime: Lifetime,
    /// What was granted, where that is less than was asked for.
    pub narrowed: Option<Vec<String>>,
}

/// A point in time, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// Since the epoch.
    pub wall: Duration,
    instant: Instant,
}

/// Hash of a credential's file; none for one that cannot be read.
pub(crate) type Fingerprint = Option<[u8; 32]>;

// === impl TokenSource ===

impl TokenSource {
    /// Fetches a token, and says with which content of the credential's file.
    pub(crate) async fn fetch(&self) -> (Result<Held, Failure>, Fingerprint) {
        // Held to the end: of the answer, not only of the request.
        let Some(_turn) = self.endpoint.turn().await else {
            return (Err(Failure::new(Cause::Internal, "the sidecar is shutting down")), None);
        };
        let file = self.services.files.read(self.credential_file(), CREDENTIAL_LIMIT);
        let fingerprint = file.as_ref().ok().map(|content| fingerprint(content));
        let result = match file {
            Ok(content) => {
                self.fetch_with(&content).await.inspect_err(|failure| self.endpoint.doubt(failure))
            }
            Err(error) => {
                Err(Failure::new(Cause::Credential, format!("the credential's file cannot be read: {error}")))
            }
        };
        (result, fingerprint)
    }

    async fn fetch_with(&self, credential: &[u8]) -> Result<Held, Failure> {
        let trust = discovery::trust(&self.services, &self.issuer)
            .map_err(|error| Failure::new(Cause::Tls, format!("the issuer cannot be trusted: {error}")))?;
        let endpoint = self.endpoint.url(&self.services, &self.issuer, &trust).await?;
        let proof = self.proof(credential, &endpoint)?;
        let request = grant::request(&endpoint, &self.request, proof)?;

        let clock = &self.services.clock;
        let sent = Moment::now(clock);
        let answer = self.services.fetcher.send(request, &trust, LIMITS).await;
        self.metrics.observe_fetch(sent.instant.elapsed());
        let granted = grant::read(answer?, &self.request, clock.unix())?;

        let lifetime = Lifetime::new(granted.life, backoff::random());
        if sent.elapsed(clock) >= lifetime.hard {
            return Err(Failure::new(Cause::Expired, "the token had expired when it arrived"));
        }
        let authorization = bearer(&granted.access_token)?;
        Ok(Held { authorization, sent, lifetime, narrowed: granted.narrowed })
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let content = self.services.files.read(self.credential_file(), CREDENTIAL_LIMIT).ok()?;
        Some(fingerprint(&content))
    }

    fn credential_file(&self) -> &FileRef {
        match &self.credential.authentication {
            Authentication::ClientSecretBasic { secret_file } => secret_file,
            Authentication::PrivateKeyJwt { key_file, .. } => key_file,
        }
    }

    fn proof(&self, file: &[u8], endpoint: &str) -> Result<Proof, Failure> {
        let client_id = &self.credential.client_id;
        let proof = match &self.credential.authentication {
            Authentication::ClientSecretBasic { .. } => client_auth::client_secret(file)
                .and_then(|secret| client_auth::basic(client_id, secret))
                .map(Proof::Basic),
            Authentication::PrivateKeyJwt { key_id, algorithm, audience, .. } => Assertion {
                client_id,
                audience: match audience {
                    AssertionAudience::Issuer => &self.issuer.issuer,
                    AssertionAudience::TokenEndpoint => endpoint,
                },
                algorithm: *algorithm,
                key_id: key_id.as_deref(),
                now: self.services.clock.unix(),
            }
            .sign(file)
            .map(|assertion| Proof::Assertion { client_id: client_id.clone(), assertion }),
        };
        proof.map_err(|error| self.bad_credential(error))
    }

    fn bad_credential(&self, error: CredentialError) -> Failure {
        Failure::new(Cause::Credential, format!("{} cannot be used: {error}", self.credential_file().path))
    }
}

fn fingerprint(content: &[u8]) -> [u8; 32] {
    // SHA-256 has that many bytes.
    digest::digest(&digest::SHA256, content).as_ref().try_into().unwrap_or_default()
}

fn bearer(token: &Secret) -> Result<HeaderValue, Failure> {
    let mut value = Secret::with_capacity("Bearer ".len() + token.expose().len());
    value.push_str("Bearer ");
    value.push_str(token.expose());
    let value = HeaderValue::from_maybe_shared(value.into_bytes());
    let mut value =
        value.map_err(|_| Failure::malformed("its access_token does not fit into a header field"))?;
    value.set_sensitive(true);
    Ok(value)
}

// === impl Moment ===

impl Moment {
    pub(crate) fn now(clock: &Clock) -> Self {
        Self { wall: clock.now(), instant: Instant::now() }
    }

    /// Time since then, by the clock that says more: the monotonic one stands still while the machine sleeps, the wall clock
    /// can be set back.
    pub(crate) fn elapsed(&self, clock: &Clock) -> Duration {
        clock.now().saturating_sub(self.wall).max(self.instant.elapsed())
    }

    /// As if it had been so much later on the wall clock alone, which then was set back.
    #[cfg(test)]
    pub(crate) fn ahead(self, by: Duration) -> Self {
        Self { wall: self.wall.saturating_add(by), ..self }
    }
}

#[cfg(test)]
mod tests;
