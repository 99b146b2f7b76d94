//! Whatever the policies and the request: no allow without a rule that says so, and a deny always wins. The rules are
//! judged here a second time, as plainly as the semantics are worded.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::inbound::Accepted;
use crate::path::{CanonicalPath, PathPattern};
use crate::request::{Binding, Peer, Principal};
use crate::rule::{ClaimTest, From, Network, PeerPattern, RuleBody, To};
use crate::snapshot::{Effect, IssuerId};

const METHODS: [&str; 2] = ["GET", "POST"];
const PATHS: [&str; 3] = ["/a", "/a/b", "/c"];
const PATTERNS: [&str; 3] = ["/a", "/a/*", "/{x}"];
const ISSUERS: [&str; 2] = ["https://i1", "https://i2"];
const NAMES: [&str; 3] = ["x", "y", "z"];
const PEERS: [&str; 2] = ["spiffe://td/a", "spiffe://td/b/*"];
const IDS: [&str; 3] = ["spiffe://td/a", "spiffe://td/b/c", "spiffe://td/d"];
const NETWORK: &str = "10.0.0.0/8";
const ADDRESSES: [[u8; 4]; 2] = [[10, 1, 2, 3], [127, 0, 0, 1]];

fn some<T: Clone + std::fmt::Debug + 'static>(values: &'static [T]) -> impl Strategy<Value = Vec<T>> {
    prop::sample::subsequence(values, 0..=values.len())
}

fn owned(names: Vec<&'static str>) -> Vec<String> {
    names.into_iter().map(str::to_owned).collect()
}

/// Words of a token, of a certificate, of neither; what is empty needs a token or a certificate, as the policy would have it.
#[derive(Clone, Debug)]
struct Words {
    token: bool,
    peers: Vec<&'static str>,
    is_near: bool,
    empty_is_token: bool,
}

prop_compose! {
    fn words()(token in prop::bool::weighted(0.6), peers in some(&PEERS), is_near in prop::bool::weighted(0.3), empty_is_token in any::<bool>()) -> Words {
        Words { token, peers, is_near, empty_is_token }
    }
}

