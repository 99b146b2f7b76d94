//! What was written? One document, read strictly into the type of its kind, before anything is made of it.

pub(crate) mod credential;
pub(crate) mod inbound;
pub(crate) mod issuer;
pub(crate) mod outbound;
pub(crate) mod policy_test;
pub(crate) mod words;

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::problem::Problem;
use crate::source::{MAX_DOCUMENT_BYTES, Source};
use crate::yaml::{self, YamlError};
use words::Text;

/// The group and version of every kind.
pub(crate) const API_VERSION: &str = "countersign.dev/v1alpha1";

/// A document and its place.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) source: Source,
    pub(crate) name: DocumentName,
    pub(crate) spec: Spec,
}

/// The spec of a document, by kind. Boxed, since the kinds differ much in size.
#[derive(Debug)]
pub(crate) enum Spec {
    Issuer(Box<issuer::IssuerSpec>),
    Credential(Box<credential::CredentialSpec>),
    OutboundPolicy(Box<outbound::OutboundSpec>),
    InboundPolicy(Box<inbound::InboundSpec>),
    PolicyTest(Box<policy_test::PolicyTestSpec>),
}

/// The kinds of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Issuer,
    Credential,
    OutboundPolicy,
    InboundPolicy,
    PolicyTest,
}

/// `kind/namespace/name`, or `kind/name` for issuers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DocumentName {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// A document that could not be read, and its name where that much was readable.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) name: Option<DocumentName>,
    pub(crate) problem: Problem,
}

/// As much of a document as tells how to read the rest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a document: a mapping of apiVersion, kind, metadata and spec")]
struct Header {
    api_version: Text,
    kind: Text,
    metadata: HeaderMetadata,
}

#[derive(Deserialize)]
#[serde(expecting = "a mapping")]
struct HeaderMetadata {
    name: Text,
    namespace: Option<Text>,
}

/// The whole document, strictly.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
struct Resource<T> {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    #[serde(rename = "metadata")]
    _metadata: Metadata,
    spec: T,
    /// Written by Kubernetes.
    #[serde(rename = "status", default)]
    _status: IgnoredAny,
}

/// The metadata of Kubernetes: beside the name, what its API server adds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase", default)]
#[derive(Default)]
struct Metadata {
    #[serde(rename = "name")]
    _name: IgnoredAny,
    #[serde(rename = "namespace")]
    _namespace: IgnoredAny,
    #[serde(rename = "labels")]
    _labels: IgnoredAny,
    #[serde(rename = "annotations")]
    _annotations: IgnoredAny,
    #[serde(rename = "resourceVersion")]
    _resource_version: IgnoredAny,
    #[serde(rename = "uid")]
    _uid: IgnoredAny,
    #[serde(rename = "generation")]
    _generation: IgnoredAny,
    #[serde(rename = "creationTimestamp")]
    _creation_timestamp: IgnoredAny,
    #[serde(rename = "managedFields")]
    _managed_fields: IgnoredAny,
    #[serde(rename = "ownerReferences")]
    _owner_references: IgnoredAny,
    #[serde(rename = "finalizers")]
    _finalizers: IgnoredAny,
}

// === impl Document ===

impl Document {
    /// Reads a document of policy, or says what is wrong first. `None`: it is a test, which is not read any further, so that
    /// it is in nobody's way but those who run it.
    pub(crate) fn read(source: Source) -> Result<Option<Self>, Box<Unreadable>> {
        let name = Self::name(&source)?;
        if name.kind == Kind::PolicyTest { Ok(None) } else { Self::read_as(name, source).map(Some) }
    }

    /// Reads a document of kind `PolicyTest`. `None`: it is none, or does not get as far as to say so.
    pub(crate) fn read_test(source: &Source) -> Option<Result<Self, Box<Unreadable>>> {
        let name = Self::name(source).ok().filter(|name| name.kind == Kind::PolicyTest)?;
        Some(Self::read_as(name, source.clone()))
    }

