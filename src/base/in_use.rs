//! Whether a file may be taken away: not while somebody writes it or holds a lock on it, and not if
//! it looks unfinished.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;

use nix::fcntl::FcntlArg;
use nix::fcntl::fcntl;
use nix::libc;
use nix::unistd::Whence;
use nix::unistd::lseek;

use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::LockedFile;
use crate::base::Progress;
use crate::base::Result;
use crate::base::atomic;
use crate::base::file;
use crate::base::identity::Identity;
use crate::base::lease;
use crate::base::lease::Leased;

/// How long a file must have rested, unless somebody says otherwise.
pub const MIN_AGE: Duration = Duration::from_mins(1);

/// What programs that fetch files put behind the name of one that is not finished, or of the list
/// of what it still lacks.
const UNFINISHED: &[&str] = &[
    ".aria2",
    ".part",
    ".partial",
    ".crdownload",
    ".download",
    ".incomplete",
    ".!qB",
    ".!ut",
    ".st",
    ".tmp",
    ".temp",
];

/// A file that nobody else writes or has locked. Others who want to lock it are kept out, and those
/// who want to write wait, until this is dropped or [`check`](Self::check) has told of them.
#[derive(Debug)]
pub struct Unused {
    file: LockedFile,
    path: PathBuf,
    identity: Identity,
    is_leased: bool,
    is_wanted: AtomicBool,
}

impl Unused {
    /// Holds the regular file at `path`; an error says who is in the way.
    pub fn hold(path: &Path) -> Result<Self> {
        let failed = |e| Error::io("cannot open", path, e);
        // neither a pipe nor a link is what it looks like: the kind is asked for before anything is
        // opened
        let there = std::fs::symlink_metadata(path).map_err(failed)?;
        if !there.is_file() {
            return Err(Error::invalid("not a regular file").file(path));
        }
        let file = file::open_regular(path).map_err(failed)?;
        let file = LockedFile::new(file).ok_or_else(|| in_use(path, "has locked it"))?;
        let identity = Identity::of(&file.metadata().map_err(failed)?);
        if !identity.is_same_file(&Identity::of(&there)) {
            return Err(replaced(path));
        }
        let leased = lease_in_time(&file);
        let held = Self {
            file,
            path: path.to_owned(),
            identity,
            is_leased: leased == Leased::Held,
            is_wanted: AtomicBool::new(false),
        };
        if leased == Leased::Written {
            return Err(in_use(path, "has it open for writing"));
        }
        held.check_locks()?;
        Ok(held)
    }

    /// Whether it is known that nobody writes: not so where there are no leases.
    pub fn is_sure(&self) -> bool {
        self.is_leased
    }

    /// What the disk said of the file when it was taken hold of.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// An error if somebody wants to write it by now; he need not wait any longer.
    pub fn check_wanted(&self) -> Result<()> {
        self.check_unwanted()
            .inspect_err(|_| lease::release(&self.file))
    }

    /// The same, but whoever wants to write goes on waiting.
    fn check_unwanted(&self) -> Result<()> {
        if self.is_leased && !lease::is_held(&self.file) {
            self.is_wanted.store(true, Ordering::Relaxed);
        }
        if self.is_wanted.load(Ordering::Relaxed) {
            return Err(in_use(&self.path, "has opened it for writing"));
        }
        Ok(())
    }

    /// An error if it is not as it was, wherever it is by now: somebody writes it, has locked it or
    /// has changed it.
    pub fn check(&self) -> Result<()> {
        self.check_wanted()?;
        self.check_content()
    }

    /// An error if somebody has locked it or has changed it.
    fn check_content(&self) -> Result<()> {
        self.check_locks()?;
        let metadata = self.file.metadata();
        let metadata = metadata.map_err(|e| Error::io("cannot stat", &self.path, e))?;
        if Identity::of(&metadata).has_content_of(&self.identity) {
            return Ok(());
        }
        Err(changed(&self.path))
    }

    /// An error if another lies under its name by now.
    pub fn check_name(&self) -> Result<()> {
        let there = std::fs::symlink_metadata(&self.path);
        let there = there.map_err(|e| Error::io("cannot stat", &self.path, e))?;
        if Identity::of(&there).is_same_file(&self.identity) {
            return Ok(());
        }
        Err(replaced(&self.path))
    }

    /// Removes the file with all its names, unless somebody has begun to write it: each name is
    /// moved aside before it is asked for the last time, as who opens it later does not find it any
    /// more, and who did so earlier is seen. He waits until the names are back.
    pub fn remove_names(&self, names: &[&Path]) -> Result<()> {
        let mut renamed: Vec<(&Path, PathBuf)> = Vec::new();
        let moved = names.iter().try_for_each(|name| {
            let to = atomic::temporary_for(name);
            std::fs::rename(name, &to).map_err(|e| Error::io("cannot remove", name, e))?;
            renamed.push((name, to));
            Ok(())
        });
        let checked = moved.and_then(|()| self.check_unwanted());
        if let Err(error) = checked.and_then(|()| self.check_content()) {
            let back = renamed
                .iter()
                .try_for_each(|(name, from)| put_back(from, name));
            // now whoever waits may write
            let _ = self.check_wanted();
            return back.and(Err(error));
        }
        for (name, from) in &renamed {
            std::fs::remove_file(from).map_err(|e| Error::io("cannot remove", name, e))?;
            atomic::sync_folder(atomic::folder_of(name))?;
        }
        Ok(())
    }

