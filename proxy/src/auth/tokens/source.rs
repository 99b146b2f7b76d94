//! How does one token come? The whole of one fetch: the credential's file, the endpoint, the request, the answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_policy::snapshot::{
    Authentication, CertificateFiles, Credential, Issuer, TokenBinding, TokenRequest, WorkloadTokenUse,
};
use http::uri::Uri;
use http::{HeaderMap, HeaderValue, Method, Response};

use crate::auth::credentials::DPOP;
use crate::auth::issuers::Services;
use crate::auth::issuers::discovery;
use crate::auth::tokens::client::{Client, Ourselves, Proof};
use crate::auth::tokens::dpop::{Claims, ProofKey, target_uri};
use crate::auth::tokens::endpoint::TokenEndpoint;
use crate::auth::tokens::exchange::Subject;
use crate::auth::tokens::failure::{Cause, Failure};
use crate::auth::tokens::grant::{self, Grant};
use crate::auth::tokens::lifetime::Lifetime;
use crate::auth::tokens::metrics::TokenMetrics;
use crate::auth::tokens::secret::Secret;
use crate::auth::tokens::shown::{BoundToken, Possession, Shown};
use crate::auth::tokens::skew::{self, Change};
use crate::clock::Clock;
use crate::fetch::{Limits, Trust};
use crate::state::backoff;
use crate::state::certificate::Certificate;

/// Bytes of an answer.
const MAX_ANSWER: usize = 1024 * 1024;

/// Where one token comes from. Immutable: what policy says of it is part of the slot's key.
#[derive(Clone, Debug)]
pub(crate) struct TokenSource {
    pub services: Services,
    pub issuer: Issuer,
    pub credential: Credential,
    pub request: TokenRequest,
    pub endpoint: Arc<TokenEndpoint>,
    /// What the token is bound to by DPoP; none where policy does not say so, or no key can be made.
    pub key: Option<Arc<ProofKey>>,
    /// What is exchanged; none: the token is the workload's own.
    pub subject: Option<Arc<Subject>>,
    pub metrics: Arc<TokenMetrics>,
}

/// A token in hand.
#[derive(Debug)]
pub(crate) struct Held {
    pub shown: Shown,
    pub sent: Moment,
    pub lifetime: Lifetime,
    /// The content of the files that it was fetched with.
    pub files: [u8; 32],
    /// What was granted, where that is less than was asked for.
    pub narrowed: Option<Vec<String>>,
}

/// What became of one request.
struct Answered {
    sent: Moment,
    answer: Response<Bytes>,
    /// What was asked for.
    grant: Grant,
    /// It names a nonce for the next proof.
    renewed_nonce: bool,
}

/// A point in time, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// Since the epoch.
    pub wall: Duration,
    instant: Instant,
}

/// Hash of a credential's files; none where they were not looked at.
pub(crate) type Fingerprint = Option<[u8; 32]>;

// === impl TokenSource ===

impl TokenSource {
    /// Fetches a token, with so much time for each request, and says with which content of the credential's file.
    pub(crate) async fn fetch(&self, limit: Duration) -> (Result<Held, Failure>, Fingerprint) {
        // Held to the end: of the answer, not only of the request.
        let Some(_turn) = self.endpoint.turn(self.subject.is_some()).await else {
            return (Err(Failure::new(Cause::Internal, "the sidecar is shutting down")), None);
        };
        if self.subject_has_ended() {
            return (Err(Failure::new(Cause::Subject, "the application's token has expired")), None);
        }
        let fingerprint = self.fingerprint();
        let trouble =
            self.subject.as_ref().and_then(|subject| subject.trouble(&self.services.clock, fingerprint));
        if let Some(failure) = trouble {
            return (Err(failure), Some(fingerprint));
        }
        let result = match self.client().ourselves() {
            Ok(ourselves) => {
                let fetched = self.fetch_as(ourselves, fingerprint, limit).await;
                fetched.inspect_err(|failure| self.endpoint.directory.doubt(failure))
            }
            Err(failure) => Err(failure),
        };
        (result, Some(fingerprint))
    }

