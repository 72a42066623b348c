//! One file for each verb: inputs and options in, a report out. Reports are plain data.
//!
//! The verbs are there for `cli`. What is handed on below is what tests and benchmarks call without
//! a command line; all else is closed, so that the compiler tells what nothing uses any more.

pub(crate) mod auto_base;
pub(crate) mod base;
pub(crate) mod bench;
pub(crate) mod companions;
pub(crate) mod compress;
pub(crate) mod convert;
pub(crate) mod decompress;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod estimate;
pub(crate) mod folder;
pub(crate) mod import;
pub(crate) mod info;
pub(crate) mod origin;
pub(crate) mod own_parity;
#[cfg(feature = "run")]
pub(crate) mod profile;
pub(crate) mod protect;
pub(crate) mod record;
pub(crate) mod remove;
pub(crate) mod repair;
mod report;
pub(crate) mod reshard;
pub(crate) mod restore;
#[cfg(feature = "run")]
pub(crate) mod run;
pub(crate) mod scan;
pub(crate) mod scrub;
pub(crate) mod shard_notes;
pub(crate) mod stat;
pub(crate) mod stream;
pub(crate) mod unpack;
pub(crate) mod verify;
pub(crate) mod xray;

pub use compress::CompressOptions;
pub use compress::MoreOptions;
pub use compress::Output;
pub use compress::compress;
pub use convert::ConvertOptions;
pub use convert::ConvertReport;
pub use convert::convert;
pub use convert::plan as plan_convert;
pub use decompress::DecompressOptions;
pub use decompress::decompress;
pub use diff::patch;
pub use estimate::Estimate;
pub use folder::parity_path;
pub use import::ImportOptions;
pub use import::import;
pub use import::migrate;
pub use info::info;
#[cfg(feature = "run")]
pub use profile::ProfileOptions;
#[cfg(feature = "run")]
pub use profile::ProfileReport;
#[cfg(feature = "run")]
pub use profile::profile;
pub use protect::ProtectOptions;
pub use protect::protect;
pub use record::NAME as RECORD_NAME;
pub use repair::RepairOptions;
pub use repair::RepairReport;
pub use repair::repair;
pub use restore::plan as plan_restore;
pub use restore::restore;
pub use verify::VerifyOptions;
pub use verify::verify;
pub use verify::verify_image;
