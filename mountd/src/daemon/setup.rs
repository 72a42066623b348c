//! The words that a worker begins with.

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;

use bigsmall::base::Error;
use bigsmall::base::Result;
use serde::Deserialize;
use serde::Serialize;

use crate::adapter::CacheMode;
use crate::fs::FsOptions;

/// Where a process logs to, and how much.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Logging {
    /// None for stderr.
    pub(crate) file: Option<OsString>,
    pub(crate) json: bool,
    pub(crate) verbose: u8,
}

impl Logging {
    /// Where a process writes what does not come from the log, as the words of a fault. Our own stderr may be a pipe that somebody
    /// reads to its end.
    pub(crate) fn stderr(&self) -> Stdio {
        let Some(path) = &self.file else {
            return Stdio::inherit();
        };
        let file = File::options().append(true).create(true).open(path);
        file.map_or_else(|_| Stdio::null(), Stdio::from)
    }
}

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
    pub(crate) ahead_bytes: u64,
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
            ahead_bytes: self.ahead_bytes,
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
