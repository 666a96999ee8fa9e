//! Any bytes as the files of a store.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| storage::embedded::fuzzing::read_anything(bytes));
