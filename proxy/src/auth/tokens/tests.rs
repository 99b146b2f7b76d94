use std::slice::from_ref;
use std::time::Duration;

use super::*;
use crate::auth::tokens::server::{Answer, TokenServer, World, eventually, request};

fn after(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A server whose tokens tell the scopes that they were asked for.
async fn echo() -> TokenServer {
    TokenServer::start(|_, asked| {
        Answer::token(&asked.parameter("scope").unwrap_or_default().replace(' ', "."), 3600)
    })
    .await
}

fn arm(tokens: &Tokens, world: &World, requests: &[TokenRequest]) -> Vec<Arc<TokenSlot>> {
    tokens.arm_with(from_ref(&world.issuer), from_ref(&world.credential), requests)
}

async fn token(slot: &TokenSlot) -> String {
    slot.token().await.unwrap().authorization.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c9_scopes_a_b_and_ab_are_two_tokens() {
    let server = echo().await;
    let world = World::new(&server);
    let tokens = Tokens::new(world.services.clone());
    let slots = arm(&tokens, &world, &[request(1, &["a", "b"]), request(2, &["ab"])]);
    assert_eq!((token(&slots[0]).await, token(&slots[1]).await), ("Bearer a.b".into(), "Bearer ab".into()));
    assert_eq!(server.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_fetched_when_armed_and_survive_a_reload() {
    let server = echo().await;
    let world = World::new(&server);
    let tokens = Tokens::new(world.services.clone());
    let before = arm(&tokens, &world, &[request(1, &["a"]), request(2, &["b"])]);
    server.count_reaches(2).await;
    eventually(|| before.iter().all(|slot| slot.ready().is_some())).await;

    let now = arm(&tokens, &world, &[request(3, &["c"]), request(2, &["b"]), request(2, &["b"])]);
    assert!(Arc::ptr_eq(&before[1], &now[1]) && Arc::ptr_eq(&now[1], &now[2]));
    assert_eq!(now[1].ready().unwrap().authorization, "Bearer b");
    assert_eq!(token(&now[0]).await, "Bearer c");
    assert_eq!(server.count(), 3);
    // A request that began on the old snapshot ends on it.
    assert_eq!(before[0].ready().unwrap().authorization, "Bearer a");
    let reports = tokens.report();
    assert_eq!(reports.iter().map(|report| &report.scopes[0]).collect::<Vec<_>>(), ["b", "c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_most_four_requests_at_once_to_one_issuer() {
    let server = echo().await;
    server.hold();
    let world = World::new(&server);
    let tokens = Tokens::new(world.services.clone());
    let requests: Vec<_> = (0..20).map(|key| request(key, &["a"])).collect();
    let slots = arm(&tokens, &world, &requests);
    server.count_reaches(4).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.count(), 4);
    server.release();
    for slot in &slots {
        token(slot).await;
    }
    assert_eq!((server.count(), server.most_at_once()), (20, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_report_says_all_but_the_token() {
    let server = TokenServer::start(|before, _| match before {
        1 => Answer::error("400 No", "invalid_scope"),
        _ => Answer::json(r#"{"access_token":"t0k3n","token_type":"bearer","expires_in":1000,"scope":"a"}"#),
    })
    .await;
    let world = World::new(&server);
    let tokens = Tokens::new(world.services.clone());
    let slots = arm(&tokens, &world, &[request(1, &["a", "b"])]);
    token(&slots[0]).await;
    world.clock.advance(after(100));
    let report = tokens.report().remove(0);
    assert_eq!((report.credential.as_str(), report.state), ("shop/checkout", "fresh"));
    assert_eq!(report.granted_scopes, Some(vec!["a".to_owned()]));
    let words = [report.issuer.as_str(), report.grant, report.authentication, report.binding];
    assert_eq!(words, ["corp", "client_credentials", "client_secret_basic", "none"]);
    let near = |value: Option<i64>, expected: i64| (value.unwrap() - expected).abs() <= 2;
    assert!(near(report.expires_at, world.clock.unix() + 900), "{report:?}");
    assert!(near(report.age_seconds, 100) && near(report.expires_in_seconds, 900), "{report:?}");
    // The soft limit is at 650 to 750 s.
    assert!((547..=650).contains(&report.refresh_in_seconds.unwrap()));
    assert_eq!((report.last_error, report.in_flight, report.retry_in_seconds), (None, false, None));
    assert_eq!((report.last_error_cause, report.last_error_at, report.waiting), (None, None, 0));
    assert_eq!((report.fetched, report.failed), (1, 0));
    assert_eq!(world.metrics.token_scope_narrowed.with_label_values(&["shop/checkout"]).get(), 1);

    world.clock.advance(after(700));
    let _ = slots[0].ready();
    eventually(|| tokens.report()[0].last_error.is_some()).await;
    let report = tokens.report().remove(0);
    assert_eq!(report.state, "refresh_due");
    assert!(report.last_error.as_deref().unwrap().contains("invalid_scope"));
    assert!((25..=30).contains(&report.retry_in_seconds.unwrap()));
    assert_eq!(report.last_error_cause, Some("invalid_scope"));
    assert!(near(report.last_error_at, world.clock.unix()), "{report:?}");
    assert_eq!((report.fetched, report.failed), (1, 1));
    assert!(!serde_json::to_string(&report).unwrap().contains("t0k3n"));

    // Past the hard limit somebody waits, and what went wrong before can still be read afterwards.
    server.hold();
    world.clock.advance(after(300));
    let waits = tokio::spawn({
        let slot = slots[0].clone();
        async move { slot.token().await.is_ok() }
    });
    eventually(|| tokens.report()[0].waiting == 1).await;
    server.release();
    assert!(waits.await.unwrap());
    let report = tokens.report().remove(0);
    assert_eq!((report.state, report.fetched, report.failed, report.waiting), ("fresh", 2, 1, 0));
    assert_eq!((report.last_error_cause, report.retry_in_seconds), (Some("invalid_scope"), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn series_of_a_credential_go_with_it() {
    let server = echo().await;
    let world = World::new(&server);
    let tokens = Tokens::new(world.services.clone());
    let slots = arm(&tokens, &world, &[request(1, &["a"])]);
    token(&slots[0]).await;
    let text = || String::from_utf8(world.metrics.encode().unwrap()).unwrap();
    assert!(text().contains("token_expiry_timestamp_seconds{credential=\"shop/checkout\"}"));
    assert!(text().contains("countersign_token_fetch_duration_seconds_count 1"));
    arm(&tokens, &world, &[]);
    assert!(!text().contains("shop/checkout"));
    assert!(tokens.report().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c26_a_credential_has_one_key_until_policy_names_it_no_more() {
    let server = TokenServer::start(|_, _| {
        Answer::json(r#"{"access_token":"t","token_type":"DPoP","expires_in":3600}"#)
    })
    .await;
    let world = World::new(&server);
    let tokens = Tokens::new(world.services.clone());
    let bound = |key| TokenRequest { binding: TokenBinding::Key, ..request(key, &["a"]) };
    let thumbprint = |slot: &Arc<TokenSlot>| TokenReport::of(slot).key_thumbprint;

    let before = arm(&tokens, &world, &[bound(1), bound(2), request(3, &["a"])]);
    assert_eq!(token(&before[0]).await, "DPoP t");
    assert!(thumbprint(&before[0]).is_some() && thumbprint(&before[0]) == thumbprint(&before[1]));
    assert_eq!(thumbprint(&before[2]), None);

    let after = arm(&tokens, &world, &[bound(4)]);
    assert_eq!(thumbprint(&after[0]), thumbprint(&before[0]), "another token of it has the same key");
    let gone = thumbprint(&before[0]);
    drop((before, after));
    arm(&tokens, &world, &[request(3, &["a"])]);
    // The keepers let go of their slots in their own time.
    eventually(|| {
        arm(&tokens, &world, &[]);
        tokens.lock().keys.is_empty()
    })
    .await;
    assert_ne!(thumbprint(&arm(&tokens, &world, &[bound(4)])[0]), gone);

    let mut other = World::new(&server);
    other.credential.fingerprint = [9; 32];
    let slots = tokens.arm_with(
        from_ref(&world.issuer),
        &[world.credential.clone(), other.credential],
        &[bound(4), TokenRequest { credential: countersign_policy::snapshot::CredentialId(1), ..bound(5) }],
    );
    assert_ne!(thumbprint(&slots[0]), thumbprint(&slots[1]), "each credential has its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_of_an_issuer_is_shown_and_changes_no_lifetime() {
    let server = TokenServer::start(|before, _| match before {
        // 784111777 s since the epoch.
        0 => Answer::new(
            "200 OK",
            "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
            r#"{"access_token":"t","token_type":"Bearer","expires_in":3600}"#,
        ),
        _ => Answer::token("t", 3600),
    })
    .await;
    let world = World::new(&server);
    let tokens = Tokens::new(world.services.clone());
    let slots = arm(&tokens, &world, &[request(1, &["a"])]);
    token(&slots[0]).await;
    let report = tokens.report().remove(0);
    let skew = report.clock_skew_seconds.unwrap();
    assert!((skew - (784_111_777 - world.clock.unix())).abs() <= 2, "{skew}");
    assert!((3598..=3600).contains(&report.expires_in_seconds.unwrap()), "{report:?}");
    let series = || {
        let text = String::from_utf8(world.metrics.encode().unwrap()).unwrap();
        text.lines().find_map(|line| {
            line.strip_prefix("countersign_issuer_clock_skew_seconds{issuer=\"corp\"} ").map(str::to_owned)
        })
    };
    assert_eq!(series(), Some(skew.to_string()));

    // An answer that does not say what time it is changes nothing, and all slots of an issuer know what one has seen.
    let slots = arm(&tokens, &world, &[request(1, &["a"]), request(2, &["b"])]);
    token(&slots[1]).await;
    let seen: Vec<_> = tokens.report().into_iter().map(|report| report.clock_skew_seconds).collect();
    assert_eq!(seen, [Some(skew); 2]);

    tokens.arm_with(&[], &[], &[]);
    assert_eq!(series(), None);
    tokens.metrics.skewed(&world.issuer.fingerprint, 1);
    assert_eq!(series(), None, "what a flight brings home after that leaves no trace");
}
