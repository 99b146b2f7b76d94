//! Can a credential get past the verifier? Feeds `countersign_fuzz::token`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| countersign_fuzz::token::check(data));