prop_compose! {
    fn token_words()(issuers in some(&ISSUERS), scopes in some(&NAMES), clients in some(&NAMES), claim in prop::option::of(0..3_i64),
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

/// Of an allow rule, or of a deny rule, where an address may stand alone.
fn from(effect: Effect) -> impl Strategy<Value = From> {
    (words(), token_words()).prop_map(move |(words, token_words)| {
        let Words { token, peers, is_near, empty_is_token } = words;
        let token_words = if token { token_words } else { From::default() };
        let says_token = !token_words.issuers.is_empty()
            || !token_words.scopes.is_empty()
            || !token_words.clients.is_empty()
            || !token_words.claims.is_empty()
            || token_words.bound;
        let says_who = says_token || !peers.is_empty();
        let is_near = is_near && (says_who || effect == Effect::Deny);
        let says_nothing = !says_who && !is_near;
        From {
            needs_token: says_token || (says_nothing && empty_is_token),
            needs_certificate: !peers.is_empty() || (says_nothing && !empty_is_token),
            peers: peers.into_iter().map(|peer| PeerPattern::parse(peer).unwrap()).collect(),
            sources: is_near.then(|| Network::parse(NETWORK).unwrap()).into_iter().collect(),
            ..token_words
        }
    })
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
        when: None,
    };
    let shadow = || prop::bool::weighted(0.2);
    prop_oneof![
        (to(), from(Effect::Allow), shadow()).prop_map(move |(to, from, shadow)| of(
            Effect::Allow,
            false,
            shadow,
            to,
            Some(from),
            None
        )),
        (to(), shadow()).prop_map(move |(to, shadow)| of(Effect::Allow, true, shadow, to, None, None)),
        (to(), prop::option::of(from(Effect::Deny)), prop::option::of(from(Effect::Deny)), shadow())
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
                expired_token_grace: std::time::Duration::ZERO,
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

/// What a caller shows, and from where.
#[derive(Clone, Copy)]
struct Caller<'a> {
    token: Option<&'a Token>,
    peer: Option<&'a Peer>,
    source: IpAddr,
}

/// What a condition says of a caller: surely yes, or possibly. Judged anew.
fn says(from: &From, caller: Caller<'_>) -> (bool, bool) {
    let is_near = from.sources.is_empty() || caller.source.to_string().starts_with("10.");
    let id = caller.peer.and_then(|peer| peer.id.as_deref());
    // As the patterns stand in PEERS.
    let is = |pattern: &PeerPattern, id: &str| {
        let [exact, below] = PEERS.map(|peer| PeerPattern::parse(peer).unwrap());
        (*pattern == exact && id == "spiffe://td/a")
            || (*pattern == below && id.starts_with("spiffe://td/b/"))
    };
    let is_peer =
        from.peers.is_empty() || id.is_some_and(|id| from.peers.iter().any(|pattern| is(pattern, id)));
    if !is_near || !is_peer || (from.needs_certificate && caller.peer.is_none()) {
        return (false, false);
    }
    match caller.token {
        None => (!from.needs_token, !from.needs_token),
        Some(token) => says_of_token(from, token),
    }
}

fn says_of_token(from: &From, token: &Token) -> (bool, bool) {
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

fn hits(rule: &RuleBody, method: &str, path: &CanonicalPath<'_>, caller: Caller<'_>) -> bool {
    let is_from = rule.from.as_ref().is_none_or(|from| says(from, caller).1);
    let is_spared = rule.unless.as_ref().is_some_and(|unless| says(unless, caller).0);
    fits(&rule.to, method, path) && is_from && !is_spared
}

/// What was shown: a token that is good, or is not, and a certificate with a name, or without.
fn shown() -> impl Strategy<Value = (Option<Token>, bool, Option<Peer>)> {
    let ids = IDS.iter().map(|id| Some((*id).to_owned())).chain([None]).collect::<Vec<_>>();
    let peer = prop::sample::select(ids).prop_map(|id| Peer { id, thumbprint: [7; 32] });
    (prop::option::of(token()), prop::bool::weighted(0.1), prop::option::of(peer))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6_000))]

    #[test]
    fn no_allow_without_a_rule_and_a_deny_always_wins(
        policies in policies(),
        method in prop::sample::select(&METHODS[..]),
        path in prop::sample::select(&PATHS[..]),
        (token, rejected, peer) in shown(),
        source in prop::sample::select(&ADDRESSES[..]),
    ) {
        let path = CanonicalPath::parse(path).unwrap();
        let shown = match &token {
            _ if rejected => Presented::Rejected(Reason::Expired),
            Some(token) => Presented::Verified(token),
            None => Presented::Nothing,
        };
        let headers = HeaderMap::new();
        let source = IpAddr::from(source);
        let request = AccessRequest {
            principal: Principal { token: shown, peer: peer.as_ref() },
            method,
            path: &path,
            host: "h",
            headers: &headers,
            grpc: false,
            source,
        };
        let decision = policies.decide(&request);
        let token = token.as_ref().filter(|_| !rejected);
        let anonymous = Caller { token: None, peer: peer.as_ref(), source };
        let seen_by = |policy: &Policy| Caller { token: token.filter(|token| policy.accepts(token)), ..anonymous };

        match &decision {
            Decision::Allow { rule, public } => {
                let (policy, body) = find(&policies, *rule);
                prop_assert!(body.effect == Effect::Allow && !body.shadow && body.public == *public);
                prop_assert!(fits(&body.to, method, &path));
                if !*public {
                    // A token that is shown is good, whatever the rule needs.
                    prop_assert!(!rejected && token.is_none_or(|token| policies.accepts(token)));
                    let from = body.from.as_ref().unwrap();
                    prop_assert!(from.needs_token || from.needs_certificate, "nothing was needed");
                    prop_assert!(says(from, seen_by(policy)).0);
                    if let Some(token) = seen_by(policy).token {
                        let meant = policy.tokens.iter().filter(|accepted| accepted.issuer == token.issuer);
                        prop_assert!(meant.into_iter().any(|accepted| !accepted.bound || token.binding != Binding::None));
                    }
                }
                // No deny rule of any policy hits, as the caller is seen: anonymous, or with the token that it accepts.
                for policy in &policies.policies {
                    let caller = if *public { anonymous } else { seen_by(policy) };
                    let hit = policy.denies.iter().any(|rule| !rule.body.shadow && hits(&rule.body, method, &path, caller));
                    prop_assert!(!hit);
                }
            }
            Decision::Deny { reason: Reason::DeniedByRule, rule } => {
                let (policy, body) = find(&policies, rule.unwrap());
                prop_assert!(body.effect == Effect::Deny && !body.shadow);
                // Seen anonymously for a public rule, else with the token.
                prop_assert!(hits(body, method, &path, seen_by(policy)) || hits(body, method, &path, anonymous));
            }
            Decision::Deny { reason: Reason::InsufficientScope, rule } => {
                let (policy, body) = find(&policies, rule.unwrap());
                let token = token.unwrap();
                prop_assert!(body.effect == Effect::Allow && !body.public && policy.accepts(token));
                let mut generous = token.clone();
                generous.scopes = owned(NAMES.to_vec());
                let from = body.from.as_ref().unwrap();
                let with_all = Caller { token: Some(&generous), ..seen_by(policy) };
                prop_assert!(says(from, with_all).0 && !says(from, seen_by(policy)).0);
            }
            Decision::Deny { reason: Reason::PeerRequired, rule } => {
                let (policy, body) = find(&policies, rule.unwrap());
                prop_assert!(body.effect == Effect::Allow && !body.public && peer.is_none());
                let from = body.from.as_ref().unwrap();
                let is_right = |id: &str| {
                    let peer = Peer { id: Some(id.to_owned()), thumbprint: [7; 32] };
                    says(from, Caller { peer: Some(&peer), ..seen_by(policy) }).0
                };
                prop_assert!(IDS.iter().any(|id| is_right(id)) && !says(from, seen_by(policy)).0);
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

        // A token is missing where one could help, and nothing else does.
        if token.is_none() && !rejected && policies.screen(&request).is_none() {
            let allows = policies.policies.iter().flat_map(|policy| &policy.allows);
            let live = allows.filter(|rule| !rule.body.shadow && fits(&rule.body.to, method, &path));
            let from: Vec<&From> = live.map(|rule| rule.body.from.as_ref().unwrap()).collect();
            let is_missing = policies.policies.iter().any(|policy| !policy.tokens.is_empty())
                && !from.iter().any(|from| says(from, anonymous).0)
                && (from.is_empty() || from.iter().any(|from| from.needs_token));
            prop_assert_eq!(decision == Decision::Deny { reason: Reason::MissingToken, rule: None }, is_missing);
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
            expired_token_grace: std::time::Duration::ZERO,
        })
    };
    Policies { policies: policies.policies.iter().map(policy).collect(), has_shadows: false }
}
