//! Can a policy document do harm, or mean two things? Feeds `countersign_fuzz::policy`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| countersign_fuzz::policy::check(data));
