//! The disk that a model is on: its files are read from end to end, past the page cache.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Instant;

use memmap2::MmapMut;
use parking_lot::Mutex;
use rustix::fs::Advice;
use rustix::fs::OFlags;

use crate::base::Progress;
use crate::base::Result;
use crate::base::file;
use crate::base::mounts;
use crate::base::mounts::Mounted;
use crate::base::units;
use crate::plan::facts::Disk;
use crate::plan::measured::BytesPerSecond;
use crate::plan::measured::Measured;
use crate::plan::measured::Name;
use crate::plan::probe::pace;
use crate::plan::probe::pace::Pace;

/// Bytes of a request, and requests under way at once: as a model is read that does not fit in
/// memory.
const REQUEST_LEN: u64 = 4 << 20;
const REQUESTS: usize = 4;

/// How files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The page cache has no part in it.
    Direct,
    /// What the page cache had was dropped first.
    Dropped,
}

impl Way {
    fn name(self) -> Name {
        let name = match self {
            Self::Direct => "direct",
            Self::Dropped => "page-cache-dropped",
        };
        Name(name.to_owned())
    }
}

/// Which disk a file is on. Nothing is read of it.
pub fn place(path: &Path) -> Disk {
    let failed = |error: std::io::Error| format!("`{}`: {error}", path.display());
    let found = std::fs::metadata(path).and_then(|it| Ok((it, path.canonicalize()?)));
    let (metadata, path) = match found {
        Ok(found) => found,
        Err(error) => return Disk::not(&failed(error)),
    };
    let device = metadata.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let file_system = match mounts::all() {
        Ok(mounts) => Measured::or_not(
            file_system_of(&path, &mounts).map(Name),
            "no mount has this path",
        ),
        Err(error) => Measured::not(error.what()),
    };
    Disk {
        device: Measured::Value(Name(format!("{major}:{minor}"))),
        file_system,
        ..Disk::not("it was not read")
    }
}

/// The type of the file system that a path without links is on: that of the longest mountpoint,
/// and of several there the last.
fn file_system_of(path: &Path, mounts: &[Mounted]) -> Option<String> {
    let above = mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.mountpoint));
    let nearest = above.max_by_key(|mount| mount.mountpoint.components().count())?;
    Some(String::from_utf8_lossy(&nearest.fstype).into_owned())
}

/// Measures the disk that `files` are on, which are those of one model.
pub fn disk(files: &[PathBuf], pace: &Pace, progress: &dyn Progress) -> Result<Disk> {
    let Some(first) = files.first() else {
        return Ok(Disk::not("the model has no files"));
    };
    let place = place(first);
    progress.begin("measuring: the disk", 0);
    let read = match Requests::open(files, pace) {
        Ok(requests) => requests.read(pace, progress)?,
        Err(reason) => Err(reason),
    };
    progress.end();
    let (read_by, read) = match read {
        Ok((way, rate)) => (
            Measured::Value(way.name()),
            Measured::Value(BytesPerSecond(rate)),
        ),
        Err(reason) => (Measured::not(reason.as_str()), Measured::not(reason)),
    };
    Ok(Disk {
        read_by,
        read,
        ..place
    })
}

/// What is read, and how.
struct Requests {
    files: Vec<File>,
    /// Which file, and from where on.
    list: Vec<(usize, u64)>,
    way: Way,
}

/// Page by page, so that a disk can write to it.
type Buffer = MmapMut;

impl Requests {
    /// Whole requests of these files, or why there are none.
    fn open(paths: &[PathBuf], pace: &Pace) -> Result<Self, String> {
        let (mut files, mut list) = (Vec::new(), Vec::new());
        let mut len_in_all = 0;
        for path in paths {
            let failed = |error: std::io::Error| format!("`{}`: {error}", path.display());
            let file = file::open_regular(path).map_err(failed)?;
            let len = file.metadata().map_err(failed)?.len();
            len_in_all += len;
            let starts = (0..len / REQUEST_LEN).map(|number| number * REQUEST_LEN);
            list.extend(starts.map(|start| (files.len(), start)));
            files.push(file);
        }
        list.truncate((pace.disk_len / REQUEST_LEN) as usize);
        if list.len() < REQUESTS {
            let least = REQUESTS as u64 * REQUEST_LEN;
            return Err(format!(
                "the model has {}, and less than {} tell nothing of a disk",
                units::human_bytes(len_in_all),
                units::human_bytes(least)
            ));
        }
        let is_direct = files
            .iter()
            .all(|file| rustix::fs::fcntl_setfl(file, OFlags::DIRECT).is_ok());
        let way = if is_direct { Way::Direct } else { Way::Dropped };
        let mut requests = Self { files, list, way };
        // some take the flag, and then refuse to read
        if is_direct && requests.try_first().is_err() {
            requests.way = Way::Dropped;
        }
        if requests.way == Way::Dropped {
            requests.drop_cached()?;
        }
        Ok(requests)
    }

    fn try_first(&self) -> Result<(), String> {
        let (file, start) = self.list[0];
        let mut buffer = buffer()?;
        let read = self.files[file].read_exact_at(&mut buffer[..4096], start);
        read.map_err(|error| error.to_string())
    }

    /// Reads by the page cache, of which nothing is left.
    fn drop_cached(&self) -> Result<(), String> {
        for file in &self.files {
            rustix::fs::fcntl_setfl(file, OFlags::empty())
                .and_then(|()| rustix::fs::fadvise(file, 0, None, Advice::DontNeed))
                .map_err(|error| format!("the page cache cannot be dropped: {error}"))?;
        }
        Ok(())
    }

