//! What the records of convert tell of: images that were put in the place of files.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::path::PathBuf;

use crate::base::Error;
use crate::base::Result;
use crate::ops::convert::RECORD;

/// Second field of a line that begins with none: what the third names is no longer told of.
const DONE: &[u8] = b"done";

/// The record in a folder, if there is one: each image that it tells of, with the file that it was.
pub(super) fn read(folder: &Path) -> Result<BTreeMap<PathBuf, PathBuf>> {
    let path = folder.join(RECORD);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(e) => return Err(Error::io("cannot read", &path, e)),
    };
    let mut told_of = BTreeMap::new();
    for line in text.split(|&byte| byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b'\t').collect();
        match fields.as_slice() {
            [b"", DONE, image, ..] => {
                told_of.remove(&folder.join(unescape(image)));
            }
            // a run may have been stopped in the middle of a line
            [image, path, ..] if !image.is_empty() && !path.is_empty() => {
                told_of.insert(folder.join(unescape(image)), folder.join(unescape(path)));
            }
            _ => {}
        }
    }
    Ok(told_of)
}

/// The undo of [`escape_ascii`](slice::escape_ascii).
fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let hex = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        let (escaped, len) = match rest {
            [b'n', ..] => (b'\n', 1),
            [b'r', ..] => (b'\r', 1),
            [b't', ..] => (b'\t', 1),
            [b'x', digits @ ..] => match digits.get(..2).and_then(hex) {
                Some(byte) => (byte, 3),
                None => (b'\\', 0),
            },
            [other, ..] => (*other, 1),
            [] => (b'\\', 0),
        };
        bytes.push(escaped);
        rest = rest.get(len..).unwrap_or_default();
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_comes_back() {
        let all: Vec<u8> = (1..=255).collect();
        let escaped = all.escape_ascii().to_string();
        assert_eq!(
            unescape(escaped.as_bytes()),
            PathBuf::from(OsString::from_vec(all))
        );
        // what is no escape is itself
        assert_eq!(unescape(b"\\"), PathBuf::from("\\"));
        assert_eq!(unescape(b"\\x4"), PathBuf::from("\\x4"));
    }
}
