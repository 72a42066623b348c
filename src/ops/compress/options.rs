//! How to compress, and where to.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::archive::Bases;
use crate::archive::naming;
use crate::codec::Profile;
use crate::ops::origin::Replacing;

/// Where the result goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Beside the source, under the name that follows from its own.
    Beside,
    /// To this path.
    Path(PathBuf),
    /// To this stream.
    Stdout,
}

impl Output {
    /// Whether it is one image by its name; a trailing slash says folder.
    pub fn is_image(&self) -> bool {
        let Self::Path(path) = self else {
            return false;
        };
        let is_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        !is_folder && path.file_name().is_some_and(naming::is_image_name)
    }
}

/// How to compress.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub struct CompressOptions {
    /// Where to.
    pub output: Output,
    /// Size or latency.
    pub profile: Profile,
    /// The model to store differences from.
    pub base: Option<Arc<Bases>>,
    /// The source is a folder of checkpoints, each of which may be stored as differences from an
    /// earlier one.
    pub series: bool,
    /// Go on where a run that was interrupted has stopped, and leave what is done for another if
    /// this one is.
    pub resume: bool,
    /// Replace what exists.
    pub force: bool,
    /// Store files that are not valid safetensors as plain bytes.
    pub opaque: bool,
    /// Threads that code.
    pub threads: usize,
    /// What only some runs ask for.
    pub more: MoreOptions,
}

/// What only some runs ask for; by default none of it.
#[derive(Debug, Clone, Default)]
pub struct MoreOptions {
    /// Images that may be replaced, whatever they are of; none where nobody can be told any.
    pub discard: Option<Vec<PathBuf>>,
    /// Tell by content, and not by time, what an earlier run has compressed already.
    pub check: bool,
    /// Choose bases among the models of the folder, and for those that have none there in these
    /// places.
    pub auto_delta: Option<Vec<PathBuf>>,
    /// Keep users' extended attributes in an image of a folder.
    pub attributes: bool,
    /// The image takes the place of its source: it says so from the moment that it has its name.
    pub converts: bool,
}

impl CompressOptions {
    /// Of one source to this image, which must not be there; with nothing that only some ask for.
    pub fn new(image: &Path, profile: Profile, threads: usize) -> Self {
        Self {
            output: Output::Path(image.to_owned()),
            profile,
            base: None,
            series: false,
            resume: false,
            force: false,
            opaque: false,
            threads,
            more: MoreOptions::default(),
        }
    }

    /// The same for this target, which was checked: where an image was named as one that may go, it
    /// goes.
    pub(super) fn allowed(&self, target: &Path) -> Self {
        Self {
            force: self.force || self.replacing().discards(target),
            ..self.clone()
        }
    }

    /// What may be replaced.
    pub fn replacing(&self) -> Replacing {
        Replacing {
            force: self.force,
            discard: self.more.discard.clone(),
        }
    }
}
