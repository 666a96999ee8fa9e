#![no_main]
#[path = "../guards.rs"]
mod guards;

libfuzzer_sys::fuzz_target!(|data: &[u8]| guards::abac(data));
