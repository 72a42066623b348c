//! The file in the user's cache folder that keeps what was measured.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::base::Error;
use crate::base::FileSource;
use crate::base::OutputFile;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::atomic;
use crate::base::user_cache::user_cache_folder;
use crate::plan::kept::Kept;
use crate::plan::machine::MachineIdentity;

/// A longer file is none of ours.
const LEN_MAX: u64 = 1 << 20;

/// Where it is kept.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// In this file, which need not exist.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// In `bigsmall/profile.json` of the user's cache folder; none if there is no such folder.
    pub fn of_user() -> Option<Self> {
        Some(Self::new(&user_cache_folder()?.join("profile.json")))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is kept of this machine; `now` is in seconds since 1970. Whatever else lies there, it
    /// is as if there were nothing.
    pub fn read(&self, machine: &MachineIdentity, now: u64) -> Option<Kept> {
        let file = FileSource::open(&self.path).ok()?;
        if file.len() > LEN_MAX {
            return None;
        }
        let mut text = vec![0; file.len() as usize];
        file.read_exact_at(0, &mut text).ok()?;
        Kept::read(&text, machine, now)
    }

    /// Keeps it in the place of what is there.
    pub fn write(&self, kept: &Kept) -> Result<()> {
        let folder = atomic::folder_of(&self.path);
        fs::create_dir_all(folder).map_err(|e| Error::io("cannot make the folder", folder, e))?;
        let mut output = OutputFile::create(&self.path, true)?;
        output.write(&kept.text()?)?;
        output.commit(None, None)
    }
}
