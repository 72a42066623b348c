//! What lies under the name of a model where a download has failed, as far as its first bytes tell.

use std::fmt;

use crate::base::ReadAt;

/// How much of a file is looked at.
const LOOK_LEN: u64 = 512;
/// What every Git LFS pointer begins with.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";
/// What pages begin with, whatever the case.
const HTML: [&[u8]; 3] = [b"<!doctype html", b"<html", b"<head"];

/// Something that stands in the place of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookalike {
    /// What Git keeps of a large file.
    GitLfsPointer,
    /// A web page.
    HtmlPage,
}

impl Lookalike {
    /// What a file is, if it is one of these.
    pub fn of(source: &dyn ReadAt) -> Option<Self> {
        let mut head = vec![0; usize::try_from(source.len().min(LOOK_LEN)).ok()?];
        source.read_exact_at(0, &mut head).ok()?;
        if head.starts_with(LFS_POINTER) {
            return Some(Self::GitLfsPointer);
        }
        let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head);
        let head = head.trim_ascii_start().to_ascii_lowercase();
        let is_page = HTML.iter().any(|begins| head.starts_with(begins));
        is_page.then_some(Self::HtmlPage)
    }

    /// What to do about it.
    pub fn hint(self) -> &'static str {
        match self {
            Self::GitLfsPointer => "`git lfs pull` in its repository fetches the model",
            Self::HtmlPage => "download it again: mostly it is a page that asks to log in",
        }
    }
}

impl fmt::Display for Lookalike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GitLfsPointer => "a Git LFS pointer, which only stands for a model",
            Self::HtmlPage => "an HTML page in the place of a model",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_and_pages_are_known_by_their_first_bytes() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n".to_vec();
        assert_eq!(Lookalike::of(&pointer), Some(Lookalike::GitLfsPointer));
        for page in ["<!DOCTYPE html>", "\n <HTML lang=en>", "\u{feff}<html>"] {
            let page = page.as_bytes().to_vec();
            assert_eq!(Lookalike::of(&page), Some(Lookalike::HtmlPage));
        }
        for other in ["", "version 1", "<xml>"] {
            assert_eq!(Lookalike::of(&other.as_bytes().to_vec()), None);
        }
    }
}
