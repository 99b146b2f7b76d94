//! What does a case ask? From its text to a request, with the token that its issuer would have issued.

use std::net::Ipv4Addr;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;

use super::case::Case;
use super::expected::{self, Expected};
use crate::asked::{self, Asked, CERTIFICATE, Shown};
use crate::compile::report::Report;
use crate::compile::values;
use crate::document::policy_test::{
    self, CaseSpec, ExpectWord, HeldWord, PolicyTestSpec, SaidSpec, ShownSpec,
};
use crate::document::words::{self, Text};
use crate::documents::Documents;
use crate::field::Field;
use crate::headers::Underscores;
use crate::host;
use crate::inbound::PortProtocol;
use crate::profile::{Said, Unsayable};
use crate::reason::Reason;
use crate::request::{Binding, Peer, Token};
use crate::spiffe;

/// [`CERTIFICATE`], and the key of every caller that holds one: SHA-256 thumbprints, in base64url.
const CERTIFICATE_TEXT: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";
const KEY_TEXT: &str = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs";
/// The host of requests that name none.
const HOST: &str = "localhost";

/// The cases of a test. Where one is not in order, the report says so, and it is left out.
pub(super) fn cases(
    spec: &PolicyTestSpec,
    documents: &Documents,
    protocol: Option<PortProtocol>,
    underscores: Underscores,
    report: &mut Report<'_>,
) -> Vec<Case> {
    let at = Field::parse("spec.cases");
    values::not_empty(Some(&spec.cases), &at, report);
    let reading = Reading { spec, documents, protocol, underscores };
    let cases = spec.cases.iter().enumerate();
    cases.filter_map(|(index, case)| reading.case(case, &at.index(index), report)).collect()
}

/// A test being read.
struct Reading<'r> {
    spec: &'r PolicyTestSpec,
    documents: &'r Documents,
    /// What is spoken on the port. `None`: no policy selects it.
    protocol: Option<PortProtocol>,
    underscores: Underscores,
}

// === impl Reading ===

