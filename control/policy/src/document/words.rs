//! Which plain values does the language know? Strings that are strings, durations, names and selectors.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error, Unexpected, Visitor};

/// A string, and nothing that merely looks like one: `1` and `true` are no strings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Text(String);

/// A port number. 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port(pub(crate) u16);

/// `workloads`: which workloads of the namespace a policy selects.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct Workloads {
    /// All of these labels, with these values.
    pub(crate) labels: BTreeMap<Text, Text>,
}

/// Time limits, each a number and `ms`, `s`, `m` or `h`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping", rename_all = "camelCase")]
pub(crate) struct TimeoutsSpec {
    /// For a connection; default 5s.
    #[schemars(with = "Option<Span>")]
    pub(crate) connect: Option<Text>,
    /// From the end of the request head to the first byte of the answer; default 60s.
    #[schemars(with = "Option<Span>")]
    pub(crate) first_byte: Option<Text>,
    /// Between two bytes in either direction; default 60s.
    #[schemars(with = "Option<Span>")]
    pub(crate) idle: Option<Text>,
    /// From the end of the request head to the last byte of the answer; default none.
    #[schemars(with = "Option<Span>")]
    pub(crate) total: Option<Text>,
}

/// How a duration looks to an editor.
pub(crate) struct Span;

// === impl Text ===

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Strings;

        impl Visitor<'_> for Strings {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }
        }

        deserializer.deserialize_any(Strings)
    }
}

impl JsonSchema for Text {
    fn schema_name() -> Cow<'static, str> {
        "Text".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

// === impl Span ===

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$" })
    }
}

// === impl Port ===

impl JsonSchema for Port {
    fn schema_name() -> Cow<'static, str> {
        "Port".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 1, "maximum": 65535 })
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ports;

        impl Visitor<'_> for Ports {
            type Value = Port;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port, 1 to 65535")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Port, E> {
                let port = u16::try_from(number).ok().filter(|port| *port > 0);
                port.map(Port).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
            }
        }

        deserializer.deserialize_any(Ports)
    }
}

/// The ports of a list.
pub(crate) fn ports(ports: &[Port]) -> Vec<u16> {
    ports.iter().map(|port| port.0).collect()
}

/// The strings of a list.
pub(crate) fn strings(texts: &[Text]) -> Vec<String> {
    texts.iter().map(|text| text.0.clone()).collect()
}

/// A number and `ms`, `s`, `m` or `h`. Longer than zero, at most a day.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at_checked(digits).unwrap_or_default();
    let milliseconds = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let number = number.parse::<u64>().ok();
    match milliseconds.zip(number).and_then(|(unit, number)| number.checked_mul(unit)) {
        Some(0) => Err("must be longer than zero".to_owned()),
        Some(duration) if duration > 86_400_000 => Err("must be at most 24h".to_owned()),
        Some(duration) => Ok(Duration::from_millis(duration)),
        None => Err(format!("`{text}` is no duration: write e.g. 500ms, 30s, 5m or 1h")),
    }
}

/// A DNS label (RFC 1123): lower-case letters, digits and `-`, at most 63, a letter or digit at both ends.
pub(crate) fn dns_label(text: &str) -> Result<(), String> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_label = (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if is_label {
        return Ok(());
    }
    Err(format!(
        "`{text}` is no name: write at most 63 lower-case letters, digits and `-`, no `-` first or last"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        for text in
            ["", "30", "s", "-1s", "1.5s", "30 s", "30S", "0s", "25h", "99999999999999999999s", "\u{e9}"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names() {
        for name in ["a", "orders-2", "0", &"a".repeat(63)] {
            assert_eq!(dns_label(name), Ok(()), "{name}");
        }
        for name in ["", "-a", "a-", "A", "a.b", "a_b", "a/b", "\u{e9}", &"a".repeat(64)] {
            assert!(dns_label(name).is_err(), "{name}");
        }
    }
}
