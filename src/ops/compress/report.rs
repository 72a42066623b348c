//! What was compressed.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use crate::codec::Profile;
use crate::ops::auto_base::Choice;
use crate::ops::folder::parity_path;
use crate::ops::protect::Protected;
use crate::ops::report;

/// One image that was written.
#[derive(Debug, Clone, Serialize)]
pub struct ImageWritten {
    /// What was compressed.
    #[serde(serialize_with = "report::path")]
    pub source: PathBuf,
    /// The image; `-` for standard output.
    #[serde(serialize_with = "report::path")]
    pub output: PathBuf,
    /// Bytes of the originals.
    pub original_bytes: u64,
    /// Bytes of what was read: of the originals, or of the image or file of the Python package that
    /// was coded anew.
    pub source_bytes: u64,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// Where its base is, seen from the image, if it is stored as differences.
    pub base: Option<String>,
    /// Bytes of the image that an interrupted run had left.
    pub resumed_bytes: u64,
    /// sha256 of the original; of each, joined by blanks, in an image of a folder.
    pub sha256: String,
    /// Parity that was made anew, since there was some of what stood there before.
    #[serde(skip)]
    pub parity: Option<Protected>,
}

impl ImageWritten {
    /// Its parity, where it is now: the folder that both are in may have had another name when it
    /// was written.
    fn parity_in_place(&self) -> Option<Protected> {
        let parity = self.parity.clone()?;
        Some(Protected {
            path: self.output.clone(),
            parity: parity_path(&self.output),
            ..parity
        })
    }
}

/// A further name (hard link) of a file whose image is there: of that a further name, too.
#[derive(Debug, Clone, Serialize)]
pub struct FurtherName {
    /// The name of the file.
    #[serde(serialize_with = "report::path")]
    pub source: PathBuf,
    /// That of the image.
    #[serde(serialize_with = "report::path")]
    pub output: PathBuf,
    /// The image of the first name.
    #[serde(serialize_with = "report::path")]
    pub image: PathBuf,
    /// Bytes of the copy that was made where the file system gives no second name; else 0.
    pub copied_bytes: u64,
}

/// A base that was chosen for a model of a folder.
#[derive(Debug, Clone, Serialize)]
pub struct AutoBase {
    /// The model: a file, or a folder of shards.
    #[serde(serialize_with = "report::path")]
    pub source: PathBuf,
    /// Its base.
    #[serde(serialize_with = "report::path")]
    pub base: PathBuf,
    /// About how many percent of its bytes the model takes against it.
    pub estimated_percent: f64,
    /// About how many it takes alone.
    pub alone_percent: f64,
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct CompressReport {
    /// The profile.
    pub profile: &'static str,
    /// Parity that was written for the images, where that was asked for or there was some before.
    pub parity: Vec<Protected>,
    /// What was looked for as a base, and found, where that was asked for.
    pub auto_base: Option<Choice>,
    /// The same for the models of a folder.
    pub auto_bases: Vec<AutoBase>,
    /// Every image.
    pub images: Vec<ImageWritten>,
    /// Further names (hard links) of files whose images are among those above or were there:
    /// counted once.
    pub links: Vec<FurtherName>,
    /// Images that were there already, of a series or from an interrupted run, and are not among
    /// those above.
    pub kept_images: u64,
    /// Those, where the output was brought up to date.
    #[serde(skip)]
    pub kept: Vec<PathBuf>,
    /// Copies that were there already.
    pub kept_files: u64,
    /// Files in the output that an earlier run has made from what is not in the source any more.
    #[serde(serialize_with = "report::paths")]
    pub gone: Vec<PathBuf>,
    /// Those of them that were deleted.
    #[serde(serialize_with = "report::paths")]
    pub deleted: Vec<PathBuf>,
    /// Whether the output was there already.
    #[serde(skip)]
    pub brings_up_to_date: bool,
    /// Whether there is no file in the source.
    #[serde(skip)]
    pub is_source_empty: bool,
    /// Files copied as they are.
    pub copied_files: u64,
    /// Their bytes.
    pub copied_bytes: u64,
    /// Bytes of all originals, copies included.
    pub original_bytes: u64,
    /// Bytes of all that was read, copies included.
    pub source_bytes: u64,
    /// Bytes of all that was written.
    pub output_bytes: u64,
    /// What is odd about sharded models in the source, such as a shard that is missing.
    pub notes: Vec<String>,
    /// Wall time.
    pub seconds: f64,
}

impl CompressReport {
    pub(super) fn new(profile: Profile) -> Self {
        Self {
            profile: profile.name(),
            parity: Vec::new(),
            auto_base: None,
            auto_bases: Vec::new(),
            images: Vec::new(),
            links: Vec::new(),
            kept_images: 0,
            kept: Vec::new(),
            kept_files: 0,
            gone: Vec::new(),
            deleted: Vec::new(),
            brings_up_to_date: false,
            is_source_empty: false,
            copied_files: 0,
            copied_bytes: 0,
            original_bytes: 0,
            source_bytes: 0,
            output_bytes: 0,
            notes: Vec::new(),
            seconds: 0.0,
        }
    }

    pub(super) fn add_up(&mut self, begun: Instant) {
        let originals = self.images.iter().map(|image| image.original_bytes);
        self.original_bytes = self.copied_bytes + originals.sum::<u64>();
        let sources = self.images.iter().map(|image| image.source_bytes);
        self.source_bytes = self.copied_bytes + sources.sum::<u64>();
        let images = self.images.iter().map(|image| image.image_bytes);
        let copies = self.links.iter().map(|link| link.copied_bytes);
        self.output_bytes = self.copied_bytes + images.sum::<u64>() + copies.sum::<u64>();
        let renewed = self.images.iter().filter_map(ImageWritten::parity_in_place);
        self.parity = renewed.collect();
        self.seconds = begun.elapsed().as_secs_f64();
    }
}
