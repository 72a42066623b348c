//! Restore: the undo of convert. Every image that was a file becomes that file again, compared with
//! its sha256 before its image goes.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use crate::archive;
use crate::archive::Archive;
use crate::archive::ImageKind;
use crate::archive::naming;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::FileSource;
use crate::base::Progress;
use crate::base::Result;
use crate::base::Unused;
use crate::base::atomic;
use crate::base::attributes;
use crate::base::digest;
use crate::base::in_use::WatchedProgress;
use crate::base::mounts;
use crate::base::progress::NumberedProgress;
use crate::base::progress::Silent;
use crate::ops::companions;
use crate::ops::compress::Output;
use crate::ops::convert;
use crate::ops::decompress;
use crate::ops::decompress::DecompressOptions;
use crate::ops::folder;
use crate::ops::record;
use crate::ops::record::Line;
use crate::ops::record::Record;
use crate::ops::report;

/// An image and the file that it becomes.
#[derive(Debug, Clone, Serialize)]
pub struct Planned {
    /// Path of the image within the folder.
    #[serde(serialize_with = "report::path")]
    pub image: PathBuf,
    /// Path of the file.
    #[serde(serialize_with = "report::path")]
    pub path: PathBuf,
    /// Other names of the image (hard links), each with that of the file.
    pub links: Vec<Name>,
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// The lines that tell of it: the record's folder, and the image's name there.
    #[serde(skip)]
    lines: Vec<(PathBuf, PathBuf)>,
}

/// One more name of an image and of the file that it becomes.
#[derive(Debug, Clone, Serialize)]
pub struct Name {
    /// Path of the image within the folder.
    #[serde(serialize_with = "report::path")]
    pub image: PathBuf,
    /// Path of the file.
    #[serde(serialize_with = "report::path")]
    pub path: PathBuf,
}

impl Planned {
    fn names(&self) -> impl Iterator<Item = (&Path, &Path)> {
        let others = self.links.iter();
        let others = others.map(|name| (name.image.as_path(), name.path.as_path()));
        std::iter::once((self.image.as_path(), self.path.as_path())).chain(others)
    }
}

/// What would be done.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The folder.
    #[serde(serialize_with = "report::path")]
    pub folder: PathBuf,
    /// Every image that is restored.
    pub files: Vec<Planned>,
    /// Images that convert has made and that cannot be restored, and why.
    pub failed: Vec<(String, String)>,
    /// Images that a record tells of and that were not found, and why.
    pub missing: Vec<(String, String)>,
    /// The folders of the records that tell of images here.
    #[serde(skip)]
    records: BTreeSet<PathBuf>,
    /// Bytes that the files take more than their images.
    pub needed_bytes: u64,
}

/// What was done.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RestoreReport {
    /// Images that are files again.
    pub restored: u64,
    /// Images that stay, and why.
    pub stayed: Vec<(String, String)>,
    /// Parity of those images, which went with them.
    #[serde(serialize_with = "report::paths")]
    pub parity_removed: Vec<PathBuf>,
    /// Images that a record tells of and that were not found, and why. It tells of them still.
    pub missing: Vec<(String, String)>,
    /// Bytes of the files.
    pub bytes: u64,
    /// Wall time.
    pub seconds: f64,
}

/// Looks at all images under `root`: those that convert has made, or all of them if `all`.
pub fn plan(root: &Path, all: bool, progress: &dyn Progress) -> Result<Plan> {
    let root = fs::canonicalize(root).map_err(|e| Error::io("cannot open", root, e))?;
    folder::check_not_mounted(&root)?;
    if !root.is_dir() {
        return Err(Error::invalid("is no folder").file(&root));
    }
    let records = records_of(&root, progress)?;
    let images = folder::images_under(&root, progress)?;
    let lost = lost_lines(&root, &records);
    let mut planner = Planner {
        root: &root,
        records: &records,
        moved: Moved::new(lost),
        all,
        known: BTreeMap::new(),
        files: Vec::new(),
        failed: Vec::new(),
    };
    for image in &images {
        if let Err(error) = planner.look(image) {
            let path = image.strip_prefix(&root).unwrap_or(image);
            let path = path.to_string_lossy().into_owned();
            planner.failed.push((path, error.to_string()));
        }
    }
    let more = |file: &Planned| file.bytes.saturating_sub(file.image_bytes);
    Ok(Plan {
        needed_bytes: planner.files.iter().map(more).sum(),
        missing: missing(&root, planner.moved.lost.values().flatten())?,
        records: records
            .iter()
            .map(|record| record.folder().to_owned())
            .collect(),
        files: planner.files,
        failed: planner.failed,
        folder: root,
    })
}

/// The records that may tell of images under `root`: convert may have been called for any folder
/// above or below.
fn records_of(root: &Path, progress: &dyn Progress) -> Result<Vec<Record>> {
    let mut folders: BTreeSet<PathBuf> = root.ancestors().map(Path::to_owned).collect();
    for entry in folder::walk(root, progress)? {
        if entry
            .path
            .file_name()
            .is_some_and(|name| name == record::NAME)
        {
            let folder = root.join(&entry.path);
            folders.extend(folder.parent().map(Path::to_owned));
        }
    }
    let mut records = Vec::new();
    for folder in folders {
        match Record::read(&folder) {
            // a folder above that this user cannot look into is none that he converted
            Err(_) if !folder.starts_with(root) => {}
            record => records.extend(record?),
        }
    }
    Ok(records)
}

