//! Do we say what CEL says? The same expressions, on the same values, by us and by the interpreter of the `cel` crate; and the
//! same texts by its two parsers.
//!
//! We deviate where an answer would be a guess, and only from an answer to none ("cannot be evaluated", which denies):
//!
//! - values of different kinds are not unequal but not comparable: `claims.role != "guest"` must not hold because the role
//!   came as a list; and so for `in`, where none of the items is equal
//! - doubles are never infinite or no number
//! - integers beyond 63 bits compare, but are not computed with (CEL has a kind of its own for some of them)
//! - strings of more than 8 KiB are not put together
//! - a list index is an integer, not a double without a fraction; a map has no member by a number
//! - a header with several lines has no value
//!
//! The rest of CEL that is left out is refused when the policy is compiled.

use cel::parser::{Parser, PrattParser};
use cel::{Context, Program};
use proptest::prelude::*;
use proptest::strategy::Union;

use super::*;

const CASES: u32 = 2_000;

fn words(words: &'static [&'static str]) -> impl Strategy<Value = String> + Clone {
    prop::sample::select(words).prop_map(str::to_owned)
}

/// `before(one)between(two)after`
fn joined(
    one: impl Strategy<Value = String>,
    signs: &'static [&'static str],
    two: impl Strategy<Value = String>,
) -> impl Strategy<Value = String> {
    (one, prop::sample::select(signs), two).prop_map(|(one, sign, two)| format!("({one} {sign} {two})"))
}

// Expressions of one kind, from claims that are of that kind or absent: `s*` strings, `i*` integers, `d*` doubles, `b*` booleans.

fn texts() -> impl Strategy<Value = String> + Clone {
    let leaf = words(&[
        "claims.s1",
        "claims.s2",
        "claims['s1']",
        "claims.map.s",
        "claims.list[0]",
        "claims.list[claims.i1]",
        "request.method",
        "request.path",
        "request.host",
        "request.headers['x-a']",
        "request.headers['x-absent']",
        "path.id",
        "peer.id",
        "source.ip",
        "''",
        "'a'",
        "'GET'",
        "\"ü\"",
        "'\\x61'",
    ]);
    leaf.prop_recursive(1, 4, 2, |inner| {
        Union::new([
            joined(inner.clone(), &["+"], inner.clone()).boxed(),
            integers().prop_map(|integer| format!("string({integer})")).boxed(),
            (booleans_of(inner.clone()), inner.clone(), inner)
                .prop_map(|(condition, one, two)| format!("({condition} ? {one} : {two})"))
                .boxed(),
        ])
    })
}

fn integers() -> impl Strategy<Value = String> + Clone {
    let leaf = words(&[
        "claims.i1",
        "claims.i2",
        "claims.map.i",
        "0",
        "1",
        "2",
        "-1",
        "9223372036854775807",
        "size(claims.s1)",
        "size(claims.list)",
        "claims.list.size()",
        "size(claims.map)",
        "int(claims.d1)",
        "int(claims.s2)",
        "int('12')",
    ]);
    leaf.prop_recursive(1, 4, 2, |inner| {
        Union::new([
            joined(inner.clone(), &["+", "-", "*", "/", "%"], inner.clone()).boxed(),
            inner.prop_map(|inner| format!("-({inner})")).boxed(),
        ])
    })
}

fn doubles() -> impl Strategy<Value = String> + Clone {
    words(&["claims.d1", "claims.d2", "0.5", "1.0", "-1.5", "(claims.d1 + 0.25)", "(claims.d2 * claims.d1)"])
}