    async fn fetch_as(
        &self,
        ourselves: Ourselves,
        files: [u8; 32],
        limit: Duration,
    ) -> Result<Held, Failure> {
        let mut trust = discovery::trust(&self.services, &self.issuer)
            .map_err(|error| Failure::new(Cause::Tls, format!("the issuer cannot be trusted: {error}")))?;
        let certificate = ourselves.certificate.as_deref();
        let endpoint = self.endpoint.url(&self.services, &self.issuer, &trust, certificate).await?;
        trust.client = certificate.map(|certificate| certificate.key.clone());
        let limits = Limits { timeout: limit, body: MAX_ANSWER };
        let mut answered = self.ask(&ourselves, &endpoint, &trust, limits).await?;
        if answered.renewed_nonce && grant::demands_nonce(&answered.answer) {
            // Once: an issuer that refuses its own nonce will not mend it by being asked again.
            answered = self.ask(&ourselves, &endpoint, &trust, limits).await?;
        }
        let Answered { sent, answer, grant, .. } = answered;
        let clock = &self.services.clock;
        let granted = grant::read(answer, &self.request, &grant, clock.unix())?;

        let lifetime = Lifetime::new(granted.life, backoff::random());
        let lifetime = match self.subject.as_ref().and_then(|subject| subject.left(sent.wall)) {
            Some(left) => lifetime.within(left),
            None => lifetime,
        };
        if sent.elapsed(clock) >= lifetime.hard {
            return Err(Failure::new(Cause::Expired, "the token had expired when it arrived"));
        }
        let shown = self.shown(&granted.access_token, ourselves.certificate)?;
        Ok(Held { shown, sent, lifetime, files, narrowed: granted.narrowed })
    }

    /// Is the token bound to a certificate that has been replaced (RFC 8705 §6.3)? Files that cannot be used change nothing:
    /// they are replaced one after the other.
    pub(crate) fn is_outdated(&self, held: &Held) -> bool {
        held.shown.certificate().is_some()
            && self.fingerprint() != held.files
            && self.client().ourselves().is_ok()
    }

    /// One request, with an assertion and a proof that no other has had.
    async fn ask(
        &self,
        ourselves: &Ourselves,
        endpoint: &str,
        trust: &Trust,
        limits: Limits,
    ) -> Result<Answered, Failure> {
        let (proof, grant) = self.proof(ourselves, endpoint)?;
        let mut request = grant::request(endpoint, &self.request, &grant, proof)?;
        if let Some(key) = self.key()? {
            let proof = self.possession(key, request.uri())?;
            request.headers_mut().insert(DPOP, proof);
        }
        let sent = Moment::now(&self.services.clock);
        let answer = self.services.fetcher.send(request, trust, limits).await;
        let took = sent.instant.elapsed();
        self.metrics.observe_fetch(took);
        let answer = answer?;
        self.compare_clocks(answer.headers(), sent.wall.saturating_add(took / 2));
        let renewed_nonce = self.key.is_some() && self.endpoint.nonce.observe(answer.headers());
        Ok(Answered { sent, answer, grant, renewed_nonce })
    }

    /// The key that the token is to be bound to, if it is.
    fn key(&self) -> Result<Option<&Arc<ProofKey>>, Failure> {
        match (&self.request.binding, &self.key) {
            (TokenBinding::Key, None) => {
                Err(Failure::new(Cause::Internal, "no key can be made to bind the token to"))
            }
            (TokenBinding::Key, key) => Ok(key.as_ref()),
            (TokenBinding::None | TokenBinding::Certificate(_), _) => Ok(None),
        }
    }

