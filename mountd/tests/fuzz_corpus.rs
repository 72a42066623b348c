//! What the fuzz target of requests begins with, and every input that once failed, through the same
//! code.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

use std::fs;
use std::path::Path;

#[expect(dead_code, reason = "not every target makes every kind of choice")]
#[path = "../../tests/fuzz/harness/choices.rs"]
mod choices;
#[path = "../../tests/fuzz/harness/request.rs"]
mod request;

#[test]
fn requests() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds/request");
    let mut count = 0;
    for entry in fs::read_dir(seeds).unwrap() {
        request::run(&fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0, "no seeds");
}
