//! Fuzzes `invariants::archive`, whose documentation says what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| invariants::archive::check(data));
