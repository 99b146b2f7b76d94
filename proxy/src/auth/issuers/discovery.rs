//! Where are an issuer's endpoints? Its metadata, by RFC 8414, else OpenID Connect Discovery; for key sets and for the
//! token endpoint alike.

use std::time::Duration;

use bytes::Bytes;
use countersign_policy::snapshot::Issuer;
use http::header::IF_NONE_MATCH;
use http::{HeaderValue, Request, Response};
use serde::Deserialize;

use crate::auth::issuers::Services;
use crate::fetch::{FetchError, Limits, Trust};
use crate::state::files::FileError;

/// Of metadata and key sets: 5 s, 1 MiB (IN-12).
pub(crate) const LIMITS: Limits = Limits { timeout: Duration::from_secs(5), body: 1024 * 1024 };
/// Of a `caFile`, in bytes.
const CA_LIMIT: usize = 1024 * 1024;

/// What we use of an authorization server's metadata (RFC 8414 §2).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Metadata {
    issuer: String,
    pub(crate) jwks_uri: Option<String>,
    pub(crate) token_endpoint: Option<String>,
    /// RFC 7662.
    pub(crate) introspection_endpoint: Option<String>,
    mtls_endpoint_aliases: Option<Aliases>,
}

/// Where clients with a certificate turn to (RFC 8705 §5).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Aliases {
    token_endpoint: Option<String>,
    introspection_endpoint: Option<String>,
}

/// Why something could not be had from an issuer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssuerError {
    #[error("its caFile cannot be used: {0}")]
    CaFile(FileError),
    #[error("{url}: {error}")]
    Fetch { url: String, error: FetchError },
    #[error("{url} answers with status {status}")]
    Status { url: String, status: u16 },
    #[error("{0} is not a usable URL")]
    Url(String),
    #[error("{0} is not authorization server metadata")]
    NotMetadata(String),
    #[error(
        "{url} is the metadata of another issuer, {found:?}: write that one in policy, or ask the right server"
    )]
    OtherIssuer { url: String, found: String },
    #[error("its identifier has a query or fragment, so its metadata cannot be found: name its endpoints")]
    Identifier,
}

// === impl Metadata ===

impl Metadata {
    /// The token endpoint for clients with a certificate: its alias, else the one for all (RFC 8705 §5).
    pub(crate) fn mtls_token_endpoint(&self) -> Option<&String> {
        let alias = self.mtls_endpoint_aliases.as_ref().and_then(|aliases| aliases.token_endpoint.as_ref());
        alias.or(self.token_endpoint.as_ref())
    }

    /// The introspection endpoint for clients with a certificate: its alias, else the one for all (RFC 8705 §5).
    pub(crate) fn mtls_introspection_endpoint(&self) -> Option<&String> {
        let aliases = self.mtls_endpoint_aliases.as_ref();
        let alias = aliases.and_then(|aliases| aliases.introspection_endpoint.as_ref());
        alias.or(self.introspection_endpoint.as_ref())
    }
}

/// Asks the issuer for its metadata. What names another issuer is discarded (RFC 8414 §3.3).
pub(crate) async fn discover(
    services: &Services,
    issuer: &Issuer,
    trust: &Trust,
) -> Result<Metadata, IssuerError> {
    let [oauth, openid] = metadata_urls(&issuer.issuer)?;
    match metadata(services, issuer, trust, &oauth).await {
        // What did not answer will not answer at another path.
        Err(error @ IssuerError::Fetch { error: FetchError::Connect(_) | FetchError::Timeout(_), .. }) => {
            Err(error)
        }
        Err(first) => metadata(services, issuer, trust, &openid).await.map_err(|second| match second {
            // The first says more, where the second is simply not there.
            IssuerError::Status { status: 404, .. } => first,
            second => second,
        }),
        Ok(metadata) => Ok(metadata),
    }
}

/// Whom to trust for this issuer's endpoints. Read each time, so that a new CA needs no restart.
pub(crate) fn trust(services: &Services, issuer: &Issuer) -> Result<Trust, IssuerError> {
    let ca_pem = match &issuer.ca_file {
        Some(file) => Some(services.files.read(file, CA_LIMIT).map_err(IssuerError::CaFile)?),
        None => None,
    };
    let ca_pem = ca_pem.map(|pem| Bytes::copy_from_slice(&pem));
    Ok(Trust { ca_pem, insecure: issuer.insecure, client: None })
}

/// One GET, whatever its status.
pub(crate) async fn get(
    services: &Services,
    trust: &Trust,
    url: &str,
    etag: Option<&HeaderValue>,
) -> Result<Response<Bytes>, IssuerError> {
    let mut request = Request::get(url).body(Bytes::new()).map_err(|_| IssuerError::Url(url.to_owned()))?;
    if let Some(etag) = etag {
        request.headers_mut().insert(IF_NONE_MATCH, etag.clone());
    }
    let answer = services.fetcher.send(request, trust, LIMITS).await;
    answer.map_err(|error| IssuerError::Fetch { url: url.to_owned(), error })
}

async fn metadata(
    services: &Services,
    issuer: &Issuer,
    trust: &Trust,
    url: &str,
) -> Result<Metadata, IssuerError> {
    let answer = get(services, trust, url, None).await?;
    if answer.status() != 200 {
        return Err(IssuerError::Status { url: url.to_owned(), status: answer.status().as_u16() });
    }
    let metadata: Metadata =
        serde_json::from_slice(answer.body()).map_err(|_| IssuerError::NotMetadata(url.to_owned()))?;
    if *metadata.issuer != *issuer.issuer {
        return Err(IssuerError::OtherIssuer { url: url.to_owned(), found: metadata.issuer });
    }
    Ok(metadata)
}

/// RFC 8414 §3.1: the well-known path goes between host and path. OpenID Connect Discovery §4.1: it goes to the end.
fn metadata_urls(issuer: &str) -> Result<[String; 2], IssuerError> {
    if issuer.contains(['?', '#']) {
        return Err(IssuerError::Identifier);
    }
    let issuer = issuer.strip_suffix('/').unwrap_or(issuer);
    let start = issuer.find("://").map_or(0, |scheme| scheme.saturating_add(3));
    let path = issuer.get(start..).and_then(|rest| rest.find('/')).map(|at| at.saturating_add(start));
    let (origin, path) = path.and_then(|at| issuer.split_at_checked(at)).unwrap_or((issuer, ""));
    Ok([
        format!("{origin}/.well-known/oauth-authorization-server{path}"),
        format!("{issuer}/.well-known/openid-configuration"),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c24_where_metadata_is_found() {
        for (issuer, oauth, openid) in [
            (
                "https://as.example",
                "https://as.example/.well-known/oauth-authorization-server",
                "https://as.example/.well-known/openid-configuration",
            ),
            (
                "https://as.example/",
                "https://as.example/.well-known/oauth-authorization-server",
                "https://as.example/.well-known/openid-configuration",
            ),
            (
                "https://as.example:8443/realms/shop",
                "https://as.example:8443/.well-known/oauth-authorization-server/realms/shop",
                "https://as.example:8443/realms/shop/.well-known/openid-configuration",
            ),
            (
                "https://as.example/a/b/",
                "https://as.example/.well-known/oauth-authorization-server/a/b",
                "https://as.example/a/b/.well-known/openid-configuration",
            ),
        ] {
            assert_eq!(metadata_urls(issuer).unwrap(), [oauth, openid]);
        }
        for issuer in ["https://as.example?x=1", "https://as.example/a#b"] {
            assert!(matches!(metadata_urls(issuer), Err(IssuerError::Identifier)));
        }
    }
}
