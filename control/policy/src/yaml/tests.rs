use serde::Deserialize;

use super::survey::{MAX_DEPTH, MAX_NODES};
use super::*;

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Thing {
    name: String,
    #[serde(default)]
    list: Vec<u8>,
}

fn thing(text: &str) -> Result<Thing, String> {
    read(text).map_err(|error| error.to_string())
}

#[test]
fn reads_yaml_and_json() {
    let expected = Thing { name: "a".to_owned(), list: vec![1, 2] };
    assert_eq!(thing("name: a\nlist: [1, 2]\n").as_ref(), Ok(&expected));
    assert_eq!(thing("{\"name\": \"a\",\n\t\"list\": [1, 2]}").as_ref(), Ok(&expected));
    assert_eq!(thing("name: &n a\nlist:\n- 1\n- 2\n").as_ref(), Ok(&expected));
}

#[test]
fn what_is_wrong_has_a_line_and_a_field() {
    for (text, message) in [
        ("name: a\nlist: [1, 300]\n", "line 2: list[1]: invalid value: integer `300`, expected u8"),
        ("name: a\nother: 1\n", "line 2: other: unknown field, expected `name` or `list`"),
        ("list: []\n", "line 1: missing field `name`"),
        ("name: a\nname: b\n", "line 2: name: is written twice: remove one"),
        ("name: a\nlist:\n", "line 2: list: has no value: write one, or leave the field out"),
        ("name: a\nlist: ~\n", "line 2: list: has no value: write one, or leave the field out"),
        ("name: !x a\n", "line 1: name: YAML tags are not supported: remove the `!`"),
        ("name: a\n\tlist: []\n", "line 2: a tab cannot indent YAML: use spaces"),
        ("name: *a\n", "line 1: unknown anchor"),
        ("name: a\n---\nname: b\n", "more than one document where one is expected"),
    ] {
        assert_eq!(thing(text), Err(message.to_owned()), "{text}");
    }
}

#[test]
fn kubernetes_may_leave_its_own_fields_empty() {
    let text = "metadata: { creationTimestamp: null }\nstatus:\n";
    assert!(read::<serde_json::Value>(text).is_ok());
    assert!(read::<serde_json::Value>("spec: { creationTimestamp: null }").is_err());
    for text in ["metadata:", "metadata: { name: }", "metadata:\n  name: a\n  namespace:\n"] {
        let error = read::<serde_json::Value>(text).unwrap_err().to_string();
        assert!(error.ends_with(": has no value: write one, or leave the field out"), "{text}: {error}");
    }
}

#[test]
fn thirty_two_levels_and_no_more() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(read::<serde_json::Value>(&nested(MAX_DEPTH)).is_ok());
    assert!(read::<serde_json::Value>(&nested(MAX_DEPTH + 1)).is_err());
}

#[test]
fn ten_thousand_values_and_no_more() {
    let list = |length: usize| format!("[{}]", vec!["1"; length].join(","));
    assert!(read::<serde_json::Value>(&list(MAX_NODES - 1)).is_ok());
    assert!(read::<serde_json::Value>(&list(MAX_NODES)).is_err());
}

#[test]
fn aliases_count_as_what_they_stand_for() {
    let text =
        |times: usize| format!("a: &a [{}]\nb: [{}]", vec!["1"; 100].join(","), vec!["*a"; times].join(","));
    assert!(read::<serde_json::Value>(&text(90)).is_ok());
    assert!(read::<serde_json::Value>(&text(100)).is_err());
}

#[test]
fn a_text_in_the_wrong_place_is_not_repeated() {
    let error =
        read::<std::collections::BTreeMap<String, u16>>("a: \"hunter2\\\", expected a secret\"").unwrap_err();
    assert!(error.message.starts_with("invalid type: text, expected u16"), "{error}");
    assert_eq!((error.line, error.field.as_str()), (1, "a"));
}

#[test]
fn places_are_taken_out_of_messages() {
    assert_eq!(without_places("x at line 1 column 22, while y at line 3 column 4"), "x, while y");
    assert_eq!(without_places("look at line b and at line 2"), "look at line b and at line 2");
}
