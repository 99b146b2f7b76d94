use serde_json::json;

use super::*;

const VERDICTS: [Verdict; 3] = [Verdict::Yes, Verdict::No, Verdict::Unknown];

#[test]
fn verdicts_are_three_valued_logic() {
    for verdict in VERDICTS {
        assert_eq!(verdict.and(|| Verdict::Yes), verdict);
        assert_eq!(verdict.and(|| Verdict::No), Verdict::No);
        assert_eq!(verdict.or(Verdict::No), verdict);
        assert_eq!(verdict.or(Verdict::Yes), Verdict::Yes);
    }
    assert_eq!(Verdict::Unknown.and(|| Verdict::Unknown), Verdict::Unknown);
    assert_eq!(Verdict::Unknown.or(Verdict::Unknown), Verdict::Unknown);
}

#[test]
fn claims_of_a_shape_that_does_not_compare_are_unknown() {
    let test = ClaimTest::OneOf(vec![json!("a"), json!(1), json!(true)]);
    for (claim, verdict) in [
        (json!("a"), Verdict::Yes),
        (json!(1), Verdict::Yes),
        (json!(true), Verdict::Yes),
        (json!("1"), Verdict::No),
        (json!(false), Verdict::No),
        (json!(u64::MAX), Verdict::No),
        (json!([]), Verdict::No),
        (json!(["b", 1]), Verdict::Yes),
        (json!(["b", null]), Verdict::Unknown),
        (json!(["a", null]), Verdict::Yes),
        (json!([["a"]]), Verdict::Unknown),
        (json!(1.0), Verdict::Unknown),
        (json!(null), Verdict::Unknown),
        (json!({ "a": "a" }), Verdict::Unknown),
    ] {
        assert_eq!(test.judge(&claim), verdict, "{claim}");
    }
}

#[test]
fn members_are_all_demanded() {
    let one = |value: Value| ClaimTest::OneOf(vec![value]);
    let test = ClaimTest::Members(vec![("a".to_owned(), one(json!(1))), ("b".to_owned(), one(json!(2)))]);
    for (claim, verdict) in [
        (json!({ "a": 1, "b": 2, "c": 3 }), Verdict::Yes),
        (json!({ "a": 1 }), Verdict::No),
        (json!({ "a": 1.5, "b": 2 }), Verdict::Unknown),
        (json!({ "a": 1.5, "b": 3 }), Verdict::No),
        (json!([{ "a": 1, "b": 2 }]), Verdict::Unknown),
        (json!("a"), Verdict::Unknown),
    ] {
        assert_eq!(test.judge(&claim), verdict, "{claim}");
    }
}
