#![no_main]

#[path = "../harness/image.rs"]
mod image;
#[path = "../harness/written_index.rs"]
mod written_index;

libfuzzer_sys::fuzz_target!(|data: &[u8]| image::run(data));
