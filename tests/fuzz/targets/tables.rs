#![no_main]

#[path = "../harness/random.rs"]
mod random;
#[path = "../harness/tables.rs"]
mod tables;

libfuzzer_sys::fuzz_target!(|data: &[u8]| tables::run(data));
