//! Whatever the policies and the request: no allow without a rule that says so, and a deny always wins. The rules are
//! judged here a second time, as plainly as the semantics are worded.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::HeaderMap;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::inbound::Accepted;
use crate::path::{CanonicalPath, PathPattern};
use crate::request::{Binding, Principal};
use crate::rule::{ClaimTest, From, RuleBody, To};
use crate::snapshot::{Effect, IssuerId};

const METHODS: [&str; 2] = ["GET", "POST"];
const PATHS: [&str; 3] = ["/a", "/a/b", "/c"];
const PATTERNS: [&str; 3] = ["/a", "/a/*", "/{x}"];
const ISSUERS: [&str; 2] = ["https://i1", "https://i2"];
const NAMES: [&str; 3] = ["x", "y", "z"];

fn some<T: Clone + std::fmt::Debug + 'static>(values: &'static [T]) -> impl Strategy<Value = Vec<T>> {
    prop::sample::subsequence(values, 0..=values.len())
}

fn owned(names: Vec<&'static str>) -> Vec<String> {
    names.into_iter().map(str::to_owned).collect()
}

prop_compose! {
    fn from()(issuers in some(&ISSUERS), scopes in some(&NAMES), clients in some(&NAMES), claim in prop::option::of(0..3_i64),
            bound in prop::bool::weighted(0.2)) -> From {
        From {
            issuers: issuers.into_iter().map(Arc::from).collect(),
            scopes: owned(scopes),
            clients: owned(clients),
            claims: claim.into_iter().map(|level| ("level".to_owned(), ClaimTest::OneOf(vec![json!(level)]))).collect(),
            bound,
            ..From::default()
        }
    }
}

prop_compose! {
    fn to()(methods in some(&METHODS), paths in some(&PATTERNS)) -> To {
        To {
            methods: owned(methods),
            paths: paths.into_iter().map(|path| PathPattern::parse(path).unwrap()).collect(),
            ..To::default()
        }
    }
}

fn body() -> impl Strategy<Value = RuleBody> {
    let of = |effect, public, shadow, to, from, unless| RuleBody {
        name: String::new(),
        effect,
        public,
        shadow,
        to,
        from,
        unless,
    };
    let shadow = || prop::bool::weighted(0.2);
    prop_oneof![
        (to(), from(), shadow()).prop_map(move |(to, from, shadow)| of(
            Effect::Allow,
            false,
            shadow,
            to,
            Some(from),
            None
        )),
        (to(), shadow()).prop_map(move |(to, shadow)| of(Effect::Allow, true, shadow, to, None, None)),
        (to(), prop::option::of(from()), prop::option::of(from()), shadow())
            .prop_map(move |(to, from, unless, shadow)| of(Effect::Deny, false, shadow, to, from, unless)),
    ]
}

fn policies() -> impl Strategy<Value = Policies> {
    let bound = prop::bool::weighted(0.2);
    let policy =
        (some(&ISSUERS), prop::sample::select(&NAMES[..2]), bound, prop::collection::vec(body(), 0..5));
    prop::collection::vec(policy, 0..4).prop_map(|policies| {
        let mut next = 0;
        let mut number = || {
            next += 1;
            RuleId(next - 1)
        };
        let policies = policies.into_iter().map(|(issuers, audience, bound, bodies)| {
            let accepted = |issuer| Accepted {
                introspects: false,
                issuer: Arc::from(issuer),
                id: IssuerId(0),
                audiences: vec![audience.to_owned()],
                bound,
            };
            let rules: Vec<Rule> =
                bodies.into_iter().map(|body| Rule { id: number(), body: Arc::new(body) }).collect();
            let those = |wanted: fn(&RuleBody) -> bool| {
                rules.iter().filter(|rule| wanted(&rule.body)).cloned().collect()
            };
            Arc::new(Policy {
                tokens: issuers.into_iter().map(accepted).collect(),
                denies: those(|rule| rule.effect == Effect::Deny),
                publics: those(|rule| rule.effect == Effect::Allow && rule.public),
                allows: those(|rule| rule.effect == Effect::Allow && !rule.public),
                forward_claims: Vec::new(),
                strip_token: false,
            })
        });
        Policies { policies: policies.collect(), has_shadows: true }
    })
}

