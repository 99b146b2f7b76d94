use std::time::Instant;

use countersign_policy::snapshot::TokenBinding;

use super::keeper::FILE_CHECK;
use super::*;
use crate::auth::tokens::authority::{Asks, Authority};
use crate::auth::tokens::server::{Answer, TokenServer, World, eventually};

const LIFE: u64 = 3600;

fn after(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A slot that asked at once and has its first token, `token-0`, unless the server is on hold.
fn slot(world: &World) -> Arc<TokenSlot> {
    TokenSlot::new(world.source())
}

async fn warm(world: &World) -> Arc<TokenSlot> {
    let slot = slot(world);
    eventually(|| slot.sendable().is_some()).await;
    slot
}

/// A server that numbers its tokens.
async fn numbered() -> TokenServer {
    TokenServer::start(|before, _| Answer::token(&format!("token-{before}"), LIFE)).await
}

/// A server that is down for the requests in `down`.
async fn down_for(down: std::ops::Range<usize>) -> TokenServer {
    TokenServer::start(move |before, _| match down.contains(&before) {
        true => Answer::new("500 Oh", "", ""),
        false => Answer::token(&format!("token-{before}"), LIFE),
    })
    .await
}

fn token(shown: Option<Shown>) -> String {
    shown.expect("a token").authorization.to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned()
}

/// Asks until there is an answer that fits: time does not pass by itself, so each turn ends the pause after a failure.
async fn recovers(world: &World, slot: &Arc<TokenSlot>, within: Duration) -> Duration {
    let mut waited = Duration::ZERO;
    while slot.token().await.is_err() {
        assert!(waited <= within, "still no token after {waited:?}");
        world.clock.advance(after(1));
        waited += after(1);
    }
    waited
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_6_two_hundred_requests_on_a_cold_cache_are_one_post() {
    let server = numbered().await;
    server.hold();
    let world = World::new(&server);
    let slot = slot(&world);
    let callers: Vec<_> = (0..200)
        .map(|_| {
            let slot = slot.clone();
            tokio::spawn(async move { slot.token().await })
        })
        .collect();
    eventually(|| slot.status().coalesced >= 199).await;
    server.release();
    for caller in callers {
        assert_eq!(token(caller.await.unwrap().ok()), "token-0");
    }
    assert_eq!(server.count(), 1);
    let [hit, refresh, miss, coalesced, failed] = world.results();
    assert_eq!((hit, refresh, miss + coalesced, failed), (0, 0, 200, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_6_five_hundred_requests_past_the_soft_limit_are_one_post_and_none_waits() {
    let server = numbered().await;
    let world = World::new(&server);
    let slot = warm(&world).await;
    world.clock.advance(after(3300));
    server.hold();
    for _ in 0..500 {
        assert_eq!(token(slot.ready()), "token-0");
    }
    server.count_reaches(2).await;
    assert_eq!(token(slot.ready()), "token-0");
    server.release();
    eventually(|| token(slot.ready()) == "token-1").await;
    assert_eq!(server.count(), 2);
    assert_eq!(world.results()[2..], [0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_caller_that_began_the_flight_goes_away_and_the_others_get_the_token() {
    let server = numbered().await;
    let world = World::new(&server);
    let slot = warm(&world).await;
    world.clock.advance(after(LIFE));
    server.hold();
    let leader = tokio::spawn({
        let slot = slot.clone();
        async move { slot.token().await }
    });
    server.count_reaches(2).await;
    let follower = tokio::spawn({
        let slot = slot.clone();
        async move { slot.token().await }
    });
    eventually(|| slot.status().coalesced == 1).await;
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    server.release();
    assert_eq!(token(follower.await.unwrap().ok()), "token-1");
    assert_eq!(server.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_never_sent_past_its_hard_limit() {
    let server = down_for(1..usize::MAX).await;
    let world = World::new(&server);
    let slot = warm(&world).await;
    // 5 s before its end is the limit; the turn of the clock is exact, and the rest of the test takes less than 2 s.
    world.clock.advance(after(LIFE - 7));
    assert_eq!(token(slot.ready()), "token-0");
    world.clock.advance(after(2));
    assert!(slot.ready().is_none());
    assert!(slot.token().await.is_err());
    assert_eq!(slot.status().state, "unavailable");
    // It is wiped, too.
    eventually(|| slot.status().held.is_none()).await;
}

/// A slot whose token lives 40 s, is past its soft limit and sent for 5 s more.
async fn near_its_end(world: &World) -> Arc<TokenSlot> {
    let slot = warm(world).await;
    world.clock.advance(after(31));
    slot
}

/// Until there is another, without a moment between the two.
async fn replaced(slot: &Arc<TokenSlot>) {
    while token(slot.ready()) == "token-0" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_9_a_failure_is_tried_again_before_the_token_ends() {
    let server = TokenServer::start(|before, _| match before {
        0 | 2 => Answer::token(&format!("token-{before}"), 40),
        // The longest pause that does not depend on chance.
        _ => Answer::error("400 No", "invalid_scope"),
    })
    .await;
    let world = World::new(&server);
    let slot = near_its_end(&world).await;
    replaced(&slot).await;
    assert_eq!((server.count(), token(slot.ready())), (3, "token-2".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_9_an_issuer_that_asks_for_more_time_than_the_token_has_gets_it() {
    let server = TokenServer::start(|before, _| match before {
        0 => Answer::token("token-0", 40),
        _ => Answer::new("503 Busy", "retry-after: 20\r\n", ""),
    })
    .await;
    let world = World::new(&server);
    let slot = near_its_end(&world).await;
    let _ = slot.ready();
    eventually(|| slot.status().retry_in.is_some()).await;
    assert!(slot.status().retry_in.unwrap() > after(15));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_9_an_endpoint_that_hangs_is_given_up_in_time_for_another_attempt() {
    let server = TokenServer::start(|before, _| Answer::token(&format!("token-{before}"), 40)).await;
    let world = World::new(&server);
    let slot = near_its_end(&world).await;
    server.hold();
    let _ = slot.ready();
    server.count_reaches(2).await;
    let begun = Instant::now();
    eventually(|| slot.status().failed == 1).await;
    assert!(begun.elapsed() < after(4), "{:?}", begun.elapsed());
    server.release();
    replaced(&slot).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_9_issuer_down_for_two_lifetimes() {
    let down = Arc::new(AtomicBool::new(false));
    let server = TokenServer::start({
        let down = down.clone();
        move |before, _| match down.load(Ordering::SeqCst) {
            true => Answer::new("500 Oh", "", ""),
            false => Answer::token(&format!("token-{before}"), LIFE),
        }
    })
    .await;
    let world = World::new(&server);
    let slot = warm(&world).await;
    down.store(true, Ordering::SeqCst);
    let mut passed = 0;
    while passed < 2 * LIFE {
        match slot.token().await {
            Ok(value) => {
                assert!(passed < LIFE, "an expired token was sent");
                assert_eq!(token(Some(value)), "token-0");
            }
            Err(unavailable) => {
                assert!(passed >= LIFE - 5, "a good token was not sent");
                assert!(unavailable.retry_after <= after(60));
            }
        }
        // Turned far from the hard limit, so that what the test takes itself does not matter.
        let step = if passed < LIFE - 60 { 60 } else { 120 };
        passed += step;
        world.clock.advance(after(step));
    }
    assert!(server.count() > 10, "it was tried again");
    let before = server.count();
    down.store(false, Ordering::SeqCst);
    let waited = recovers(&world, &slot, after(60)).await;
    assert_eq!((server.count(), slot.status().state), (before + 1, "fresh"), "after {waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn issuer_down_at_start_fails_closed_and_recovers_within_the_backoff() {
    let server = down_for(0..3).await;
    let world = World::new(&server);
    let slot = slot(&world);
    let unavailable = slot.token().await.unwrap_err();
    assert!(unavailable.retry_after <= after(1));
    assert!(slot.ready().is_none());
    recovers(&world, &slot, after(1 + 2 + 4)).await;
    assert_eq!(server.count(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_hammers_an_issuer_that_fails() {
    let server = down_for(0..usize::MAX).await;
    let world = World::new(&server);
    let slot = slot(&world);
    server.count_reaches(1).await;
    // 1,000 requests while the pause lasts: at most the flights of its first, short pauses.
    for _ in 0..1000 {
        assert!(slot.token().await.is_err());
    }
    assert!(server.count() <= 12, "{} requests", server.count());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c17_retry_after_is_obeyed() {
    let server = TokenServer::start(|before, _| match before {
        0 => Answer::new("429 Slow", "retry-after: 120\r\n", ""),
        1 => Answer::new("503 Busy", "retry-after: 86400\r\n", ""),
        _ => Answer::token("late", LIFE),
    })
    .await;
    let world = World::new(&server);
    let slot = slot(&world);
    let first = slot.token().await.unwrap_err().retry_after;
    assert!(first > after(115) && first <= after(120), "{first:?}");
    world.clock.advance(after(110));
    assert!(slot.token().await.unwrap_err().retry_after <= after(10));
    assert_eq!(server.count(), 1);
    world.clock.advance(after(10));
    // No more than ten minutes.
    let second = slot.token().await.unwrap_err().retry_after;
    assert!(second > after(595) && second <= after(600), "{second:?}");
    world.clock.advance(after(600));
    assert_eq!(token(slot.token().await.ok()), "late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c16_invalid_client_is_remembered_until_the_secret_changes() {
    let server = TokenServer::start(|_, asked| match asked.header("authorization") {
        // checkout:new
        Some("Basic Y2hlY2tvdXQ6bmV3") => Answer::token("mended", LIFE),
        _ => Answer::error("401 No", "invalid_client"),
    })
    .await;
    let world = World::new(&server);
    let slot = slot(&world);
    let refused = slot.token().await.unwrap_err();
    assert!(refused.retry_after > after(25) && refused.retry_after <= after(30));
    assert!(slot.status().last_error.unwrap().failure.text.contains("invalid_client"));
    for _ in 0..100 {
        assert!(slot.token().await.is_err());
    }
    tokio::time::sleep(2 * FILE_CHECK).await;
    assert_eq!(server.count(), 1);

    let changed = Instant::now();
    world.write_secret("new");
    eventually(|| slot.sendable().is_some()).await;
    assert!(changed.elapsed() < after(5), "at once, not after 30 s");
    assert_eq!((server.count(), token(slot.ready())), (2, "mended".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c16_a_permanent_error_is_tried_again_after_thirty_seconds() {
    let server = TokenServer::start(|before, _| match before {
        0 => Answer::error("400 No", "invalid_scope"),
        _ => Answer::token("allowed", LIFE),
    })
    .await;
    let world = World::new(&server);
    let slot = slot(&world);
    assert!(slot.token().await.is_err());
    world.clock.advance(after(25));
    assert!(slot.token().await.is_err());
    assert_eq!(server.count(), 1);
    world.clock.advance(after(6));
    assert_eq!(token(slot.token().await.ok()), "allowed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_secret_is_read_as_soon_as_it_is_there() {
    let server = numbered().await;
    let world = World::new(&server);
    std::fs::remove_file(world.dir.path().join("secret")).unwrap();
    let slot = slot(&world);
    assert!(slot.token().await.is_err());
    assert!(slot.status().last_error.unwrap().failure.text.contains("secret"));
    world.write_secret("here");
    eventually(|| slot.ready().is_some()).await;
    assert_eq!(server.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_refreshed_ahead_although_nobody_asks_right_then() {
    let server = TokenServer::start(|before, _| Answer::token(&format!("token-{before}"), 3)).await;
    let world = World::new(&server);
    let slot = warm(&world).await;
    // Its soft limit is at 1.95 to 2.25 s, its hard one at 2.7 s.
    let begun = Instant::now();
    while begun.elapsed() < after(6) {
        assert!(slot.ready().is_some(), "there was no token at {:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!((3..=5).contains(&server.count()), "{} requests", server.count());
    assert_eq!(world.results()[2..], [0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_nobody_uses_for_a_lifetime_is_not_refreshed() {
    let server = TokenServer::start(|before, _| Answer::token(&format!("token-{before}"), 2)).await;
    let world = World::new(&server);
    let slot = warm(&world).await;
    tokio::time::sleep(after(6)).await;
    assert!(server.count() <= 3, "{} requests", server.count());
    assert_eq!((slot.status().state, slot.ready().is_none()), ("idle", true));
    let asked = server.count();
    assert_eq!(token(slot.token().await.ok()), format!("token-{asked}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_back_does_not_lengthen_a_life() {
    let server = TokenServer::start(|before, _| match before {
        0 => Answer::token("token-0", 2),
        _ => Answer::new("500 Oh", "", ""),
    })
    .await;
    let world = World::new(&server);
    world.clock.advance(after(7200));
    let slot = warm(&world).await;
    // `Clock` only goes forward, so the token is made to come from two hours ahead instead.
    let held = slot.held.load_full().unwrap();
    slot.held.store(Some(Arc::new(Held {
        shown: held.shown.clone(),
        sent: held.sent.ahead(after(7200)),
        lifetime: held.lifetime,
        files: held.files,
        narrowed: None,
    })));
    assert!(slot.ready().is_some());
    eventually(|| slot.held.load().is_none()).await;
    assert!(slot.ready().is_none());
}

/// The keeper waits for the issuer, and the token ends all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_back_does_not_lengthen_a_life_while_the_issuer_hangs() {
    let server = TokenServer::start(|before, _| Answer::token(&format!("token-{before}"), 2)).await;
    let world = World::new(&server);
    world.clock.advance(after(7200));
    let slot = warm(&world).await;
    server.hold();
    let held = slot.held.load_full().unwrap();
    slot.held.store(Some(Arc::new(Held {
        shown: held.shown.clone(),
        sent: held.sent.ahead(after(7200)),
        lifetime: held.lifetime,
        files: held.files,
        narrowed: None,
    })));
    // In use, or nobody would fetch another one.
    eventually(|| slot.ready().is_some() && server.count() == 2).await;
    tokio::time::sleep(after(2)).await;
    assert!(slot.ready().is_none() && slot.status().in_flight);
    server.release();
    eventually(|| slot.ready().is_some()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keeper_ends_with_its_slot() {
    let server = numbered().await;
    let world = World::new(&server);
    let slot = warm(&world).await;
    let (weak, wake) = (Arc::downgrade(&slot), slot.wake.clone());
    eventually(|| Arc::strong_count(&wake) == 3).await;
    drop(slot);
    eventually(|| weak.upgrade().is_none() && Arc::strong_count(&wake) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_13_nothing_of_a_slot_prints_a_secret() {
    let server = TokenServer::start(|_, _| Answer::token("t0k3n", LIFE)).await;
    let world = World::new(&server);
    let slot = warm(&world).await;
    let printed = format!("{slot:?} {:?}", slot.status());
    assert!(!printed.contains("t0k3n") && !printed.contains("s3cret"), "{printed}");
    assert!(slot.ready().unwrap().authorization.is_sensitive());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_waits_ten_seconds_at_most() {
    let server = numbered().await;
    server.hold();
    let world = World::new(&server);
    let slot = slot(&world);
    let begun = Instant::now();
    let unavailable = slot.token().await.unwrap_err();
    assert!((9..12).contains(&begun.elapsed().as_secs()));
    assert!(unavailable.retry_after <= after(1), "{:?}", unavailable.retry_after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c29_out_11_a_hundred_refusals_at_once_are_one_request_and_the_fresh_token_survives() {
    let server = numbered().await;
    let world = World::new(&server);
    let slot = warm(&world).await;
    let first = slot.ready().unwrap();
    let refusals: Vec<_> = (0..100)
        .map(|_| {
            let (slot, first) = (slot.clone(), first.clone());
            tokio::spawn(async move {
                assert!(slot.refused(&first));
                token(slot.token().await.ok())
            })
        })
        .collect();
    for refusal in refusals {
        assert_eq!(refusal.await.unwrap(), "token-1");
    }
    // One that was on its way all the while.
    assert!(slot.refused(&first));
    assert_eq!((server.count(), token(slot.ready())), (2, "token-1".to_owned()));
    let counted = |result| world.metrics.token_refusals.with_label_values(&[result]).get();
    assert_eq!((counted("dropped"), counted("superseded"), counted("kept")), (1, 100, 0));
}

#[tokio::test]
async fn out_11_a_destination_that_refuses_every_token_costs_one_request_in_five_seconds() {
    let server = numbered().await;
    let world = World::new(&server);
    let slot = warm(&world).await;
    assert!(slot.refused(&slot.ready().unwrap()));
    assert_eq!(token(slot.token().await.ok()), "token-1");
    for _ in 0..10 {
        assert!(!slot.refused(&slot.ready().unwrap()), "it stays");
    }
    world.clock.advance(after(4));
    assert!(!slot.refused(&slot.ready().unwrap()));
    assert_eq!((server.count(), token(slot.ready())), (2, "token-1".to_owned()));
    world.clock.advance(after(1));
    assert!(slot.refused(&slot.ready().unwrap()));
    assert_eq!(token(slot.token().await.ok()), "token-2");
}

/// Others may accept it, and no other one is to be had.
#[tokio::test]
async fn out_11_a_refused_token_stays_while_the_issuer_cannot_be_asked() {
    let server = down_for(1..3).await;
    let world = World::new(&server);
    let slot = warm(&world).await;
    let first = slot.ready().unwrap();
    // A refresh ahead of time fails.
    world.clock.advance(after(LIFE - 100));
    let _ = slot.ready();
    eventually(|| slot.status().retry_in.is_some()).await;
    assert!(!slot.refused(&first));
    assert_eq!(token(slot.ready()), "token-0");
    assert_eq!(world.metrics.token_refusals.with_label_values(&["kept"]).get(), 1);
}

/// A slot whose token is bound to the certificate in the world's files, at a server that demands one.
async fn bound(authority: &Authority) -> (TokenServer, World, Arc<TokenSlot>) {
    let numbered = |before, _: &_| Answer::token(&format!("token-{before}"), LIFE);
    let server = TokenServer::start_tls(authority.acceptor(Asks::Demands), numbered).await;
    let mut world = World::new(&server);
    world.over_tls(&server, authority);
    world.request.binding = TokenBinding::Certificate(world.pair());
    world.write_pair(&authority.issue("checkout"));
    let slot = warm(&world).await;
    (server, world, slot)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c23_a_bound_token_is_replaced_with_its_certificate() {
    let authority = Authority::new();
    let (server, world, slot) = bound(&authority).await;
    let old = slot.ready().unwrap();
    let new = authority.issue("checkout");
    world.write_pair(&new);
    // Neither waits nor fails meanwhile: the old token goes on, with the old certificate.
    let begun = Instant::now();
    let now = loop {
        let shown = slot.ready().expect("a token at any time");
        if shown.certificate() != old.certificate() {
            break shown;
        }
        assert_eq!(shown.authorization, old.authorization);
        assert!(begun.elapsed() < after(10), "the certificate is not noticed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(now.authorization, "Bearer token-1");
    assert_eq!(now.certificate().unwrap().thumbprint, new.thumbprint);
    assert_eq!(server.asked(1).certificate, Some(new.thumbprint));
    // A request that is on its way over the old certificate's connection shows the old token, until its end.
    assert_eq!(token(slot.sendable_over(old.certificate())), "token-0");
    assert_eq!(token(slot.sendable_over(now.certificate())), "token-1");
    assert!(slot.sendable_over(None).is_none());
    world.clock.advance(after(LIFE));
    assert!(slot.sendable_over(old.certificate()).is_none());
    // Once replaced it stays.
    tokio::time::sleep(after(3)).await;
    assert_eq!(server.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c23_half_a_pair_changes_nothing() {
    let authority = Authority::new();
    let (server, world, slot) = bound(&authority).await;
    let old = slot.ready().unwrap();
    let new = authority.issue("checkout");
    std::fs::write(world.dir.path().join("tls.crt"), &new.certificate).unwrap();
    tokio::time::sleep(after(5)).await;
    assert_eq!((server.count(), slot.status().last_error.is_none()), (1, true));
    assert_eq!(slot.ready().unwrap().authorization, old.authorization);
    world.write_pair(&new);
    eventually(|| slot.ready().unwrap().certificate().unwrap().thumbprint == new.thumbprint).await;
    assert_eq!(server.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c23_the_old_pair_goes_on_while_the_issuer_refuses_the_new_one() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (server, world, slot) = bound(&authority).await;
    let old = slot.ready().unwrap();
    world.write_pair(&stranger.issue("checkout"));
    eventually(|| slot.status().last_error.is_some()).await;
    assert_eq!((slot.ready().unwrap().authorization, server.count()), (old.authorization, 1));
}
