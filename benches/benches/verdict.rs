//! What does a token cost that we have seen before? As the last one of its connection, after another, and on a new connection.

#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has no figure to give")]

use std::hint::black_box;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_policy::{Documents, Snapshot, Workload, source};
use countersign_proxy::auth::issuers::{Issuers, Services};
use countersign_proxy::auth::verify::{LastVerdict, Verifier};
use countersign_proxy::clock::Clock;
use countersign_proxy::connect::Connector;
use countersign_proxy::fetch::Fetcher;
use countersign_proxy::metrics::Metrics;
use countersign_proxy::names::Names;
use countersign_proxy::state::files::PolicyFiles;
use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::runtime::Builder;

const PORT: u16 = 8080;
const ISSUER: &str = "https://issuer.example";

criterion_group!(benches, cached);
criterion_main!(benches);

fn cached(criterion: &mut Criterion) {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let snapshot = snapshot(&key);
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let (clock, metrics) = (Clock::default(), Metrics::new().expect("a registry"));
    let names = Names::system(runtime.handle().clone(), metrics.clone()).expect("a resolver");
    let services = Services {
        fetcher: Fetcher::new(Connector::new(names)),
        clock: clock.clone(),
        metrics: metrics.clone(),
        files: PolicyFiles::BesideDocument,
        state_dir: None,
        background: runtime.handle().clone(),
    };
    let issuers = Issuers::new(services);
    let keys = issuers.arm(&snapshot.issuers);
    let verifier = Verifier::new(clock, metrics);
    let port = snapshot.inbound(PORT).expect("the policy selects the port");
    let verify = |last: &LastVerdict, token: &str| {
        let verdict = verifier.verify(last, token, port, &snapshot.issuers, &keys).now_or_never();
        verdict.expect("the keys are at hand").expect("a good token")
    };
    let [one, other] = ["1", "2"].map(|id| token(&key, id));

    let mut group = criterion.benchmark_group("verdict");
    let last = LastVerdict::default();
    group.bench_function("same_connection", |bencher| bencher.iter(|| verify(&last, black_box(&one))));
    // One after the other, so that neither is the connection's last one.
    let mut turn = [&one, &other].into_iter().cycle();
    group.bench_function("another_token", |bencher| {
        bencher.iter(|| verify(&last, black_box(turn.next().expect("a cycle has no end"))));
    });
    // With what a connection costs: memory for its token, which is wiped at its end.
    group.bench_function("other_connection", |bencher| {
        bencher.iter(|| verify(&LastVerdict::default(), black_box(&other)));
    });
    group.finish();
}

fn snapshot(key: &EcdsaKeyPair) -> Snapshot {
    // An uncompressed point (SEC 1 §2.3.3): 4, then x and y.
    let point = key.public_key().as_ref();
    let (x, y) = point.get(1..).expect("a point").split_at(32);
    let jwk = json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "1", "x": encode(x), "y": encode(y)});
    let text = format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: Issuer\nmetadata: {{ name: corp }}\n\
         spec: {{ issuer: \"{ISSUER}\", jwks: {{ inline: {{ keys: [{jwk}] }} }} }}\n---\n\
         apiVersion: countersign.dev/v1alpha1\nkind: InboundPolicy\nmetadata: {{ name: orders, namespace: shop }}\nspec:\n  \
         tokens: [{{ issuer: corp, audiences: [https://orders.shop] }}]\n  rules: [{{ name: any, from: {{}} }}]\n"
    );
    let sources = source::split("orders.yaml", text.as_bytes()).expect("documents in order");
    let workload = Workload { namespace: "shop".into(), name: "orders".into(), ..Workload::default() };
    Documents::parse(sources).and_then(|documents| documents.compile(&workload)).expect("a policy in order")
}

/// An access token of RFC 9068, of 1 KiB.
fn token(key: &EcdsaKeyPair, id: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock past 1970").as_secs();
    let head = json!({"typ": "at+jwt", "alg": "ES256", "kid": "1"});
    let claims = json!({
        "iss": ISSUER, "aud": "https://orders.shop", "sub": "checkout", "client_id": "checkout",
        "iat": now, "exp": now + 3600, "jti": id, "scope": "orders:read orders:write",
        "groups": "x".repeat(470),
    });
    let part = |value: &Value| encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(&head), part(&claims));
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
    format!("{signed}.{}", encode(signature.as_ref()))
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
