//! What goes into an image, and how it is to be written.

use std::sync::Arc;

use crate::base::ReadAt;
use crate::codec::Profile;
use crate::format::BaseRecord;
use crate::format::Member;
use crate::tensor::Layout;

/// A file that goes into an image.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Path within the folder; empty for an image of one file.
    pub path: String,
    /// Its bytes.
    pub bytes: Arc<dyn ReadAt>,
    /// Its spans.
    pub layout: Arc<Layout>,
    /// For each span the tensor that it may be stored as a difference from, of the same dtype and
    /// length; empty if there is none.
    pub bases: Vec<Option<Base>>,
}

/// A tensor that others may be stored as differences from.
#[derive(Debug, Clone)]
pub(crate) struct Base {
    /// What it is.
    pub record: BaseRecord,
    /// Its bytes.
    pub bytes: Arc<dyn ReadAt>,
}

/// How an image is written.
#[derive(Debug, Clone)]
pub(crate) struct WriteOptions {
    /// Size or latency.
    pub profile: Profile,
    /// Threads that code.
    pub threads: usize,
    /// Where the base is, as words for a person; empty if there is none.
    pub base_path: String,
    /// What the folder holds beside the bytes of its files; empty for one file, or if that is not
    /// noted.
    pub members: Vec<Member>,
}
