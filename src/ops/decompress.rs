//! Decompress: an image back to its file or folder, or a mirrored folder back to what it was. Every
//! block is checked and the sha256 of every file compared before it appears under its name.

use std::fs;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::archive::Archive;
use crate::archive::naming;
use crate::base::Error;
use crate::base::OutputFile;
use crate::base::Progress;
use crate::base::Result;
use crate::base::digest::Sha256;
use crate::base::digest::hex;
use crate::base::error::escaped;
use crate::format::FileRecord;
use crate::format::ImageKind;
use crate::format::Member;
use crate::format::MemberKind;
use crate::ops::base;
use crate::ops::base::SearchPaths;
use crate::ops::companions;
use crate::ops::compress::Output;
use crate::ops::folder;
use crate::ops::folder::EntryKind;
use crate::ops::folder::OutputFolder;
use crate::ops::folder::Stamp;
use crate::ops::origin::Replacing;
use crate::ops::protect::Protected;
use crate::ops::report;
use crate::ops::stream;
use crate::ops::unpack;
use crate::ops::unpack::ANY_FOLDER_MODE;
use crate::ops::unpack::NotMade;
use crate::ops::unpack::Unpacking;

/// How to decompress.
#[derive(Debug, Clone)]
pub struct DecompressOptions {
    /// Where to.
    pub output: Output,
    /// The models that images are differences from; a folder of images is also looked through
    /// itself.
    pub bases: Vec<PathBuf>,
    /// Replace what exists.
    pub force: bool,
    /// Threads that decode.
    pub threads: usize,
}

/// One file that was restored.
#[derive(Debug, Clone, Serialize)]
pub struct FileRestored {
    /// The image.
    #[serde(serialize_with = "report::path")]
    pub source: PathBuf,
    /// The file; `-` for standard output.
    #[serde(serialize_with = "report::path")]
    pub output: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// Its sha256, compared.
    pub sha256: String,
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct DecompressReport {
    /// Every file.
    pub files: Vec<FileRestored>,
    /// Parity that was made anew, since there was some of what stood there before.
    pub parity: Vec<Protected>,
    /// Files copied as they are.
    pub copied_files: u64,
    /// Links of images that were not made, as they would lead out of their folder.
    pub not_made: Vec<NotMade>,
    /// Bytes of all files, copies included.
    pub bytes: u64,
    /// Wall time.
    pub seconds: f64,
}

struct Job<'a> {
    options: &'a DecompressOptions,
    bases: Arc<SearchPaths>,
    progress: &'a dyn Progress,
    report: DecompressReport,
}

/// Decompresses an image or a folder of images.
pub fn decompress(
    source: &Path,
    options: &DecompressOptions,
    progress: &dyn Progress,
) -> Result<DecompressReport> {
    let begun = Instant::now();
    let report = DecompressReport {
        files: Vec::new(),
        parity: Vec::new(),
        copied_files: 0,
        not_made: Vec::new(),
        bytes: 0,
        seconds: 0.0,
    };
    let mut job = Job {
        options,
        bases: Arc::new(SearchPaths::new(&options.bases, source)),
        progress,
        report,
    };
    let metadata = fs::metadata(source).map_err(|e| Error::io("cannot open", source, e))?;
    if metadata.is_dir() {
        job.mirror(source)?;
    } else {
        job.image(source)?;
    }
    job.report.seconds = begun.elapsed().as_secs_f64();
    Ok(job.report)
}