/// Absent, comparable and not comparable.
fn level() -> impl Strategy<Value = Option<Value>> {
    prop::sample::select(vec![
        None,
        Some(json!(0)),
        Some(json!(1)),
        Some(json!("1")),
        Some(json!(1.5)),
        Some(json!([2, {}])),
    ])
}

prop_compose! {
    fn token()(issuer in prop::sample::select(&ISSUERS[..]), audiences in some(&NAMES), client in prop::option::of(prop::sample::select(&NAMES[..])),
               scopes in some(&NAMES), level in level(), bound in any::<bool>()) -> Token {
        Token {
            introspected: false,
            issuer: Arc::from(issuer),
            audiences: owned(audiences),
            subject: None,
            client: client.map(str::to_owned),
            scopes: owned(scopes),
            roles: Vec::new(),
            claims: level.map(|level| ("level".to_owned(), level)).into_iter().collect::<Map<_, _>>(),
            expires_at: i64::MAX,
            not_before: None,
            issued_at: None,
            binding: if bound { Binding::Key("k".to_owned()) } else { Binding::None },
        }
    }
}

/// What a condition says of a token: surely yes, or possibly. Judged anew.
fn says(from: &From, token: &Token) -> (bool, bool) {
    let plain = (!from.bound || token.binding != Binding::None)
        && (from.issuers.is_empty() || from.issuers.contains(&token.issuer))
        && from.scopes.iter().all(|scope| token.scopes.contains(scope))
        && (from.clients.is_empty()
            || token.client.as_ref().is_some_and(|client| from.clients.contains(client)));
    let claims = from.claims.iter().map(|(name, test)| {
        let ClaimTest::OneOf(wanted) = test else { unreachable!("only levels are made") };
        match token.claims.get(name) {
            None => (false, false),
            Some(Value::Array(items)) => {
                let yes = items.iter().any(|item| wanted.contains(item));
                (yes, yes || items.iter().any(|item| item.is_object()))
            }
            Some(claim) => (wanted.contains(claim), wanted.contains(claim) || claim.is_f64()),
        }
    });
    claims.fold((plain, plain), |(yes, maybe), claim| (yes && claim.0, maybe && claim.1))
}

fn fits(to: &To, method: &str, path: &CanonicalPath<'_>) -> bool {
    (to.methods.is_empty() || to.methods.iter().any(|wanted| wanted == method))
        && (to.paths.is_empty() || to.paths.iter().any(|pattern| pattern.matches(path, None)))
}

