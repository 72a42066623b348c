//! A whole image: index laid out, data coded, receipts taken, index and header filled in last.

use std::sync::Arc;

use crate::base::Error;
use crate::base::OutputFile;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest;
use crate::codec::Profile;
use crate::format::BaseRecord;
use crate::format::FileRecord;
use crate::format::HEADER_LEN;
use crate::format::Header;
use crate::format::ImageKind;
use crate::format::Index;
use crate::format::Member;
use crate::format::SpanRecord;
use crate::tensor::Layout;
use crate::writer::coding;
use crate::writer::coding::Job;
use crate::writer::coding::Task;
use crate::writer::data::DataWriter;
use crate::writer::journal::Known;
use crate::writer::receipts;
use crate::writer::receipts::FileReceipts;
use crate::writer::twins;

/// A file that goes into an image.
#[derive(Debug, Clone)]
pub struct Source {
    /// Path within the folder; empty for an image of one file.
    pub path: String,
    /// Its bytes.
    pub bytes: Arc<dyn ReadAt>,
    /// Its spans.
    pub layout: Arc<Layout>,
    /// For each span the tensor that it may be stored as a difference from, of the same dtype and length; empty if there is none.
    pub bases: Vec<Option<Base>>,
}

/// A tensor that others may be stored as differences from.
#[derive(Debug, Clone)]
pub struct Base {
    /// What it is.
    pub record: BaseRecord,
    /// Its bytes.
    pub bytes: Arc<dyn ReadAt>,
}

/// How an image is written.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// Size or latency.
    pub profile: Profile,
    /// Threads that code.
    pub threads: usize,
    /// Where the base is, as words for a person; empty if there is none.
    pub base_place: String,
    /// What the folder holds beside the bytes of its files; empty for one file, or if that is not
    /// noted.
    pub members: Vec<Member>,
}

/// What was written.
#[derive(Debug, Clone)]
pub struct Written {
    /// Bytes of the image.
    pub image_len: u64,
    /// Whether some of it is stored as differences.
    pub is_delta: bool,
    /// Bytes of the image that an interrupted run had left.
    pub resumed_len: u64,
    /// sha256 of each source.
    pub sha256s: Vec<[u8; 32]>,
}

/// Writes an image of `sources`, in ascending order of their paths, to `output`, which is not committed.
/// The result depends on the bytes, the members and the profile alone. Memory is bounded by the
/// number of threads.
pub fn write_image(
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
    let repeats = twins::find(sources, options.threads, progress)?;
    let bases = chosen_bases(sources, &repeats);
    let mut index = blank_index(sources, &repeats, &bases, options.profile)?;
    if !index.bases.is_empty() {
        index.base_place.clone_from(&options.base_place);
    }
    index.members.clone_from(&options.members);
    let index_len = index.encode().len() as u64;
    let data_offset = Header::data_offset(index_len);
    let mut data = DataWriter::new(output);
    data.pad_to(data_offset)?;
    let known = match identity_of(sources, &index, options) {
        Some(job) => data.keep_journal(&job)?,
        None => Known::default(),
    };
    let repeated = index.spans.iter().filter(|span| span.repeats.is_some());
    progress.advance(repeated.map(|span| span.span.len).sum());
    let tasks = tasks(sources, &bases, &index);
    let receipts = std::thread::scope(|scope| {
        let receipts = scope.spawn(|| receipts::take(sources, progress));
        let job = Job {
            options,
            known: &known,
            progress,
        };
        let coded = coding::code_all(&tasks, &job, &mut data, &mut index);
        let receipts = receipts
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        coded.and(receipts)
    })?;
    let sha256s = receipts.iter().map(|file| file.sha256).collect();
    note_receipts(&mut index, receipts);
    drop_unused_bases(&mut index);
    let is_delta = index.is_delta();
    let image_len = finish(index, index_len, (kind, suffix), data)?.image_len();
    Ok(Written {
        image_len,
        is_delta,
        resumed_len: known.end,
        sha256s,
    })
}

/// Writes the index and the header.
pub(super) fn finish(
    mut index: Index,
    index_len: u64,
    (kind, suffix): (ImageKind, &str),
    mut data: DataWriter<'_>,
) -> Result<Unsealed> {
    index.assign_offsets(Header::data_offset(index_len))?;
    assert_eq!(
        index.data_end,
        data.position(),
        "data lie where the index says"
    );
    let bytes = index.encode();
    assert_eq!(
        bytes.len() as u64,
        index_len,
        "the index has the length that was left for it"
    );
    data.pad_to(index.tail_offset())?;
    let header = Header {
        kind,
        suffix: suffix.to_owned(),
        required_features: index.required_features(),
        image_len: index.tail_offset() + index_len + HEADER_LEN as u64,
        original_len: index.files.iter().map(|file| file.len).sum(),
        index_len,
        tail_index_offset: index.tail_offset(),
        index_checksum: digest::xxh3(&bytes),
        file_count: index.files.len() as u32,
    };
    let output = data.into_output()?;
    put_index(&header, &bytes, output)?;
    Ok(Unsealed { header, index })
}

