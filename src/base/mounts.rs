//! What is mounted where, as the kernel tells it in /proc/self/mountinfo.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::path::PathBuf;

use crate::base::Error;
use crate::base::Result;

/// The type of our own mounts.
pub const FSTYPE: &str = "fuse.bigsmall";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where it is.
    pub mountpoint: PathBuf,
    /// What it shows: a device, or of ours the folder.
    pub source: PathBuf,
    /// Its type.
    pub fstype: Vec<u8>,
    /// The number of its file system among the devices, as `MAJOR:MINOR`.
    pub device: String,
}

impl Mounted {
    /// Whether it is a mount of ours.
    pub fn is_ours(&self) -> bool {
        self.fstype == FSTYPE.as_bytes()
    }
}

/// All mounts in the order in which they were made.
pub fn all() -> Result<Vec<Mounted>> {
    let path = Path::new("/proc/self/mountinfo");
    let text = std::fs::read(path).map_err(|e| Error::io("cannot list the mounts", path, e))?;
    Ok(text.split(|&b| b == b'\n').filter_map(parse).collect())
}

/// `36 35 98:0 /root /mountpoint options [optional] - fstype source superoptions`.
fn parse(line: &[u8]) -> Option<Mounted> {
    let fields: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    let dash = fields.iter().position(|field| *field == b"-")?;
    Some(Mounted {
        mountpoint: unescape(fields.get(4)?),
        source: unescape(fields.get(dash + 2)?),
        fstype: fields.get(dash + 1)?.to_vec(),
        device: std::str::from_utf8(fields.get(2)?).ok()?.to_owned(),
    })
}

/// The kernel writes blanks, tabs, line feeds and backslashes as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let octal = (first == b'\\').then(|| after.get(..3)).flatten();
        let byte = octal.and_then(|o| u8::from_str_radix(std::str::from_utf8(o).ok()?, 8).ok());
        if byte.is_some() {
            rest = &after[3..];
        }
        bytes.push(byte.unwrap_or(first));
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_understood() {
        let line =
            br"101 26 0:45 / /mnt/a\040b ro,nosuid shared:1 - fuse.bigsmall /src\134x ro,user_id=0";
        let mounted = parse(line).unwrap();
        assert!(mounted.is_ours());
        assert_eq!(mounted.mountpoint, Path::new("/mnt/a b"));
        assert_eq!(mounted.source, Path::new(r"/src\x"));
        assert_eq!(mounted.device, "0:45");
        let mounted = parse(br"1 2 0:3 / /a\012b\134c\011 rw - ext4 /dev/sda rw").unwrap();
        assert_eq!(mounted.fstype, b"ext4");
        assert_eq!(mounted.mountpoint, Path::new("/a\nb\\c\t"));
        assert_eq!(parse(b""), None);
    }
}