    fn name(source: &Source) -> Result<DocumentName, Box<Unreadable>> {
        let unreadable = |error| Unreadable::new(source, DocumentName::before_spec(&source.text), error);
        if source.text.len() > MAX_DOCUMENT_BYTES {
            let message = format!("larger than {} KiB: split it", MAX_DOCUMENT_BYTES >> 10);
            return Err(unreadable(at("", message)));
        }
        let header: Header = yaml::read(&source.text).map_err(unreadable)?;
        DocumentName::checked(&header).map_err(|error| unreadable(error.in_line_of(&source.text)))
    }

    fn read_as(name: DocumentName, source: Source) -> Result<Self, Box<Unreadable>> {
        match Spec::read(name.kind, &source.text) {
            Ok(spec) => Ok(Self { source, name, spec }),
            Err(error) => Err(Unreadable::new(&source, Some(name), error)),
        }
    }
}

// === impl Unreadable ===

impl Unreadable {
    fn new(source: &Source, name: Option<DocumentName>, error: YamlError) -> Box<Self> {
        let document = name.as_ref().map(ToString::to_string).unwrap_or_default();
        let problem = Problem::new(source, error.line, document, &error.field, &error.message);
        Box::new(Self { name, problem })
    }
}

// === impl Spec ===

impl Spec {
    fn read(kind: Kind, text: &str) -> Result<Self, YamlError> {
        Ok(match kind {
            Kind::Issuer => Self::Issuer(spec(text)?),
            Kind::Credential => Self::Credential(spec(text)?),
            Kind::OutboundPolicy => Self::OutboundPolicy(spec(text)?),
            Kind::InboundPolicy => Self::InboundPolicy(spec(text)?),
            Kind::PolicyTest => Self::PolicyTest(spec(text)?),
        })
    }
}

fn spec<T: DeserializeOwned>(text: &str) -> Result<Box<T>, YamlError> {
    yaml::read::<Resource<T>>(text).map(|resource| Box::new(resource.spec))
}

// === impl DocumentName ===

impl DocumentName {
    /// Of a document that cannot be read, if that much is in order: by what stands before its `spec`.
    fn before_spec(text: &str) -> Option<Self> {
        let (before, _) = text.split_once("\nspec:")?;
        Self::checked(&yaml::read(before).ok()?).ok()
    }

    fn checked(header: &Header) -> Result<Self, YamlError> {
        if &*header.api_version != API_VERSION {
            let message = format!("`{}` is not known here: write `{API_VERSION}`", header.api_version);
            return Err(at("apiVersion", message));
        }
        let kind = Kind::parse(&header.kind).ok_or_else(|| {
            at(
                "kind",
                format!(
                    "unknown kind `{}`, expected one of {}",
                    header.kind,
                    Kind::ALL.map(Kind::as_str).join(", ")
                ),
            )
        })?;
        let namespace = match (&header.metadata.namespace, kind) {
            (Some(_), Kind::Issuer) => {
                return Err(at("metadata.namespace", "an Issuer belongs to no namespace: remove it"));
            }
            (Some(namespace), _) => namespace.to_string(),
            (None, Kind::Issuer) => String::new(),
            (None, _) => "default".to_owned(),
        };
        for (field, text) in [("metadata.name", &*header.metadata.name), ("metadata.namespace", &namespace)] {
            if !text.is_empty() || field == "metadata.name" {
                words::dns_label(text).map_err(|message| at(field, message))?;
            }
        }
        if header.metadata.namespace.as_ref().is_some_and(|namespace| namespace.is_empty()) {
            return Err(at("metadata.namespace", "is empty: leave it out to mean `default`"));
        }
        Ok(Self { kind, namespace, name: header.metadata.name.to_string() })
    }
}

impl fmt::Display for DocumentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        if !self.namespace.is_empty() {
            write!(f, "/{}", self.namespace)?;
        }
        write!(f, "/{}", self.name)
    }
}

// === impl Kind ===

impl Kind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Issuer, Self::Credential, Self::OutboundPolicy, Self::InboundPolicy, Self::PolicyTest];

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Issuer => "Issuer",
            Self::Credential => "Credential",
            Self::OutboundPolicy => "OutboundPolicy",
            Self::InboundPolicy => "InboundPolicy",
            Self::PolicyTest => "PolicyTest",
        }
    }
}

fn at(field: &str, message: impl Into<String>) -> YamlError {
    YamlError { line: 0, field: field.to_owned(), message: message.into() }
}