/// Both copies of the header and the index.
fn put_index(header: &Header, index: &[u8], output: &OutputFile) -> Result<()> {
    output.write_at(header.tail_index_offset, index)?;
    output.write_at(
        header.tail_index_offset + header.index_len,
        &header.encode(),
    )?;
    output.write_at(Header::FRONT_INDEX_OFFSET, index)?;
    output.write_at(0, &header.encode())
}

/// An image that is written.
#[derive(Debug)]
pub struct Unsealed {
    header: Header,
    index: Index,
}

impl Unsealed {
    /// Bytes of the image.
    pub fn image_len(&self) -> u64 {
        self.header.image_len
    }

    /// Notes what the sha256 of its only file is.
    pub fn seal(mut self, sha256: [u8; 32], output: &OutputFile) -> Result<()> {
        for file in &mut self.index.files {
            file.sha256 = sha256;
        }
        let bytes = self.index.encode();
        self.header.index_checksum = digest::xxh3(&bytes);
        put_index(&self.header, &bytes, output)
    }
}

/// The base of each span of all sources. Where spans repeat one another, the one that is stored takes the base of whichever has one.
fn chosen_bases<'a>(sources: &'a [Source], repeats: &[Option<usize>]) -> Vec<Option<&'a Base>> {
    let mut bases = Vec::new();
    for source in sources {
        let of_span = |number| source.bases.get(number).and_then(Option::as_ref);
        bases.extend((0..source.layout.spans.len()).map(of_span));
    }
    for (number, stored) in repeats.iter().enumerate() {
        if let Some(stored) = *stored {
            bases[stored] = bases[stored].or(bases[number]);
            bases[number] = None;
        }
    }
    bases
}

pub(super) fn blank_index(
    sources: &[Source],
    repeats: &[Option<usize>],
    chosen: &[Option<&Base>],
    profile: Profile,
) -> Result<Index> {
    let (mut files, mut spans, mut bases) = (Vec::new(), Vec::new(), Vec::new());
    for source in sources {
        let first = spans.len();
        let new = |span: &crate::tensor::Span| SpanRecord::new(span.clone(), profile.block_shift());
        spans.extend(source.layout.spans.iter().map(new));
        for (span, base) in spans[first..].iter_mut().zip(&chosen[first..]) {
            let Some(base) = base else {
                continue;
            };
            let mut record = base.record.clone();
            if record.name == span.span.name {
                record.name.clear();
            }
            let known = bases.iter().position(|other| *other == record);
            span.base = Some(known.unwrap_or(bases.len()));
            if known.is_none() {
                bases.push(record);
            }
        }
        files.push(FileRecord {
            path: source.path.clone(),
            is_safetensors: source.layout.is_safetensors,
            len: source.layout.len,
            spans: first..spans.len(),
            sha256: [0; 32],
        });
    }
    for (span, repeats) in spans.iter_mut().zip(repeats) {
        span.repeats = *repeats;
    }
    Index::blank(files, spans, bases)
}

/// What tells this image, half made, from any other: another content of a source, base or profile, or another build, is another
/// job. None if a source is no file of the disk.
fn identity_of(sources: &[Source], index: &Index, options: &WriteOptions) -> Option<[u8; 32]> {
    let identities: Option<Vec<_>> = sources
        .iter()
        .map(|source| source.bytes.identity())
        .collect();
    let words = format!(
        "{} {} {:?}",
        env!("CARGO_PKG_VERSION"),
        options.profile.name(),
        identities?
    );
    digest::blake3_of(&[words.into_bytes(), index.encode()].concat()).ok()
}

fn note_receipts(index: &mut Index, receipts: Vec<FileReceipts>) {
    for (file, receipts) in index.files.iter_mut().zip(receipts) {
        file.sha256 = receipts.sha256;
        let spans = index.spans[file.spans.clone()].iter_mut();
        for (span, md5) in spans.zip(receipts.md5s) {
            span.md5 = md5;
        }
    }
}

/// What stands alone needs no base.
fn drop_unused_bases(index: &mut Index) {
    for span in &mut index.spans {
        let mut blocks = index.blocks[span.blocks.clone()].iter();
        let needs_base = blocks.any(|block| block.codec.needs_base());
        span.base = span.base.filter(|_| needs_base);
    }
}

pub(super) fn tasks<'a>(
    sources: &'a [Source],
    bases: &[Option<&'a Base>],
    index: &Index,
) -> Vec<Task<'a>> {
    let with_bytes = |source: &'a Source| {
        let spans = source.layout.spans.iter();
        spans.map(|span| (span, &*source.bytes))
    };
    let spans = sources.iter().flat_map(with_bytes);
    let records = index.spans.iter().enumerate().zip(spans);
    records
        .filter(|((_, record), _)| record.repeats.is_none())
        .map(|((number, record), (span, bytes))| Task {
            number,
            span,
            grid: record.grid(),
            bytes,
            base: bases[number].map(|base| &*base.bytes),
        })
        .collect()
}
