use std::fs;
use std::path::Path;

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