fn booleans_of(
    texts: impl Strategy<Value = String> + Clone + 'static,
) -> impl Strategy<Value = String> + Clone {
    const EQUAL: &[&str] = &["==", "!="];
    const ORDER: &[&str] = &["==", "!=", "<", "<=", ">", ">="];
    let numbers = Union::new([integers().boxed(), doubles().boxed()]);
    let list =
        words(&["claims.list", "['a', 'GET']", "['a', claims.s1]", "[request.method, 'b', claims.s2]"]);
    let leaf = Union::new([
        words(&[
            "true",
            "false",
            "claims.b1",
            "claims.b2",
            "has(claims.s1)",
            "has(claims.map.s)",
            "has(claims.absent)",
            "has(claims.absent.more)",
            "has(peer.id)",
            "has(path.id)",
            "has(request.headers.accept)",
            "'x-a' in request.headers",
            "'s1' in claims",
            "'s' in claims.map",
            "claims.s1 == null",
            "null != claims.i1",
            "claims.list == claims.list",
            "claims.map == claims.map",
            "claims.list != ['a']",
            "claims.list == ['a', 'b']",
        ])
        .boxed(),
        joined(texts.clone(), ORDER, texts.clone()).boxed(),
        joined(numbers.clone(), ORDER, numbers).boxed(),
        joined(texts.clone(), &["in"], list).boxed(),
        joined(words(&["claims.b1", "claims.b2"]), EQUAL, words(&["true", "false", "claims.b1"])).boxed(),
        (texts.clone(), prop::sample::select(&["startsWith", "endsWith", "contains"][..]), texts)
            .prop_map(|(text, test, part)| format!("{text}.{test}({part})"))
            .boxed(),
    ]);
    leaf.prop_recursive(2, 12, 3, |inner| {
        Union::new([
            joined(inner.clone(), &["&&", "||"], inner.clone()).boxed(),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(one, two, three)| format!("{one} && {two} || {three}"))
                .boxed(),
            inner.clone().prop_map(|inner| format!("!({inner})")).boxed(),
            (inner.clone(), inner.clone(), inner)
                .prop_map(|(condition, one, two)| format!("({condition} ? {one} : {two})"))
                .boxed(),
        ])
    })
}

/// A claim of this name, more often there than not.
fn claim(name: &'static str, values: Vec<Json>) -> impl Strategy<Value = Option<(String, Json)>> {
    prop::option::weighted(0.95, prop::sample::select(values))
        .prop_map(move |value| Some((name.to_owned(), value?)))
}

/// Claims whose kinds are those of their names.
fn kept() -> impl Strategy<Value = Json> {
    let texts = || vec![json!(""), json!("a"), json!("GET"), json!("12"), json!("ü")];
    let integers = || vec![json!(0), json!(1), json!(-7), json!(i64::MAX), json!(i64::MIN)];
    (
        (claim("s1", texts()), claim("s2", texts()), claim("i1", integers()), claim("i2", integers())),
        (claim("d1", vec![json!(0.5), json!(-1.5), json!(2.0)]), claim("d2", vec![json!(1.0), json!(1e10)])),
        (claim("b1", vec![json!(true), json!(false)]), claim("b2", vec![json!(true), json!(false)])),
        claim("list", vec![json!([]), json!(["a", "b"]), json!(["GET"])]),
        claim("map", vec![json!({}), json!({ "s": "a", "i": 3 }), json!({ "s": "" })]),
    )
        .prop_map(|((s1, s2, i1, i2), (d1, d2), (b1, b2), list, map)| {
            [s1, s2, i1, i2, d1, d2, b1, b2, list, map].into_iter().flatten().collect()
        })
}

/// Claims of the same names, of any kind.
fn mixed() -> impl Strategy<Value = Json> {
    let values = || {
        vec![
            json!(null),
            json!(true),
            json!(0),
            json!(1),
            json!(u64::MAX),
            json!(1.0),
            json!(1e308),
            json!("a"),
            json!("GET"),
            json!([]),
            json!(["a", 1]),
            json!([["a"], null]),
            json!({}),
            json!({ "s": "a", "i": "a" }),
            json!({ "s": 1 }),
        ]
    };
    let names = ["s1", "s2", "i1", "i2", "d1", "d2", "b1", "b2", "list", "map"];
    names.map(|name| claim(name, values())).prop_map(|claims| claims.into_iter().flatten().collect())
}

fn fixture_with(claims: Json, has_peer: bool) -> Fixture {
    let mut fixture = Fixture::new(claims, "/orders/a%40b");
    fixture.headers = [(HeaderName::from_static("x-a"), HeaderValue::from_static("a"))].into_iter().collect();
    fixture.peer = fixture.peer.filter(|_| has_peer);
    fixture
}

