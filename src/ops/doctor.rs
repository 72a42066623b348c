//! Doctor: what runs that were stopped, and programs that know nothing of images, have left behind
//! in a folder, and what to do about each. Nothing is changed, and no block is decoded that need
//! not be.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use serde::Serialize;

use crate::archive;
use crate::archive::Archive;
use crate::archive::naming;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::FileSource;
use crate::base::LockedFile;
use crate::base::Progress;
use crate::base::Result;
use crate::base::atomic;
use crate::base::atomic::Temporary;
use crate::base::attributes;
use crate::base::digest;
use crate::ops::folder;
use crate::ops::folder::Entry;
use crate::ops::folder::EntryKind;
use crate::ops::own_parity;
use crate::ops::record;
use crate::ops::record::Line;
use crate::ops::record::Record;
use crate::ops::report;
use crate::parity;
use crate::parity::sidecar;

/// What was left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Parity of another file than the one that it lies beside.
    StaleParity,
    /// Parity whose file is not there.
    OrphanedParity,
    /// A file or its parity that is damaged.
    Damage,
    /// A file or folder that was being written, and nobody writes it any more.
    HalfFile,
    /// The record of convert tells of an image that is not there.
    OrphanedRecord,
    /// An image that neither a record of convert nor a mark tells of, among others that one does.
    ImageWithoutMark,
    /// What a run that was stopped has noted for one that goes on, and what it wrote is gone.
    OrphanedJournal,
}

/// One thing that was found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    /// What it is.
    pub kind: Kind,
    /// Where.
    #[serde(serialize_with = "report::path")]
    pub path: PathBuf,
    /// The same in words.
    pub what: String,
    /// What to do.
    pub advice: String,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DoctorReport {
    /// Whether nothing was.
    pub ok: bool,
    /// Where it was looked for.
    #[serde(serialize_with = "report::path")]
    pub folder: PathBuf,
    /// Images there.
    pub images: u64,
    /// Everything that was found, by path.
    pub findings: Vec<Finding>,
}

/// Looks at everything below a folder.
pub(crate) fn doctor(root: &Path, threads: usize, progress: &dyn Progress) -> Result<DoctorReport> {
    if !root.is_dir() {
        fs::metadata(root).map_err(|e| Error::io("cannot open", root, e))?;
        return Err(Error::invalid("is no folder").file(root));
    }
    let real = fs::canonicalize(root).map_err(|e| Error::io("cannot open", root, e))?;
    let entries = folder::walk(root, progress)?;
    let mut examination = Examination {
        root,
        threads,
        progress,
        stands_for: BTreeMap::new(),
        images: BTreeSet::new(),
        findings: Vec::new(),
    };
    progress.begin("looking around", 0);
    let mut left: BTreeSet<PathBuf> = BTreeSet::new();
    for entry in &entries {
        progress.check()?;
        // what is in a folder that was left half made goes with that
        if entry
            .path
            .ancestors()
            .skip(1)
            .any(|above| left.contains(above))
        {
            continue;
        }
        let name = entry.path.file_name().unwrap_or_default();
        if let Some(temporary) = atomic::temporary_named(name) {
            examination.temporary(entry, &temporary);
            if entry.kind == EntryKind::Folder {
                left.insert(entry.path.clone());
            }
        } else if entry.kind == EntryKind::File {
            examination.file(entry)?;
        }
    }
    examination.records(&real, &entries)?;
    progress.end();
    let mut findings = examination.findings;
    findings.sort_by(|a, b| (&a.path, a.kind).cmp(&(&b.path, b.kind)));
    Ok(DoctorReport {
        ok: findings.is_empty(),
        folder: root.to_owned(),
        images: examination.images.len() as u64,
        findings,
    })
}

struct Examination<'a> {
    root: &'a Path,
    threads: usize,
    progress: &'a dyn Progress,
    /// Names of the files that the images of a folder stand for.
    stands_for: BTreeMap<PathBuf, BTreeSet<OsString>>,
    /// Paths within the folder.
    images: BTreeSet<PathBuf>,
    findings: Vec<Finding>,
}

