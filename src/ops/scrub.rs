//! Scrub: a library verified again and again, a little at a time, with a memory of what was read
//! whole when. Made for a timer.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::Deserialize;
use serde::Serialize;

use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::OutputFile;
use crate::base::Progress;
use crate::base::Result;
use crate::base::digest::hex;
use crate::base::file;
use crate::base::identity::Identity;
use crate::ops::base::SearchPaths;
use crate::ops::folder;
use crate::ops::report;
use crate::ops::verify;
use crate::ops::verify::ImageReport;
use crate::ops::verify::VerifyOptions;

/// How often at most the memory is written while work goes on.
const WRITE_STEP: Duration = Duration::from_secs(5);
/// The version of the memory's layout.
const MEMORY_VERSION: u32 = 1;

/// How to scrub.
#[derive(Debug, Clone)]
pub(crate) struct ScrubOptions {
    /// Where the bases of deltas are looked for, beside the library itself.
    pub bases: Vec<PathBuf>,
    /// Where it is remembered what was read whole when; without it, in the user's own folder for
    /// such things.
    pub memory: Option<PathBuf>,
    /// What was found right less long ago is left alone.
    pub older: Duration,
    /// Original bytes to verify in a second at most.
    pub rate: Option<u64>,
    /// Work no longer than this, but at least on one image.
    pub at_most: Option<Duration>,
    /// Threads to use.
    pub threads: usize,
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ScrubReport {
    /// Whether everything that was looked at is right, and nothing is known to be damaged.
    pub ok: bool,
    /// Images of the library.
    pub images_in_all: usize,
    /// What was found in those that were verified now.
    pub images: Vec<ImageReport>,
    /// Images that were verified before, and lately enough.
    pub rested: usize,
    /// Images that wait for the next run, since the time was over.
    pub left: usize,
    /// Images of the library whose base was not at hand when they were looked at last: they were
    /// not verified, and may be right.
    pub missing_bases: usize,
    /// Days since the image that was read whole longest ago was; none if one never was.
    pub oldest_days: Option<u64>,
    /// Where that is remembered.
    #[serde(serialize_with = "report::path")]
    pub memory: PathBuf,
}

/// What is remembered of an image.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ImageState {
    identity: Identity,
    /// Seconds since 1970.
    verified: u64,
    ok: bool,
    /// Whether it could not be verified, as its base was not at hand.
    #[serde(default)]
    is_without_base: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Memory {
    version: u32,
    images: BTreeMap<PathKey, ImageState>,
}

/// A path as a key of JSON: as text or, if it is none, as its bytes in hexadecimal. No path that is
/// absolute looks like that.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct PathKey(PathBuf);

/// What bytes in hexadecimal stand behind.
const BYTES: &str = "bytes:";

impl Serialize for PathKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => serializer.serialize_str(text),
            None => serializer.collect_str(&format_args!(
                "{BYTES}{}",
                hex(self.0.as_os_str().as_encoded_bytes())
            )),
        }
    }
}

impl<'de> Deserialize<'de> for PathKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use std::os::unix::ffi::OsStringExt;
        let text = String::deserialize(deserializer)?;
        let Some(digits) = text.strip_prefix(BYTES) else {
            return Ok(Self(text.into()));
        };
        let pairs = digits.as_bytes().chunks(2);
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Option<Vec<u8>> = pairs.map(byte).collect();
        let bytes = bytes.ok_or_else(|| serde::de::Error::custom("no bytes in hexadecimal"))?;
        Ok(Self(std::ffi::OsString::from_vec(bytes).into()))
    }
}

impl Memory {
    /// What is remembered there; nothing if that cannot be understood, so that everything is
    /// verified again.
    fn read(path: &Path, progress: &dyn Progress) -> Result<Self> {
        let empty = Self {
            version: MEMORY_VERSION,
            images: BTreeMap::new(),
        };
        let text = match file::read_regular(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(empty),
            Err(error) => return Err(Error::io("cannot read", path, error)),
        };
        match serde_json::from_slice::<Self>(&text) {
            Ok(memory) if memory.version == MEMORY_VERSION => Ok(memory),
            _ => {
                let path = path.display();
                progress.warn(&format!(
                    "`{path}` is not understood: everything is verified anew"
                ));
                Ok(empty)
            }
        }
    }

    fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::invalid(e.to_string()))?;
        let folder = crate::base::atomic::folder_of(path);
        fs::create_dir_all(folder).map_err(|e| Error::io("cannot write", path, e))?;
        let mut output = OutputFile::create(path, true)?;
        output.write(&text)?;
        output.commit(None, None)
    }
}

