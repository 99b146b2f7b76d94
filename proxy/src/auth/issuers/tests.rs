//! Against a stand-in for an issuer; a real one is asked in the integration tests.

use countersign_policy::snapshot::FileRef;
use serde_json::{Value, json};

use super::*;
use crate::auth::testing::{StandIn, TestKey, eventually, issuer, ok, services, status};

const JWKS: &str = "/jwks";
const OAUTH: &str = "/.well-known/oauth-authorization-server";
const OPENID: &str = "/.well-known/openid-configuration";

/// Patient where a test waits for nothing, quick where it does.
const QUICK: Pace = Pace {
    cooldown: Duration::from_secs(30),
    patience: Duration::from_secs(2),
    backoff: Duration::from_millis(100),
    poll: Duration::from_millis(20),
};

fn arm_one(issuers: &Issuers, issuer: &Issuer) -> Arc<IssuerKeys> {
    issuers.arm(std::slice::from_ref(issuer)).pop().unwrap()
}

async fn reason(keys: &IssuerKeys, kid: &str) -> Option<Reason> {
    keys.key(Some(kid), Algorithm::EdDSA).await.err()
}

async fn discovering() -> (StandIn, Issuers, Arc<IssuerKeys>) {
    let server = StandIn::start(vec![TestKey::ed25519().jwk("a")]).await;
    let issuers = Issuers::with_pace(services(), QUICK);
    let keys = arm_one(&issuers, &issuer(&server.url, KeySource::Discovery));
    assert_eq!(reason(&keys, "a").await, None);
    (server, issuers, keys)
}

fn refresh_now(keys: &IssuerKeys) {
    keys.shared.wake.notify_one();
}

fn refreshes(issuers: &Issuers, result: &str) -> u64 {
    issuers.services.metrics.jwks_refreshes.with_label_values(&["corp", result]).get()
}

#[tokio::test]
async fn c24_keys_by_metadata_of_rfc_8414() {
    let (server, _issuers, keys) = discovering().await;
    assert!(keys.is_ready());
    assert_eq!((server.asked(OAUTH), server.asked(OPENID), server.asked(JWKS)), (1, 0, 1));
}

#[tokio::test]
async fn c24_else_by_openid_discovery() {
    let server = StandIn::start(vec![TestKey::ed25519().jwk("a")]).await;
    let metadata = json!({"issuer": server.url, "jwks_uri": format!("{}/jwks", server.url), "unknown": [1]});
    for first in [status(404), ok("", "<html>"), ok("", "{\"issuer\":\"https://other.example\"}")] {
        server.answer(OAUTH, &first);
        server.answer(OPENID, &ok("", &metadata.to_string()));
        let issuers = Issuers::with_pace(services(), QUICK);
        let keys = arm_one(&issuers, &issuer(&server.url, KeySource::Discovery));
        assert_eq!(reason(&keys, "a").await, None, "{first}");
    }
}

#[tokio::test]
async fn c24_metadata_of_another_issuer_is_discarded() {
    let server = StandIn::start(vec![TestKey::ed25519().jwk("a")]).await;
    for named in [format!("{}/", server.url), server.url.to_uppercase(), "https://other.example".into()] {
        let metadata = json!({"issuer": named, "jwks_uri": format!("{}/jwks", server.url)});
        server.answer(OAUTH, &ok("", &metadata.to_string()));
        server.answer(OPENID, &ok("", &metadata.to_string()));
        let issuers = Issuers::with_pace(services(), QUICK);
        let keys = arm_one(&issuers, &issuer(&server.url, KeySource::Discovery));
        assert_eq!(reason(&keys, "a").await, Some(Reason::KeysUnavailable), "{named}");
    }
    assert_eq!(server.asked(JWKS), 0);
}

#[tokio::test]
async fn c24_the_token_endpoint_is_found_the_same_way() {
    let server = StandIn::start(vec![]).await;
    let services = services();
    let corp = issuer(&server.url, KeySource::Discovery);
    let trust = crate::auth::issuers::discovery::trust(&services, &corp).unwrap();
    let metadata = crate::auth::issuers::discovery::discover(&services, &corp, &trust).await.unwrap();
    assert_eq!(metadata.token_endpoint, Some(format!("{}/token", server.url)));
}

#[tokio::test]
async fn in_12_http_needs_consent() {
    let server = StandIn::start(vec![TestKey::ed25519().jwk("a")]).await;
    let mut strict = issuer(&server.url, KeySource::Uri(format!("{}/jwks", server.url)));
    strict.insecure = false;
    let issuers = Issuers::with_pace(services(), QUICK);
    assert_eq!(reason(&arm_one(&issuers, &strict), "a").await, Some(Reason::KeysUnavailable));
    assert_eq!(server.asked(JWKS), 0);
}

