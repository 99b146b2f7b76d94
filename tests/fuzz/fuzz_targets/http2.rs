//! What gets through as HTTP/2? Feeds `countersign_fuzz::http2`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: countersign_fuzz::attacks::write(countersign_fuzz::attacks::http2()), |data: &[u8]| countersign_fuzz::http2::check(data));
