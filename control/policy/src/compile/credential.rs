//! How a workload proves itself to a token endpoint, checked; and filled in for one workload.

use crate::document::credential::{AuthenticationSpec, CredentialSpec, GrantWord, WorkloadTokenSpec};
use crate::field::Field;
use crate::fingerprint::Fingerprint;
use crate::snapshot::{
    Algorithm, AssertionAudience, AssertionType, Authentication, CertificateFiles, Credential, Issuer,
    IssuerId, WorkloadTokenUse,
};
use crate::source::Source;
use crate::workload::Workload;

use super::Reference;
use super::issuer::{with_certificate, with_file};
use super::report::Report;
use super::values;

/// A credential, whoever the workload is.
#[derive(Debug)]
pub(crate) struct CheckedCredential {
    /// Place of its issuer among the documents' issuers.
    pub(crate) issuer: usize,
    client_id: Template,
    pub(crate) authentication: Authentication,
}

/// A text with `{namespace}` and `{serviceAccount}` in it.
#[derive(Debug, PartialEq, Eq)]
struct Template(Vec<Part>);

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Namespace,
    ServiceAccount,
}

/// `None` only where there is a problem.
pub(crate) fn compile(
    spec: &CredentialSpec,
    issuer: Reference<usize>,
    source: &Source,
    report: &mut Report<'_>,
) -> Option<CheckedCredential> {
    let at = Field::root().key("spec");
    if matches!(issuer, Reference::Missing) {
        report.add(&at.key("issuer"), format!("there is no Issuer `{}`", spec.issuer));
    }
    let client_id = report.ok(&at.key("clientId"), Template::parse(&spec.client_id));
    let authentication = authentication(&spec.authentication, &at.key("authentication"), source, report);
    let Reference::Found(issuer) = issuer else { return None };
    Some(CheckedCredential { issuer, client_id: client_id?, authentication: authentication? })
}

fn authentication(
    spec: &AuthenticationSpec,
    at: &Field,
    source: &Source,
    report: &mut Report<'_>,
) -> Option<Authentication> {
    let written = [
        spec.client_secret_basic.is_some(),
        spec.client_secret_post.is_some(),
        spec.private_key_jwt.is_some(),
        spec.tls_client_auth.is_some(),
        spec.workload_token.is_some(),
    ];
    if written.iter().filter(|is_written| **is_written).count() != 1 {
        report.add(
            at,
            "exactly one method is expected: clientSecretBasic, clientSecretPost, privateKeyJwt, tlsClientAuth or \
             workloadToken",
        );
        return None;
    }
    if let Some(basic) = &spec.client_secret_basic {
        let at = at.key("clientSecretBasic").key("secretFile");
        let secret_file = values::file(&basic.secret_file, &at, source, report);
        return Some(Authentication::ClientSecretBasic { secret_file });
    }
    if let Some(post) = &spec.client_secret_post {
        let at = at.key("clientSecretPost").key("secretFile");
        let secret_file = values::file(&post.secret_file, &at, source, report);
        return Some(Authentication::ClientSecretPost { secret_file });
    }
    if let Some(tls) = &spec.tls_client_auth {
        let at = at.key("tlsClientAuth");
        return Some(Authentication::TlsClientAuth(CertificateFiles {
            cert_file: values::file(&tls.cert_file, &at.key("certFile"), source, report),
            key_file: values::file(&tls.key_file, &at.key("keyFile"), source, report),
        }));
    }
    if let Some(token) = &spec.workload_token {
        return Some(workload_token(token, &at.key("workloadToken"), source, report));
    }
    let jwt = spec.private_key_jwt.as_ref()?;
    let at = at.key("privateKeyJwt");
    if jwt.key_id.as_ref().is_some_and(|key_id| key_id.is_empty()) {
        report.add(&at.key("keyId"), "is an empty string: leave it out");
    }
    Some(Authentication::PrivateKeyJwt {
        key_file: values::file(&jwt.key_file, &at.key("keyFile"), source, report),
        key_id: jwt.key_id.as_ref().map(ToString::to_string),
        algorithm: jwt.algorithm.unwrap_or(Algorithm::RS256),
        audience: jwt.audience,
    })
}

fn workload_token(
    spec: &WorkloadTokenSpec,
    at: &Field,
    source: &Source,
    report: &mut Report<'_>,
) -> Authentication {
    let usage = match (spec.grant, spec.assertion_type) {
        (GrantWord::ClientCredentials, kind) => WorkloadTokenUse::ClientAssertion(kind.unwrap_or_default()),
        (GrantWord::JwtBearer, None) => WorkloadTokenUse::AuthorizationGrant,
        (GrantWord::JwtBearer, Some(_)) => {
            let message = "means nothing with `grant: jwtBearer`, where the token is the grant: remove it";
            report.add(&at.key("assertionType"), message);
            WorkloadTokenUse::AuthorizationGrant
        }
    };
    let token_file = values::file(&spec.token_file, &at.key("tokenFile"), source, report);
    Authentication::WorkloadToken { token_file, usage }
}

