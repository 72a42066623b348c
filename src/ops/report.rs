//! What reports have in common.

use std::path::Path;
use std::path::PathBuf;

use serde::Serializer;

/// A path as text, if there is one.
#[expect(clippy::ref_option, reason = "serde calls it so")]
pub(super) fn optional_path<S: Serializer>(
    path: &Option<PathBuf>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => serializer.serialize_some(&path.to_string_lossy()),
        None => serializer.serialize_none(),
    }
}

/// Paths as text.
pub(super) fn paths<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}

/// A path as text; bytes that are no UTF-8 are shown as such, and never make a report fail.
pub(super) fn path<P: AsRef<Path>, S: Serializer>(
    path: &P,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.as_ref().to_string_lossy())
}
