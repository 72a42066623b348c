//! One file for each command: words to options, one op, one report.

pub(super) mod apply;
pub(super) mod bench;
pub(super) mod compress;
pub(super) mod convert;
pub(super) mod decompress;
pub(super) mod diff;
pub(super) mod doctor;
pub(super) mod import;
pub(super) mod info;
pub(super) mod migrate;
#[cfg(feature = "run")]
pub(super) mod profile;
pub(super) mod protect;
pub(super) mod repair;
pub(super) mod reshard;
pub(super) mod restore;
pub(super) mod rm;
#[cfg(feature = "run")]
pub(super) mod run;
pub(super) mod scan;
pub(super) mod scrub;
pub(super) mod stat;
pub(super) mod transcode;
pub(super) mod verify;
pub(super) mod xray;
