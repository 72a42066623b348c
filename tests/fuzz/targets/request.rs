#![no_main]

#[allow(dead_code, reason = "not every target makes every kind of choice")]
#[path = "../harness/choices.rs"]
mod choices;
#[path = "../harness/request.rs"]
mod request;

libfuzzer_sys::fuzz_target!(|data: &[u8]| request::run(data));
