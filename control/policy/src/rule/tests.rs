use serde_json::json;

use super::*;

#[test]
fn conditions_are_three_valued_logic() {
    let (no, unknown) = (Judged::No(Word::Paths), Judged::Unknown(Word::Claim("a")));
    for judged in [Judged::Yes, no, unknown] {
        assert_eq!(judged.and(|| Judged::Yes), judged);
        assert_eq!(judged.and(|| no), no);
    }
    assert_eq!(Judged::Yes.and(|| unknown), unknown);
    assert_eq!(unknown.and(|| Judged::Unknown(Word::Roles)), unknown);
    assert_eq!(no.and(|| Judged::No(Word::Roles)), no);
}

#[test]
fn claims_of_a_shape_that_does_not_compare_are_unknown() {
    let test = ClaimTest::OneOf(vec![json!("a"), json!(1), json!(true)]);
    for (claim, holds) in [
        (json!("a"), Some(true)),
        (json!(1), Some(true)),
        (json!(true), Some(true)),
        (json!("1"), Some(false)),
        (json!(false), Some(false)),
        (json!(u64::MAX), Some(false)),
        (json!([]), Some(false)),
        (json!(["b", 1]), Some(true)),
        (json!(["b", null]), None),
        (json!(["a", null]), Some(true)),
        (json!([["a"]]), None),
        (json!(1.0), None),
        (json!(null), None),
        (json!({ "a": "a" }), None),
    ] {
        assert_eq!(test.holds(&claim), holds, "{claim}");
    }
}

#[test]
fn members_are_all_demanded() {
    let one = |value: Value| ClaimTest::OneOf(vec![value]);
    let test = ClaimTest::Members(vec![("a".to_owned(), one(json!(1))), ("b".to_owned(), one(json!(2)))]);
    for (claim, holds) in [
        (json!({ "a": 1, "b": 2, "c": 3 }), Some(true)),
        (json!({ "a": 1 }), Some(false)),
        (json!({ "a": 1.5, "b": 2 }), None),
        (json!({ "a": 1.5, "b": 3 }), Some(false)),
        (json!([{ "a": 1, "b": 2 }]), None),
        (json!("a"), None),
    ] {
        assert_eq!(test.holds(&claim), holds, "{claim}");
    }
}
