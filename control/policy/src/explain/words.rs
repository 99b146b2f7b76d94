//! How long may it be? What is shown of policy and of a request, cut to a bounded length.

use serde_json::{Map, Value};

/// The longest text, in characters; the longest list; the deepest value.
const MAX_CHARS: usize = 160;
const MAX_ITEMS: usize = 16;
const MAX_DEPTH: usize = 4;

/// The beginning of a text that is long.
pub(super) fn clip(text: &str) -> String {
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// The first of many.
pub(super) fn list(items: impl ExactSizeIterator<Item = impl AsRef<str>>) -> Value {
    let more = items.len().saturating_sub(MAX_ITEMS);
    let shown = items.take(MAX_ITEMS).map(|item| Value::String(clip(item.as_ref())));
    Value::Array(shown.chain(and_more(more)).collect())
}

/// A value of any shape, cut in every direction.
pub(super) fn cut(value: &Value) -> Value {
    cut_at(value, MAX_DEPTH)
}

fn cut_at(value: &Value, depth: usize) -> Value {
    match (value, depth.checked_sub(1)) {
        (Value::String(text), _) => Value::String(clip(text)),
        (Value::Array(_) | Value::Object(_), None) => Value::String("…".to_owned()),
        (Value::Array(items), Some(below)) => {
            // One more may be the note of `list` that there are more.
            let shown = if items.len() > MAX_ITEMS + 1 { MAX_ITEMS } else { items.len() };
            let more = items.len() - shown;
            let shown = items.iter().take(shown).map(|item| cut_at(item, below));
            Value::Array(shown.chain(and_more(more)).collect())
        }
        (Value::Object(members), Some(below)) => {
            let shown = members.iter().take(MAX_ITEMS);
            let shown = shown.map(|(name, value)| (clip(name), cut_at(value, below)));
            let more = and_more(members.len().saturating_sub(MAX_ITEMS)).map(|more| ("…".to_owned(), more));
            Value::Object(shown.chain(more).collect::<Map<_, _>>())
        }
        (Value::Null | Value::Bool(_) | Value::Number(_), _) => value.clone(),
    }
}

fn and_more(more: usize) -> Option<Value> {
    (more > 0).then(|| Value::String(format!("… and {more} more")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_is_longer_than_it_may_be() {
        assert_eq!(clip("ä"), "ä");
        assert_eq!(clip(&"ä".repeat(1_000)).chars().count(), MAX_CHARS + 1);
        let many: Vec<_> = (0..100).map(|n| n.to_string()).collect();
        assert_eq!(list(many.iter()).as_array().map(Vec::len), Some(MAX_ITEMS + 1));
        let deep = (0..50).fold(json!("a"), |inner, _| json!([inner, { "a": "b" }]));
        assert!(cut(&deep).to_string().len() < 100, "{}", cut(&deep));
        let wide: Value = (0..1_000).map(|n| (n.to_string(), json!("x".repeat(1_000)))).collect();
        assert!(cut(&json!([wide, many])).to_string().len() < MAX_ITEMS * (MAX_CHARS + 20) + 350);
        let members: Value = (10..30).map(|n| (n.to_string(), json!(n))).collect();
        assert_eq!(cut(&members)["…"], json!("… and 4 more"), "what differs may be among them");
        assert_eq!(cut(&json!({ "a": [1, true, null] })), json!({ "a": [1, true, null] }));
    }
}
