//! The property `lz4_sequences`, see `crates/trueno-zram-core/tests/properties`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| trueno_zram_fuzz::check("lz4_sequences", input));
