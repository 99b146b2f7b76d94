use std::fs;
use std::path::Path;

use super::road::Told;

/// Every seed through its property, whoever wrote it: a fuzzer that found something leaves it here.
fn run(name: &str, check: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
    let mut count = 0;
    for seed in fs::read_dir(seeds).expect("the seeds").flatten() {
        check(&fs::read(seed.path()).expect("a seed"));
        count += 1;
    }
    assert!(count >= 5, "{count} seeds of {name}");
}

#[test]
fn seeds_of_tokens() {
    run("token", super::token::check);
}

#[test]
fn seeds_of_key_sets() {
    run("jwks", super::jwks::check);
}

#[test]
fn seeds_of_policies() {
    run("policy", super::policy::check);
}

#[test]
fn seeds_of_paths() {
    run("path", super::path::check);
}

#[test]
fn seeds_of_conditions() {
    run("condition", super::condition::check);
}

#[test]
fn in_15_16_17_18_20_21_24_seeds_of_http1() {
    run("http1", super::http1::check);
}

#[test]
fn in_16_18_20_22_24_seeds_of_http2() {
    run("http2", super::http2::check);
}

/// The tables of attacks are seeds too, with each manner of upstream and each end of a caller.
#[test]
fn in_15_16_17_18_20_21_24_attacks_on_http1() {
    all(&super::attacks::http1(), super::http1::check);
}

#[test]
fn in_16_18_20_22_24_attacks_on_http2() {
    all(&super::attacks::http2(), super::http2::check);
}

fn all(attacks: &[super::attacks::Input], check: fn(&[u8])) {
    assert!(attacks.len() >= 150, "{} attacks", attacks.len());
    for (name, bytes) in attacks {
        for how in 0..32 {
            let how = bytes[0] & 0x80 | how & 7 | (bytes[0] & 8) | (how & 0x18) << 1;
            // Shown if it fails.
            println!("{name}, {how:#x}");
            check(&[&[how], &bytes[1..]].concat());
        }
    }
}

fn seed(target: &str, name: &str) -> Vec<u8> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    fs::read(seeds.join(target).join(name)).expect("a seed")
}

/// The properties of connections are about something: what is allowed arrives, and nothing else of it.
#[test]
fn good_seeds_of_connections_reach_the_upstream() {
    for (name, expected) in [
        ("get", &["GET /orders/1?x=y"][..]),
        ("pipelined", &["GET /orders", "GET /public/a", "GET /kept/1", "GET /behind"]),
        ("chunked", &["POST /orders", "GET /behind"]),
        ("early", &["POST /public/a", "GET /behind"]),
        ("last", &["GET /public/a", "HEAD /orders"]),
        ("expect", &["POST /public/a", "GET /behind"]),
        ("websocket", &["GET /public/ws"]),
        ("absolute", &["GET /orders"]),
        ("outbound", &["GET /any//thing", "GET /behind"]),
        ("preface", &[]),
    ] {
        let carried = super::http1::carry(&seed("http1", name)).expect("a seed");
        assert_eq!(asked(&carried.told), expected, "{name}");
    }
    for (name, expected) in [
        ("get", &["GET /orders", "GET /public/x?y=z"][..]),
        ("post", &["GET /", "POST /orders/1"]),
        ("trailers", &["POST /orders"]),
        ("continuation", &["GET /orders"]),
        ("indexed", &["GET /orders", "GET /orders"]),
        ("length", &["GET /"]),
        ("to-http1", &["GET //orders", "POST /orders"]),
        ("chunked-to-http1", &["GET /", "POST /orders"]),
    ] {
        let carried = super::http2::carry(&seed("http2", name)).expect("a seed");
        // Streams have no order.
        let mut asked = asked(&carried.told);
        asked.sort();
        assert_eq!(asked, expected, "{name}");
    }
}

fn asked(told: &Told) -> Vec<String> {
    told.record.requests.iter().map(|request| format!("{} {}", request.method, request.target)).collect()
}

/// The properties are about something: the good seeds get as far as they should.
#[test]
fn a_good_token_is_accepted_by_the_verifier_of_the_targets() {
    let seed = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds/token/rfc9068"))
        .expect("a seed");
    let (header, claims) = seed[1..].split_once('\n').expect("two lines");
    let token = super::sidecar::SIDECAR.sign(header.as_bytes(), claims.trim_end().as_bytes(), false);
    assert_eq!(super::sidecar::SIDECAR.verify(&token).map(|token| token.scopes.len()), Ok(2));
}

#[test]
fn the_good_key_set_has_the_key_of_the_targets() {
    let seed =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds/jwks/own")).expect("a seed");
    let own = super::sidecar::ed25519_jwk(&super::sidecar::SIDECAR.ed25519);
    let set: serde_json::Value = serde_json::from_str(&seed).expect("JSON");
    assert_eq!(set["keys"], serde_json::json!([own]));
}
