//! Which keys count? An authorization server that we did not write rotates and drops keys, and tokens name keys that nobody has.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::floods::{Load, resident, send};
use crate::support::client::{Connection, get_with};
use crate::support::issuer::Issuer;
use crate::support::jose::{Key, claims, encode};
use crate::support::policy::{Folder, document, inbound, usual_rules};
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::Upstream;

/// A sidecar that knows the URL of the issuer's key set.
fn orders(issuer: &Issuer, upstream: &Upstream) -> (Proxy, Folder) {
    let keys = json!({"uri": format!("{}/jwks", issuer.url)});
    let issuer = document("Issuer", "corp", &json!({"issuer": issuer.url, "jwks": keys, "insecure": true}));
    let folder = Folder::with(&[("policy.yaml", &(issuer + &inbound(&usual_rules())))]);
    (Settings::policies(folder.path(), "orders").before(upstream.address()).start(), folder)
}

/// All of them ask for the key set, which is fetched once within the cooldown of 30 s; counted where it is fetched. (That
/// the next one comes after the cooldown: `in_13_a_new_key_is_fetched_when_it_is_first_seen_and_again_after_the_cooldown`.)
#[test]
fn in_13_ten_thousand_random_kids_are_one_fetch_and_no_memory() {
    const COOLDOWN: Duration = Duration::from_secs(30);
    let (issuer, upstream) = (Issuer::start(&json!({})), Upstream::start());
    let (proxy, _folder) = orders(&issuer, &upstream);
    let (good, stranger) = (issuer.token("orders:read"), Key::new("stranger"));
    assert_eq!(get_with(proxy.inbound(), "/orders", &good).status, 200);
    let token = |n: usize| {
        let kid = format!("{n}-{}", encode(&n.to_le_bytes()));
        let header = json!({"alg": "ES256", "typ": "at+jwt", "kid": kid});
        stranger.sign(&header, &claims(&issuer.url, &json!({})))
    };
    let unknown = || proxy.scrape().sum("countersign_requests_total", &[("reason", "unknown_key")]);
    let fetches = issuer.requests("/jwks");
    let start = Instant::now();
    // The first of them, so that what is kept of refusals is there.
    send(proxy.inbound(), (0..2000).map(token));
    let before = resident(&proxy);
    send(proxy.inbound(), (2000..12_000).map(token));
    let (after, took) = (resident(&proxy), start.elapsed());
    assert_eq!(issuer.requests("/jwks"), fetches + 1, "in {took:?}");
    assert!(took < COOLDOWN, "{took:?}: too slow to say anything of one cooldown");
    assert!((unknown() - 12_000.0).abs() < f64::EPSILON, "{}", unknown());
    println!("12,000 tokens in {took:?}: from {before} to {after} KiB resident");
    assert!(after < before + 4096, "from {before} to {after} KiB");
    // Those who are known noticed nothing, and the log has a few of the others.
    assert_eq!(get_with(proxy.inbound(), "/orders", &good).status, 200);
    let lines = proxy.process.stdout().matches(r#""reason":"unknown_key""#).count();
    let most = 100 + 10 * (usize::try_from(took.as_secs()).expect("seconds") + 1);
    assert!((50..=most).contains(&lines), "{lines} lines in {took:?}");
    assert_eq!(upstream.count(), 2);
}

#[test]
fn in_11_in_13_a_key_rotates_under_load_without_a_401() {
    let (issuer, upstream) = (Issuer::start(&json!({})), Upstream::start());
    let (proxy, _folder) = orders(&issuer, &upstream);
    let old = issuer.token("orders:read");
    let load = Load::start(proxy.inbound(), old.clone());
    load.switch(&old);
    let fetches = issuer.requests("/jwks");
    // Signed with at once: whoever comes with the new key waits for the one fetch.
    issuer.rotate("");
    load.switch(&issuer.token("orders:read"));
    assert_eq!(get_with(proxy.inbound(), "/orders", &old).status, 200, "its key is still published");
    let wrong = load.end();
    assert!(wrong.is_empty(), "{} of them: {:?}", wrong.len(), wrong.first());
    assert_eq!(issuer.requests("/jwks"), fetches + 1);
}

#[test]
fn in_11_a_key_that_its_issuer_drops_takes_cached_verdicts_with_it() {
    let (issuer, upstream) = (Issuer::start(&json!({})), Upstream::start());
    let (proxy, _folder) = orders(&issuer, &upstream);
    let old = format!("Bearer {}", issuer.token("orders:read"));
    let mut connection = Connection::open(proxy.inbound()).expect("a connection");
    let mut ask =
        || connection.request("GET", "/orders", &[("Authorization", &old)], b"").expect("an answer");
    assert_eq!((ask().status, ask().status), (200, 200));
    let cached = proxy.scrape().sum("countersign_verified_token_cache_total", &[("result", "connection")]);
    assert!(cached >= 1.0, "the connection remembers the verdict: {cached}");
    issuer.rotate("?drop");
    assert_eq!(ask().status, 200, "not known yet");
    // The refresh that a new key brings about.
    assert_eq!(get_with(proxy.inbound(), "/orders", &issuer.token("orders:read")).status, 200);
    let refused = ask();
    assert_eq!((refused.status, refused.reason().as_str()), (401, "unknown_key"));
}
