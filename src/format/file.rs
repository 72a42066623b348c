//! The files of an image: their records, and what they may be called (docs/format.md, section 4.1).

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "hostile bytes"
)]

use crate::base::Error;
use crate::base::Result;

/// One original file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRecord {
    /// Path within the folder; empty for an image of one file.
    pub path: String,
    /// Whether it is a safetensors file.
    pub is_safetensors: bool,
    /// Length in bytes.
    pub len: u64,
    /// Its spans within [`Index::spans`](crate::format::Index::spans).
    pub spans: std::ops::Range<usize>,
    /// sha256 of its bytes.
    pub sha256: [u8; 32],
}

/// Whether `path` may name a file within a folder image.
pub(crate) fn path_is_valid(path: &str) -> bool {
    let plain = |part: &str| {
        !matches!(part, "" | "." | "..") && part.len() <= 255 && !part.contains(['\0', '\\'])
    };
    u16::try_from(path.len()).is_ok() && path.split('/').all(plain)
}

pub(super) fn check_paths(files: &[FileRecord]) -> Result<()> {
    for file in files {
        if !path_is_valid(&file.path) {
            return Err(Error::damaged(format!(
                "the image names a file `{}`, which is no relative path",
                crate::base::error::escaped(&file.path)
            )));
        }
    }
    // a file that is a folder of another, such as `a` and `a/b`
    let paths: std::collections::BTreeSet<&str> = files.iter().map(|f| f.path.as_str()).collect();
    let is_folder = |path: &str| {
        path.match_indices('/')
            .any(|(at, _)| path.get(..at).is_some_and(|p| paths.contains(p)))
    };
    let ascending = files.is_sorted_by(|a, b| a.path < b.path);
    if !ascending || files.iter().any(|file| is_folder(&file.path)) {
        return Err(Error::damaged(
            "the files of the image are out of order or repeated",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in [
            "",
            "/a",
            "a/",
            "a//b",
            "../a",
            "a/..",
            ".",
            "a\\b",
            "a\0b",
            &"x".repeat(256),
        ] {
            assert!(!path_is_valid(path), "{path:?}");
        }
        for path in ["a", "a/b.json", "...", "a b/\u{e4}"] {
            assert!(path_is_valid(path), "{path:?}");
        }
    }
}
