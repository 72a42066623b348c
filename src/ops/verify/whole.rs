//! Every block of an image decoded and checked, the md5 of every tensor, the sha256 of every file,
//! both copies of the index; with an original at hand, every byte compared with its own.

use std::ffi::OsStr;
use std::path::Path;
use std::path::PathBuf;

use crate::archive::Archive;
use crate::archive::ImageKind;
use crate::archive::naming;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::FileSource;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest::Md5;
use crate::base::digest::Sha256;
use crate::base::digest::hex;
use crate::base::error;
use crate::format::FileRecord;
use crate::ops::stream;
use crate::ops::verify::members;
use crate::ops::verify::report::Checked;
use crate::ops::verify::report::FileReport;
use crate::ops::verify::report::ImageReport;
use crate::ops::xray::trained::TrainedCheck;

/// Verifies an open image as a whole, and compares it with `original`, the file or folder that it
/// was made from, if that is given.
pub fn verify_image(
    archive: &Archive,
    original: Option<&Path>,
    threads: usize,
    progress: &dyn Progress,
) -> Result<ImageReport> {
    let label = archive
        .path()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    progress.begin(&format!("verifying {label}"), archive.header().original_len);
    let mut report = ImageReport::new(archive.path(), Checked::Whole);
    let mut faults: Vec<String> = archive
        .check_copies()
        .iter()
        .map(Error::to_string)
        .collect();
    for file in archive.files() {
        let mut check = FileCheck::new(archive, file.spans.start);
        let mut trained = TrainedCheck::new(archive.spans(file), file.spans.clone());
        let compared = original.map(|original| Compared::open(archive, file, original));
        let mut compared = compared.transpose()?;
        stream::runs(archive, file, threads, progress, |run| {
            report.blocks += run.blocks.end - run.blocks.start;
            if let (Some(compared), Ok(bytes)) = (&mut compared, &run.bytes) {
                let span = &archive.index().spans[run.span];
                let offset = span.span.start + span.block_range(run.blocks.start).start;
                compared.take(offset, bytes)?;
            }
            match &run.bytes {
                Ok(bytes) => trained.take(run.span, bytes),
                Err(_) => trained.give_up(run.span),
            }
            match check.take(&run) {
                Ok(len) => report.verified_bytes += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                Err(error) => {
                    report.damaged_blocks += 1;
                    faults.push(error.to_string());
                }
            }
            let span = &archive.index().spans[run.span];
            let end = span.block_range(run.blocks.end - 1).end;
            progress.advance(end - span.block_range(run.blocks.start).start);
            Ok(())
        })?;
        report.notes.extend(notes(archive, file, &trained));
        let difference = compared.and_then(|compared| compared.difference);
        report.differences.extend(difference);
        let whole = check.whole;
        let (sha256, of_tensors) = check.finish(file.spans.end);
        faults.extend(of_tensors);
        let ok = whole && sha256 == file.sha256;
        if whole && !ok {
            let error = Error::damaged("the sha256 differs though every block is right");
            faults.push(error.file(archive.path()).to_string());
        }
        report.files.push(FileReport {
            path: file.path.clone(),
            bytes: file.len,
            sha256: hex(&file.sha256),
            ok,
        });
    }
    progress.end();
    let original_members = original.map(|folder| members::differences(archive, folder));
    report.notes.extend(original_members.unwrap_or_default());
    let is_equal = report.differences.is_empty() && report.damaged_blocks == 0;
    report.is_equal_to_source = original.map(|_| is_equal);
    report.blocks_in_all = report.blocks;
    report.conclude(faults);
    Ok(report)
}

/// What is not wrong with a file, and worth knowing.
fn notes(archive: &Archive, file: &FileRecord, trained: &TrainedCheck) -> Vec<String> {
    let untrained = trained.untrained();
    let mut notes: Vec<String> = untrained
        .map(|looked_at| untrained_words(&file.path, looked_at))
        .into_iter()
        .collect();
    if !file.is_safetensors && is_named_model(archive, file) {
        notes.push(
            "it was stored as plain bytes: the safetensors library refuses its header".to_owned(),
        );
    }
    notes
}

fn is_named_model(archive: &Archive, file: &FileRecord) -> bool {
    let name = match archive.header().kind {
        ImageKind::File => &archive.header().suffix,
        ImageKind::Folder => &file.path,
    };
    naming::is_model_name(OsStr::new(name))
}