/// The user's own memory: `bigsmall/scrub.json` in the folder for what programs remember.
fn memory_of_user() -> Result<PathBuf> {
    let named = |name| {
        let path = std::env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    let folder = named("STATE_DIRECTORY")
        .or_else(|| named("XDG_STATE_HOME").map(|folder| folder.join("bigsmall")))
        .or_else(|| Some(named("HOME")?.join(".local/state/bigsmall")));
    let folder = folder.ok_or_else(|| {
        let error = Error::new(
            ErrorKind::NotFound,
            "no place to remember what was verified",
        );
        error.hint("name one with `--memory FILE`")
    })?;
    Ok(folder.join("scrub.json"))
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Verifies the images of a library that were not for the longest time, first those that never
/// were.
pub(crate) fn scrub(
    library: &Path,
    options: &ScrubOptions,
    progress: &dyn Progress,
) -> Result<ScrubReport> {
    let memory_path = options.memory.clone().map_or_else(memory_of_user, Ok)?;
    let mut memory = Memory::read(&memory_path, progress)?;
    // the memory serves several libraries, under names that mean the same tomorrow
    let library = fs::canonicalize(library).map_err(|e| Error::io("cannot open", library, e))?;
    let paths = folder::own_images_under(&library, progress)?;
    if paths.is_empty() {
        let error = Error::new(ErrorKind::NotFound, "no image (`.bs`) here").file(&library);
        return Err(error.hint("over its own source a mount shows the originals: see docs/mount.md for how to look below it"));
    }
    memory
        .images
        .retain(|name, _| !name.0.starts_with(&library) || paths.contains(&name.0));
    let (due, rested) = due(&paths, &memory, options.older);
    let mut report = ScrubReport {
        ok: true,
        images_in_all: paths.len(),
        images: Vec::new(),
        rested,
        left: 0,
        missing_bases: 0,
        oldest_days: None,
        memory: memory_path.clone(),
    };
    let outcome = verify_all(&library, &due, options, &mut memory, &mut report, progress);
    // also of a run that was interrupted: the next one goes on behind it
    memory.write(&memory_path)?;
    outcome?;
    let state = || {
        memory
            .images
            .iter()
            .filter(|(path, _)| path.0.starts_with(&library))
    };
    report.ok = state().all(|(_, state)| state.ok);
    report.missing_bases = state().filter(|(_, state)| state.is_without_base).count();
    let read = |(_, state): &(&PathKey, &ImageState)| !state.is_without_base;
    let state = || state().filter(read);
    let oldest = state().map(|(_, state)| state.verified).min();
    let oldest = oldest.filter(|_| state().count() == paths.len());
    report.oldest_days = oldest.map(|oldest| now().saturating_sub(oldest) / 86400);
    Ok(report)
}

fn verify_all(
    library: &Path,
    due: &[PathBuf],
    options: &ScrubOptions,
    memory: &mut Memory,
    report: &mut ScrubReport,
    progress: &dyn Progress,
) -> Result<()> {
    let (begun, mut written) = (Instant::now(), Instant::now());
    let limited = RateLimitedProgress::new(progress, options.rate);
    let whole = VerifyOptions::whole(&options.bases, options.threads);
    let bases = Arc::new(SearchPaths::new(&options.bases, library));
    for (done, path) in due.iter().enumerate() {
        let is_over = options.at_most.is_some_and(|most| begun.elapsed() > most);
        if is_over && done > 0 {
            report.left = due.len() - done;
            break;
        }
        let found = identity_of(path).and_then(|identity| {
            let image = verify::verify_path(path, &bases, (false, None), &whole, &limited)?;
            Ok((identity, image))
        });
        let (identity, image) = match found {
            Ok(found) => found,
            // gone meanwhile
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let state = ImageState {
            identity,
            verified: now(),
            ok: image.ok,
            is_without_base: image.missing_base.is_some(),
        };
        memory.images.insert(PathKey(path.clone()), state);
        report.images.push(image);
        if written.elapsed() > WRITE_STEP {
            memory.write(&report.memory)?;
            written = Instant::now();
        }
    }
    Ok(())
}

fn identity_of(path: &Path) -> Result<Identity> {
    let metadata = fs::metadata(path).map_err(|e| Error::io("cannot open", path, e))?;
    Ok(Identity::of(&metadata))
}

/// Which images to verify, in order, and how many of the others there are. What was changed is as
/// if it never was verified; what was damaged is looked at again each time.
fn due(paths: &[PathBuf], memory: &Memory, older: Duration) -> (Vec<PathBuf>, usize) {
    let mut due = Vec::new();
    for path in paths {
        let state = memory.images.get(&PathKey(path.clone()));
        let is_same =
            |state: &&ImageState| identity_of(path).is_ok_and(|now| now == state.identity);
        // in the order of the last look, lest damaged ones take all the time there is
        let looked_at = state.map_or(0, |state| state.verified);
        let right_at = state.filter(is_same).filter(|state| state.ok);
        let right_at = right_at.map_or(0, |state| state.verified);
        if now().saturating_sub(right_at) >= older.as_secs() {
            due.push((looked_at, path.clone()));
        }
    }
    due.sort();
    let rested = paths.len() - due.len();
    (due.into_iter().map(|(_, path)| path).collect(), rested)
}

/// Progress that waits where work is faster than it shall be.
struct RateLimitedProgress<'a> {
    progress: &'a dyn Progress,
    rate: Option<u64>,
    /// Since when, and how many bytes until now.
    done: Mutex<(Instant, u64)>,
}

impl<'a> RateLimitedProgress<'a> {
    fn new(progress: &'a dyn Progress, rate: Option<u64>) -> Self {
        Self {
            progress,
            rate: rate.filter(|rate| *rate > 0),
            done: Mutex::new((Instant::now(), 0)),
        }
    }
}

impl Progress for RateLimitedProgress<'_> {
    fn inner(&self) -> Option<&dyn Progress> {
        Some(self.progress)
    }

    fn advance(&self, bytes: u64) {
        self.progress.advance(bytes);
        let Some(rate) = self.rate else {
            return;
        };
        let wait = {
            let mut done = self.done.lock();
            done.1 += bytes;
            let should = Duration::from_millis(done.1.saturating_mul(1000) / rate);
            should.saturating_sub(done.0.elapsed())
        };
        // in steps, so that nobody who wants to stop waits for long
        let until = Instant::now() + wait;
        while !self.progress.interrupted() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
    }
}
