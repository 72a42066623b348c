#![no_main]

#[path = "../harness/safetensors_header.rs"]
mod safetensors_header;
#[path = "../harness/written_index.rs"]
mod written_index;

libfuzzer_sys::fuzz_target!(|data: &[u8]| safetensors_header::run(data));