    /// Locks on ranges of it, which are other than those on the whole.
    fn check_locks(&self) -> Result<()> {
        let mut lock = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        let asked = fcntl(&*self.file, FcntlArg::F_OFD_GETLK(&mut lock));
        if asked.is_ok() && lock.l_type != libc::F_UNLCK as libc::c_short {
            return Err(in_use(&self.path, "has locked it"));
        }
        Ok(())
    }
}

impl Drop for Unused {
    fn drop(&mut self) {
        if self.is_leased {
            lease::release(&self.file);
        }
    }
}

/// The progress of work on a file that is held: it ends when somebody wants to write that file.
#[derive(Clone, Copy)]
pub struct WatchedProgress<'a> {
    progress: &'a dyn Progress,
    file: &'a Unused,
}

impl std::fmt::Debug for WatchedProgress<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.file.fmt(f)
    }
}

impl<'a> WatchedProgress<'a> {
    /// Tells `progress` of the work on `file`.
    pub fn new(progress: &'a dyn Progress, file: &'a Unused) -> Self {
        Self { progress, file }
    }
}

impl Progress for WatchedProgress<'_> {
    fn inner(&self) -> Option<&dyn Progress> {
        Some(self.progress)
    }

    fn check(&self) -> Result<()> {
        self.progress.check()?;
        self.file.check_wanted()
    }
}

/// Gives a file its name back, or one like it if another file took that meanwhile.
fn put_back(from: &Path, name: &Path) -> Result<()> {
    if atomic::rename(from, name, false).is_ok() {
        return Ok(());
    }
    let mut kept = name.as_os_str().to_owned();
    kept.push(format!(".kept-{}", std::process::id()));
    atomic::rename(from, Path::new(&kept), false)
}

/// Kept apart from all other errors: such a file stays as it is, and nothing is wrong with it.
fn in_use(path: &Path, how: &str) -> Error {
    Error::new(ErrorKind::Busy, format!("another process {how}"))
        .file(path)
        .hint("do it again when that has ended")
}

fn changed(path: &Path) -> Error {
    Error::new(ErrorKind::Busy, "was changed meanwhile")
        .file(path)
        .hint("do it again when nobody writes to it")
}

fn replaced(path: &Path) -> Error {
    Error::new(ErrorKind::Busy, "was replaced meanwhile").file(path)
}

/// Why a file looks unfinished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfinished {
    /// Its name, or a file beside it, says so, in these words.
    Companion(String),
    /// It was written so long ago, which is not long enough.
    Young(Duration),
    /// Parts of it were never written; the first begins at this byte.
    Hole(u64),
}

/// Why a file looks unfinished, or as if somebody were still at it, without asking who has it open;
/// none if it looks whole.
#[derive(Debug, Clone, Copy)]
pub struct FinishedCheck {
    /// How long it must have rested.
    pub min_age: Duration,
    /// Whether parts that were never written are all right.
    pub sparse: bool,
}

impl Default for FinishedCheck {
    fn default() -> Self {
        Self {
            min_age: MIN_AGE,
            sparse: false,
        }
    }
}

impl FinishedCheck {
    /// The reason, if there is one.
    pub fn unfinished(&self, path: &Path, metadata: &Metadata) -> Option<Unfinished> {
        companion(path)
            .map(Unfinished::Companion)
            .or_else(|| self.young(metadata))
            .or_else(|| (!self.sparse).then(|| hole(path)).flatten())
    }

    fn young(&self, metadata: &Metadata) -> Option<Unfinished> {
        let modified = metadata.modified().ok()?;
        // a clock may be off in either direction
        let age = match SystemTime::now().duration_since(modified) {
            Ok(age) => age,
            Err(ahead) => ahead.duration(),
        };
        (age < self.min_age).then_some(Unfinished::Young(age))
    }
}

/// An error if the name of a file, or a file beside it, says that it is not finished. Its age and
/// its holes say nothing where it was named, or is checked by its own digests.
pub fn check_finished(path: &Path) -> Result<()> {
    let Some(why) = companion(path) else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Busy, why)
        .file(path)
        .hint("do it again when it is finished"))
}

