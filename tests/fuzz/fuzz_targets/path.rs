//! Can a path or host be read in two ways? Feeds `countersign_fuzz::path`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| countersign_fuzz::path::check(data));
