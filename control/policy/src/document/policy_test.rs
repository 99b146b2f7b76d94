//! `kind: PolicyTest`, as written: requests, and what policy is expected to say of them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::{fmt, iter};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::words::{Port, Text};
use crate::reason::Reason;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct PolicyTestSpec {
    /// The workload and the port that the requests go to; the namespace is the test's own.
    pub(crate) to: TargetSpec,
    /// The token of every case; what a case writes itself replaces it, field by field. Left out: no token.
    pub(crate) token: Option<ShownSpec>,
    /// The SPIFFE ID of the client certificate that the caller of every case shows. Left out: no certificate.
    pub(crate) peer: Option<Text>,
    pub(crate) cases: Vec<CaseSpec>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct TargetSpec {
    /// The labels of the workload.
    #[serde(default)]
    pub(crate) labels: BTreeMap<Text, Text>,
    /// The application's port.
    pub(crate) port: Port,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct CaseSpec {
    /// What the case shows, in a few words.
    pub(crate) name: Text,
    /// `METHOD /path`, and the host where it counts: `GET /orders/1 orders.shop`. Left out where the port is not HTTP.
    pub(crate) request: Option<Text>,
    /// Is it a gRPC request?
    #[serde(default)]
    pub(crate) grpc: bool,
    /// Header fields of the request: a value, or a list of values for one that comes several times.
    #[serde(default)]
    pub(crate) headers: BTreeMap<Text, HeaderSpec>,
    /// The token: `none`, the reason why verification refused it (e.g. `expired`), or what it says.
    pub(crate) token: Option<ShownSpec>,
    /// The SPIFFE ID of the client certificate, or `none`.
    pub(crate) peer: Option<Text>,
    /// The IP address of the direct peer; 127.0.0.1 where it is left out.
    pub(crate) source: Option<Text>,
    /// What is expected. On a port that only audit policies select: what these would say.
    pub(crate) expect: ExpectWord,
    /// The rule that decides, as `policy/rule` or `namespace/policy/rule`. Left out: any, or none.
    pub(crate) rule: Option<Text>,
    /// The reason of a denial. Left out: any.
    #[schemars(with = "Option<ReasonWord>")]
    pub(crate) reason: Option<Text>,
    /// The shadow rules that match, each with what it would change the decision to: `deny denied_by_rule orders/next`.
    /// Left out: any.
    pub(crate) shadows: Option<BTreeMap<Text, Text>>,
    /// What the audit policies say beside those that are enforced: `allow orders/read`, `deny no_rule`. Left out: anything.
    pub(crate) audit: Option<Text>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ExpectWord {
    Allow,
    Deny,
}

/// The value of a header field, or its values.
#[derive(Debug)]
pub(crate) struct HeaderSpec(pub(crate) Vec<Text>);

/// The token of a case: `none`, the reason why it was refused, or what it says.
#[derive(Clone, Debug)]
pub(crate) enum ShownSpec {
    Word(String),
    Token(Box<SaidSpec>),
}

/// What a token says, in the words of policy; the issuer's profile makes the claims of it.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct SaidSpec {
    /// The name of an Issuer.
    pub(crate) issuer: Option<Text>,
    pub(crate) audience: Option<Text>,
    /// Several audiences, instead of `audience`.
    pub(crate) audiences: Option<Vec<Text>>,
    pub(crate) client: Option<Text>,
    pub(crate) subject: Option<Text>,
    pub(crate) scopes: Option<Vec<Text>>,
    pub(crate) roles: Option<Vec<Text>>,
    /// Other claims, as they stand in the token.
    pub(crate) claims: Option<Map<String, Value>>,
    /// What the token is bound to. The caller holds it, as verification has shown.
    pub(crate) binding: Option<HeldWord>,
    /// It is no JWT: its issuer was asked about it, and said this (RFC 7662).
    pub(crate) opaque: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HeldWord {
    /// The caller's certificate (RFC 8705).
    Certificate,
    /// A key that the caller proves to hold by DPoP (RFC 9449).
    Key,
}

/// How a reason looks to an editor.
struct ReasonWord;

/// No token, no certificate.
pub(crate) const NONE: &str = "none";

/// The reasons that verification gives: those that a token can be refused for.
pub(crate) fn refusals() -> impl Iterator<Item = Reason> {
    let also = [Reason::MultipleTokens, Reason::KeysUnavailable, Reason::Overloaded];
    let is_one = move |reason: &Reason| {
        also.contains(reason) || reason.status() == 401 && *reason != Reason::MissingToken
    };
    Reason::ALL.iter().copied().filter(is_one)
}

// === impl ReasonWord ===

impl JsonSchema for ReasonWord {
    fn schema_name() -> Cow<'static, str> {
        "Reason".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let words: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        json_schema!({ "type": "string", "enum": words })
    }
}

// === impl ShownSpec ===

impl ShownSpec {
    /// The token of a case over that of all cases: each field that the case writes replaces the base's.
    pub(crate) fn over(&self, base: Option<&Self>) -> Self {
        let (Self::Token(own), Some(Self::Token(base))) = (self, base) else { return self.clone() };
        let (own, base) = ((**own).clone(), (**base).clone());
        let named = own.audience.is_some() || own.audiences.is_some();
        let (audience, audiences) = if named { (None, None) } else { (base.audience, base.audiences) };
        Self::Token(Box::new(SaidSpec {
            issuer: own.issuer.or(base.issuer),
            audience: own.audience.or(audience),
            audiences: own.audiences.or(audiences),
            client: own.client.or(base.client),
            subject: own.subject.or(base.subject),
            scopes: own.scopes.or(base.scopes),
            roles: own.roles.or(base.roles),
            claims: own.claims.or(base.claims),
            binding: own.binding.or(base.binding),
            opaque: own.opaque.or(base.opaque),
        }))
    }
}

impl JsonSchema for ShownSpec {
    fn schema_name() -> Cow<'static, str> {
        "ShownSpec".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let said = generator.subschema_for::<SaidSpec>();
        let words: Vec<&str> = iter::once(NONE).chain(refusals().map(Reason::as_str)).collect();
        json_schema!({ "if": { "type": "string" }, "then": { "enum": words }, "else": said })
    }
}

impl<'de> Deserialize<'de> for ShownSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shown;

        impl<'de> Visitor<'de> for Shown {
            type Value = ShownSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`none`, a reason such as `expired`, or a mapping")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<ShownSpec, E> {
                Ok(ShownSpec::Word(word.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ShownSpec, A::Error> {
                SaidSpec::deserialize(MapAccessDeserializer::new(map)).map(Box::new).map(ShownSpec::Token)
            }
        }

        deserializer.deserialize_any(Shown)
    }
}

// === impl HeaderSpec ===

impl JsonSchema for HeaderSpec {
    fn schema_name() -> Cow<'static, str> {
        "HeaderSpec".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "array"], "items": { "type": "string" } })
    }
}

impl<'de> Deserialize<'de> for HeaderSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Values;

        impl<'de> Visitor<'de> for Values {
            type Value = HeaderSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<HeaderSpec, E> {
                Ok(HeaderSpec(vec![Text::from(value)]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<HeaderSpec, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = seq.next_element()? {
                    values.push(value);
                }
                Ok(HeaderSpec(values))
            }
        }

        deserializer.deserialize_any(Values)
    }
}
