//! What does each form of a condition say, and what is refused? By tables.

mod oracle;

use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value as Json, json};

use super::*;
use crate::inbound::PortProtocol;
use crate::path::{CanonicalPath, PathPattern};
use crate::request::{AccessRequest, Peer, Presented, Principal};

/// A request, its claims and the patterns of the rule.
struct Fixture {
    claims: Option<Map<String, Json>>,
    path: CanonicalPath<'static>,
    headers: HeaderMap,
    peer: Option<Peer>,
    source: IpAddr,
    patterns: Vec<PathPattern>,
}

// === impl Fixture ===

impl Fixture {
    fn new(claims: Json, path: &'static str) -> Self {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-tenant", "acme"),
            ("x-empty", ""),
            ("x-twice", "1"),
            ("x-twice", "2"),
            ("x-both", "1"),
            ("x_both", "1"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers.insert("x-utf8", HeaderValue::from_bytes("ü".as_bytes()).unwrap());
        headers.insert("x-latin1", HeaderValue::from_bytes(b"\xfc").unwrap());
        headers.insert("x_low", HeaderValue::from_static("1"));
        Self {
            claims: claims.as_object().cloned(),
            path: CanonicalPath::parse(path).unwrap(),
            headers,
            peer: Some(Peer { id: Some("spiffe://a/b".into()), thumbprint: [0; 32] }),
            source: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7)),
            patterns: ["/orders/{id}", "/tenants/{tenant}/*"]
                .map(|path| PathPattern::parse(path).unwrap())
                .into(),
        }
    }

    fn parse(&self, text: &str) -> Result<Condition, Vec<String>> {
        let set = ["x-client-id".to_owned()];
        Condition::parse(
            text,
            &Known { no_claims: None, protocol: PortProtocol::Http, patterns: &self.patterns, set: &set },
        )
    }

    fn holds(&self, condition: &Condition) -> Option<bool> {
        let request = AccessRequest {
            principal: Principal { token: Presented::Nothing, peer: self.peer.as_ref() },
            method: "GET",
            path: &self.path,
            host: "orders.shop",
            headers: &self.headers,
            grpc: false,
            source: self.source,
        };
        let (claims, patterns) = (self.claims.as_ref(), &*self.patterns);
        condition.holds(&Subject { request: &request, claims, patterns })
    }

    fn says(&self, text: &str) -> Option<bool> {
        let condition = self.parse(text).unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
        self.holds(&condition)
    }

    fn refuses(&self, text: &str) -> String {
        match self.parse(text) {
            Ok(condition) => panic!("{text} is accepted as {condition:?}"),
            Err(problems) => problems.join("; "),
        }
    }
}

fn fixture() -> Fixture {
    let claims = json!({
        "tier": "gold", "level": 3, "big": u64::MAX, "least": i64::MIN, "x": 1.5, "whole": 2.0, "yes": true, "none": null,
        "roles": ["a", "b"], "mixed": ["a", 1], "empty": [], "org": { "id": "7", "deep": { "er": true } }, "n": "42",
        "https://x/c": 1, "umlaut": "äöü",
    });
    Fixture::new(claims, "/orders/a%40b")
}

const YES: Option<bool> = Some(true);
const NO: Option<bool> = Some(false);

