//! One table of decisions, read and tried: policies and `PolicyTest` documents in one file.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use countersign_policy::request::{Binding, Peer, Presented};
use countersign_policy::snapshot::RuleId;
use countersign_policy::{
    AccessRequest, Decision, Documents, PortPolicy, Principal, Reason, Snapshot, Source, Token, Workload,
    source, yaml,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Map, Value};

pub(crate) struct Table {
    file: String,
    documents: Documents,
    tests: Vec<PolicyTest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PolicyTest {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    namespace: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    to: Target,
    #[serde(default)]
    token: Shown,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    labels: BTreeMap<String, String>,
    port: u16,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// Method, path, and the host where it counts.
    request: String,
    #[serde(default)]
    grpc: bool,
    #[serde(default)]
    token: Shown,
    /// The SPIFFE ID of the client certificate.
    peer: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Vec<String>>,
    /// The address of the direct peer.
    source: Option<IpAddr>,
    expect: Expect,
    rule: Option<String>,
    reason: Option<String>,
    /// `policy/rule: outcome` of each shadow rule that matches.
    #[serde(default)]
    shadows: Map<String, Value>,
    /// What the audit policies say, where there are any.
    audit: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expect {
    Allow,
    Deny,
}

/// `none`, the reason why verification refused it, or what it says.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Shown {
    Word(String),
    Token(Fields),
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    issuer: Option<String>,
    audience: Option<String>,
    client: Option<String>,
    subject: Option<String>,
    scopes: Option<Vec<String>>,
    roles: Option<Vec<String>>,
    claims: Option<Map<String, Value>>,
    binding: Option<BindingWord>,
    /// Opaque: its issuer was asked.
    #[serde(default)]
    opaque: bool,
}

/// What the token is bound to, which the caller has shown.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum BindingWord {
    Certificate,
    Key,
}

impl Default for Shown {
    fn default() -> Self {
        Self::Token(Fields::default())
    }
}

// === impl Table ===

impl Table {
    pub(crate) fn read(file: &str, bytes: &[u8]) -> Self {
        let sources = source::split(file, bytes).unwrap();
        let is_test = |source: &&Source| source.text.contains("kind: PolicyTest");
        let tests = sources.iter().filter(is_test).map(|source| {
            yaml::read(&source.text)
                .unwrap_or_else(|error| panic!("{file}, from line {}: {error}", source.line))
        });
        let tests = tests.collect();
        let documents = Documents::parse(sources).unwrap_or_else(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            panic!("{}", lines.join("\n"))
        });
        Self { file: file.to_owned(), documents, tests }
    }

    pub(crate) fn cases(&self) -> usize {
        self.tests.iter().map(|test| test.spec.cases.len()).sum()
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        self.tests.iter().flat_map(|test| self.failures_of(test)).collect()
    }

    fn failures_of(&self, test: &PolicyTest) -> Vec<String> {
        let workload = Workload {
            namespace: test.metadata.namespace.clone(),
            name: "test".to_owned(),
            labels: test.spec.to.labels.clone(),
            service_account: None,
        };
        let snapshot = self.documents.compile(&workload).unwrap();
        let port = snapshot.inbound(test.spec.to.port).unwrap();
        let failed =
            test.spec.cases.iter().filter_map(|case| case.failure(&snapshot, port, &test.spec.token));
        failed.map(|failure| format!("{}: {}: {failure}", self.file, test.metadata.name)).collect()
    }
}

// === impl Case ===

impl Case {
    fn failure(&self, snapshot: &Snapshot, port: &PortPolicy, base: &Shown) -> Option<String> {
        let token = self.token.over(base);
        let token = token.as_ref().map(|fields| fields.token(snapshot));
        let presented = match (&self.token, &token) {
            (Shown::Word(word), _) if word != "none" => Presented::Rejected(reason(word)),
            (_, Some(token)) => Presented::Verified(token),
            (_, None) => Presented::Nothing,
        };
        let mut words = self.request.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let Some(path) = port.path(path) else {
            let expected = self.outcome();
            return (expected != "deny ambiguous_path").then(|| format!("{}: ambiguous path", self.name));
        };
        let (headers, peer) = (self.headers(), self.peer());
        let request = AccessRequest {
            principal: Principal { token: presented, peer: peer.as_ref() },
            method,
            path: &path,
            host: words.next().unwrap_or("orders.shop"),
            headers: &headers,
            grpc: self.grpc,
            source: self.source.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        };
        let deciding = port.enforce.as_ref().or(port.audit.as_ref()).unwrap();
        let actual = outcome(snapshot, &deciding.decide(&request));
        let shadows = deciding.shadows(&request).into_iter();
        let shadows = shadows
            .map(|shadow| format!("{}: {}", rule(snapshot, shadow.rule), outcome(snapshot, &shadow.would)));
        let audit = port.enforce.as_ref().and(port.audit.as_ref());
        let audit = audit.map(|audit| outcome(snapshot, &audit.decide(&request)));

        let expected = (self.outcome(), self.shadows(), self.audit.clone());
        let actual = (actual, shadows.collect::<Vec<_>>(), audit);
        (expected != actual)
            .then(|| format!("{}:\n  expected {expected:?}\n  actual   {actual:?}", self.name))
    }

