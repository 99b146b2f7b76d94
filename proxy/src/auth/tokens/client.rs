//! Who are we to an issuer? A credential of policy, its files as they are right now, and the proof that goes into a request.

use std::sync::Arc;

use aws_lc_rs::digest;
use countersign_policy::snapshot::{
    AssertionAudience, AssertionType, Authentication, CertificateFiles, Credential, FileRef, Issuer,
    WorkloadTokenUse,
};
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use zeroize::Zeroizing;

use crate::auth::issuers::Services;
use crate::auth::tokens::client_auth::{self, Assertion, CredentialError};
use crate::auth::tokens::failure::{Cause, Failure};
use crate::auth::tokens::form::Form;
use crate::auth::tokens::secret::Secret;
use crate::state::certificate::Certificate;

/// Of a secret or key, in bytes.
const CREDENTIAL_LIMIT: usize = 64 * 1024;

/// A client of an issuer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client<'a> {
    pub services: &'a Services,
    pub issuer: &'a Issuer,
    pub credential: &'a Credential,
    /// The certificate that the issuer sees: to authenticate us, or to bind a token to.
    pub certificate: Option<&'a CertificateFiles>,
}

/// Who we are, as it stands in the files of a credential.
pub(crate) struct Ourselves {
    /// Secret, key or token; empty where the certificate is all there is.
    own: Zeroizing<Vec<u8>>,
    pub certificate: Option<Arc<Certificate>>,
}

/// Proof of who we are, in one form (RFC 6749 §2.3).
#[derive(Debug)]
pub(crate) enum Proof {
    Basic(HeaderValue),
    Post {
        client_id: String,
        secret: Secret,
    },
    Assertion {
        client_id: String,
        kind: AssertionType,
        assertion: Secret,
    },
    /// The connection's certificate proves it (RFC 8705 §2), or the grant does (RFC 7523 §3.1).
    Elsewhere {
        client_id: String,
    },
}

// === impl Client ===

impl<'a> Client<'a> {
    /// Hash of the content of every file that who we are depends on; one that cannot be read counts as such.
    pub(crate) fn fingerprint(self) -> [u8; 32] {
        let mut hash = digest::Context::new(&digest::SHA256);
        for file in self.files() {
            let content = self.services.files.read(file, CREDENTIAL_LIMIT);
            let content = content.as_ref().map(|content| content.as_slice()).unwrap_or(b"\0unreadable");
            hash.update(digest::digest(&digest::SHA256, content).as_ref());
        }
        // SHA-256 has that many bytes.
        hash.finish().as_ref().try_into().unwrap_or_default()
    }

    fn files(self) -> impl Iterator<Item = &'a FileRef> {
        let pair = self.certificate.map(|pair| [&pair.cert_file, &pair.key_file]);
        self.own_file().into_iter().chain(pair.into_iter().flatten())
    }

    /// The file of the client's secret, key or token.
    fn own_file(self) -> Option<&'a FileRef> {
        match &self.credential.authentication {
            Authentication::ClientSecretBasic { secret_file }
            | Authentication::ClientSecretPost { secret_file } => Some(secret_file),
            Authentication::PrivateKeyJwt { key_file, .. } => Some(key_file),
            Authentication::WorkloadToken { token_file, .. } => Some(token_file),
            Authentication::TlsClientAuth(_) => None,
        }
    }

    /// Who we are, by what stands in the files right now.
    pub(crate) fn ourselves(self) -> Result<Ourselves, Failure> {
        let own = match self.own_file() {
            Some(file) => self.services.files.read(file, CREDENTIAL_LIMIT).map_err(|error| {
                Failure::new(Cause::Credential, format!("the credential's file cannot be read: {error}"))
            })?,
            None => Zeroizing::default(),
        };
        let certificate = self.certificate.map(|pair| Certificate::read(pair, &self.services.files));
        let certificate = certificate.transpose().map_err(|error| {
            Failure::new(Cause::Credential, format!("the client certificate cannot be used: {error}"))
        })?;
        Ok(Ourselves { own, certificate: certificate.map(Arc::new) })
    }

    /// What proves it in a request to this endpoint of the issuer. An assertion is for one request.
    pub(crate) fn proof(self, ourselves: &Ourselves, endpoint: &str) -> Result<Proof, Failure> {
        let client_id = self.credential.client_id.clone();
        let own = ourselves.own.as_slice();
        match &self.credential.authentication {
            Authentication::ClientSecretBasic { .. } => client_auth::client_secret(own)
                .and_then(|secret| client_auth::basic(&client_id, secret))
                .map(Proof::Basic),
            Authentication::ClientSecretPost { .. } => client_auth::client_secret(own)
                .map(|secret| Proof::Post { client_id, secret: secret.to_owned().into() }),
            Authentication::PrivateKeyJwt { key_id, algorithm, audience, .. } => Assertion {
                client_id: &client_id,
                audience: match audience {
                    AssertionAudience::Issuer => &self.issuer.issuer,
                    AssertionAudience::TokenEndpoint => endpoint,
                },
                algorithm: *algorithm,
                key_id: key_id.as_deref(),
                now: self.services.clock.unix(),
            }
            .sign(own)
            .map(|assertion| {
                let kind = AssertionType::JwtBearer;
                Proof::Assertion { client_id: self.credential.client_id.clone(), kind, assertion }
            }),
            Authentication::TlsClientAuth(_) => Ok(Proof::Elsewhere { client_id }),
            Authentication::WorkloadToken { usage, .. } => match *usage {
                WorkloadTokenUse::ClientAssertion(kind) => client_auth::workload_token(own)
                    .map(|assertion| Proof::Assertion { client_id, kind, assertion }),
                WorkloadTokenUse::AuthorizationGrant => Ok(Proof::Elsewhere { client_id }),
            },
        }
        .map_err(|error| self.bad_credential(error))
    }

    /// The workload's own token, where that is a grant (RFC 7523 §2.1).
    pub(crate) fn grant(self, ourselves: &Ourselves) -> Result<Secret, Failure> {
        client_auth::workload_token(&ourselves.own).map_err(|error| self.bad_credential(error))
    }

    fn bad_credential(self, error: CredentialError) -> Failure {
        let file = self.own_file().map_or("the credential", |file| &file.path);
        Failure::new(Cause::Credential, format!("{file} cannot be used: {error}"))
    }
}

// === impl Proof ===

impl Proof {
    /// Puts it into a request: its form, or its `Authorization`.
    pub(crate) fn put(self, form: &mut Form, headers: &mut HeaderMap) {
        match self {
            Self::Basic(value) => {
                headers.insert(AUTHORIZATION, value);
            }
            Self::Post { client_id, secret } => {
                form.add("client_id", &client_id);
                form.add("client_secret", secret.expose());
            }
            Self::Assertion { client_id, kind, assertion } => {
                form.add("client_id", &client_id);
                form.add("client_assertion_type", assertion_type(kind));
                form.add("client_assertion", assertion.expose());
            }
            Self::Elsewhere { client_id } => form.add("client_id", &client_id),
        }
    }
}

fn assertion_type(kind: AssertionType) -> &'static str {
    match kind {
        AssertionType::JwtBearer => "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        AssertionType::JwtSpiffe => "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe",
    }
}
