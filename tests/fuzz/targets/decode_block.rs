#![no_main]

#[path = "../harness/choices.rs"]
mod choices;
#[path = "../harness/decode_block.rs"]
mod decode_block;
#[path = "../harness/random.rs"]
mod random;

libfuzzer_sys::fuzz_target!(|data: &[u8]| decode_block::run(data));
