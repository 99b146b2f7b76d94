//! Can a key set do harm? Feeds `countersign_fuzz::jwks`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| countersign_fuzz::jwks::check(data));