impl Reading<'_> {
    fn case(&self, spec: &CaseSpec, at: &Field, report: &mut Report<'_>) -> Option<Case> {
        self.check_connection(spec, at, report);
        let request = match (&spec.request, self.protocol) {
            (Some(text), _) => report.ok(&at.key("request"), request(text)),
            (None, Some(PortProtocol::Http)) => {
                report.add(at, "says nothing that is asked: write `request`");
                None
            }
            (None, _) => Some((String::new(), "/".to_owned(), String::new())),
        };
        let headers = headers(spec, at, report);
        let source = spec.source.as_ref().map_or(Ok(Ipv4Addr::LOCALHOST.into()), |source| {
            source.parse().map_err(|_| format!("`{source}` is no IP address"))
        });
        let source = report.ok(&at.key("source"), source);
        let token = match &spec.token {
            Some(own) => Some((own.over(self.spec.token.as_ref()), at.key("token"))),
            None => self.spec.token.clone().map(|base| (base, Field::parse("spec.token"))),
        };
        let peer = self.peer(spec, at, report);
        let shown = match token {
            Some((token, at)) => self.shown(&token, &at, report),
            None => Some(Shown::Nothing),
        };
        let (shown, peer) = held(shown?, peer?, spec.peer.is_some());
        let ((method, path, host), (headers, grpc)) = (request?, headers?);
        Some(Case {
            name: spec.name.to_string(),
            asked: Asked {
                method,
                path,
                host,
                grpc,
                headers,
                underscores: self.underscores,
                source: source?,
                shown,
                peer,
            },
            expected: expected(spec, at, report)?,
            shadows: shadows(spec, at, report)?,
            audit: match &spec.audit {
                Some(audit) => Some(report.ok(&at.key("audit"), Expected::parse(audit, report.namespace()))?),
                None => None,
            },
        })
    }

    /// Of a connection to a port that is not HTTP no more is known than its other end.
    fn check_connection(&self, spec: &CaseSpec, at: &Field, report: &mut Report<'_>) {
        let Some(protocol @ (PortProtocol::Tcp | PortProtocol::Tls)) = self.protocol else { return };
        let is_shown = |shown: &Option<ShownSpec>| {
            shown
                .as_ref()
                .is_some_and(|shown| !matches!(shown, ShownSpec::Word(word) if word == policy_test::NONE))
        };
        let is_peer = |peer: &Option<Text>| peer.as_ref().is_some_and(|peer| &**peer != policy_test::NONE);
        let unseen = protocol == PortProtocol::Tls;
        for (at, is_written) in [
            (at.key("request"), spec.request.is_some()),
            (at.key("grpc"), spec.grpc),
            (at.key("headers"), !spec.headers.is_empty()),
            (at.key("token"), is_shown(&spec.token)),
            (Field::parse("spec.token"), is_shown(&self.spec.token)),
            (at.key("peer"), unseen && is_peer(&spec.peer)),
            (Field::parse("spec.peer"), unseen && is_peer(&self.spec.peer)),
        ] {
            if is_written {
                let protocol = protocol.as_str();
                report.add(
                    &at,
                    format!("is not seen on this port, which is `protocol: {protocol}`: remove it"),
                );
            }
        }
    }

    /// Outer `None`: it is not in order.
    fn peer(&self, spec: &CaseSpec, at: &Field, report: &mut Report<'_>) -> Option<Option<Peer>> {
        let (written, at) = match (&spec.peer, &self.spec.peer) {
            (Some(own), _) => (own, at.key("peer")),
            (None, Some(base)) => (base, Field::parse("spec.peer")),
            (None, None) => return Some(None),
        };
        if &**written == policy_test::NONE {
            return Some(None);
        }
        if !spiffe::is_id(written) {
            report
                .add(&at, format!("`{written}` is no SPIFFE ID: write spiffe://TRUST-DOMAIN/PATH, or none"));
            return None;
        }
        Some(Some(Peer { id: Some(written.to_string()), thumbprint: CERTIFICATE }))
    }

    fn shown(&self, spec: &ShownSpec, at: &Field, report: &mut Report<'_>) -> Option<Shown> {
        match spec {
            ShownSpec::Word(word) if word == policy_test::NONE => Some(Shown::Nothing),
            ShownSpec::Word(word) => report.ok(at, refusal(word)).map(Shown::Rejected),
            ShownSpec::Token(said) => self.token(said, at, report),
        }
    }

    /// Through the claims that the issuer would write, as the proxy reads them.
    fn token(&self, spec: &SaidSpec, at: &Field, report: &mut Report<'_>) -> Option<Shown> {
        let Some(name) = &spec.issuer else {
            report.add(at, "a token has an issuer: write `issuer`, the name of an Issuer");
            return None;
        };
        let Some(issuer) = self.documents.issuers.iter().find(|issuer| *issuer.name.name == **name) else {
            let message =
                format!("there is no Issuer `{name}`; for a stranger write `token: unknown_issuer`");
            report.add(&at.key("issuer"), message);
            return None;
        };
        if spec.audience.is_some() && spec.audiences.is_some() {
            report.add(&at.key("audiences"), "stands beside `audience`: write one of them");
        }
        values::scopes(spec.scopes.as_deref().unwrap_or_default(), &at.key("scopes"), report);
        let text = |text: &Option<Text>| text.as_ref().map(ToString::to_string);
        let said = Said {
            audiences: words::strings(spec.audiences.as_deref().unwrap_or(spec.audience.as_slice())),
            client: text(&spec.client),
            subject: text(&spec.subject),
            scopes: spec.scopes.as_deref().map(words::strings),
            roles: spec.roles.as_deref().map(words::strings),
            confirmation: spec.binding.map(|binding| match binding {
                HeldWord::Certificate => json!({ "x5t#S256": CERTIFICATE_TEXT }),
                HeldWord::Key => json!({ "jkt": KEY_TEXT }),
            }),
            claims: spec.claims.clone().unwrap_or_default(),
        };
        match issuer.value.profile.claims(&issuer.value.issuer, &said) {
            Ok(claims) => Some(match issuer.value.profile.token(&issuer.value.issuer, claims) {
                Ok(token) => Shown::Verified(Box::new(Token {
                    introspected: spec.opaque.unwrap_or_default(),
                    ..token
                })),
                Err(reason) => Shown::Rejected(reason),
            }),
            Err(Unsayable { word, message }) => {
                report.add(&at.key(word), message);
                None
            }
        }
    }
}