    /// The proof of a token request (RFC 9449 §5).
    fn possession(&self, key: &ProofKey, uri: &Uri) -> Result<HeaderValue, Failure> {
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(Failure::new(Cause::Address, "the token endpoint's URL is not valid"));
        };
        let nonce = self.endpoint.nonce.newest();
        let claims = Claims {
            method: &Method::POST,
            uri: &target_uri(scheme, authority.as_str(), uri.path()),
            token_hash: None,
            nonce: nonce.as_deref(),
            now: self.services.clock.unix(),
        };
        key.prove(&claims).map_err(|error| Failure::new(Cause::Internal, error.to_string()))
    }

    /// What requests show of this token: bound to our certificate, to our key, or to nothing, as was asked for.
    fn shown(&self, token: &Secret, certificate: Option<Arc<Certificate>>) -> Result<Shown, Failure> {
        let (scheme, possession) = match (&self.request.binding, self.key()?, certificate) {
            (TokenBinding::Certificate(_), _, Some(certificate)) => {
                ("Bearer ", Possession::Certificate(certificate))
            }
            (TokenBinding::Key, Some(key), _) => {
                let bound = BoundToken::new(token.expose(), key.clone(), self.services.clock.clone());
                ("DPoP ", Possession::Key(Arc::new(bound)))
            }
            (TokenBinding::None, ..) => ("Bearer ", Possession::None),
            // What is to be bound is never shown as if it were not.
            (TokenBinding::Certificate(_) | TokenBinding::Key, ..) => {
                return Err(Failure::new(Cause::Internal, "there is nothing to bind the token to"));
            }
        };
        Ok(Shown { authorization: authorization(scheme, token)?, possession })
    }

    /// What the answer's `Date` says of the issuer's clock; a change of state is said once.
    fn compare_clocks(&self, headers: &HeaderMap, midpoint: Duration) {
        let Some(seconds) = skew::of(headers, midpoint) else { return };
        let Issuer { name, leeway, fingerprint, .. } = &self.issuer;
        self.metrics.skewed(fingerprint, seconds);
        match self.endpoint.skew.note(seconds, *leeway) {
            Change::None => {}
            Change::Beyond => tracing::warn!(
                issuer = %name,
                seconds,
                ?leeway,
                "the issuer's clock and ours differ by more than the issuer's leeway; synchronise them"
            ),
            Change::Within => {
                tracing::info!(issuer = %name, seconds, "the issuer's clock and ours agree again")
            }
        }
    }

    /// Is what would be exchanged at its end?
    pub(crate) fn subject_has_ended(&self) -> bool {
        self.subject.as_ref().is_some_and(|subject| subject.has_ended(self.services.clock.now()))
    }

    /// Hash of the content of every file that the token depends on; one that cannot be read counts as such.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        self.client().fingerprint()
    }

    /// Who we are to the issuer.
    fn client(&self) -> Client<'_> {
        let Self { services, issuer, credential, .. } = self;
        Client { services, issuer, credential, certificate: self.certificate_files() }
    }

    /// The certificate that the issuer sees: to authenticate us, or to bind the token to. Policy makes sure that it is one.
    fn certificate_files(&self) -> Option<&CertificateFiles> {
        match (&self.credential.authentication, &self.request.binding) {
            (Authentication::TlsClientAuth(files), _) | (_, TokenBinding::Certificate(files)) => Some(files),
            _ => None,
        }
    }

    /// What is asked for, and by whom.
    fn proof(&self, ourselves: &Ourselves, endpoint: &str) -> Result<(Proof, Grant), Failure> {
        let client = self.client();
        let grant = match (&self.credential.authentication, &self.subject) {
            (Authentication::WorkloadToken { usage: WorkloadTokenUse::AuthorizationGrant, .. }, _) => {
                Grant::JwtBearer { assertion: client.grant(ourselves)? }
            }
            (_, Some(subject)) => Grant::TokenExchange { subject: subject.clone() },
            (_, None) => Grant::ClientCredentials,
        };
        Ok((client.proof(ourselves, endpoint)?, grant))
    }
}

fn authorization(scheme: &str, token: &Secret) -> Result<HeaderValue, Failure> {
    let mut value = Secret::with_capacity(scheme.len() + token.expose().len());
    value.push_str(scheme);
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