/// A line whose image is not where it was put, and the record's folder.
type Lost = (PathBuf, Line);

/// Lines of images that have gone from where they were put, and that are no files again.
fn lost_lines(root: &Path, records: &[Record]) -> Vec<Lost> {
    let of_record = |record: &Record| {
        let lines = record.lines().filter(|line| {
            fs::symlink_metadata(record.image(line)).is_err() && !record.is_settled(line)
        });
        let folder = record.folder().to_owned();
        let lines: Vec<Lost> = lines.map(|line| (folder.clone(), line.clone())).collect();
        lines
    };
    let all = records.iter().flat_map(of_record);
    // one that was put elsewhere may have been moved here, and is nobody's business here if not
    all.filter(|(folder, line)| {
        line.content.is_some() || folder.join(&line.image).starts_with(root)
    })
    .collect()
}

/// Lines whose images may have been moved, by what is in them.
#[derive(Debug, Default)]
struct Moved {
    lost: BTreeMap<Option<(String, u64)>, Vec<Lost>>,
}

impl Moved {
    fn new(lost: Vec<Lost>) -> Self {
        let mut moved = Self::default();
        for (folder, line) in lost {
            let lines = moved.lost.entry(line.content.clone()).or_default();
            lines.push((folder, line));
        }
        moved
    }

    /// The line of an image that was put elsewhere.
    fn claim(&mut self, archive: &Archive) -> Option<Lost> {
        let sha256 = digest::hex(&archive.files().first()?.sha256);
        let content = Some((sha256, archive.header().image_len));
        self.lost.get_mut(&content)?.pop()
    }
}

/// What is to be said of lines whose images were not found, as far as they were put under `root`.
fn missing<'a>(root: &Path, lost: impl Iterator<Item = &'a Lost>) -> Result<Vec<(String, String)>> {
    let mounts = mounts::all()?;
    let mut missing: Vec<(String, String)> = Vec::new();
    for (folder, line) in lost {
        let image = folder.join(&line.image);
        let Ok(within) = image.strip_prefix(root) else {
            continue;
        };
        let covering = mounts.iter().rfind(|mounted| {
            mounted.mountpoint.starts_with(root) && image.starts_with(&mounted.mountpoint)
        });
        let why = match covering {
            Some(mounted) => format!(
                "not found: what is mounted at `{}` lies over its place",
                mounted.mountpoint.display()
            ),
            None => "not found: it was moved out of the folder or removed".to_owned(),
        };
        missing.push((within.to_string_lossy().into_owned(), why));
    }
    missing.sort();
    Ok(missing)
}

struct Planner<'a> {
    root: &'a Path,
    records: &'a [Record],
    moved: Moved,
    all: bool,
    /// Where a file with several names stands in the plan.
    known: BTreeMap<[u64; 2], usize>,
    files: Vec<Planned>,
    failed: Vec<(String, String)>,
}

impl Planner<'_> {
    /// Plans for an image if convert has made it.
    fn look(&mut self, full: &Path) -> Result<()> {
        let mut lines: Vec<(PathBuf, PathBuf)> = Vec::new();
        for record in self.records {
            let line = record.line_of(full);
            lines.extend(line.map(|line| (record.folder().to_owned(), line.image.clone())));
        }
        if lines.is_empty() {
            let moved = Archive::open(full).ok();
            let moved = moved.and_then(|archive| self.moved.claim(&archive));
            lines.extend(moved.map(|(folder, line)| (folder, line.image)));
        }
        if lines.is_empty() && !attributes::is_marked(full) && !self.all {
            return Ok(());
        }
        let source = FileSource::open(full)?;
        let file_id = source.on_disk().device_and_inode();
        let header = archive::peek(&source, full)?;
        let image = full.strip_prefix(self.root).unwrap_or(full).to_owned();
        let name = naming::original_name(image.file_name().unwrap_or_default(), &header);
        let Some(name) = name.filter(|_| header.kind == ImageKind::File) else {
            return Ok(());
        };
        let path = image.with_file_name(name);
        if let Some(&number) = self.known.get(&file_id) {
            let file = &mut self.files[number];
            file.links.push(Name { image, path });
            file.lines.extend(lines);
            return Ok(());
        }
        self.known.insert(file_id, self.files.len());
        self.files.push(Planned {
            path,
            image,
            links: Vec::new(),
            bytes: header.original_len,
            image_bytes: header.image_len,
            lines,
        });
        Ok(())
    }
}