#[tokio::test]
async fn in_13_a_thousand_random_kids_are_one_fetch() {
    let (server, _issuers, keys) = discovering().await;
    server.delay(Duration::from_millis(50));
    let mut asking = tokio::task::JoinSet::new();
    for i in 0..1000 {
        let keys = keys.clone();
        asking.spawn(async move { reason(&keys, &format!("random {i}")).await });
    }
    let answers = asking.join_all().await;
    assert!(answers.iter().all(|answer| *answer == Some(Reason::UnknownKey)));
    assert_eq!((server.asked(JWKS), server.asked(OAUTH)), (2, 1));
    // Within the cooldown: no wait, no fetch.
    let started = Instant::now();
    assert_eq!(reason(&keys, "random again").await, Some(Reason::UnknownKey));
    assert!(started.elapsed() < Duration::from_millis(50));
    assert_eq!(server.asked(JWKS), 2);
}

#[tokio::test]
async fn in_13_a_new_key_is_fetched_when_it_is_first_seen_and_again_after_the_cooldown() {
    let server = StandIn::start(vec![TestKey::ed25519().jwk("a")]).await;
    let issuers = Issuers::with_pace(services(), Pace { cooldown: Duration::from_millis(300), ..QUICK });
    let keys = arm_one(&issuers, &issuer(&server.url, KeySource::Discovery));
    assert_eq!(reason(&keys, "a").await, None);
    server.publish(vec![TestKey::ed25519().jwk("b")]);
    assert_eq!(reason(&keys, "b").await, None);
    assert_eq!(reason(&keys, "a").await, Some(Reason::UnknownKey));
    server.publish(vec![TestKey::ed25519().jwk("c")]);
    assert_eq!(reason(&keys, "c").await, Some(Reason::UnknownKey));
    assert_eq!(server.asked(JWKS), 2);
    tokio::time::sleep(Duration::from_millis(320)).await;
    assert_eq!(reason(&keys, "c").await, None);
    assert_eq!(server.asked(JWKS), 3);
}

