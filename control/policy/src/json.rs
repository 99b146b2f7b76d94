//! Is this JSON that can be read in one way only? An object without duplicate names, shallow, its numbers exact.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Objects and arrays within each other, the outermost counted.
const DEPTH: usize = 32;

/// Beyond this an `f64` skips integers (RFC 8259 §6): what is read is not what was written.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Parses one JSON object in strict UTF-8, with no name twice at any level (RFC 7519 §4, RFC 8725 §2.6), at most 32 deep, and
/// no number that cannot be held exactly enough. Nothing may follow it.
pub fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    read(bytes).ok()
}

/// The same, with what is wrong and where. Never with what stands there.
pub fn read(bytes: &[u8]) -> Result<Map<String, Value>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth: DEPTH }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(Error::custom("not an object")),
    }
}

/// Reads a value with this many levels left.
#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

// === impl Strict ===

impl Strict {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1).ok_or_else(|| E::custom("nested too deep"))?;
        Ok(Self { depth })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        if value.abs() < EXACT { Ok(value.into()) } else { Err(E::custom("number out of range")) }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(inner)?;
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("duplicate name"));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_6_what_is_read_is_what_was_written() {
        let text = r#"{"a":[1,-2,2.5,true,null,"\u00e4\ud83d\ude00"],"b":{"c":{}},"n":18446744073709551615}"#;
        assert_eq!(
            Value::Object(object(text.as_bytes()).unwrap()),
            serde_json::from_str::<Value>(text).unwrap()
        );
        assert!(object(b" { } \n").unwrap().is_empty());
    }

    #[test]
    fn in_6_duplicate_names_at_any_level() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"a":{"b":{"c":1,"c":2}}}"#,
            r#"{"a":[[{"b":1,"b":1}]]}"#,
        ] {
            assert_eq!(object(text.as_bytes()), None, "{text}");
        }
        assert!(object(br#"{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]}"#).is_some());
    }

    #[test]
    fn what_is_wrong_is_told_without_what_stands_there() {
        for (text, told) in [
            (r#"{"canary":1,"canary":2}"#, "duplicate name at line 1 column 23"),
            ("{\"exp\":\n1e300}", "number out of range at line 2 column 5"),
            ("[\"canary\"]", "not an object"),
            ("{\"canary\"", "EOF while parsing an object at line 1 column 9"),
        ] {
            assert_eq!(read(text.as_bytes()).unwrap_err().to_string(), told);
        }
    }

    #[test]
    fn in_6_depth_is_bounded() {
        let nested =
            |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        assert!(object(nested(32).as_bytes()).is_some());
        assert!(object(nested(33).as_bytes()).is_none());
        assert!(object(nested(100_000).as_bytes()).is_none());
        let objects = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        assert!(object(objects(32).as_bytes()).is_some());
        assert!(object(objects(33).as_bytes()).is_none());
    }

    #[test]
    fn in_6_numbers_in_range() {
        for number in [
            "1e400",
            "-1e400",
            "123456789012345678901234567890",
            "9007199254740992.0",
            "-9007199254740992.0",
            "1e300",
        ] {
            assert_eq!(object(format!("{{\"exp\":{number}}}").as_bytes()), None, "{number}");
        }
        for number in ["9223372036854775807", "9007199254740991.0", "-1", "1700000000.5", "1.7e9", "0"] {
            assert!(object(format!("{{\"exp\":{number}}}").as_bytes()).is_some(), "{number}");
        }
    }

    #[test]
    fn v24_in_6_strict_utf_8_and_nothing_but_one_object() {
        for bytes in [
            &b"{\"a\":\"\xff\"}"[..],
            b"{\"a\":\"\xc0\xaf\"}",
            b"{\"a\":\"\xed\xa0\x80\"}",
            b"{\"\xff\":1}",
            b"{\"a\":\"\\ud800\"}",
            b"\xef\xbb\xbf{}",
            b"{}{}",
            b"{} x",
            b"[]",
            b"\"a\"",
            b"1",
            b"null",
            b"",
            b"{\"a\":1,}",
            b"{'a':1}",
            b"{\"a\":01}",
            b"{\"a\":NaN}",
            b"{\"a\":\"\n\"}",
        ] {
            assert_eq!(object(bytes), None, "{}", String::from_utf8_lossy(bytes));
        }
    }
}
