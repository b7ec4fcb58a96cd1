//! Fuzzes `invariants::config`, whose documentation says what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| invariants::config::check(data));
