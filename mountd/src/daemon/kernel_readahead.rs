//! How far the kernel reads ahead in a mount. Its own 128 KiB are one request at a time: whoever
//! maps a file and reads it from one end to the other waits for each. Several requests at once
//! keep all cores at work (docs/mount.md).

use std::fs::File;
use std::io;
use std::io::Write;
use std::path::PathBuf;

use bigsmall::base::mounts::Mounted;

/// Tells the kernel to read so many bytes ahead in files of this mount that are opened from now
/// on; 0 leaves what it does by itself. Only root may, and only where /sys can be written to.
pub(super) fn set(mounted: &Mounted, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    let kib = (bytes >> 10).max(4);
    let mut setting = File::options().write(true).open(setting(mounted))?;
    setting.write_all(kib.to_string().as_bytes())
}

/// The kernel's file for the device of this mount, which no other mount has.
fn setting(mounted: &Mounted) -> PathBuf {
    PathBuf::from(format!("/sys/class/bdi/{}/read_ahead_kb", mounted.device))
}