fn untrained_words(path: &str, (judged, fresh): (usize, usize)) -> String {
    let path = error::escaped(path);
    let matrices = match judged {
        1 => "1 matrix".to_owned(),
        more => format!("{more} matrices"),
    };
    let which = if path.is_empty() { "it" } else { &path };
    format!(
        "{which} looks untrained: {fresh} of {matrices} looked at cannot be told from fresh random numbers; `bigsmall xray` tells more"
    )
}

/// The original of one file of an image.
struct Compared {
    path: PathBuf,
    /// None if it has another length, or is not there.
    source: Option<FileSource>,
    buffer: Vec<u8>,
    /// The first difference; the others are too many.
    difference: Option<String>,
}

impl Compared {
    fn open(archive: &Archive, file: &FileRecord, original: &Path) -> Result<Self> {
        let is_folder = archive.header().kind == ImageKind::Folder;
        let path: PathBuf = if is_folder {
            original.join(&file.path)
        } else {
            original.to_owned()
        };
        let mut compared = Self {
            path,
            source: None,
            buffer: Vec::new(),
            difference: None,
        };
        match FileSource::open(&compared.path) {
            Ok(source) if source.len() == file.len => compared.source = Some(source),
            Ok(source) => compared.differs(&format!(
                "it has {} bytes, and what was compressed had {}",
                source.len(),
                file.len
            )),
            Err(error) if is_folder && error.kind() == ErrorKind::NotFound => {
                compared.differs("it is not there");
            }
            Err(error) => return Err(error),
        }
        Ok(compared)
    }

    fn differs(&mut self, how: &str) {
        let path = error::escaped(&self.path.to_string_lossy());
        let what = format!("`{path}` is not what was compressed: {how}");
        self.difference.get_or_insert(what);
    }

    fn take(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let Some(source) = self.source.as_ref().filter(|_| self.difference.is_none()) else {
            return Ok(());
        };
        self.buffer.resize(bytes.len(), 0);
        source.read_exact_at(offset, &mut self.buffer)?;
        let mut pairs = self.buffer.iter().zip(bytes);
        if let Some(first) = pairs.position(|(a, b)| a != b) {
            let at = offset + first as u64;
            self.differs(&format!("it differs from byte {at} on"));
        }
        Ok(())
    }
}

/// The digests of one file, as its blocks come in.
pub(in crate::ops) struct FileCheck<'a> {
    archive: &'a Archive,
    sha256: Sha256,
    md5: Md5,
    span: usize,
    span_whole: bool,
    whole: bool,
    faults: Vec<String>,
}

impl<'a> FileCheck<'a> {
    /// Of a file whose first span is `span`.
    pub(in crate::ops) fn new(archive: &'a Archive, span: usize) -> Self {
        Self {
            archive,
            sha256: Sha256::default(),
            md5: Md5::default(),
            span,
            span_whole: true,
            whole: true,
            faults: Vec::new(),
        }
    }

    /// Takes the next blocks; how many bytes they have.
    pub(in crate::ops) fn take(&mut self, run: &stream::Run) -> Result<u64> {
        self.advance_to(run.span);
        match &run.bytes {
            Ok(bytes) => {
                self.sha256.update(bytes);
                self.md5.update(bytes);
                Ok(bytes.len() as u64)
            }
            Err(error) => {
                (self.span_whole, self.whole) = (false, false);
                Err(error.clone())
            }
        }
    }

    /// Ends the spans before `span`, those without blocks too.
    fn advance_to(&mut self, span: usize) {
        while self.span < span {
            let record = &self.archive.index().spans[self.span];
            let md5 = std::mem::take(&mut self.md5).finish();
            // a damaged block is named already, and its tensor's md5 is bound to differ
            if self.span_whole && md5 != record.md5 {
                let error = Error::damaged("the md5 differs though every block is right");
                let error = error.tensor(record.span.label()).file(self.archive.path());
                self.faults.push(error.to_string());
            }
            self.span_whole = true;
            self.span += 1;
        }
    }

    /// The sha256, and what was wrong with tensors whose every block was right. `end` is the span
    /// behind its last one.
    pub(in crate::ops) fn finish(mut self, end: usize) -> ([u8; 32], Vec<String>) {
        self.advance_to(end);
        (self.sha256.finish(), self.faults)
    }
}
