use std::time::Instant;

use super::*;
use crate::auth::testing::{TestKey, b64};
use crate::auth::tokens::server::{Answer, Asked, TokenServer, World, eventually};

fn after(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// An answer of an exchange.
fn issued(token: &str, expires_in: u64) -> Answer {
    Answer::json(format!(
        r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":{expires_in},
            "issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}}"#
    ))
}

/// Exchanges every token for one that tells what it was, and the request that brought it.
async fn echo(expires_in: u64) -> TokenServer {
    TokenServer::start(move |before, asked| issued(&format!("{}.{before}", subject_of(asked)), expires_in))
        .await
}

fn subject_of(asked: &Asked) -> String {
    asked.parameter("subject_token").unwrap().chars().take(8).collect()
}

fn exchange(world: &World) -> Exchange {
    Exchange::new(world.source())
}

async fn show(exchange: &Exchange, subject: &str) -> Result<String, Unavailable> {
    let slot = exchange.slot(subject)?;
    let shown = match slot.ready() {
        Some(shown) => shown,
        None => slot.token().await?,
    };
    Ok(shown.authorization.to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned())
}

/// A token that says itself when it ends.
fn jwt(world: &World, left: i64) -> String {
    let claims = serde_json::json!({ "sub": "alice", "exp": world.clock.unix() + left });
    TestKey::ed25519().sign(&serde_json::json!({ "alg": "EdDSA" }), &claims)
}

fn len(exchange: &Exchange) -> usize {
    exchange.slots.read().unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c25_out_6_fifty_requests_of_one_subject_are_one_post_and_two_subjects_two() {
    let server = echo(300).await;
    let world = World::new(&server);
    let exchange = Arc::new(exchange(&world));
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let exchange = exchange.clone();
            tokio::spawn(async move { show(&exchange, "alice").await })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap(), "alice.0");
    }
    assert_eq!(server.count(), 1);
    assert_eq!(show(&exchange, "bob").await.unwrap(), "bob.1");
    assert_eq!(show(&exchange, "alice").await.unwrap(), "alice.0");
    assert_eq!((server.count(), len(&exchange)), (2, 2));
    let asked = server.asked(0);
    assert_eq!(
        asked.parameter("grant_type").as_deref(),
        Some("urn:ietf:params:oauth:grant-type:token-exchange")
    );
    assert!(asked.header("authorization").unwrap().starts_with("Basic "), "the client proves itself too");
    assert_eq!((asked.parameter("actor_token"), asked.parameter("actor_token_type")), (None, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c25_out_13_neither_debug_nor_the_report_tells_a_token() {
    let server = echo(300).await;
    let world = World::new(&server);
    let exchange = exchange(&world);
    show(&exchange, "alice-s-own-token").await.unwrap();
    let told = format!("{exchange:?} {}", serde_json::to_string(&exchange.report()).unwrap());
    assert!(!told.contains("alice") && told.contains("[redacted]"), "{told}");
    let key = exchange.slots.read().unwrap().keys().copied().next().unwrap();
    assert_eq!(key, hash("alice-s-own-token"));
    let report = exchange.report();
    assert_eq!((report.credential.as_str(), report.subjects, report.refused), ("shop/checkout", 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c25_what_is_had_for_a_token_ends_before_the_token() {
    let server = echo(3600).await;
    let world = World::new(&server);
    let (exchange, subject) = (exchange(&world), jwt(&world, 100));
    let first = show(&exchange, &subject).await.unwrap();
    // Well past three quarters of its life, where another one would be fetched ahead, did it live longer.
    world.clock.advance(after(92));
    assert_eq!(show(&exchange, &subject).await.unwrap(), first);
    world.clock.advance(after(3));
    let slot = exchange.slot(&subject).unwrap();
    assert!(slot.ready().is_none());
    let refused = slot.token().await.unwrap_err();
    assert!(refused.subject_refused, "the fault of who sent it");
    assert_eq!(refused.reason(), countersign_policy::Reason::Inactive);
    // It is wiped, and nobody asks the issuer again.
    eventually(|| slot.status().held.is_none()).await;
    assert_eq!(server.count(), 1);
    // A token that has ended when it comes is not even remembered.
    assert!(exchange.slot(&jwt(&world, 0)).unwrap_err().subject_refused);
    assert!(exchange.slot(&jwt(&world, -1000)).unwrap_err().subject_refused);
    assert_eq!((server.count(), len(&exchange)), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c25_another_one_is_fetched_ahead_while_the_subject_lives_and_is_used() {
    let server = echo(300).await;
    let world = World::new(&server);
    let (exchange, subject) = (exchange(&world), jwt(&world, 3600));
    show(&exchange, &subject).await.unwrap();
    world.clock.advance(after(230));
    let slot = exchange.slot(&subject).unwrap();
    assert!(slot.ready().is_some());
    server.count_reaches(2).await;
    eventually(|| slot.ready().is_some_and(|shown| shown.authorization.to_str().unwrap().ends_with(".1")))
        .await;
    // Unused for a lifetime: the next one comes when it is asked for.
    world.clock.advance(after(1000));
    slot.ring();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.count(), 2);
    assert!(show(&exchange, &subject).await.unwrap().ends_with(".2"));
}

#[test]
fn c14_c25_the_end_of_a_token_is_read_where_it_says_so_and_believed_only_to_shorten() {
    let of = |claims: &str| expiry(&format!("{}.{}.c2ln", b64("{}"), b64(claims))).map(|exp| exp.as_secs());
    assert_eq!(of(r#"{"exp":1700000000}"#), Some(1_700_000_000));
    assert_eq!(of(r#"{"exp":1700000000.75,"sub":"alice"}"#), Some(1_700_000_000));
    assert_eq!(of(r#"{"exp":-5}"#), Some(0));
    for unknown in
        ["{}", r#"{"exp":"1700000000"}"#, r#"{"exp":null}"#, r#"{"exp":1,"exp":2}"#, "[1]", "exp", ""]
    {
        assert_eq!(of(unknown), None, "{unknown}");
    }
    for no_jwt in ["", "opaque", "a.b", "a.b.c", "a.!.c", "a.b.c.d.e"] {
        assert_eq!(expiry(no_jwt), None, "{no_jwt}");
    }
    let subject = Subject::new("opaque");
    assert_eq!((subject.left(after(9)), subject.has_ended(Duration::MAX)), (None, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c25_a_refused_subject_is_asked_about_once_in_a_while_and_only_for_who_waits() {
    for error in ["invalid_grant", "invalid_request"] {
        let server = TokenServer::start(move |_, _| Answer::error("400 Bad Request", error)).await;
        let world = World::new(&server);
        let exchange = exchange(&world);
        for _ in 0..20 {
            let refused = show(&exchange, "alice").await.unwrap_err();
            assert!(refused.subject_refused && refused.retry_after <= after(30), "{refused:?}");
        }
        assert_eq!(server.count(), 1, "{error}");
        assert_eq!(exchange.report().refused, 1);
        // Another secret of the client changes nothing for who sent the token.
        world.write_secret("another");
        assert!(show(&exchange, "alice").await.is_err());
        // The pause is over, and nobody waits.
        world.clock.advance(after(31));
        let slot = exchange.slot("alice").unwrap();
        slot.ring();
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert_eq!(server.count(), 1, "{error}");
        assert!(show(&exchange, "alice").await.is_err());
        assert_eq!(server.count(), 2, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c25_trouble_with_the_issuer_is_not_the_subjects_fault() {
    let server = TokenServer::start(|before, _| match before {
        0 => Answer::new("503 Busy", "retry-after: 20\r\n", ""),
        1 => Answer::error("401 Unauthorized", "invalid_client"),
        _ => issued("t", 300),
    })
    .await;
    let world = World::new(&server);
    let exchange = exchange(&world);
    let busy = show(&exchange, "alice").await.unwrap_err();
    assert_eq!((busy.subject_refused, busy.retry_after), (false, after(20)));
    assert!(!show(&exchange, "alice").await.unwrap_err().subject_refused);
    assert_eq!(server.count(), 1);
    let report = exchange.report();
    assert_eq!((report.subjects, report.refused, report.in_flight), (1, 0, 0));
    assert!(report.last_error.unwrap().contains("503"));

    world.clock.advance(after(21));
    assert_eq!(show(&exchange, "alice").await.unwrap_err().retry_after, after(30));
    assert_eq!(server.count(), 2);
    // The client has another secret: it is tried before the pause is over.
    world.write_secret("another");
    let begun = Instant::now();
    while show(&exchange, "alice").await.is_err() {
        assert!(begun.elapsed() < after(10), "still no token");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(server.count(), 3);
    assert_eq!(exchange.report().last_error_cause, Some("invalid_client"), "it is still told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c25_as_many_subjects_as_fit_and_the_longest_unused_go_first() {
    let server = echo(36_000).await;
    server.hold();
    let world = World::new(&server);
    let exchange = exchange(&world);
    let first = Arc::downgrade(&exchange.slot("subject-0").unwrap());
    world.clock.advance(after(1));
    for index in 1..MAX_SUBJECTS {
        exchange.slot(&format!("subject-{index}")).unwrap();
    }
    assert_eq!(len(&exchange), MAX_SUBJECTS);
    world.clock.advance(after(1));
    let used = exchange.slot("subject-1").unwrap();
    let before = used.last_used();
    tokio::spawn({
        let used = used.clone();
        async move { used.token().await }
    });
    eventually(|| used.last_used() > before).await;
    exchange.slot("one more").unwrap();
    assert_eq!(len(&exchange), MAX_SUBJECTS - MAKE_ROOM_FOR + 1);
    let held = |subject| exchange.slots.read().unwrap().contains_key(&hash(subject));
    assert!(!held("subject-0") && held("subject-1") && held("one more"));
    // The keeper of what went has gone too, and the slot with it.
    eventually(|| first.strong_count() == 0).await;
}

/// Whoever can send us tokens could hold up what everybody else needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c25_the_workload_s_own_token_does_not_wait_behind_those_of_subjects() {
    let server = echo_or_own().await;
    server.hold();
    let world = World::new(&server);
    let source = world.source();
    let exchange = Exchange::new(source.clone());
    for index in 0..50 {
        let slot = exchange.slot(&format!("subject-{index}")).unwrap();
        tokio::spawn(async move { slot.token().await });
    }
    server.count_reaches(3).await;
    let _own = TokenSlot::new(source);
    server.count_reaches(4).await;
    let is_own = |index| server.asked(index).parameter("grant_type").unwrap() == "client_credentials";
    assert!((0..4).any(is_own), "the fourth place is not for subjects");
    server.release();
    server.count_reaches(51).await;
    assert_eq!(server.most_at_once(), 4);
}

async fn echo_or_own() -> TokenServer {
    TokenServer::start(|_, asked| match asked.parameter("subject_token") {
        Some(_) => issued("exchanged", 300),
        None => Answer::token("own", 300),
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c25_what_nobody_needs_goes_with_the_next_one_that_comes() {
    let server = echo(300).await;
    let world = World::new(&server);
    let exchange = exchange(&world);
    let ending = jwt(&world, 50);
    for subject in ["unused", "used", ending.as_str()] {
        show(&exchange, subject).await.unwrap();
    }
    world.clock.advance(after(70));
    show(&exchange, "used").await.unwrap();
    show(&exchange, "new").await.unwrap();
    assert_eq!(len(&exchange), 3, "it went with its end");
    world.clock.advance(after(240));
    show(&exchange, "newer").await.unwrap();
    let held = |subject| exchange.slots.read().unwrap().contains_key(&hash(subject));
    assert!(!held("unused") && held("used") && held("new") && held("newer"));
}

/// What the issuer says to one subject's request it would say to all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c17_out_9_a_flood_of_subjects_obeys_one_retry_after() {
    let server = TokenServer::start(|before, _| match before {
        0..3 => Answer::new("429 Too Many", "retry-after: 60\r\n", ""),
        _ => issued("late", 300),
    })
    .await;
    let world = World::new(&server);
    let exchange = exchange(&world);
    show(&exchange, "first").await.unwrap_err();
    for index in 0..50 {
        let refused = show(&exchange, &format!("subject-{index}")).await.unwrap_err();
        assert!(!refused.subject_refused && refused.retry_after > after(50), "{refused:?}");
    }
    assert_eq!(server.count(), 1);
    // A credential that was mended is tried at once; what a subject did wrong is nobody else's.
    world.write_secret("another");
    show(&exchange, "second").await.unwrap_err();
    assert_eq!(server.count(), 2);
    world.clock.advance(after(600));
    show(&exchange, "third").await.unwrap_err();
    world.clock.advance(after(600));
    assert_eq!(show(&exchange, "fourth").await.unwrap(), "late");
    assert_eq!(show(&exchange, "fifth").await.unwrap(), "late");
    assert_eq!(server.count(), 5);
}