/// As our numbers are: integers are of CEL's kind with a sign wherever they fit.
fn converted(json: &Json) -> cel::Value {
    match json {
        Json::Null => cel::Value::Null,
        Json::Bool(boolean) => (*boolean).into(),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(int), ..) => int.into(),
            (None, Some(uint), _) => uint.into(),
            (None, None, double) => double.unwrap().into(),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(items) => items.iter().map(converted).collect::<Vec<_>>().into(),
        Json::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), converted(value)))
            .collect::<std::collections::HashMap<_, _>>()
            .into(),
    }
}

/// What the interpreter says. `None`: an error, or no boolean.
fn oracle(fixture: &Fixture, text: &str) -> Option<bool> {
    let mut context = Context::default();
    let peer = fixture.peer.as_ref().map_or(json!({}), |peer| json!({ "id": peer.id }));
    for (name, value) in [
        ("claims", json!(fixture.claims)),
        (
            "request",
            json!({ "method": "GET", "path": "/orders/a@b", "host": "orders.shop", "headers": { "x-a": "a" } }),
        ),
        ("path", json!({ "id": "a@b" })),
        ("peer", peer),
        ("source", json!({ "ip": "10.0.0.7" })),
    ] {
        context.add_variable_from_value(name, converted(&value));
    }
    match Program::compile(text).unwrap().execute(&context) {
        Ok(cel::Value::Bool(holds)) => Some(holds),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, max_shrink_iters: 500, ..ProptestConfig::default() })]

    /// Where kinds are kept, and nothing is beyond our range, we say the same, also of what cannot be evaluated.
    #[test]
    fn kinds_that_are_kept_give_the_same_answer(text in booleans_of(texts()), claims in kept(), has_peer in any::<bool>()) {
        let fixture = fixture_with(claims, has_peer);
        if let Ok(condition) = fixture.parse(&text) {
            prop_assert_eq!(fixture.holds(&condition), oracle(&fixture, &text), "{} on {:?}", text, fixture.claims);
        }
    }

    /// Whatever the kinds: where we say yes or no, CEL says the same.
    #[test]
    fn an_answer_of_ours_is_that_of_cel(text in booleans_of(texts()), claims in mixed(), has_peer in any::<bool>()) {
        let fixture = fixture_with(claims, has_peer);
        if let Ok(condition) = fixture.parse(&text)
            && let Some(holds) = fixture.holds(&condition) {
            prop_assert_eq!(Some(holds), oracle(&fixture, &text), "{} on {:?}", text, fixture.claims);
        }
    }

    /// What one parser of the crate makes of a text, the other does; ours is the one with the smaller stack.
    #[test]
    fn both_parsers_read_the_same(text in booleans_of(texts())) {
        let fixture = fixture_with(json!({}), true);
        let known = Known { no_claims: None, protocol: PortProtocol::Http, patterns: &fixture.patterns, set: &[] };
        let trees = (PrattParser::new().parse(&text).unwrap(), Parser::new().parse(&text).unwrap());
        prop_assert_eq!(check::check(&trees.0, &known), check::check(&trees.1, &known));
    }

    /// Any soup of words, well-formed or not: an answer or a refusal, without a panic and in bounded time.
    #[test]
    fn any_text_is_read_without_a_panic(words in prop::collection::vec(prop::sample::select(SOUP), 0..40), any in ".{0,40}") {
        let _ = super::super::check(&words.concat());
        let _ = super::super::check(&words.join(" "));
        let _ = super::super::check(&any);
    }
}

const SOUP: &[&str] = &[
    "claims",
    "claims.tier",
    "request.path",
    "request.headers",
    "path.id",
    "peer.id",
    ".",
    ".x",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "'a'",
    "\"",
    "'''",
    "r'",
    "b'x'",
    "1",
    "0x",
    "0xff",
    "1.5",
    "1u",
    "9223372036854775808",
    "-",
    "!",
    "&&",
    "||",
    "==",
    "!=",
    "<",
    ">=",
    "+",
    "*",
    "/",
    "%",
    "in",
    "?",
    ":",
    ",",
    "has(",
    "size(",
    "int(",
    "string(",
    ".startsWith(",
    ".exists(x,",
    ".map(x,",
    "`a`",
    "//",
    "\n",
    "\r",
    "é",
    "\\",
    "\\u00",
    "|",
    "&",
    "=",
    "@",
    "#",
    "\0",
    "null",
    "true",
    "false",
    ".?",
    "[?",
    "1e",
    "1e999",
    "🙂",
];