// === impl CheckedCredential ===

impl CheckedCredential {
    /// The client's id, where it is the same for every workload.
    pub(crate) fn plain_client_id(&self) -> Option<&str> {
        match self.client_id.0.as_slice() {
            [Part::Text(id)] => Some(id),
            _ => None,
        }
    }

    /// The credential of one workload, or why it can have none.
    pub(crate) fn fill(
        &self,
        name: String,
        id: IssuerId,
        issuer: &Issuer,
        workload: &Workload,
    ) -> Result<Credential, String> {
        let client_id = self.client_id.fill(workload)?;
        let fingerprint = fingerprint(&name, issuer, &client_id, &self.authentication);
        Ok(Credential {
            name,
            issuer: id,
            client_id,
            authentication: self.authentication.clone(),
            fingerprint,
        })
    }
}

fn fingerprint(name: &str, issuer: &Issuer, client_id: &str, authentication: &Authentication) -> [u8; 32] {
    let hash = Fingerprint::of("credential").bytes(&issuer.fingerprint).text(name).text(client_id);
    match authentication {
        Authentication::ClientSecretBasic { secret_file } => with_file(hash.text("basic"), Some(secret_file)),
        Authentication::PrivateKeyJwt { key_file, key_id, algorithm, audience } => {
            with_file(hash.text("privateKeyJwt"), Some(key_file))
                .optional(key_id.as_deref())
                .text(algorithm.as_str())
                .text(match audience {
                    AssertionAudience::Issuer => "issuer",
                    AssertionAudience::TokenEndpoint => "tokenEndpoint",
                })
        }
        Authentication::ClientSecretPost { secret_file } => with_file(hash.text("post"), Some(secret_file)),
        Authentication::TlsClientAuth(files) => with_certificate(hash.text("tlsClientAuth"), Some(files)),
        Authentication::WorkloadToken { token_file, usage } => {
            with_file(hash.text("workloadToken"), Some(token_file)).text(match usage {
                WorkloadTokenUse::ClientAssertion(AssertionType::JwtBearer) => "assertion",
                WorkloadTokenUse::ClientAssertion(AssertionType::JwtSpiffe) => "spiffe",
                WorkloadTokenUse::AuthorizationGrant => "grant",
            })
        }
    }
    .finish()
}

// === impl Template ===

impl Template {
    fn parse(text: &str) -> Result<Self, String> {
        // What a client identifier may hold (RFC 6749 §A.1).
        if text.is_empty() || !text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
            return Err("a client identifier is printable ASCII, and not empty".to_owned());
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, behind) = after.split_once('}').ok_or("a `{` without `}`")?;
            parts.push(Part::literal(before)?);
            parts.push(match name {
                "namespace" => Part::Namespace,
                "serviceAccount" => Part::ServiceAccount,
                _ => {
                    return Err(format!(
                        "`{{{name}}}` is not known: {{namespace}} and {{serviceAccount}} are"
                    ));
                }
            });
            rest = behind;
        }
        parts.push(Part::literal(rest)?);
        Ok(Self(parts))
    }

    fn fill(&self, workload: &Workload) -> Result<String, String> {
        let mut filled = String::new();
        for part in &self.0 {
            filled.push_str(match part {
                Part::Text(text) => text,
                Part::Namespace => &workload.namespace,
                Part::ServiceAccount => {
                    let account = workload.service_account.as_deref();
                    account.ok_or("the workload has no service account to put for {serviceAccount}")?
                }
            });
        }
        Ok(filled)
    }
}

// === impl Part ===

impl Part {
    fn literal(text: &str) -> Result<Self, String> {
        if text.contains('}') { Err("a `}` without `{`".to_owned()) } else { Ok(Self::Text(text.to_owned())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        let workload = Workload {
            namespace: "shop".to_owned(),
            service_account: Some("orders".to_owned()),
            ..Workload::default()
        };
        let fill = |text: &str| Template::parse(text).and_then(|template| template.fill(&workload));
        assert_eq!(fill("checkout"), Ok("checkout".to_owned()));
        assert_eq!(fill("a-{namespace}.{serviceAccount}-z"), Ok("a-shop.orders-z".to_owned()));
        for text in
            ["", "{name}", "{namespace", "namespace}", "{{namespace}}", "{ namespace }", "a\u{e9}", "{}"]
        {
            assert!(fill(text).is_err(), "{text}");
        }
        let nobody = Workload::default();
        assert!(Template::parse("{serviceAccount}").unwrap().fill(&nobody).is_err());
    }
}
