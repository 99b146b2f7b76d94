//! What does a token cost that is at hand? A hit of the token cache, and the whole outbound door around it.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot be set up has no figure to give"
)]

mod warm;

use std::hint::black_box;

use countersign_proxy::auth::attach::attach;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use http::HeaderMap;

criterion_group!(benches, cached);
criterion_main!(benches);

fn cached(criterion: &mut Criterion) {
    let warm = warm::Warm::new();
    let mut group = criterion.benchmark_group("token");
    group.bench_function("hit", |bencher| bencher.iter(|| black_box(warm.slot()).ready()));
    group.bench_function("attach", |bencher| {
        let headers = || HeaderMap::with_capacity(8);
        let attach = |headers: &mut HeaderMap| {
            let attached = attach(headers, None, warm.rule(), warm.active()).now_or_never();
            black_box(attached.expect("the token is at hand").expect("and goes along"));
        };
        bencher.iter_batched_ref(headers, attach, BatchSize::SmallInput);
    });
    group.finish();
}
