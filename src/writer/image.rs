//! A whole image: index laid out, data coded, digests taken, index and header filled in last.
//!
//! How often a span is read, and why:
//!
//! ```text
//! dedup     8 KiB, to see which spans may be equal, and all of those that look the same: which
//!           spans repeat others decides how long the index is, and with that where data begin
//! look      a sample, to find clusters, and all: frequencies of a large span's planes, those of
//!           a pool, differences from a base. What is not clearly smaller as differences is looked
//!           at once more, without its base. What has tables of its own and fits in memory is not
//!           looked at before it is read to be coded, nor what needs no tables: raw, R16, zstd
//! code      all, block by block
//! digests   all, by a thread of its own
//! ```
//!
//! So a span is read two or three times, a base twice. The digests ride on none of the other reads
//! although they could: to take md5 and sha256 is more work than to look at a span and code it on
//! two cores, so they may never wait for a coder, and a read from the page cache is one or two
//! hundredths of all work.

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

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::ops::Range;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;
    use crate::base::ReadAt;
    use crate::base::read_at::Slice;
    use crate::codec::Profile;
    use crate::format::BaseRecord;
    use crate::tensor::Layout;
    use crate::tensor::Span;
    use crate::writer::source::Base;

    #[derive(Debug)]
    struct Quiet;

    impl Progress for Quiet {}

    /// Counts how often each byte is read.
    #[derive(Debug)]
    struct Counting {
        bytes: Vec<u8>,
        counts: Mutex<Vec<u8>>,
    }

    impl Counting {
        fn new(bytes: Vec<u8>) -> Arc<Self> {
            let counts = Mutex::new(vec![0; bytes.len()]);
            Arc::new(Self { bytes, counts })
        }

        /// How often the bytes of a range were read: the least and the most. What is read to find
        /// spans that are alike does not count.
        fn reads(&self, range: &Range<usize>) -> (u8, u8) {
            let (len, middle) = (range.len(), range.len().saturating_sub(4096) / 2);
            let counts = &self.counts.lock()[range.clone()];
            let is_look =
                |at: usize| len >= 4096 && (at < 4096 || (middle..middle + 4096).contains(&at));
            let others = (0..len).filter(|&at| !is_look(at)).map(|at| counts[at]);
            others.fold((u8::MAX, 0), |(least, most), count| {
                (least.min(count), most.max(count))
            })
        }
    }

    impl ReadAt for Counting {
        fn len(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
            let range = offset as usize..offset as usize + out.len();
            out.copy_from_slice(&self.bytes[range.clone()]);
            let mut counts = self.counts.lock();
            counts[range].iter_mut().for_each(|count| *count += 1);
            Ok(())
        }
    }

    fn random(state: &mut u64) -> u64 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *state >> 33
    }

    /// A large span, one of middle length, and small ones that share tables: weights of BF16.
    fn tensors() -> Vec<Vec<u8>> {
        let mut state = 5;
        let mut weights = |elements| {
            let mut word = || {
                let exponent = 0x3c00 + (random(&mut state).trailing_zeros() as u16) * 100;
                (exponent + random(&mut state) as u16 % 128).to_le_bytes()
            };
            (0..elements).flat_map(|_| word()).collect()
        };
        let lens = [5 << 19, 100_000];
        let lens = lens.into_iter().chain((0..20).map(|n| 5000 + n));
        lens.map(&mut weights).collect()
    }

    fn file(tensors: &[Vec<u8>]) -> Vec<u8> {
        let (mut header, mut end) = (String::from("{"), 0);
        for (n, data) in tensors.iter().enumerate() {
            let (comma, start) = (if n > 0 { "," } else { "" }, end);
            end += data.len();
            let (shape, offsets) = (data.len() / 2, [start, end]);
            write!(
                header,
                r#"{comma}"{n:03}":{{"dtype":"BF16","shape":[{shape}],"data_offsets":{offsets:?}}}"#
            )
            .unwrap();
        }
        header.push('}');
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.bytes());
        file.extend(tensors.iter().flatten());
        file
    }

    fn base_of(span: &Span, base: &Arc<Counting>) -> Option<Base> {
        let bytes = Arc::clone(base) as Arc<dyn ReadAt>;
        let record = BaseRecord {
            blake3: [1; 32],
            name: span.name.clone(),
        };
        let bytes = Arc::new(Slice::new(bytes, span.start, span.len));
        (!span.dtype.is_empty()).then_some(Base { record, bytes })
    }

    fn write(source: &Arc<Counting>, base: Option<&Arc<Counting>>, profile: Profile) -> Written {
        let layout = Arc::new(Layout::of_safetensors(&source.bytes).unwrap());
        let bases = layout.spans.iter().map(|span| base_of(span, base?));
        let sources = [Source {
            path: String::new(),
            bytes: Arc::clone(source) as Arc<dyn ReadAt>,
            bases: bases.collect(),
            layout,
        }];
        let options = WriteOptions {
            profile,
            threads: 3,
            base_path: String::new(),
            members: Vec::new(),
        };
        let folder = tempfile::tempdir().unwrap();
        let mut output = OutputFile::create(&folder.path().join("x.bs"), false).unwrap();
        write_image(ImageKind::File, "", &sources, &options, &mut output, &Quiet).unwrap()
    }

    /// Where the tensors of a file lie.
    fn ranges(file: &Vec<u8>) -> Vec<Range<usize>> {
        let layout = Layout::of_safetensors(file).unwrap();
        let tensors = layout.spans.iter().filter(|span| !span.dtype.is_empty());
        let range = |span: &Span| span.start as usize..(span.start + span.len) as usize;
        tensors.map(range).collect()
    }

    #[test]
    fn a_span_is_read_three_times_and_twice_if_nothing_is_looked_for() {
        let bytes = file(&tensors());
        for (_, profile) in Profile::ALL {
            let source = Counting::new(bytes.clone());
            write(&source, None, profile);
            for range in ranges(&bytes) {
                let fits_in_memory = (128 << 10..1 << 20).contains(&range.len());
                let look = u8::from(profile != Profile::Inference && !fits_in_memory);
                let (least, most) = source.reads(&range);
                // what is in a sample is read for that, too
                let is_right = 2 + look <= least && most <= 2 + 2 * look;
                assert!(is_right, "{profile:?} {range:?}: {least} to {most}");
            }
        }
    }

    #[test]
    fn a_span_is_read_three_times_and_its_base_twice_if_that_pays() {
        let mut state = 9;
        let mut tuned = tensors();
        for word in tuned
            .iter_mut()
            .flat_map(|data| data.as_chunks_mut::<2>().0)
        {
            word[0] ^= u8::from(random(&mut state).is_multiple_of(9));
        }
        let bytes = file(&tuned);
        let (source, base) = (
            Counting::new(bytes.clone()),
            Counting::new(file(&tensors())),
        );
        assert!(write(&source, Some(&base), Profile::Balanced).is_delta);
        for range in ranges(&bytes) {
            let (least, most) = source.reads(&range);
            assert!(least == 3 && most <= 4, "{range:?}: {least} to {most}");
            assert_eq!(base.reads(&range), (2, 2), "{range:?}");
        }
    }

    #[test]
    fn of_twins_the_one_that_is_stored_is_read_once_more() {
        let mut tensors = tensors();
        tensors.push(tensors[0].clone());
        let bytes = file(&tensors);
        let source = Counting::new(bytes.clone());
        write(&source, None, Profile::Balanced);
        let ranges = ranges(&bytes);
        assert_eq!(source.reads(&ranges[0]).0, 4);
        assert_eq!(source.reads(&ranges[ranges.len() - 1]), (2, 2));
    }
}