    /// Reads until the time is over: the rate, or why there is none.
    fn read(
        &self,
        pace: &Pace,
        progress: &dyn Progress,
    ) -> Result<std::result::Result<(Way, u64), String>> {
        let buffers: Result<Vec<Buffer>, String> = (0..REQUESTS).map(|_| buffer()).collect();
        let buffers = match buffers {
            Ok(buffers) => buffers,
            Err(reason) => return Ok(Err(reason)),
        };
        let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
        let is_over = AtomicBool::new(false);
        let fault = Mutex::new(None);
        let begun = Instant::now();
        let read_some = |mut buffer: Buffer| {
            while !is_over.load(Ordering::Relaxed) {
                let Some(&(file, start)) = self.list.get(next.fetch_add(1, Ordering::Relaxed))
                else {
                    break;
                };
                match self.files[file].read_exact_at(&mut buffer, start) {
                    Ok(()) => done.fetch_add(REQUEST_LEN, Ordering::Relaxed),
                    Err(error) => {
                        fault
                            .lock()
                            .get_or_insert(format!("it cannot be read: {error}"));
                        break;
                    }
                };
                if begun.elapsed() >= pace.disk_time || progress.interrupted() {
                    is_over.store(true, Ordering::Relaxed);
                }
            }
        };
        std::thread::scope(|scope| {
            for buffer in buffers {
                scope.spawn(|| read_some(buffer));
            }
        });
        let rate = pace::per_second(done.into_inner(), begun.elapsed());
        progress.check()?;
        Ok(match fault.into_inner() {
            Some(fault) => Err(fault),
            None => rate
                .map(|rate| (self.way, rate))
                .ok_or_else(|| "nothing was read in the time that it may take".to_owned()),
        })
    }
}

fn buffer() -> Result<Buffer, String> {
    MmapMut::map_anon(REQUEST_LEN as usize)
        .map_err(|error| format!("memory for reading cannot be had: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Error;
    use crate::base::ErrorKind;
    use crate::base::progress::Silent;
    use std::io::Write;

    fn put(folder: &Path, name: &str, len: u64) -> PathBuf {
        let path = folder.join(name);
        let mut file = File::create(&path).unwrap();
        file.write_all(&vec![7; len as usize]).unwrap();
        path
    }

    #[test]
    fn a_disk_is_measured_by_the_files_of_a_model() {
        let folder = tempfile::tempdir().unwrap();
        let files = [
            put(folder.path(), "a", 3 * REQUEST_LEN + 5),
            put(folder.path(), "b", REQUEST_LEN),
        ];
        let found = disk(&files, &Pace::default(), &Silent).unwrap();
        assert!(found.read.value().is_some(), "{found:?}");
        assert!(found.read_by.value().is_some());
        assert!(found.is_same(&place(&files[1])), "{found:?}");
    }

    #[test]
    fn what_cannot_be_read_or_is_too_short_is_not_measured() {
        let folder = tempfile::tempdir().unwrap();
        let pace = Pace::default();
        let measured = |files: &[PathBuf]| disk(files, &pace, &Silent).unwrap();
        let short = measured(&[put(folder.path(), "a", 4 * REQUEST_LEN - 1)]);
        assert!(
            short
                .read
                .why_not()
                .unwrap()
                .contains("tell nothing of a disk")
        );
        assert!(short.device.value().is_some());
        let gone = measured(&[folder.path().join("gone")]);
        assert!(gone.read.why_not().unwrap().contains("gone"), "{gone:?}");
        assert!(gone.device.why_not().is_some());
        let no_file = measured(&[folder.path().to_owned()]);
        assert!(no_file.read.why_not().is_some());
        assert!(measured(&[]).read.why_not().is_some());
    }

    #[test]
    fn a_file_that_becomes_shorter_while_it_is_read_gives_no_figure() {
        let folder = tempfile::tempdir().unwrap();
        let path = put(folder.path(), "a", 4 * REQUEST_LEN);
        let requests = Requests::open(std::slice::from_ref(&path), &Pace::default()).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(REQUEST_LEN).unwrap();
        let read = requests.read(&Pace::default(), &Silent).unwrap();
        assert!(read.unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn somebody_who_wants_it_to_stop_is_heard() {
        struct Impatient;
        impl Progress for Impatient {
            fn interrupted(&self) -> bool {
                true
            }
            fn check(&self) -> Result<()> {
                Err(Error::new(ErrorKind::Interrupted, "interrupted"))
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let path = put(folder.path(), "a", 8 * REQUEST_LEN);
        let stopped = disk(&[path], &Pace::default(), &Impatient);
        assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Interrupted);
    }

    #[test]
    fn the_nearest_mount_above_a_path_is_its_file_system() {
        let mount = |mountpoint: &str, fstype: &str| Mounted {
            mountpoint: PathBuf::from(mountpoint),
            source: PathBuf::from("x"),
            fstype: fstype.as_bytes().to_vec(),
            device: "0:1".to_owned(),
        };
        let mounts = [
            mount("/", "ext4"),
            mount("/data", "xfs"),
            mount("/data", "btrfs"),
            mount("/data/far", "nfs"),
        ];
        let of = |path: &str| file_system_of(Path::new(path), &mounts).unwrap();
        assert_eq!(of("/data/m"), "btrfs");
        assert_eq!(of("/data/far/m"), "nfs");
        assert_eq!(of("/database/m"), "ext4");
        assert_eq!(file_system_of(Path::new("/m"), &[]), None);
    }
}