#[tokio::test]
async fn in_13_requests_with_known_keys_never_wait() {
    let (server, _issuers, keys) = discovering().await;
    server.delay(Duration::from_secs(60));
    let waiting = tokio::spawn({
        let keys = keys.clone();
        async move { reason(&keys, "unknown").await }
    });
    eventually("the fetch is under way", || server.asked(JWKS) == 2).await;
    let started = Instant::now();
    assert_eq!(reason(&keys, "a").await, None);
    assert!(started.elapsed() < Duration::from_millis(100));
    // The one that waits does so for two seconds; then it is not known whose fault it is.
    assert_eq!(waiting.await.unwrap(), Some(Reason::KeysUnavailable));
    assert!(started.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn an_unknown_kid_during_an_outage_is_our_fault() {
    let (server, _issuers, keys) = discovering().await;
    server.down(true);
    assert_eq!(reason(&keys, "b").await, Some(Reason::KeysUnavailable));
    assert_eq!(reason(&keys, "c").await, Some(Reason::KeysUnavailable));
    assert_eq!(reason(&keys, "a").await, None);
    server.publish(vec![TestKey::ed25519().jwk("b")]);
    server.down(false);
    eventually("the keeper tries again by itself", || keys.shared.flights.borrow().succeeded).await;
    assert_eq!(reason(&keys, "b").await, None);
}

#[tokio::test]
async fn without_a_kid_the_only_key_that_fits() {
    let (server, _issuers, keys) = discovering().await;
    assert!(keys.key(None, Algorithm::EdDSA).await.is_ok());
    assert_eq!(keys.key(None, Algorithm::ES256).await.err(), Some(Reason::UnknownKey));
    assert_eq!(server.asked(JWKS), 1);
    server.publish(vec![TestKey::ed25519().jwk("a"), TestKey::ed25519().jwk("b")]);
    assert_eq!(reason(&keys, "b").await, None);
    assert_eq!(keys.key(None, Algorithm::EdDSA).await.err(), Some(Reason::UnknownKey));
}

#[tokio::test]
async fn in_12_a_bad_refresh_keeps_the_last_good_set() {
    let (server, issuers, keys) = discovering().await;
    let many: Vec<Value> = (0..101).map(|i| TestKey::ed25519().jwk(&i.to_string())).collect();
    let redirect =
        format!("HTTP/1.1 302 Found\r\nlocation: {}/elsewhere\r\ncontent-length: 0\r\n\r\n", server.url);
    let bad = [
        status(500),
        status(404),
        status(304),
        redirect,
        ok("", ""),
        ok("", "{}"),
        ok("", "{\"keys\":[]}"),
        ok("", "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\",\"kid\":\"a\"}]}"),
        ok("", &json!({ "keys": many }).to_string()),
        ok("", &format!("{{\"keys\":[]{}}}", " ".repeat(1024 * 1024))),
        ok("content-encoding: gzip\r\n", "{\"keys\":[]}"),
    ];
    for (i, answer) in bad.iter().enumerate() {
        server.answer(JWKS, answer);
        let failures = refreshes(&issuers, "failure");
        refresh_now(&keys);
        eventually("a failure", || refreshes(&issuers, "failure") > failures).await;
        assert_eq!(reason(&keys, "a").await, None, "answer {i}");
    }
    assert_eq!(server.asked("/elsewhere"), 0);
    assert_eq!(refreshes(&issuers, "success"), 1);
}

#[tokio::test]
async fn in_12_the_last_good_set_is_good_for_a_day() {
    let (server, issuers, keys) = discovering().await;
    server.down(true);
    let hour = Duration::from_secs(3600);
    issuers.services.clock.advance(hour * 24 - Duration::from_secs(30));
    assert_eq!(reason(&keys, "a").await, None);
    issuers.services.clock.advance(Duration::from_secs(31));
    assert_eq!(reason(&keys, "a").await, Some(Reason::KeysUnavailable));
    assert!(!keys.is_ready());
    server.down(false);
    refresh_now(&keys);
    eventually("keys again", || keys.is_ready()).await;
    assert_eq!(reason(&keys, "a").await, None);
}

#[tokio::test]
async fn an_unchanged_set_is_not_sent_again() {
    let server = StandIn::start(vec![]).await;
    let document = json!({"keys": [TestKey::ed25519().jwk("a")]}).to_string();
    server.answer(JWKS, &ok("etag: \"v1\"\r\n", &document));
    let issuers = Issuers::with_pace(services(), QUICK);
    let keys = arm_one(&issuers, &issuer(&server.url, KeySource::Discovery));
    assert_eq!(reason(&keys, "a").await, None);
    issuers.services.clock.advance(Duration::from_secs(23 * 3600));
    refresh_now(&keys);
    eventually("an unchanged set", || refreshes(&issuers, "unchanged") == 1).await;
    // It counts from the answer that said so.
    issuers.services.clock.advance(Duration::from_secs(23 * 3600));
    assert_eq!(reason(&keys, "a").await, None);
    assert_eq!((refreshes(&issuers, "success"), refreshes(&issuers, "failure")), (1, 0));
}

#[tokio::test]
async fn the_first_request_waits_for_the_first_fetch() {
    let server = StandIn::start(vec![TestKey::ed25519().jwk("a")]).await;
    server.delay(Duration::from_millis(100));
    let issuers = Issuers::with_pace(services(), QUICK);
    let keys = arm_one(&issuers, &issuer(&server.url, KeySource::Discovery));
    assert!(!keys.is_ready());
    assert_eq!(reason(&keys, "a").await, None);
    assert!(keys.is_ready());
}

#[tokio::test]
async fn without_any_keys_it_is_our_fault() {
    let server = StandIn::start(vec![]).await;
    server.delay(Duration::from_secs(60));
    let issuers = Issuers::with_pace(services(), Pace { patience: Duration::from_millis(100), ..QUICK });
    let keys = arm_one(&issuers, &issuer(&server.url, KeySource::Discovery));
    assert_eq!(reason(&keys, "a").await, Some(Reason::KeysUnavailable));
    // After the first flight nobody waits.
    server.delay(Duration::ZERO);
    let second = arm_one(&issuers, &issuer(&server.url, KeySource::Uri(format!("{}/none", server.url))));
    eventually("the first flight failed", || second.shared.flights.borrow().finished > 0).await;
    assert_eq!(reason(&second, "a").await, Some(Reason::KeysUnavailable));
}

#[tokio::test]
async fn a_restart_during_an_outage_uses_the_keys_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let with_disk =
        || Services { state_dir: Some(StateDir::open(dir.path(), "shop", "orders").unwrap()), ..services() };
    let server = StandIn::start(vec![TestKey::ed25519().jwk("a")]).await;
    let corp = issuer(&server.url, KeySource::Discovery);
    {
        let issuers = Issuers::with_pace(with_disk(), QUICK);
        let keys = arm_one(&issuers, &corp);
        assert_eq!(reason(&keys, "a").await, None);
    }
    server.down(true);
    let issuers = Issuers::with_pace(with_disk(), QUICK);
    let keys = arm_one(&issuers, &corp);
    assert!(keys.is_ready());
    assert_eq!(reason(&keys, "a").await, None);
    assert_eq!(reason(&keys, "b").await, Some(Reason::KeysUnavailable));

    // The day counts from the fetch, not from the restart.
    let late = with_disk();
    late.clock.advance(Duration::from_secs(24 * 3600 + 1));
    let issuers = Issuers::with_pace(late, QUICK);
    assert!(!arm_one(&issuers, &corp).is_ready());

    // Other settings are another issuer.
    let mut other = corp.clone();
    other.fingerprint = [9; 32];
    assert!(!arm_one(&Issuers::with_pace(with_disk(), QUICK), &other).is_ready());
}

#[tokio::test]
async fn what_is_armed_no_more_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = StateDir::open(dir.path(), "shop", "orders").unwrap();
    let with_disk = Services { state_dir: Some(state_dir.clone()), ..services() };
    let server = StandIn::start(vec![TestKey::ed25519().jwk("a")]).await;
    let (corp, metrics) = (issuer(&server.url, KeySource::Discovery), with_disk.metrics.clone());
    let issuers = Issuers::with_pace(with_disk, QUICK);
    let keys = arm_one(&issuers, &corp);
    assert_eq!(reason(&keys, "a").await, None);
    let entry = format!("keys-{}", corp.fingerprint.map(|b| format!("{b:02x}")).concat());
    assert!(state_dir.load(&entry).is_some());

    // The same issuer in the next snapshot is the same keeper; with other settings it is another one of the same name.
    assert!(Arc::ptr_eq(&keys, &arm_one(&issuers, &corp)));
    let mut changed = corp.clone();
    changed.fingerprint = [9; 32];
    let next = arm_one(&issuers, &changed);
    assert!(!Arc::ptr_eq(&keys, &next));
    assert!(state_dir.load(&entry).is_none());
    let series = || String::from_utf8(metrics.encode().unwrap()).unwrap().contains("issuer=\"corp\"");
    let held = Arc::downgrade(&keys.shared);
    drop(keys);
    eventually("the task is gone", || held.strong_count() == 0).await;
    assert!(series());
    issuers.arm(&[]);
    drop(next);
    assert!(!series());
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    let write = |kid: &str| {
        let document = json!({"keys": [TestKey::ed25519().jwk(kid)]}).to_string();
        std::fs::write(&path, document).unwrap();
    };
    write("a");
    let declared_in = dir.path().join("policy.yaml").display().to_string();
    let file = FileRef { path: "jwks.json".to_owned(), declared_in };
    let issuers = Issuers::with_pace(services(), QUICK);
    let keys = arm_one(&issuers, &issuer("https://issuer.example", KeySource::File(file)));
    assert_eq!(reason(&keys, "a").await, None);
    write("b");
    let now = || issuers.services.clock.unix();
    let knows = |kid: &str| {
        matches!(keys.shared.current(now()).unwrap().find(Some(kid), Algorithm::EdDSA), Lookup::Key(_))
    };
    eventually("the new key", || knows("b")).await;
    assert!(!knows("a"));
    std::fs::write(&path, "{").unwrap();
    eventually("a failure", || refreshes(&issuers, "failure") > 0).await;
    assert!(knows("b"));
    write("c");
    eventually("the newest key", || knows("c")).await;
    assert_eq!(refreshes(&issuers, "unchanged"), 0);
}

#[tokio::test]
async fn keys_in_policy_are_there_at_once_and_final() {
    let document = json!({"keys": [TestKey::ed25519().jwk("a")]});
    let issuers = Issuers::with_pace(services(), QUICK);
    let keys = arm_one(&issuers, &issuer("https://issuer.example", KeySource::Inline(document)));
    assert!(keys.is_ready());
    assert_eq!(reason(&keys, "a").await, None);
    let started = Instant::now();
    assert_eq!(reason(&keys, "b").await, Some(Reason::UnknownKey));
    let broken = arm_one(&issuers, &issuer("https://issuer.example", KeySource::Inline(json!({"keys": []}))));
    assert_eq!(reason(&broken, "a").await, Some(Reason::KeysUnavailable));
    assert!(started.elapsed() < Duration::from_millis(200));
}
