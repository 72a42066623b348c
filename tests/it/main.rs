//! The integration tests, linked once: each module proves one promise.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::print_stderr,
    reason = "a failed unwrap is a failed test"
)]

mod architecture;
mod chains;
mod cli;
mod cli_deltas;
mod cli_page;
mod cli_reports;
mod cli_trust;
mod companions;
mod convert;
mod convert_in_use;
mod convert_kept;
mod damage;
mod delta;
mod delta_tables;
mod doctor;
mod estimates;
mod folders;
mod format_page;
mod further_names;
mod fuzz_corpus;
mod fuzz_seeds;
mod golden;
mod gpu_kernels;
mod import;
mod kernels;
mod look;
mod members;
mod mirrors;
mod models;
mod open_model;
mod pages;
mod parity;
mod profile;
mod program;
mod reshard;
mod restore_record;
mod resume;
mod roundtrip;
mod run;
mod run_layouts;
mod run_text;
mod scans;
mod semantics_page;
mod shards;
mod shared;
mod text_templates;
mod text_tokenizer;
mod texts;
mod transcript;
mod virtual_file;
