//! What gets through as HTTP/2? Feeds `countersign_fuzz::http2`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| countersign_fuzz::http2::check(data));
