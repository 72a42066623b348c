//! The integration tests, linked once: each module proves one promise.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed unwrap is a failed test"
)]

mod architecture;
mod cli;
mod damage;
mod format_page;
mod golden;
mod models;
mod roundtrip;
mod virtual_file;