fn hits(rule: &RuleBody, method: &str, path: &CanonicalPath<'_>, token: Option<&Token>) -> bool {
    let is_from = rule.from.as_ref().is_none_or(|from| token.is_some_and(|token| says(from, token).1));
    let is_spared =
        rule.unless.as_ref().is_some_and(|unless| token.is_some_and(|token| says(unless, token).0));
    fits(&rule.to, method, path) && is_from && !is_spared
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn no_allow_without_a_rule_and_a_deny_always_wins(
        policies in policies(),
        method in prop::sample::select(&METHODS[..]),
        path in prop::sample::select(&PATHS[..]),
        token in prop::option::of(token()),
        rejected in prop::bool::weighted(0.1),
    ) {
        let path = CanonicalPath::parse(path).unwrap();
        let shown = match &token {
            _ if rejected => Presented::Rejected(Reason::Expired),
            Some(token) => Presented::Verified(token),
            None => Presented::Nothing,
        };
        let headers = HeaderMap::new();
        let request = AccessRequest {
            principal: Principal { token: shown, peer: None },
            method,
            path: &path,
            host: "h",
            headers: &headers,
            grpc: false,
            source: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let decision = policies.decide(&request);
        let token = token.as_ref().filter(|_| !rejected);

        match &decision {
            Decision::Allow { rule, public } => {
                let (policy, body) = find(&policies, *rule);
                prop_assert!(body.effect == Effect::Allow && !body.shadow && body.public == *public);
                prop_assert!(fits(&body.to, method, &path));
                if !*public {
                    let token = token.unwrap();
                    prop_assert!(policy.accepts(token));
                    let meant = policy.tokens.iter().filter(|accepted| accepted.issuer == token.issuer);
                    prop_assert!(meant.into_iter().any(|accepted| !accepted.bound || token.binding != Binding::None));
                    prop_assert!(says(body.from.as_ref().unwrap(), token).0);
                }
                // No deny rule of any policy hits, as the caller is seen: anonymous, or with the token that it accepts.
                for policy in &policies.policies {
                    let token = token.filter(|token| !*public && policy.accepts(token));
                    let hit = policy.denies.iter().any(|rule| !rule.body.shadow && hits(&rule.body, method, &path, token));
                    prop_assert!(!hit);
                }
            }
            Decision::Deny { reason: Reason::DeniedByRule, rule } => {
                let (policy, body) = find(&policies, rule.unwrap());
                prop_assert!(body.effect == Effect::Deny && !body.shadow);
                // Seen anonymously for a public rule, else with the token.
                let token = token.filter(|token| policy.accepts(token));
                prop_assert!(hits(body, method, &path, token) || hits(body, method, &path, None));
            }
            Decision::Deny { reason: Reason::InsufficientScope, rule } => {
                let (policy, body) = find(&policies, rule.unwrap());
                let token = token.unwrap();
                prop_assert!(body.effect == Effect::Allow && !body.public && policy.accepts(token));
                let mut generous = token.clone();
                generous.scopes = owned(NAMES.to_vec());
                let from = body.from.as_ref().unwrap();
                prop_assert!(says(from, &generous).0 && !says(from, token).0);
            }
            Decision::Deny { reason, rule } => {
                prop_assert_eq!(*rule, None);
                let expected = [
                    Reason::MissingToken, Reason::Expired, Reason::WrongAudience, Reason::UnknownIssuer,
                    Reason::BindingMismatch, Reason::NoRule,
                ];
                prop_assert!(expected.contains(reason));
            }
        }

        // What is decided before the token is looked at is what is decided at the end.
        if let Some(early) = policies.screen(&request) {
            prop_assert_eq!(early, decision.clone());
        }
        // Shadow rules change nothing; without them the decision is the same.
        let live = without_shadows(&policies);
        prop_assert_eq!(live.decide(&request), decision);
        for shadow in policies.shadows(&request) {
            prop_assert!(find(&policies, shadow.rule).1.shadow);
        }
    }
}

fn find(policies: &Policies, id: RuleId) -> (&Policy, &RuleBody) {
    let rules = |policy: &Policy| {
        [&policy.denies, &policy.publics, &policy.allows].map(|rules| rules.clone()).concat()
    };
    let policy =
        policies.policies.iter().find(|policy| rules(policy).iter().any(|rule| rule.id == id)).unwrap();
    let all = policy.denies.iter().chain(&policy.publics).chain(&policy.allows);
    (policy, &all.into_iter().find(|rule| rule.id == id).unwrap().body)
}

fn without_shadows(policies: &Policies) -> Policies {
    let live = |rules: &[Rule]| rules.iter().filter(|rule| !rule.body.shadow).cloned().collect();
    let policy = |policy: &Arc<Policy>| {
        Arc::new(Policy {
            tokens: policy.tokens.clone(),
            denies: live(&policy.denies),
            publics: live(&policy.publics),
            allows: live(&policy.allows),
            forward_claims: Vec::new(),
            strip_token: false,
        })
    };
    Policies { policies: policies.policies.iter().map(policy).collect(), has_shadows: false }
}
