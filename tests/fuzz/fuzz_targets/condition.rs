//! Can a condition break its bounds? Feeds `countersign_fuzz::condition`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| countersign_fuzz::condition::check(data));
