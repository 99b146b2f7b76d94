//! How often does the hot path allocate? Counted, not timed. In a binary of its own, since it counts by replacing the
//! allocator.

#![expect(clippy::expect_used, clippy::panic, reason = "a test may fail so")]

#[path = "../benches/warm/mod.rs"]
mod warm;

use allocation_counter::measure;
use countersign_proxy::auth::attach::{Attached, attach};
use futures_util::FutureExt;
use http::HeaderMap;

#[test]
fn a_token_at_hand_is_shown_without_an_allocation() {
    // It does count.
    assert_eq!(measure(|| drop(std::hint::black_box(Box::new([0; 64])))).count_total, 1);

    let warm = warm::Warm::new();
    let hit = measure(|| assert!(warm.slot().ready().is_some()));
    assert_eq!(hit.count_total, 0, "a hit: {hit:?}");

    let (rule, mut headers) = (warm.rule(), HeaderMap::with_capacity(8));
    let attached = measure(|| {
        let attached = attach(&mut headers, None, rule, warm.active()).now_or_never().expect("no wait");
        assert!(matches!(attached, Ok(Attached::Token(_))));
    });
    assert_eq!(attached.count_total, 0, "the door around it: {attached:?}");
}