/// What the name, or that of another file beside it, says.
fn companion(path: &Path) -> Option<String> {
    let name = path.file_name()?;
    let ends = |name: &OsStr| {
        let ending = UNFINISHED.iter().find(|ending| {
            let (name, ending) = (name.as_bytes(), ending.as_bytes());
            let end = name.len().checked_sub(ending.len());
            end.is_some_and(|at| at > 0 && name[at..].eq_ignore_ascii_case(ending))
        });
        ending.copied()
    };
    let stem = path.file_stem().unwrap_or_default();
    if let Some(ending) = ends(name).or_else(|| ends(stem)) {
        return Some(format!(
            "its name has `{ending}`, as those of unfinished downloads"
        ));
    }
    for ending in UNFINISHED {
        let mut beside = name.to_owned();
        beside.push(ending);
        if std::fs::symlink_metadata(path.with_file_name(&beside)).is_ok() {
            return Some(format!(
                "`{}` lies beside it: it is not finished",
                Path::new(&beside).display()
            ));
        }
    }
    let lock = lock_of(path)?;
    let file = file::open_regular(&lock).ok()?;
    match LockedFile::new(file) {
        Some(_) => None,
        None => Some(format!("another process has locked `{}`", lock.display())),
    }
}

/// A lease. Who has just ended writing may have left the open file, for a moment, to a child that
/// is about to become another program.
fn lease_in_time(file: &LockedFile) -> Leased {
    const TRIES: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(10);
    let mut leased = lease::take(file);
    for _ in 0..TRIES {
        if leased != Leased::Written {
            break;
        }
        std::thread::sleep(PAUSE);
        leased = lease::take(file);
    }
    leased
}

/// The file that programs lock while they write this one: `NAME.lock` beside it, or of a blob of
/// the Hugging Face cache in the folder of locks.
fn lock_of(path: &Path) -> Option<PathBuf> {
    let mut name = path.file_name()?.to_owned();
    name.push(".lock");
    let beside = path.with_file_name(&name);
    if beside.exists() {
        return Some(beside);
    }
    let repository = path.parent()?.parent()?;
    let locks = repository.parent()?.join(".locks");
    Some(locks.join(repository.file_name()?).join(name))
}

/// Whether there are parts that were never written, as in a download whose room was taken at once.
fn hole(path: &Path) -> Option<Unfinished> {
    let file = file::open_regular(path).ok()?;
    let len = file.metadata().ok()?.len();
    // where a file system knows none, the first is behind the end
    let at = lseek(&file, 0, Whence::SeekHole).ok()?;
    let at = u64::try_from(at).ok().filter(|at| *at < len)?;
    Some(Unfinished::Hole(at))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    fn file(folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        File::create(&path).unwrap().write_all(b"x").unwrap();
        path
    }

    fn reason(path: &Path, min_age: u64) -> Option<Unfinished> {
        let check = FinishedCheck {
            min_age: Duration::from_secs(min_age),
            sparse: false,
        };
        check.unfinished(path, &std::fs::metadata(path).unwrap())
    }

    #[test]
    fn a_file_that_is_written_or_locked_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path(), "x");
        let held = Unused::hold(&path).unwrap();
        held.check().unwrap();
        // another hold is kept out by the lock
        assert_eq!(Unused::hold(&path).unwrap_err().kind(), ErrorKind::Busy);
        drop(held);
        let writer = File::options().append(true).open(&path).unwrap();
        if let Ok(held) = Unused::hold(&path) {
            assert!(!held.is_sure());
        }
        drop(writer);
        let held = Unused::hold(&path).unwrap();
        if held.is_sure() {
            let late = std::thread::spawn({
                let path = path.clone();
                move || File::options().append(true).open(path).unwrap()
            });
            while held.check_wanted().is_ok() {
                std::thread::yield_now();
            }
            // he was let in by that, and it is not forgotten when he has gone
            drop(late.join().unwrap());
            assert_eq!(held.check().unwrap_err().kind(), ErrorKind::Busy);
        }
    }

    #[test]
    fn what_was_changed_or_replaced_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path(), "x");
        let held = Unused::hold(&path).unwrap();
        std::fs::rename(file(folder.path(), "y"), &path).unwrap();
        held.check().unwrap();
        assert!(held.check_name().is_err());
        assert!(Unused::hold(folder.path()).is_err());
    }

    #[test]
    fn unfinished_files_are_known_by_name_age_and_holes() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let path = file(at, "m.safetensors");
        let companion = |path: &Path, word: &str| match reason(path, 0) {
            Some(Unfinished::Companion(why)) => why.contains(word),
            _ => false,
        };
        assert!(matches!(reason(&path, 60), Some(Unfinished::Young(_))));
        assert_eq!(reason(&path, 0), None);
        for name in ["m.safetensors.part", "m.tmp.safetensors", "m.CRDOWNLOAD"] {
            assert!(companion(&file(at, name), "name"));
        }
        std::fs::remove_file(at.join("m.safetensors.part")).unwrap();
        let list = file(at, "m.safetensors.aria2");
        assert!(companion(&path, "beside"));
        std::fs::remove_file(list).unwrap();
        let lock = File::open(file(at, "m.safetensors.lock")).unwrap();
        assert_eq!(reason(&path, 0), None);
        lock.lock().unwrap();
        assert!(companion(&path, "locked"));
        drop(lock);
        let sparse = file(at, "sparse");
        let opened = File::options().write(true).open(&sparse).unwrap();
        opened.set_len(10_000_000).unwrap();
        let reason = reason(&sparse, 0);
        // some file systems know no holes
        assert!(matches!(reason, None | Some(Unfinished::Hole(_))));
    }
}
