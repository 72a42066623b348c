//! A whole image: index laid out, data coded, digests taken, index and header filled in last.

use crate::base::Error;
use crate::base::OutputFile;
use crate::base::Progress;
use crate::base::Result;
use crate::base::digest;
use crate::format::Header;
use crate::format::ImageKind;
use crate::format::Index;
use crate::writer::data::DataWriter;
use crate::writer::dedup;
use crate::writer::digests;
use crate::writer::digests::FileDigests;
use crate::writer::image_writer::ImageWriter;
use crate::writer::outline;
use crate::writer::source::Source;
use crate::writer::source::WriteOptions;
use crate::writer::task::ImageJob;
use crate::writer::task::Task;

/// What was written.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    /// Bytes of the image.
    pub image_len: u64,
    /// Whether some of it is stored as differences.
    pub is_delta: bool,
    /// Bytes of the image that an interrupted run had left.
    pub resumed_len: u64,
    /// sha256 of each source.
    pub sha256s: Vec<[u8; 32]>,
}

/// Writes an image of `sources`, in ascending order of their paths, to `output`, which is not
/// committed. The result depends on the bytes, the members and the profile alone. Memory is bounded
/// by the number of threads.
pub(crate) fn write_image(
    kind: ImageKind,
    suffix: &str,
    sources: &[Source],
    options: &WriteOptions,
    output: &mut OutputFile,
    progress: &dyn Progress,
) -> Result<Written> {
    if !Header::suffix_is_valid(suffix) {
        return Err(Error::invalid(format!(
            "the suffix `{suffix}` cannot be recorded"
        )));
    }
    let repeats = dedup::find(sources, options.threads, progress)?;
    let bases = outline::chosen_bases(sources, &repeats);
    let mut index = outline::blank_index(sources, &repeats, &bases, options.profile)?;
    if !index.bases.is_empty() {
        index.base_path.clone_from(&options.base_path);
    }
    index.members.clone_from(&options.members);
    let repeated = index.spans.iter().filter(|span| span.repeats.is_some());
    progress.advance(repeated.map(|span| span.span.len).sum());
    let index_len = index.encode().len() as u64;
    let mut data = DataWriter::new(output);
    data.pad_to(Header::data_offset(index_len))?;
    let mut job = ImageJob::new(options.profile, options.threads, progress);
    if let Some(identity) = identity_of(sources, &index, options) {
        job.resumed = data.keep_journal(&identity)?;
    }
    let tasks = Task::of_sources(sources, &bases, &index);
    let mut writer = ImageWriter::new(index, index_len, data, &job);
    let digests = std::thread::scope(|scope| {
        let digests = scope.spawn(|| digests::take(sources, progress));
        let coded = writer.code(&tasks);
        let digests = digests
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        coded.and(digests)
    })?;
    let sha256s = digests.iter().map(|file| file.sha256).collect();
    let index = writer.index_mut();
    note_digests(index, digests);
    outline::drop_unused_bases(index);
    let is_delta = index.is_delta();
    let image_len = writer.finish(kind, suffix)?.image_len();
    Ok(Written {
        image_len,
        is_delta,
        resumed_len: job.resumed.end,
        sha256s,
    })
}

/// What tells this image, half made, from any other: another content of a source, base or profile,
/// or another build, is another job. None if a source is no file of the disk.
fn identity_of(sources: &[Source], index: &Index, options: &WriteOptions) -> Option<[u8; 32]> {
    let identities: Option<Vec<_>> = sources
        .iter()
        .map(|source| source.bytes.identity().known())
        .collect();
    let words = format!(
        "{} {} {:?}",
        env!("CARGO_PKG_VERSION"),
        options.profile.name(),
        identities?
    );
    digest::blake3_of(&[words.into_bytes(), index.encode()].concat()).ok()
}

fn note_digests(index: &mut Index, digests: Vec<FileDigests>) {
    for (file, digests) in index.files.iter_mut().zip(digests) {
        file.sha256 = digests.sha256;
        let spans = index.spans[file.spans.clone()].iter_mut();
        for (span, md5) in spans.zip(digests.md5s) {
            span.md5 = md5;
        }
    }
}