    fn headers(&self) -> HeaderMap {
        let lines =
            self.headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
        lines.fold(HeaderMap::new(), |mut headers, (name, value)| {
            headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
            headers
        })
    }

    fn peer(&self) -> Option<Peer> {
        self.peer.as_ref().map(|id| Peer { id: Some(id.clone()), thumbprint: [7; 32] })
    }

    fn outcome(&self) -> String {
        let word = if self.expect == Expect::Allow { "allow" } else { "deny" };
        let parts = [Some(word), self.reason.as_deref(), self.rule.as_deref()];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    fn shadows(&self) -> Vec<String> {
        self.shadows.iter().map(|(rule, would)| format!("{rule}: {}", would.as_str().unwrap())).collect()
    }
}

/// `allow policy/rule`, or `deny reason`, with the rule where there is one.
fn outcome(snapshot: &Snapshot, decision: &Decision) -> String {
    match decision {
        Decision::Allow { rule, .. } => format!("allow {}", self::rule(snapshot, *rule)),
        Decision::Deny { reason, rule: None } => format!("deny {reason}"),
        Decision::Deny { reason, rule: Some(rule) } => {
            format!("deny {reason} {}", self::rule(snapshot, *rule))
        }
    }
}

fn rule(snapshot: &Snapshot, rule: RuleId) -> String {
    let name = snapshot.rules.get(rule.0).unwrap();
    format!("{}/{}", name.policy.split('/').next_back().unwrap(), name.rule)
}

fn reason(word: &str) -> Reason {
    *Reason::ALL.iter().find(|reason| reason.as_str() == word).unwrap()
}

// === impl Shown ===

impl Shown {
    /// The token of a case, over the base of all cases. `None`: there is none.
    fn over(&self, base: &Self) -> Option<Fields> {
        let Self::Token(own) = self else { return None };
        let Self::Token(base) = base else { return Some(own.clone()).filter(|own| own.issuer.is_some()) };
        Some(Fields {
            issuer: own.issuer.clone().or(base.issuer.clone()),
            audience: own.audience.clone().or(base.audience.clone()),
            client: own.client.clone().or(base.client.clone()),
            subject: own.subject.clone().or(base.subject.clone()),
            scopes: own.scopes.clone().or(base.scopes.clone()),
            roles: own.roles.clone().or(base.roles.clone()),
            claims: own.claims.clone().or(base.claims.clone()),
            binding: own.binding.or(base.binding),
            opaque: own.opaque || base.opaque,
        })
    }
}

// === impl Fields ===

impl Fields {
    fn token(&self, snapshot: &Snapshot) -> Token {
        let name = self.issuer.as_deref().unwrap();
        let known = snapshot.issuers.iter().find(|issuer| issuer.name == name);
        Token {
            introspected: self.opaque,
            issuer: known.map_or_else(|| Arc::from(name), |issuer| issuer.issuer.clone()),
            audiences: self.audience.clone().into_iter().collect(),
            subject: self.subject.clone(),
            client: self.client.clone(),
            scopes: self.scopes.clone().unwrap_or_default(),
            roles: self.roles.clone().unwrap_or_default(),
            claims: self.claims.clone().unwrap_or_default(),
            expires_at: i64::MAX,
            not_before: None,
            issued_at: None,
            binding: match self.binding {
                None => Binding::None,
                Some(BindingWord::Certificate) => Binding::Certificate([7; 32]),
                Some(BindingWord::Key) => {
                    Binding::Key("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs".to_owned())
                }
            },
        }
    }
}
