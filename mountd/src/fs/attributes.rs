//! Extended attributes of files that come from images: what is known of the original, and how it is stored.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

use bigsmall::archive::Archive;
use bigsmall::archive::FileRecord;
use bigsmall::base::digest;
use nix::errno::Errno;

use crate::fs::Fs;
use crate::fs::catalog::Meaning;
use crate::fs::root::Result;
use crate::fs::tree::What;

/// What the names of all of ours begin with.
const PREFIX: &str = "user.bigsmall.";

/// Whether a name may be one of ours; the kernel asks for many others.
pub(crate) fn is_ours(name: &OsStr) -> bool {
    name.as_bytes().starts_with(PREFIX.as_bytes())
}

impl Fs {
    /// Names and values of a file's attributes: none for what is no image.
    pub(crate) fn attributes(&self, ino: u64) -> Result<Vec<(String, String)>> {
        let node = self.node(ino)?;
        let number = match &node.what {
            What::Disk(Meaning::Image { .. }) => 0,
            What::ImageFile(number, _) => *number,
            _ => return Ok(Vec::new()),
        };
        let Some(archive) = self.image(&node)? else {
            return Ok(Vec::new());
        };
        let file = archive.files().get(number).ok_or(Errno::EIO)?;
        let mut found = vec![
            ("sha256", digest::hex(&file.sha256)),
            ("ratio", ratio(&archive)),
            ("codec", codecs(&archive, file)),
        ];
        if archive.index().is_delta() {
            found.push(("base", archive.index().base_place.clone()));
        }
        let named = |(name, value)| (format!("{PREFIX}{name}"), value);
        Ok(found.into_iter().map(named).collect())
    }

    /// The value of one attribute.
    pub(crate) fn attribute(&self, ino: u64, name: &OsStr) -> Result<String> {
        let mut attributes = self.attributes(ino)?.into_iter();
        let found = attributes.find(|(known, _)| known.as_bytes() == name.as_bytes());
        found.map(|(_, value)| value).ok_or(Errno::ENODATA)
    }
}

/// The image's share of the original bytes, such as `0.659`.
#[expect(clippy::cast_precision_loss, reason = "three digits for people")]
fn ratio(archive: &Archive) -> String {
    let header = archive.header();
    let share = header.image_len as f64 / header.original_len.max(1) as f64;
    format!("{share:.3}")
}

/// Blocks of the file by codec, such as `r32-bf16 x120 raw x2`.
fn codecs(archive: &Archive, file: &FileRecord) -> String {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for span in archive.spans(file) {
        for block in &archive.index().blocks[span.blocks.clone()] {
            *counts.entry(block.codec.name()).or_default() += 1;
        }
    }
    let mut text = String::new();
    for (codec, count) in counts {
        let blank = if text.is_empty() { "" } else { " " };
        let _ = write!(text, "{blank}{codec} x{count}");
    }
    text
}
