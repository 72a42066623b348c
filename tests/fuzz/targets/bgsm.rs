#![no_main]

#[path = "../harness/bgsm.rs"]
mod bgsm;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bgsm::run(data));
