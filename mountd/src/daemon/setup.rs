//! What a worker is told of its mount when it starts.

use std::ffi::OsString;
use std::path::PathBuf;

use bigsmall::base::Error;
use bigsmall::base::Result;
use serde::Deserialize;
use serde::Serialize;

use crate::adapter::CacheMode;
use crate::daemon::logging::Logging;
use crate::fs::FsOptions;

/// All that a worker is told of its mount.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one answer to one question"
)]
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) source: OsString,
    /// The one image of the folder that is shown, if not all is.
    pub(crate) only: Option<OsString>,
    pub(crate) bases: Vec<OsString>,
    pub(crate) cache_bytes: u64,
    pub(crate) readahead_bytes: u64,
    pub(crate) in_place: bool,
    pub(crate) protect_models: bool,
    pub(crate) cache_mode: CacheMode,
    pub(crate) write_max: u32,
    /// Which worker of the mount it is, from 1 on.
    pub(crate) life: u64,
    /// Whether it asks for what the one before it left unanswered.
    pub(crate) resend: bool,
    /// Whether the kernel may be given files to read and write itself.
    pub(crate) can_pass: bool,
    pub(crate) logging: Logging,
}

impl Setup {
    /// How the source is shown.
    pub(crate) fn fs_options(&self) -> FsOptions {
        FsOptions {
            bases: self.bases.iter().map(PathBuf::from).collect(),
            cache_bytes: self.cache_bytes,
            readahead_bytes: self.readahead_bytes,
            in_place: self.in_place,
            protect_models: self.protect_models,
            life: self.life,
        }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::invalid(e.to_string()))
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|e| Error::invalid(e.to_string()))
    }
}