impl Examination<'_> {
    fn found(&mut self, kind: Kind, path: &Path, what: &str, advice: String) {
        self.findings.push(Finding {
            kind,
            path: path.to_owned(),
            what: what.to_owned(),
            advice,
        });
    }

    /// A file or folder that was being written: whoever writes it holds a lock on it.
    fn temporary(&mut self, entry: &Entry, temporary: &Temporary) {
        let path = self.root.join(&entry.path);
        let is_left = fs::File::open(&path)
            .ok()
            .and_then(LockedFile::surely)
            .is_some();
        if !is_left {
            return;
        }
        let target = path.with_file_name(&temporary.target);
        let target = target.display();
        if temporary.is_journal {
            let mut writes = path.as_os_str().as_bytes().to_vec();
            writes.truncate(writes.len() - atomic::JOURNAL_EXTENSION.len());
            if fs::symlink_metadata(OsStr::from_bytes(&writes)).is_err() {
                let what = "notes of a run that was stopped, and what it wrote is gone";
                self.found(Kind::OrphanedJournal, &path, what, remove_it());
            }
            return;
        }
        let goes_on = entry.kind == EntryKind::Folder || atomic::journal_of(&path).is_file();
        let advice = if goes_on {
            format!(
                "run the command that wrote `{target}` again with `--resume`, which goes on from \
                 here, or remove it"
            )
        } else {
            remove_it()
        };
        let what = format!("a run that wrote `{target}` was stopped, and has left this");
        self.found(Kind::HalfFile, &path, &what, advice);
    }

    fn file(&mut self, entry: &Entry) -> Result<()> {
        let path = self.root.join(&entry.path);
        if folder::is_image(&path) {
            self.images.insert(entry.path.clone());
        }
        let name = entry.path.file_name().unwrap_or_default().as_bytes();
        let Some(of) = name.strip_suffix(parity::EXTENSION.as_bytes()) else {
            return Ok(());
        };
        let Ok(source) = FileSource::open(&path) else {
            return Ok(());
        };
        if sidecar::claims_to_be_parity(&source) {
            self.parity(&path, OsStr::from_bytes(of))?;
        }
        Ok(())
    }

    /// A parity file, and the name of the file that it should be of.
    fn parity(&mut self, path: &Path, of: &OsStr) -> Result<()> {
        let file = path.with_file_name(of);
        let shown = file.display();
        if !file.is_file() {
            // an original that an image stands for comes back
            if !self.is_stood_for(path, of)? {
                let what = format!("parity of `{shown}`, which is not there");
                let advice = "put its file beside it, if it was moved, or remove it".to_owned();
                self.found(Kind::OrphanedParity, path, &what, advice);
            }
            return Ok(());
        }
        let opened = FileSource::open(&file);
        if opened.is_ok_and(|opened| own_parity::is_of(&opened, path)) {
            return Ok(());
        }
        let state = own_parity::look(&file, None, self.threads, self.progress)?;
        match state {
            Some(state) if state.is_of_another_file => {
                let what = format!("parity of another file than `{shown}`, or of an older version");
                let advice = format!("`bigsmall protect --force {shown}` makes it anew");
                self.found(Kind::StaleParity, path, &what, advice);
            }
            Some(state) if !state.ok => {
                let what = format!("`{shown}` or its parity is damaged, or it was changed since");
                let advice = format!(
                    "`bigsmall verify {shown}` tells which; `bigsmall repair {shown}` mends both"
                );
                self.found(Kind::Damage, path, &what, advice);
            }
            _ => {}
        }
        Ok(())
    }

    /// What the records in the folder and above it tell of; `real` is the folder's whole path.
    fn records(&mut self, real: &Path, entries: &[Entry]) -> Result<()> {
        let record = OsStr::new(record::NAME);
        let mut folders: BTreeSet<PathBuf> = real.ancestors().map(Path::to_owned).collect();
        let below = entries
            .iter()
            .filter(|entry| entry.path.file_name() == Some(record));
        folders.extend(below.map(|entry| atomic::folder_of(&real.join(&entry.path)).to_owned()));
        let mut records = Vec::new();
        for folder in &folders {
            match Record::read(folder) {
                // nobody can convert what is above a folder that he cannot read
                Err(_) if !folder.starts_with(real) => {}
                record => records.extend(record?),
            }
        }
        let tells_of_this = |record: &Record| {
            let mut lines = record.lines();
            lines.any(|line| record.image(line).starts_with(real))
        };
        if !records.iter().any(tells_of_this) {
            return Ok(());
        }
        let is_told_of = |path: &Path| records.iter().any(|record| record.line_of(path).is_some());
        let unknown = |path: &&PathBuf| !is_told_of(&real.join(path));
        let unknown: Vec<PathBuf> = self.images.iter().filter(unknown).cloned().collect();
        let mut moved = self.contents(&unknown);
        for record in &records {
            for line in record.lines() {
                self.line((real, record), line, &mut moved);
            }
        }
        for image in moved.into_values().flatten() {
            self.without_mark(&image);
        }
        Ok(())
    }

    /// What a line of a record tells of. One of `moved` that has that content was moved or renamed:
    /// `restore` finds it, and it is none of the others any more.
    fn line(
        &mut self,
        (real, record): (&Path, &Record),
        line: &Line,
        moved: &mut BTreeMap<(String, u64), Vec<PathBuf>>,
    ) {
        let image = record.image(line);
        let is_there = |path: &Path| fs::symlink_metadata(path).is_ok();
        // one that is the file again is over
        if is_there(&image) || is_there(&record.folder().join(&line.path)) {
            return;
        }
        let found = line.content.as_ref();
        if found
            .and_then(|content| moved.get_mut(content)?.pop())
            .is_some()
        {
            return;
        }
        let Ok(within) = image.strip_prefix(real) else {
            return;
        };
        let what = "convert has put an image here, and neither that nor its file is here";
        let advice = "put it back if it was moved or renamed: `bigsmall restore` needs it; if it \
                      was removed for good, `bigsmall restore --forget` strikes it from the record"
            .to_owned();
        self.found(Kind::OrphanedRecord, &self.root.join(within), what, advice);
    }

    /// Images by what a record would know them by: sha256 of the file, and length of the image.
    fn contents(&self, images: &[PathBuf]) -> BTreeMap<(String, u64), Vec<PathBuf>> {
        let mut contents: BTreeMap<(String, u64), Vec<PathBuf>> = BTreeMap::new();
        for image in images {
            // one that cannot be opened is for `verify`
            let Ok(archive) = Archive::open(&self.root.join(image)) else {
                continue;
            };
            if let Some(file) = archive.files().first() {
                let content = (digest::hex(&file.sha256), archive.header().image_len);
                contents.entry(content).or_default().push(image.clone());
            }
        }
        contents
    }

    /// An image that no record tells of, among others that one does tell of. What has the mark of
    /// convert is restored all the same; what has the mark of `compress` alone was an image always.
    fn without_mark(&mut self, image: &Path) {
        let path = self.root.join(image);
        if attributes::is_marked(&path) || attributes::has_origin(&path) {
            return;
        }
        let what = "no record and no mark tells where this image comes from, as with others here: \
                    `restore` leaves it";
        let advice = "nothing if it was compressed as an image; else `bigsmall restore --all` \
                      makes it a file again"
            .to_owned();
        self.found(Kind::ImageWithoutMark, &path, what, advice);
    }

    /// Whether an image in the folder of `path` stands for the file `name`.
    fn is_stood_for(&mut self, path: &Path, name: &OsStr) -> Result<bool> {
        let folder = atomic::folder_of(path);
        if !self.stands_for.contains_key(folder) {
            let names = originals_in(folder)?;
            self.stands_for.insert(folder.to_owned(), names);
        }
        Ok(self.stands_for[folder].contains(name))
    }
}

fn remove_it() -> String {
    "remove it: nothing needs it".to_owned()
}

/// The names of the files that the images in a folder stand for.
fn originals_in(folder: &Path) -> Result<BTreeSet<OsString>> {
    let failed = |e| Error::io("cannot list", folder, e);
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if !folder::is_image(&path) {
            continue;
        }
        let header = FileSource::open(&path).and_then(|file| archive::peek(&file, &path));
        match header {
            Ok(header) => {
                let name = path.file_name().unwrap_or_default();
                names.extend(naming::original_name(name, &header));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(_) => {}
        }
    }
    Ok(names)
}
