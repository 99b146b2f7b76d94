//! What gets through as HTTP/1.1? Feeds `countersign_fuzz::http1`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| countersign_fuzz::http1::check(data));