fn assert_all(fixture: &Fixture, cases: &[(&str, Option<bool>)]) {
    let wrong = cases.iter().filter(|(text, expected)| fixture.says(text) != *expected);
    let wrong: Vec<_> = wrong.map(|(text, _)| format!("{text}: {:?}", fixture.says(text))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Whoever keeps a request for later keeps what conditions look at.
    let looks = |text: &str| fixture.parse(text).is_ok_and(|condition| condition.reads_headers());
    let wrong: Vec<_> = cases
        .iter()
        .filter(|(text, _)| looks(text) != text.contains("headers"))
        .map(|(text, _)| text)
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn names_stand_for_what_the_request_brings() {
    assert_all(
        &fixture(),
        &[
            ("claims.tier == 'gold'", YES),
            ("claims[\"tier\"] == 'gold'", YES),
            ("claims.org.id == '7'", YES),
            ("claims['https://x/c'] == 1", YES),
            ("claims.absent == 'gold'", None),
            ("claims.tier.deeper == 'gold'", None),
            ("request.method == 'GET'", YES),
            ("request.host == 'orders.shop'", YES),
            // An escape and its character are one.
            ("request.path == '/orders/a@b'", YES),
            ("path.id == 'a@b'", YES),
            ("path['id'].startsWith('a@')", YES),
            // Of another pattern.
            ("path.tenant == 'a@b'", None),
            ("has(path.id) && !has(path.tenant) && 'id' in path", YES),
            ("peer.id == 'spiffe://a/b' && has(peer.id)", YES),
            ("source.ip == '10.0.0.7'", YES),
            ("size(claims) > 10 && 'tier' in claims && !('absent' in claims)", YES),
        ],
    );
}

#[test]
fn captures_are_those_of_the_first_pattern_that_matches() {
    let fixture = Fixture::new(json!({ "tenant": "acme" }), "/tenants/acme/x/y");
    assert_all(
        &fixture,
        &[("path.tenant == claims.tenant", YES), ("path.id == 'x'", None), ("has(path.id)", NO)],
    );
    let elsewhere = Fixture::new(json!({}), "/elsewhere");
    assert_all(&elsewhere, &[("path.tenant == 'acme'", None), ("has(path.tenant)", NO)]);
    // Whether the first pattern matches cannot be told.
    let raw =
        Fixture { path: CanonicalPath::parse_raw("/orders%2F7").unwrap(), ..Fixture::new(json!({}), "/") };
    assert_all(&raw, &[("path.id == '7'", None), ("has(path.id)", None), ("has(path.tenant)", None)]);
}

#[test]
fn in_26_a_header_with_several_lines_cannot_be_evaluated() {
    assert_all(
        &fixture(),
        &[
            ("request.headers['x-tenant'] == 'acme'", YES),
            ("has(request.headers.accept) || request.headers['x-tenant'] == 'acme'", YES),
            ("request.headers['x-empty'] == ''", YES),
            ("request.headers['x-utf8'] == 'ü'", YES),
            ("request.headers['x-latin1'] == 'ü'", None),
            ("request.headers['x-twice'] == '1'", None),
            ("request.headers['x-twice'] != '1'", None),
            ("request.headers['x-both'] == '1'", None),
            ("request.headers['x-low'] == '1'", None),
            ("request.headers['x-absent'] == '1'", None),
            ("'x-twice' in request.headers && 'x-low' in request.headers", YES),
            ("'x-absent' in request.headers", NO),
        ],
    );
}

#[test]
fn nothing_is_coerced_and_numbers_compare_by_size() {
    assert_all(
        &fixture(),
        &[
            ("claims.level == 3 && claims.level != 4 && claims.level == 3.0", YES),
            ("claims.whole == 2 && claims.x > 1 && claims.x < 2 && claims.x >= 1.5 && claims.x <= 1.5", YES),
            ("claims.big > 9223372036854775807 && claims.least < -9223372036854775807", YES),
            (
                "claims.big < 18446744073709551616.0 && claims.big > 1e18 && claims.least > -1e300 && claims.big < 1e300",
                YES,
            ),
            ("-claims.x == -1.5 && -claims.x < -1 && -claims.x > -2", YES),
            ("claims.level == '3'", None),
            ("claims.level != '3'", None),
            ("claims.n == 42", None),
            ("int(claims.n) == 42 && string(claims.level) == '3' && string(claims.yes) == 'true'", YES),
            ("int(claims.tier) == 1", None),
            ("int(claims.x) == 1 && int(claims.big) == 1", None),
            ("int(-1.9) == -1", YES),
            ("string(claims.x) == '1.5'", None),
            ("claims.yes == 'true'", None),
            ("claims.roles == 'a'", None),
            ("claims.roles != 'a'", None),
            ("claims.tier < 'h' && claims.tier >= 'gold'", YES),
            ("claims.yes < 2", None),
            ("claims.none == null && claims.tier != null && null != claims.level", YES),
            ("claims.none == 'a'", None),
            ("claims.absent == null", None),
        ],
    );
}

#[test]
fn lists_and_maps_are_looked_into() {
    assert_all(
        &fixture(),
        &[
            ("'a' in claims.roles && !('c' in claims.roles)", YES),
            ("claims.roles[0] == 'a' && claims.roles[1] == 'b'", YES),
            ("claims.roles[2] == 'a'", None),
            ("claims.roles[-1] == 'a'", None),
            ("claims.roles[claims.whole] == 'a'", None),
            ("claims.roles == ['a', 'b'] && claims.roles != ['a'] && claims.empty == []", YES),
            ("claims.roles == [1, 'b']", None),
            ("claims.roles == [1, 'c']", NO),
            ("claims.org == claims.org", YES),
            ("'id' in claims.org && claims.org['id'] == '7'", YES),
            ("1 in claims.org", None),
            ("'a' in claims.mixed && 1 in claims.mixed", YES),
            // What is not found might be what does not compare.
            ("'b' in claims.mixed", None),
            ("'a' in claims.tier", None),
            ("'a' in claims.empty", NO),
            ("request.method in ['GET', 'POST']", YES),
            ("request.method in ['PUT', claims.tier]", NO),
            ("request.method in ['GET', claims.absent]", None),
            ("claims.tier in [claims.level, 'gold']", YES),
            ("claims.tier in [claims.level, 'silver']", None),
            ("claims.roles[claims.level - 3] == 'a'", YES),
            ("size(claims.roles) == 2 && claims.roles.size() == 2 && size(claims.org) == 2", YES),
            ("size(claims.umlaut) == 3 && size('') == 0", YES),
            ("size(claims.level) == 1", None),
        ],
    );
}

#[test]
fn what_decides_outweighs_what_cannot_be_evaluated() {
    assert_all(
        &fixture(),
        &[
            ("claims.absent || true", YES),
            ("true || claims.absent", YES),
            ("claims.absent || false", None),
            ("claims.absent && false", NO),
            ("false && claims.absent", NO),
            ("claims.absent && true", None),
            ("!claims.absent", None),
            ("claims.tier && false", NO),
            ("claims.tier && true", None),
            ("claims.tier", None),
            ("claims.yes", YES),
            ("!claims.yes", NO),
            ("claims.yes ? true : claims.absent", YES),
            ("claims.absent ? true : true", None),
            ("(claims.yes ? claims.tier : claims.absent) == 'gold'", YES),
            ("has(claims.tier) && !has(claims.absent) && has(claims.none) && has(claims.org.deep.er)", YES),
            ("has(claims.absent.member)", None),
            ("has(claims.tier.member)", None),
            ("has(claims.absent) && claims.absent == 1", NO),
        ],
    );
}

#[test]
fn without_a_token_claims_cannot_be_evaluated() {
    let fixture = Fixture { claims: None, peer: None, ..fixture() };
    assert_all(
        &fixture,
        &[
            ("claims.tier == 'gold'", None),
            ("has(claims.tier)", None),
            ("'tier' in claims", None),
            ("size(claims) == 0", None),
            ("request.method == 'PUT' && claims.tier == 'gold'", NO),
            ("peer.id == 'a'", None),
            ("has(peer.id)", NO),
        ],
    );
}

#[test]
fn computing_never_leaves_the_range() {
    assert_all(
        &fixture(),
        &[
            ("claims.level + 1 == 4 && claims.level * 2 - 1 == 5 && 7 / 2 == 3 && -7 % 4 == -3", YES),
            ("claims.least - 1 < 0", None),
            ("-claims.least > 0", None),
            ("claims.least / -1 > 0", None),
            ("claims.big + 1 > 0", None),
            ("claims.level / (claims.level - 3) == 1", None),
            ("claims.level % (claims.level - 3) == 1", None),
            ("claims.x + 1.0 == 2.5 && claims.x / 2.0 == 0.75", YES),
            ("claims.x / 0.0 > 1.0", None),
            ("1e308 * 10.0 > 1.0", None),
            ("claims.x + claims.level > 1", None),
            ("'/tenants/' + claims.tier == '/tenants/gold'", YES),
            ("claims.tier + claims.level == 'x'", None),
        ],
    );
    let long = Fixture::new(json!({ "long": "x".repeat(5000) }), "/");
    assert_all(&long, &[("claims.long + 'x' == ''", NO), ("claims.long + claims.long == ''", None)]);
}

#[test]
fn an_address_in_ipv6_form_is_the_address() {
    let mapped = Fixture { source: "::ffff:10.0.0.7".parse().unwrap(), ..fixture() };
    assert_all(&mapped, &[("source.ip == '10.0.0.7'", YES)]);
    let six = Fixture { source: "2001:db8::1".parse().unwrap(), ..fixture() };
    assert_all(&six, &[("source.ip == '2001:db8::1'", YES)]);
}

#[test]
fn what_can_never_hold_is_refused_with_what_to_write() {
    let fixture = fixture();
    for (text, expected) in [
        ("", "is no CEL expression"),
        ("claims.tier = 'gold'", "is no CEL expression"),
        ("tier == 'gold'", "`tier` is not known: claims, request, path, peer and source are"),
        ("request.query == 'a'", "`request.query` is not known"),
        ("request == 1", "`request` is no value by itself"),
        ("path.nobody == 'a'", "no pattern of `to.paths` has a segment `{nobody}`"),
        ("peer.name == 'a'", "`peer.name` is not known: peer.id is"),
        ("source.port == 1", "`source.port` is not known: source.ip is"),
        ("has(request.path)", "`has(request.path)` always holds"),
        ("request.headers['X-Tenant'] == 'a'", "names of headers are in lower case: write \"x-tenant\""),
        ("request.headers['x_tenant'] == 'a'", "`_` counts as `-`"),
        ("request.headers[claims.tier] == 'a'", "which one is known beforehand"),
        ("claims.tier in request.headers", "which one is known beforehand"),
        ("request.headers == 1", "`request.headers` is no value by itself"),
        ("request.headers['a b'] == ''", "is no header name"),
        ("request.headers['x-forwarded-for'] == ''", "can be written by anybody"),
        ("'user-agent' in request.headers", "can be written by anybody"),
        ("request.headers.authorization == ''", "is a credential"),
        ("request.headers['x-client-id'] == ''", "is set by `forwardClaims`"),
        (
            "claims.roles.exists(r, r == 'a')",
            "`all`, `exists`, `exists_one`, `map` and `filter` are not part",
        ),
        ("claims.roles.all(r, r == 'a')", "`all`, `exists`"),
        ("claims.roles.map(r, r + 'a') == []", "`all`, `exists`"),
        ("claims.tier.matches('g.*')", "regular expressions are not part of this language"),
        ("matches(claims.tier, 'g.*')", "regular expressions are not part of this language"),
        ("timestamp(claims.iat) < now()", "`timestamp` is no function here: has, size,"),
        ("duration('1h') == duration('1h')", "`duration` is no function here"),
        ("claims.tier", ""),
        ("'gold'", "`\"gold\"` is the whole condition and is a string: write a boolean"),
        ("claims.level + 1", "`claims.level + 1` is the whole condition and is an integer"),
        ("size(claims.roles)", "is the whole condition and is an integer"),
        ("claims", "`claims` is the whole condition and is a map"),
        ("request.method == 1", "`request.method == 1` compares a string with an integer"),
        ("request.method in [1]", "compares a string with an integer"),
        ("request.method in []", "nothing is in an empty list"),
        ("claims.tier in [null]", "null is not compared by `in`"),
        (
            "'a' in request.path",
            "`request.path` stands on the right of `in` and is a string: write a list or a map",
        ),
        ("request.method && true", "`request.method` stands beside `&&` and is a string"),
        ("!request.method", "`request.method` stands after `!` and is a string"),
        ("request.method ? true : false", "stands before `?` and is a string"),
        ("request.path.startsWith(1)", "`1` is compared as a string and is an integer"),
        ("startsWith('a', 'b')", "`startsWith` is asked of a string"),
        ("size() == 1", "`size` takes one value"),
        ("has(claims)", "is no CEL expression: invalid argument to has() macro"),
        ("1 + 1.5 == 2.5", "`1 + 1.5` computes with an integer and a double"),
        ("claims.x == 1u", "`1u`: write 1 without the u"),
        ("claims.x == b'a'", "no value here is of bytes"),
        ("claims.x == {'a': 1}", "maps are not written out here"),
        ("claims.x == Foo{a: 1}", "maps are not written out here"),
        ("claims.x == [claims.tier]", "is not all literals"),
        ("claims.?tier == 'a'", "is no CEL expression"),
        ("true < false", "`true` is compared by size and is a boolean"),
        ("claims.`a-b` == 1", "is no CEL expression"),
        (".claims.tier == 'a'", "`.claims` is not known"),
        ("request.method.size() == 'a'", "compares an integer with a string"),
    ] {
        if expected.is_empty() {
            assert!(fixture.parse(text).is_ok(), "{text}");
            continue;
        }
        let problems = fixture.refuses(text);
        assert!(problems.contains(expected), "{text}: {problems}");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let problems =
        fixture().parse("tier == 'a' && claims.x.matches('a') || request.method == 1").unwrap_err();
    assert_eq!(problems.len(), 3, "{problems:?}");
}

#[test]
fn a_long_or_deep_condition_is_refused_at_once() {
    let fixture = fixture();
    let nested =
        |open: &str, close: &str, depth: usize| open.repeat(depth) + "claims.yes" + &close.repeat(depth);
    for (text, expected) in [
        ("x".repeat(1025), "is 1025 bytes long, 1024 are the most"),
        (nested("(", ")", 10_000), "bytes long"),
        ("(".repeat(10_000), "bytes long"),
        ("(".repeat(1024), "is nested too deep"),
        ("[".repeat(1024), "is nested too deep"),
        ("f(".repeat(512), "is nested too deep"),
        ("-".repeat(1023) + "1", "is the whole condition"),
        ("-!".repeat(500) + "a", "is nested deeper than 16"),
        ("claims".to_owned() + &".a".repeat(500), "is nested deeper than 16"),
        ("claims".to_owned() + &"[0]".repeat(300), "is nested deeper than 16"),
        ("1".to_owned() + &"+1".repeat(500) + "==1", "is nested deeper than 16"),
        ("false?true:".repeat(80) + "true", "is nested deeper than 16"),
        ("claims.l.all(x,".repeat(30) + "true" + &")".repeat(30), "`all`, `exists`"),
    ] {
        let problems = fixture.refuses(&text);
        assert!(problems.contains(expected), "{}…: {problems}", text.get(..40.min(text.len())).unwrap());
    }
    // A chain of conditions is not deep, and brackets alone are not either.
    assert_eq!(fixture.says(&["claims.yes"; 70].join(" && ")), YES);
    assert_eq!(fixture.says(&["false"; 110].join(" || ")), NO);
    assert_eq!(fixture.says(&nested("(", ")", 30)), YES);
    assert_eq!(fixture.says(&nested("(false||", ")", 14)), YES);
}

#[test]
fn the_sample_reads_checks_and_evaluates() {
    assert_eq!(
        check("claims.tier == 'gold' && request.headers['x-tenant'] == 'acme' && path.id == 'a@b'"),
        Ok(())
    );
    assert!(check("tier == 'gold'").is_err());
}
