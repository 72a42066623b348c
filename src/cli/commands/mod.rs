//! One file for each command: words to options, one op, one report.

pub(super) mod bench;
pub(super) mod compress;
pub(super) mod decompress;
pub(super) mod info;
pub(super) mod verify;