/// A token that is bound to a certificate comes with it; where the case says that there is none, it is refused.
fn held(shown: Shown, peer: Option<Peer>, is_said: bool) -> (Shown, Option<Peer>) {
    let is_bound = |token: &Token| matches!(token.binding, Binding::Certificate(_));
    match (shown, peer) {
        (Shown::Verified(token), None) if is_bound(&token) && is_said => {
            (Shown::Rejected(Reason::BindingMismatch), None)
        }
        (Shown::Verified(token), None) if is_bound(&token) => {
            (Shown::Verified(token), Some(Peer { id: None, thumbprint: CERTIFICATE }))
        }
        (shown, peer) => (shown, peer),
    }
}

/// Method, path without query, host in normal form.
fn request(text: &str) -> Result<(String, String, String), String> {
    let wrong = || format!("`{text}` is no request: write METHOD /path, and the host where it counts");
    let words: Vec<&str> = text.split(' ').collect();
    let (method, target, host) = match *words.as_slice() {
        [method, target] => (method, target, HOST),
        [method, target, host] => (method, target, host),
        _ => return Err(wrong()),
    };
    if !values::is_http_token(method) || !target.starts_with('/') {
        return Err(wrong());
    }
    let (host, _) = host::normalize(host).ok_or_else(|| format!("`{host}` is no host"))?;
    let path = target.split('?').next().unwrap_or_default();
    Ok((method.to_owned(), path.to_owned(), host.into_owned()))
}

/// The fields, and whether it is gRPC.
fn headers(spec: &CaseSpec, at: &Field, report: &mut Report<'_>) -> Option<(HeaderMap, bool)> {
    let mut headers = HeaderMap::new();
    for (name, values) in &spec.headers {
        let at = at.key("headers").key(name);
        let header = HeaderName::try_from(&**name).map_err(|_| format!("`{name}` is no header name"));
        let header = report.ok(&at, header)?;
        for value in &values.0 {
            let value = HeaderValue::try_from(&**value).map_err(|_| "is no header value".to_owned());
            let value = report.ok(&at, value)?;
            report.ok(&at, asked::add_field(&mut headers, header.clone(), value).map_err(str::to_owned))?;
        }
    }
    let grpc = asked::is_grpc(&mut headers, spec.grpc).map_err(str::to_owned);
    let grpc = report.ok(&at.key("grpc"), grpc)?;
    Some((headers, grpc))
}

/// A reason that verification gives.
fn refusal(word: &str) -> Result<Reason, String> {
    policy_test::refusals().find(|reason| reason.as_str() == word).ok_or_else(|| {
        format!("`{word}` is nothing that a token is refused for: write none, a reason such as expired, or a mapping")
    })
}

fn expected(spec: &CaseSpec, at: &Field, report: &mut Report<'_>) -> Option<Expected> {
    let allow = spec.expect == ExpectWord::Allow;
    if allow && spec.reason.is_some() {
        report.add(&at.key("reason"), "is for `expect: deny`");
    }
    let reason = spec.reason.as_deref().map(|word| report.ok(&at.key("reason"), expected::reason(word)));
    let namespace = report.namespace().to_owned();
    let rule = spec.rule.as_deref().map(|rule| report.ok(&at.key("rule"), expected::rule(rule, &namespace)));
    Some(Expected {
        allow,
        reason: reason.map_or(Some(None), |reason| reason.map(Some))?,
        rule: rule.map_or(Some(None), |rule| rule.map(Some))?,
    })
}

type Shadows = Option<Vec<(String, Expected)>>;

/// Outer `None`: not in order.
fn shadows(spec: &CaseSpec, at: &Field, report: &mut Report<'_>) -> Option<Shadows> {
    let Some(written) = &spec.shadows else { return Some(None) };
    let namespace = report.namespace().to_owned();
    let mut shadows = Vec::new();
    for (name, would) in written {
        let at = at.key("shadows").key(name);
        let rule = report.ok(&at, expected::rule(name, &namespace))?;
        shadows.push((rule, report.ok(&at, Expected::parse(would, &namespace))?));
    }
    shadows.sort_by(|(one, _), (other, _)| one.cmp(other));
    Some(Some(shadows))
}