impl Job<'_> {
    fn open(&self, image: &Path) -> Result<Archive> {
        let threads = self.options.threads;
        base::open_archive(image, &self.bases, threads, self.progress)
    }

    fn image(&mut self, source: &Path) -> Result<()> {
        let archive = self.open(source)?;
        for fault in archive.faults() {
            self.progress.warn(&format!(
                "`{}`: {fault}; the other copy is used",
                source.display()
            ));
        }
        match (&self.options.output, archive.header().kind) {
            (Output::Path(target), ImageKind::Folder) => self.folder_image(&archive, target),
            (_, ImageKind::Folder) => Err(Error::invalid("an image of a folder needs an output")
                .file(source)
                .hint("name a folder with `-o FOLDER`")),
            (Output::Path(target), ImageKind::File) => {
                self.file(&archive, &archive.files()[0], target)
            }
            (Output::Beside, ImageKind::File) => {
                let name = source.file_name().unwrap_or_default();
                let original = naming::original_name(name, archive.header());
                let target = original.filter(|o| o != name).ok_or_else(|| {
                    Error::invalid(
                        "the name does not end with `.bs`, so the file's name is not known",
                    )
                    .file(source)
                    .hint("name the output with `-o FILE`")
                })?;
                self.file(
                    &archive,
                    &archive.files()[0],
                    &source.with_file_name(target),
                )
            }
            (Output::Stdout, ImageKind::File) => self.pour_out(&archive),
        }
    }

    fn file(&mut self, archive: &Archive, file: &FileRecord, target: &Path) -> Result<()> {
        folder::check_not_same(archive.path(), target)?;
        self.write(archive, file, target, None)?;
        self.restored(archive, file, target);
        Ok(())
    }

    /// Writes a file of a folder that is being made, and reports it under its name to come.
    fn file_in(
        &mut self,
        archive: &Archive,
        file: &FileRecord,
        output: &OutputFolder,
        relative: &Path,
    ) -> Result<()> {
        self.write(archive, file, &output.path(relative), None)?;
        self.restored(archive, file, &output.target_path(relative));
        Ok(())
    }

    /// With what was noted of the file, else with time and permissions of the image.
    fn write(
        &mut self,
        archive: &Archive,
        file: &FileRecord,
        target: &Path,
        member: Option<&Member>,
    ) -> Result<()> {
        Replacing::forced(self.options.force).check_other(target)?;
        let mut output = OutputFile::create(target, self.options.force)?;
        self.decode(archive, file, |bytes| output.write(bytes))?;
        let stamp = if let Some(member) = member {
            unpack::prepare_file(&mut output, member, self.progress)?
        } else {
            let stamp = Stamp::of(archive.path())?;
            (Some(stamp.mtime), Some(stamp.mode))
        };
        let parity = companions::commit(output, stamp, self.options.threads, self.progress)?;
        self.report.parity.extend(parity);
        Ok(())
    }

    fn restored(&mut self, archive: &Archive, file: &FileRecord, target: &Path) {
        self.report.bytes += file.len;
        self.report.files.push(FileRestored {
            source: archive.path().to_owned(),
            output: target.to_owned(),
            bytes: file.len,
            sha256: hex(&file.sha256),
        });
    }

    fn decode(
        &self,
        archive: &Archive,
        file: &FileRecord,
        mut write: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let label = archive
            .path()
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        self.progress
            .begin(&format!("decompressing {label}"), file.len);
        let mut sha256 = Sha256::default();
        stream::runs(archive, file, self.options.threads, self.progress, |run| {
            let bytes = run.bytes?;
            sha256.update(&bytes);
            write(&bytes)?;
            self.progress.advance(bytes.len() as u64);
            Ok(())
        })?;
        self.progress.end();
        if sha256.finish() != file.sha256 {
            return Err(
                Error::damaged("the sha256 differs though every block is right")
                    .file(archive.path()),
            );
        }
        Ok(())
    }

    /// A pipe cannot be taken back: bytes go out block by block, each checked, and the exit code
    /// tells of the rest.
    fn pour_out(&mut self, archive: &Archive) -> Result<()> {
        let file = &archive.files()[0];
        let failed = |e| Error::io("cannot write to standard output", Path::new("-"), e);
        let mut stdout = io::stdout().lock();
        self.decode(archive, file, |bytes| {
            stdout.write_all(bytes).map_err(failed)
        })?;
        stdout.flush().map_err(failed)?;
        self.restored(archive, file, Path::new("-"));
        Ok(())
    }

    fn folder(&self, target: &Path) -> Result<OutputFolder> {
        let hint = "write into it, replacing what has the same name, with `--force`";
        OutputFolder::create(target, self.options.force).map_err(|e| e.hint(hint))
    }

    fn folder_image(&mut self, archive: &Archive, target: &Path) -> Result<()> {
        let output = self.folder(target)?;
        self.folder_files(archive, &output, Path::new(""))?;
        output.commit()
    }

    /// What is in an image goes below `within`. The paths were checked when the image was opened:
    /// relative, plain parts only, none of them below a file or a link.
    fn folder_files(
        &mut self,
        archive: &Archive,
        output: &OutputFolder,
        within: &Path,
    ) -> Result<()> {
        let members = &archive.index().members;
        let mut unpacking = Unpacking::new(output, within, self.options.force);
        if members.is_empty() {
            unpacking.make_folder(within, ANY_FOLDER_MODE)?;
        }
        unpacking.make_folders(members)?;
        for file in archive.files() {
            let relative = unpacking.output_path(&file.path);
            if let (Some(parent), true) = (relative.parent(), members.is_empty()) {
                unpacking.make_folder(parent, ANY_FOLDER_MODE)?;
            }
            let member = members.binary_search_by(|member| member.path.cmp(&file.path));
            let member = member.ok().and_then(|number| members.get(number));
            let first = member.and_then(|member| match &member.kind {
                MemberKind::File { first } => first.as_deref(),
                _ => None,
            });
            let first = first.map(|first| unpacking.output_path(first));
            let is_named = first.map(|first| unpacking.make_name(&first, &relative));
            if !is_named.transpose()?.unwrap_or(false) {
                self.write(archive, file, &output.path(&relative), member)?;
            }
            self.restored(archive, file, &output.target_path(&relative));
        }
        let not_made = unpacking.make_links(members)?;
        for link in &not_made {
            let path = link.path.display();
            self.progress.warn(&format!(
                "`{path}` is not made: the link leads to `{}`, out of its folder",
                escaped(&link.target)
            ));
        }
        self.report.not_made.extend(not_made);
        unpacking.finish(members, self.progress)
    }

    fn mirror(&mut self, source: &Path) -> Result<()> {
        let Output::Path(target) = &self.options.output else {
            return Err(Error::invalid("a folder needs an output")
                .file(source)
                .hint("name a folder with `-o FOLDER`"));
        };
        folder::check_apart(source, target)?;
        let output = self.folder(target)?;
        for entry in folder::walk(source, self.progress)? {
            self.progress.check()?;
            let full = source.join(&entry.path);
            match &entry.kind {
                EntryKind::Folder => output.make_folder(&entry.path)?,
                EntryKind::Link(to) => output.make_link(&entry.path, to, self.options.force)?,
                EntryKind::Special => self.progress.skip(folder::not_a_file(&full))?,
                EntryKind::File => self.mirrored_file(&full, &entry.path, &output)?,
            }
        }
        output.commit()
    }

    fn mirrored_file(&mut self, full: &Path, relative: &Path, output: &OutputFolder) -> Result<()> {
        let name = full.file_name().unwrap_or_default();
        if !folder::is_image(full) {
            if naming::is_image_name(name) {
                let text = format!(
                    "`{}` is no image that could be known as one: copied",
                    full.display()
                );
                self.progress.warn(&text);
            }
            let to = output.path(relative);
            self.report.bytes += folder::copy_file(full, &to, self.options.force)?;
            self.report.copied_files += 1;
            return Ok(());
        }
        let archive = self.open(full)?;
        let original = naming::original_name(name, archive.header()).ok_or_else(|| {
            Error::damaged("the name of this image stands for no file").file(full)
        })?;
        let relative = relative.with_file_name(original);
        match archive.header().kind {
            ImageKind::File => self.file_in(&archive, &archive.files()[0], output, &relative),
            ImageKind::Folder => self.folder_files(&archive, output, &relative),
        }
    }
}
