//! What reports have in common.

use std::path::Path;

use serde::Serializer;

/// A path as text; bytes that are no UTF-8 are shown as such, and never make a report fail.
pub(super) fn path<P: AsRef<Path>, S: Serializer>(
    path: &P,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.as_ref().to_string_lossy())
}
