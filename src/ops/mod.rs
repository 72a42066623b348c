//! One file for each verb: inputs and options in, a report out. Reports are plain data.

pub mod auto_base;
pub mod base;
pub mod bench;
pub mod companions;
pub mod compress;
pub mod convert;
pub mod decompress;
pub mod diff;
pub mod estimate;
pub mod folder;
pub mod hf_cache;
pub mod import;
pub mod info;
pub mod own_parity;
pub mod protect;
pub mod remove;
pub mod repair;
mod report;
pub mod reshard;
pub mod restore;
pub mod scan;
pub mod scrub;
pub mod stat;
pub mod stream;
pub mod unpack;
pub mod verify;
pub mod xray;