/// Restores what was planned. An image that fails stays and is told of at the end; an interruption
/// ends the work.
pub fn restore(plan: &Plan, threads: usize, progress: &dyn Progress) -> Result<RestoreReport> {
    let begun = Instant::now();
    let _lock = convert::lock_tree(&plan.folder)?;
    let mut report = RestoreReport {
        stayed: plan.failed.clone(),
        ..RestoreReport::default()
    };
    let mut records = plan.records.clone();
    for (number, file) in plan.files.iter().enumerate() {
        progress.check()?;
        folder::check_not_mounted(&plan.folder)?;
        let progress = NumberedProgress::new(progress, number + 1, plan.files.len());
        match restore_file(&plan.folder, file, threads, &progress) {
            Ok(parity) => {
                report.restored += 1;
                report.parity_removed.extend(parity);
                report.bytes += file.bytes;
                records.extend(file.lines.iter().map(|(folder, _)| folder.clone()));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                progress.warn(&error.to_string());
                let path = file.image.to_string_lossy().into_owned();
                report.stayed.push((path, error.to_string()));
            }
        }
    }
    for folder in &records {
        record::remove_if_settled(folder)?;
    }
    remove_unfinished(&plan.folder)?;
    // as it is now: another run may have added to it between the plan and this
    let lost = lost_lines(&plan.folder, &records_of(&plan.folder, &Silent)?);
    report.missing = missing(&plan.folder, lost.iter())?;
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

/// Removes what a convert that was killed had begun to write: it is no part of the folder that it
/// was.
fn remove_unfinished(root: &Path) -> Result<()> {
    for entry in folder::walk(root, &Silent)? {
        let temporary = entry.path.file_name().and_then(atomic::temporary_named);
        if let Some(temporary) = temporary.filter(|t| naming::is_image_name(&t.target)) {
            let image = root.join(entry.path.with_file_name(temporary.target));
            atomic::remove_stale_temporaries(&image);
        }
    }
    Ok(())
}

/// Strikes images that were not found from the records, which tell of them no longer; how many.
pub(crate) fn forget(folder: &Path) -> Result<u64> {
    let root = fs::canonicalize(folder).map_err(|e| Error::io("cannot open", folder, e))?;
    let _lock = convert::lock_tree(&root)?;
    let records = records_of(&root, &Silent)?;
    let lost = lost_lines(&root, &records).into_iter();
    let mut count = 0;
    for (folder, line) in lost.filter(|(folder, line)| folder.join(&line.image).starts_with(&root))
    {
        record::note_done(&folder, &line.image)?;
        count += 1;
    }
    for record in &records {
        record::remove_if_settled(record.folder())?;
    }
    Ok(count)
}

/// An image becomes the file that it was, with all its names; where its parity was, which goes with
/// it.
fn restore_file(
    root: &Path,
    file: &Planned,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Vec<PathBuf>> {
    let (image, original) = (root.join(&file.image), root.join(&file.path));
    let held = Unused::hold(&image)?;
    let watched = WatchedProgress::new(progress, &held);
    write_original(root, &image, &original, threads, &watched)?;
    folder::carry_attributes(&image, &original, progress)?;
    for (_, path) in file.names().skip(1) {
        link(&original, &root.join(path))?;
    }
    for (image, path) in file.names() {
        atomic::remove_stale_temporaries(&root.join(path));
        atomic::remove_stale_temporaries(&root.join(image));
    }
    held.check_name()?;
    let images: Vec<PathBuf> = file.names().map(|(image, _)| root.join(image)).collect();
    let images: Vec<&Path> = images.iter().map(PathBuf::as_path).collect();
    let parity = companions::remove_held(&held, &images, progress)?;
    for (folder, image) in &file.lines {
        record::note_done(folder, image)?;
    }
    Ok(parity)
}

/// Gives a restored file one more of its names.
fn link(original: &Path, name: &Path) -> Result<()> {
    if folder::is_same_file(original, name) {
        return Ok(());
    }
    if fs::symlink_metadata(name).is_ok() {
        return Err(in_the_way(name));
    }
    fs::hard_link(original, name)
        .map_err(|e| Error::io("cannot make a second name for the file", name, e))?;
    atomic::sync_folder(atomic::folder_of(name))
}

fn in_the_way(name: &Path) -> Error {
    Error::invalid("there is another file under the name of the original")
        .file(name)
        .hint("move one of both away, and restore again")
}

/// Writes the file that the image was made from, unless it is there already.
fn write_original(
    root: &Path,
    image: &Path,
    original: &Path,
    threads: usize,
    progress: &dyn Progress,
) -> Result<()> {
    let Ok(metadata) = fs::symlink_metadata(original) else {
        let options = DecompressOptions {
            output: Output::Path(original.to_owned()),
            bases: vec![root.to_owned()],
            force: false,
            threads,
        };
        decompress::decompress(image, &options, progress)?;
        return Ok(());
    };
    // an earlier run was stopped between the file and its image, or somebody has put another file
    // here, or a link: one into a mount would show the image itself
    let archive = Archive::open(image)?;
    let is_same = |sha256: &[u8; 32]| {
        let there = digest::sha256_of(&FileSource::open(original)?);
        there.map(|there| there == *sha256)
    };
    let sha256 = archive.files().first().map(|file| &file.sha256);
    let sha256 = sha256.filter(|_| metadata.is_file());
    if sha256.map(is_same).transpose()?.unwrap_or_default() {
        return Ok(());
    }
    Err(in_the_way(original))
}
