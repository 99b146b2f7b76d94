use serde_json::json;

use super::*;

#[test]
fn integers_and_doubles_are_on_one_line() {
    let integers = [
        i128::from(i64::MIN),
        -2,
        -1,
        0,
        1,
        2,
        1 << 53,
        (1 << 53) + 1,
        i128::from(i64::MAX),
        i128::from(u64::MAX),
    ];
    let doubles = [
        f64::MIN,
        -9_223_372_036_854_775_808.0,
        -1.5,
        -1.0,
        -0.5,
        -0.0,
        0.0,
        0.5,
        1.0,
        1.5,
        9_007_199_254_740_992.0,
        9_223_372_036_854_775_807.0,
        18_446_744_073_709_551_615.0,
        f64::MAX,
    ];
    for integer in integers {
        for double in doubles {
            // Twice the value has no fraction for any of these, and fits.
            #[expect(clippy::cast_possible_truncation, reason = "the large ones saturate on the right side")]
            let expected = (integer * 2).cmp(&((double * 2.0) as i128));
            let actual = Value::Integer(integer).compares(&Value::Double(double));
            assert_eq!(actual, Some(expected), "{integer} {double}");
            let turned = Value::Double(double).compares(&Value::Integer(integer));
            assert_eq!(turned, Some(expected.reverse()), "{double} {integer}");
        }
    }
}

#[test]
fn a_number_of_claims_keeps_its_kind() {
    for (json, value) in [
        (json!(1), Value::Integer(1)),
        (json!(u64::MAX), Value::Integer(u64::MAX.into())),
        (json!(i64::MIN), Value::Integer(i64::MIN.into())),
        (json!(1.0), Value::Double(1.0)),
    ] {
        assert_eq!(Value::of(&json), value);
    }
}

#[test]
fn one_difference_outweighs_what_does_not_compare() {
    for (one, two, expected) in [
        (json!([1, "a"]), json!([1, "a"]), Some(true)),
        (json!([1, "a"]), json!([2, 1]), Some(false)),
        (json!([1, "a"]), json!([1, 1]), None),
        (json!([1]), json!([1, 2]), Some(false)),
        (json!({ "a": 1 }), json!({ "a": 1.0 }), Some(true)),
        (json!({ "a": 1 }), json!({ "b": 1 }), Some(false)),
        (json!({ "a": 1 }), json!({ "a": "1" }), None),
        (json!({ "a": 1 }), json!([1]), None),
        (json!(null), json!(null), Some(true)),
        (json!(null), json!(1), None),
    ] {
        assert_eq!(Value::of(&one).equals(&Value::of(&two)), expected, "{one} {two}");
    }
}
