//! What was found in an image.

use std::path::Path;
use std::path::PathBuf;

use serde::Serialize;

use crate::ops::own_parity::ParityState;
use crate::ops::report;

/// How many faults of one image are listed; the rest is only counted.
const FAULTS_LISTED_MAX: usize = 100;

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Checked {
    /// Everything.
    Whole,
    /// Header, index and parity only: blocks may be damaged all the same.
    Structure,
    /// Some of the blocks.
    Sample,
}

/// What was found in one image.
#[derive(Debug, Clone, Serialize)]
pub struct ImageReport {
    /// The image.
    #[serde(serialize_with = "report::path")]
    pub path: PathBuf,
    /// Whether everything that was looked at is right.
    pub ok: bool,
    /// What was looked at.
    pub checked: Checked,
    /// Original bytes that were decoded and found right.
    pub verified_bytes: u64,
    /// Blocks decoded.
    pub blocks: u64,
    /// Blocks of the image.
    pub blocks_in_all: u64,
    /// Blocks that are damaged.
    pub damaged_blocks: u64,
    /// Which blocks were chosen, and what that misses.
    pub sample: Option<Sample>,
    /// Whether the original has the same bytes, where one was given.
    pub is_equal_to_source: Option<bool>,
    /// In what the original differs, one line for each file. The image may be right all the same.
    pub differences: Vec<String>,
    /// What the parity beside it says, where there is some.
    pub parity: Option<ParityState>,
    /// Why nothing of it could be decoded, if a base is not at hand: it may be sound for all that.
    pub missing_base: Option<String>,
    /// sha256 of each original file, as recorded.
    pub files: Vec<FileReport>,
    /// What is wrong, at most a hundred lines.
    pub faults: Vec<String>,
    /// What is not wrong, and worth knowing.
    pub notes: Vec<String>,
}

impl ImageReport {
    pub(super) fn new(path: &Path, checked: Checked) -> Self {
        Self {
            path: path.to_owned(),
            ok: true,
            checked,
            verified_bytes: 0,
            blocks: 0,
            blocks_in_all: 0,
            damaged_blocks: 0,
            sample: None,
            is_equal_to_source: None,
            differences: Vec::new(),
            parity: None,
            missing_base: None,
            files: Vec::new(),
            faults: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(super) fn conclude(&mut self, mut faults: Vec<String>) {
        self.ok = faults.is_empty();
        if faults.len() > FAULTS_LISTED_MAX {
            let more = faults.len() - FAULTS_LISTED_MAX;
            faults.truncate(FAULTS_LISTED_MAX);
            faults.push(format!("and {more} more"));
        }
        self.faults = faults;
    }
}

/// One original file of an image.
#[derive(Debug, Clone, Serialize)]
pub struct FileReport {
    /// Path within the image; empty for an image of one file.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// The recorded sha256, in hexadecimal.
    pub sha256: String,
    /// Whether the decoded bytes have it.
    pub ok: bool,
}

/// Which blocks were chosen, and what that misses.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sample {
    /// The same seed chooses the same blocks of the same image.
    pub seed: u64,
    /// How likely damage to one block is missed, to ten blocks, and to a hundredth of all; from 0
    /// to 1.
    pub missed_one: f64,
    /// Ten blocks.
    pub missed_ten: f64,
    /// A hundredth of all.
    pub missed_hundredth: f64,
}
