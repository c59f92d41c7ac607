#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| overlay_harness::fuzz::run("requests", bytes));
