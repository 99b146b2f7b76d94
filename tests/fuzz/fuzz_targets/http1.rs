//! What gets through as HTTP/1.1? Feeds `countersign_fuzz::http1`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: countersign_fuzz::attacks::write(countersign_fuzz::attacks::http1()), |data: &[u8]| countersign_fuzz::http1::check(data));
