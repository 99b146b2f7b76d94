//! How is an issuer asked about a token (RFC 7662 §2.1)? One form with the token, and a proof of who we are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_policy::snapshot::{Authentication, CertificateFiles, Credential, Issuer};
use countersign_policy::{Reason, Token};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};

use crate::auth::introspect::answer;
use crate::auth::introspect::metrics::IntrospectionMetrics;
use crate::auth::issuers::discovery;
use crate::auth::issuers::{IssuerKeys, Services};
use crate::auth::tokens::client::{Client, Ourselves};
use crate::auth::tokens::directory::Directory;
use crate::auth::tokens::failure::{Cause, Failure};
use crate::auth::tokens::form::Form;
use crate::auth::tokens::grant;
use crate::auth::tokens::source::Fingerprint;
use crate::fetch::{Limits, Trust};

/// Of one question. What it says of one token is no more than a token may say itself.
const LIMITS: Limits = Limits { timeout: Duration::from_secs(5), body: 64 * 1024 };

/// Whom we ask, and as whom.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) services: Services,
    pub(super) issuer: Issuer,
    pub(super) credential: Credential,
    /// For answers that are signed.
    keys: Arc<IssuerKeys>,
    directory: Directory,
}

/// Where the question goes, and what the issuer calls its token endpoint, which an assertion may have to name.
struct Endpoints {
    introspection: String,
    token: String,
}

// === impl Question ===

impl Question {
    pub(super) fn new(
        services: &Services,
        issuer: &Issuer,
        credential: &Credential,
        keys: &Arc<IssuerKeys>,
    ) -> Self {
        Self {
            services: services.clone(),
            issuer: issuer.clone(),
            credential: credential.clone(),
            keys: keys.clone(),
            directory: Directory::default(),
        }
    }

    /// Asks. What the issuer says of the token, or why it could not be asked; and with which content of our files.
    pub(super) async fn put(
        &self,
        token: &str,
        metrics: &IntrospectionMetrics,
    ) -> (Result<Result<Token, Reason>, Failure>, Fingerprint) {
        let fingerprint = self.fingerprint();
        let said = match self.client().ourselves() {
            Ok(ourselves) => self.put_as(&ourselves, token, metrics).await,
            Err(failure) => Err(failure),
        };
        (said.inspect_err(|failure| self.directory.doubt(failure)), Some(fingerprint))
    }

    /// Hash of the content of our files.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        self.client().fingerprint()
    }

    async fn put_as(
        &self,
        ourselves: &Ourselves,
        token: &str,
        metrics: &IntrospectionMetrics,
    ) -> Result<Result<Token, Reason>, Failure> {
        let mut trust = discovery::trust(&self.services, &self.issuer)
            .map_err(|error| Failure::new(Cause::Tls, format!("the issuer cannot be trusted: {error}")))?;
        let endpoints = self.endpoints(&trust).await?;
        trust.client = ourselves.certificate.as_deref().map(|certificate| certificate.key.clone());
        let request = self.request(ourselves, &endpoints, token)?;
        let started = Instant::now();
        let answer = self.services.fetcher.send(request, &trust, LIMITS).await;
        metrics.took(started.elapsed());
        self.read(answer?).await
    }

    fn request(
        &self,
        ourselves: &Ourselves,
        endpoints: &Endpoints,
        token: &str,
    ) -> Result<Request<Bytes>, Failure> {
        let proof = self.client().proof(ourselves, &endpoints.token)?;
        let mut form = Form::with_room_for(token.len());
        form.add("token", token);
        form.add("token_type_hint", "access_token");
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&endpoints.introspection)
            .body(Bytes::new())
            .map_err(|_| Failure::new(Cause::Address, "the introspection endpoint's URL is not valid"))?;
        proof.put(&mut form, request.headers_mut());
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        *request.body_mut() = form.into_bytes();
        Ok(request)
    }

    async fn read(&self, answer: Response<Bytes>) -> Result<Result<Token, Reason>, Failure> {
        let (head, body) = answer.into_parts();
        let now = self.services.clock.unix();
        if head.status == StatusCode::OK {
            return answer::read(&head.headers, &body, self, now).await;
        }
        let failure = grant::refused(head.status, &head.headers, &body, now);
        match failure.cause {
            // It does not even look at such a token (one that looks like a JWT, say). Whoever can send us one must not make us
            // believe that the issuer is ill.
            Cause::Rejected | Cause::InvalidRequest if head.status == StatusCode::BAD_REQUEST => {
                tracing::debug!(issuer = %self.issuer.name, "a question about a token is refused: {failure}");
                Ok(Err(Reason::Inactive))
            }
            _ => Err(failure),
        }
    }

    /// The key that signed an answer, and the issuer's other keys with it.
    pub(super) fn keys(&self) -> &IssuerKeys {
        &self.keys
    }

    fn client(&self) -> Client<'_> {
        let Self { services, issuer, credential, .. } = self;
        Client { services, issuer, credential, certificate: self.certificate_files() }
    }

    fn certificate_files(&self) -> Option<&CertificateFiles> {
        match &self.credential.authentication {
            Authentication::TlsClientAuth(files) => Some(files),
            _ => None,
        }
    }

    /// What policy names, else what the issuer's metadata does for those who present a certificate, or none.
    async fn endpoints(&self, trust: &Trust) -> Result<Endpoints, Failure> {
        if let Some(introspection) = self.issuer.introspection_endpoint.clone() {
            let token = self.issuer.token_endpoint.clone().unwrap_or_else(|| introspection.clone());
            return Ok(Endpoints { introspection, token });
        }
        let metadata = self.directory.metadata(&self.services, &self.issuer, trust).await?;
        let introspection = match self.certificate_files() {
            Some(_) => metadata.mtls_introspection_endpoint(),
            None => metadata.introspection_endpoint.as_ref(),
        };
        let introspection = introspection.cloned().ok_or_else(|| {
            let text = "the issuer's metadata names no introspection endpoint; set introspectionEndpoint";
            Failure::new(Cause::Discovery, text)
        })?;
        let token = self.issuer.token_endpoint.clone().or(metadata.token_endpoint);
        Ok(Endpoints { token: token.unwrap_or_else(|| introspection.clone()), introspection })
    }
}
