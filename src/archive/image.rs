//! An open image: header and index read and checked, blocks decoded and checked on request. Nothing decoded is held here.

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;

use crate::archive::bases::Bases;
use crate::archive::bases::Hope;
use crate::archive::cache::ImageId;
use crate::base::CodecId;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::FileSource;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest;
use crate::base::error;
use crate::base::parallel;
use crate::codec;
use crate::codec::CodedBlock;
use crate::codec::Scratch;
use crate::codec::SpanTables;
use crate::format::BlockRecord;
use crate::format::FileRecord;
use crate::format::HEADER_LEN;
use crate::format::Header;
use crate::format::Index;
use crate::format::SpanRecord;
use crate::format::header::MAGIC;
use crate::format::header::MAGIC_OF_PYTHON_PACKAGE;

/// An open image.
#[derive(Debug)]
pub struct Archive {
    source: Arc<dyn ReadAt>,
    path: PathBuf,
    header: Header,
    index: Index,
    faults: Vec<Error>,
    bases: Option<Arc<Bases>>,
    /// The bases that were found, by their number.
    found: Vec<OnceLock<Arc<dyn ReadAt>>>,
    id: ImageId,
}

/// Buffers that a thread keeps from block to block.
#[derive(Debug, Default)]
pub struct ReadScratch {
    coded: Vec<u8>,
    second: Vec<u8>,
    base: Vec<u8>,
    codec: Scratch,
}

/// The header of an image, from its beginning or, if that is damaged, from its end. Cheap: 128 or 256 bytes are read.
pub fn peek(source: &dyn ReadAt, path: &Path) -> Result<Header> {
    read_headers(source)
        .map(|(header, _)| header)
        .map_err(|e| e.file(path))
}

/// The header of an image in whatever state, from its beginning or its end, and its bytes; none if
/// neither is right. What is between may be lost, and its length another.
pub fn header_left(source: &dyn ReadAt) -> Option<(Header, [u8; HEADER_LEN])> {
    let at = |offset: u64| {
        let mut bytes = [0_u8; HEADER_LEN];
        source.read_exact_at(offset, &mut bytes).ok()?;
        Some((Header::parse(&bytes).ok()?, bytes))
    };
    at(0).or_else(|| at(source.len().checked_sub(HEADER_LEN as u64)?))
}

/// Whether a file begins or ends as an image does, ours or one of the Python package, whatever its state: other programs
/// have files named `.bs`, too, and those are nobody's images.
pub fn claims_to_be_image(source: &dyn ReadAt) -> bool {
    let begins_at = |offset: u64| {
        let mut magic = [0; MAGIC.len()];
        source.read_exact_at(offset, &mut magic).is_ok()
            && (magic == MAGIC || magic.starts_with(MAGIC_OF_PYTHON_PACKAGE))
    };
    begins_at(0)
        || source
            .len()
            .checked_sub(HEADER_LEN as u64)
            .is_some_and(begins_at)
}

/// Whether a file begins as one of the Python package does.
pub fn is_package(source: &dyn ReadAt) -> bool {
    let mut magic = [0; MAGIC_OF_PYTHON_PACKAGE.len()];
    source.read_exact_at(0, &mut magic).is_ok() && magic == *MAGIC_OF_PYTHON_PACKAGE
}

/// The header, and what is wrong with the copy that was not used.
fn read_headers(source: &dyn ReadAt) -> Result<(Header, Option<Error>)> {
    let mut bytes = [0_u8; HEADER_LEN];
    let len = source.len();
    if len < bytes.len() as u64 {
        return Err(Error::damaged(format!("{len} bytes are no bigsmall image")));
    }
    source.read_exact_at(0, &mut bytes)?;
    let front = Header::parse(&bytes);
    let (header, fault) = match front {
        Ok(header) => (header, None),
        Err(error) if error.kind() == ErrorKind::Damaged => {
            source.read_exact_at(len - HEADER_LEN as u64, &mut bytes)?;
            match Header::parse(&bytes) {
                Ok(header) => (header, Some(error)),
                // the first error is the one that tells what the file is
                Err(_) => return Err(error),
            }
        }
        Err(error) => return Err(error),
    };
    if header.image_len != len {
        return Err(Error::damaged(format!(
            "the image should have {} bytes and has {len}",
            header.image_len
        ))
        .hint("it is cut short or was changed: get it again, or restore it from a copy"));
    }
    Ok((header, fault))
}

impl Archive {
    /// Opens the image at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_source(Arc::new(FileSource::open(path)?), path)
    }

    /// Opens an image from any byte source; `path` is for messages.
    pub fn from_source(source: Arc<dyn ReadAt>, path: &Path) -> Result<Self> {
        Self::read(source, path).map_err(|e| e.file(path))
    }

    fn read(source: Arc<dyn ReadAt>, path: &Path) -> Result<Self> {
        let (header, fault) = read_headers(&*source)?;
        let mut faults = Vec::from_iter(fault);
        let front = read_index(&*source, &header, Header::FRONT_INDEX_OFFSET);
        let bytes = match front {
            Ok(bytes) => bytes,
            Err(error) => {
                let tail = read_index(&*source, &header, header.tail_index_offset)?;
                faults.push(error);
                tail
            }
        };
        let index = Index::parse(&bytes, &header)?;
        let found = index.bases.iter().map(|_| OnceLock::new()).collect();
        let id = ImageId::of(&*source);
        Ok(Self {
            source,
            path: path.to_owned(),
            header,
            index,
            faults,
            bases: None,
            found,
            id,
        })
    }

    /// The same, with its bases among those tensors. Each is looked for when it is first needed.
    #[must_use]
    pub fn with_bases(mut self, bases: Arc<Bases>) -> Self {
        self.bases = Some(bases);
        self
    }

    /// Says what the bytes of base `number` are, which was identified.
    pub(super) fn settle_base(&self, number: usize, bytes: &Arc<dyn ReadAt>) {
        self.found[number].get_or_init(|| Arc::clone(bytes));
    }

    /// Looks for all its bases; the error of the first that is not there.
    pub fn find_bases(&self, threads: usize, progress: &dyn Progress) -> Result<()> {
        let mut known = BTreeSet::new();
        let spans = self.index.spans.iter();
        let spans: Vec<&SpanRecord> = spans
            .filter(|span| span.base.is_some_and(|base| known.insert(base)))
            .collect();
        // the first shows in which files to look for the others
        let (first, others) = spans.split_at(spans.len().min(1));
        for spans in [first, others] {
            let find = |(): &mut (), number: usize| {
                progress.check()?;
                let found = self.base_of(spans[number]);
                found.map(|_| ()).map_err(|e| e.file(&self.path))
            };
            parallel::ordered(threads, spans.len(), || (), find, |_, ()| Ok(()))?;
        }
        Ok(())
    }

    /// An error if one of its bases cannot be at hand, as far as names, lengths and what is known of digests tell. The content of
    /// the shortest is compared: where that is right, so are mostly the others, and each is compared before it is used.
    pub fn expect_bases(&self) -> Result<()> {
        let spans = self.index.spans.iter().filter(|span| span.base.is_some());
        for span in spans.clone() {
            let Some(number) = span.base else {
                continue;
            };
            let record = self.index.bases[number].named(&span.span.name);
            let hope = self.bases.as_ref();
            let hope = hope.map_or(Hope::None, |bases| bases.hope(&record, span.span.len));
            if hope == Hope::None {
                return Err(self.no_base(&record.name).tensor(span.span.label()));
            }
        }
        let shortest = spans.min_by_key(|span| span.span.len);
        let found = shortest.map(|span| self.base_of(span));
        found
            .transpose()
            .map(|_| ())
            .map_err(|e| e.file(&self.path))
    }

    /// The bytes of a span's base.
    fn base_of(&self, span: &SpanRecord) -> Result<&dyn ReadAt> {
        // what repeats another has that one's blocks, and so its base
        let span = span.repeats.map_or(span, |of| &self.index.spans[of]);
        let number = span
            .base
            .ok_or_else(|| Error::damaged("a block of differences in a tensor without a base"))?;
        let (found, record) = (&self.found[number], &self.index.bases[number]);
        if let Some(bytes) = found.get() {
            return Ok(&**bytes);
        }
        let record = record.named(&span.span.name);
        let bases = self.bases.as_ref();
        let bases = bases.ok_or_else(|| self.no_base(&record.name))?;
        let bytes = bases
            .find(&record, span.span.len)
            .map_err(|e| match e.kind() {
                ErrorKind::MissingBase => e.hint(self.base_hint()),
                _ => e,
            })?;
        Ok(&**found.get_or_init(|| bytes))
    }

    fn no_base(&self, name: &str) -> Error {
        let places = self.bases.as_ref().map(|bases| bases.places());
        let places = places.unwrap_or_default().iter();
        let places: Vec<String> = places.map(|p| format!("`{}`", p.display())).collect();
        let what = if places.is_empty() {
            format!("its base tensor `{name}` is in another model, which is not named")
        } else {
            format!("its base tensor `{name}` is not in {}", places.join(", "))
        };
        Error::new(ErrorKind::MissingBase, what)
            .hint(self.base_hint())
            .file(&self.path)
    }

    fn base_hint(&self) -> String {
        let hint = "name the model that it was made from with `--base`";
        match self.index.base_place.as_str() {
            "" => hint.to_owned(),
            place => format!("{hint}: it was `{}` then", error::escaped(place)),
        }
    }

    /// The coded bytes, as they lie in the image.
    pub fn source(&self) -> &Arc<dyn ReadAt> {
        &self.source
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The original files.
    pub fn files(&self) -> &[FileRecord] {
        &self.index.files
    }

    /// The spans of an original file.
    pub fn spans(&self, file: &FileRecord) -> &[SpanRecord] {
        &self.index.spans[file.spans.clone()]
    }

    /// Damage that did not stop the image from being opened: a copy of header or index that is not right.
    pub fn faults(&self) -> &[Error] {
        &self.faults
    }

    /// Checks also the copies of header and index that opening did not need.
    pub fn check_copies(&self) -> Vec<Error> {
        let mut faults = self.faults.clone();
        let mut trailer = [0_u8; HEADER_LEN];
        let at = self.header.image_len - HEADER_LEN as u64;
        // by their fields, not by their bytes: what a later revision put where this build reserves space is no damage
        let same = self.source.read_exact_at(at, &mut trailer).is_ok()
            && Header::parse(&trailer).is_ok_and(|trailer| trailer == self.header);
        if !same {
            faults.push(Error::damaged("the trailer is not the same as the header"));
        }
        if let Err(error) = read_index(&*self.source, &self.header, self.header.tail_index_offset)
            && !faults
                .iter()
                .any(|fault| fault.to_string() == error.to_string())
        {
            faults.push(error);
        }
        faults
            .into_iter()
            .map(|fault| fault.file(&self.path))
            .collect()
    }

    /// What tells it from other images in a cache.
    pub fn id(&self) -> ImageId {
        self.id
    }

    /// Reads and parses the tables of a span; `None` if it has none.
    pub fn read_tables(&self, span: &SpanRecord) -> Result<Option<SpanTables>> {
        if span.tables_len == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; span.tables_len as usize];
        self.source
            .read_exact_at(span.tables_offset, &mut bytes)
            .and_then(|()| SpanTables::parse(&bytes))
            .map(Some)
            .map_err(|e| e.tensor(span.span.label()).file(&self.path))
    }

    /// Decodes block `number` of `span` into `out`, which has its length, and checks it. On an error `out` holds
    /// rubbish and must not be used.
    pub fn decode_block(
        &self,
        span: &SpanRecord,
        number: u64,
        tables: Option<&SpanTables>,
        out: &mut [u8],
        scratch: &mut ReadScratch,
    ) -> Result<()> {
        let range = span.block_range(number);
        assert_eq!(
            out.len() as u64,
            range.end - range.start,
            "the buffer has the block's length"
        );
        self.decode(number, span, tables, out, scratch)
            .map_err(|e| e.block(number).tensor(span.span.label()).file(&self.path))
    }

    /// Decodes as many blocks of `span` from `first` on as `out` holds, one after another, as [`Archive::decode_block`] does
    /// one; two at once where that is faster. The first that is damaged ends it.
    pub fn decode_blocks(
        &self,
        span: &SpanRecord,
        first: u64,
        tables: Option<&SpanTables>,
        out: &mut [u8],
        scratch: &mut ReadScratch,
    ) -> Result<()> {
        let (mut number, mut rest) = (first, out);
        while !rest.is_empty() {
            let len = |number| {
                let range = span.block_range(number);
                (range.end - range.start) as usize
            };
            let at = span.blocks.start + number as usize;
            let is_paired =
                |block: &BlockRecord| codec::is_paired(block.codec, block.codec_version);
            let blocks = &self.index.blocks[at..span.blocks.end];
            let (out, after) = std::mem::take(&mut rest).split_at_mut(len(number));
            rest = after;
            if let [a, b, ..] = blocks
                && !rest.is_empty()
                && is_paired(a)
                && is_paired(b)
                && a.codec == b.codec
            {
                let (second, after) = std::mem::take(&mut rest).split_at_mut(len(number + 1));
                rest = after;
                let results = self.decode_two(number, span, tables, [out, second], scratch);
                for (number, result) in (number..).zip(results) {
                    result
                        .map_err(|e| e.block(number).tensor(span.span.label()).file(&self.path))?;
                }
                number += 2;
                continue;
            }
            self.decode_block(span, number, tables, out, scratch)?;
            number += 1;
        }
        Ok(())
    }

    /// Decodes block `number` and the one behind it.
    fn decode_two(
        &self,
        number: u64,
        span: &SpanRecord,
        tables: Option<&SpanTables>,
        [out_a, out_b]: [&mut [u8]; 2],
        scratch: &mut ReadScratch,
    ) -> [Result<()>; 2] {
        let ReadScratch {
            coded,
            second,
            base,
            ..
        } = scratch;
        let at = span.blocks.start + number as usize;
        let [a, b] = [&self.index.blocks[at], &self.index.blocks[at + 1]];
        let of_both = self.read_base(a.codec, number, span, out_a.len() + out_b.len(), base);
        if let Err(error) = of_both {
            return [Err(error), Ok(())];
        }
        let (base_a, base_b) = base.split_at(base.len().min(out_a.len()));
        let (bytes_a, bytes_b) = match (self.coded(a, coded), self.coded(b, second)) {
            (Ok(bytes_a), Ok(bytes_b)) => (bytes_a, bytes_b),
            (a, b) => return [a.map(|_| ()), b.map(|_| ())],
        };
        let block = |record: &BlockRecord, bytes, base| CodedBlock {
            codec: record.codec,
            version: record.codec_version,
            bytes,
            lanes: span.lanes(),
            base,
        };
        let blocks = [&block(a, bytes_a, base_a), &block(b, bytes_b, base_b)];
        let [first, second] = codec::decode_two(blocks, tables, [&mut *out_a, &mut *out_b]);
        [
            first.and_then(|()| check(a, out_a)),
            second.and_then(|()| check(b, out_b)),
        ]
    }

    fn decode(
        &self,
        number: u64,
        span: &SpanRecord,
        tables: Option<&SpanTables>,
        out: &mut [u8],
        scratch: &mut ReadScratch,
    ) -> Result<()> {
        let block = &self.index.blocks[span.blocks.start + number as usize];
        let is_raw = block.codec == CodecId::RAW && block.codec_version == block.codec.version();
        if is_raw && block.coded_len as usize == out.len() {
            self.source.read_exact_at(block.offset, out)?;
        } else {
            let ReadScratch {
                coded, base, codec, ..
            } = scratch;
            self.read_base(block.codec, number, span, out.len(), base)?;
            let coded = CodedBlock {
                codec: block.codec,
                version: block.codec_version,
                bytes: self.coded(block, coded)?,
                lanes: span.lanes(),
                base,
            };
            codec::decode_block(&coded, tables, out, codec)?;
        }
        check(block, out)
    }

    /// Reads `len` bytes of the base from block `number` on, where the codec needs them; else nothing.
    fn read_base(
        &self,
        codec: CodecId,
        number: u64,
        span: &SpanRecord,
        len: usize,
        base: &mut Vec<u8>,
    ) -> Result<()> {
        if !codec.needs_base() {
            base.clear();
            return Ok(());
        }
        base.resize(len, 0);
        let from = self.base_of(span)?;
        from.read_exact_at(span.block_range(number).start, base)
            .map_err(|e| e.hint("this was read from the base"))
    }

    /// The coded bytes of a block, read into `buffer` if they are not in memory.
    fn coded<'a>(&'a self, block: &BlockRecord, buffer: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let len = block.coded_len as usize;
        if let Some(coded) = self.source.slice_at(block.offset, len) {
            return Ok(coded);
        }
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        self.source
            .read_exact_at(block.offset, &mut buffer[..len])?;
        Ok(&buffer[..len])
    }
}

/// Compares decoded bytes with the checksum of the original ones.
fn check(block: &BlockRecord, decoded: &[u8]) -> Result<()> {
    if digest::xxh3(decoded) != block.checksum {
        return Err(
            Error::damaged("the bytes are not what was stored (checksum differs)").hint(
                "`bigsmall repair` mends it if there is parity; else get the file from a copy",
            ),
        );
    }
    Ok(())
}

fn read_index(source: &dyn ReadAt, header: &Header, offset: u64) -> Result<Vec<u8>> {
    let which = if offset == Header::FRONT_INDEX_OFFSET {
        "front"
    } else {
        "tail"
    };
    let mut bytes = vec![0; header.index_len as usize];
    source.read_exact_at(offset, &mut bytes)?;
    if digest::xxh3(&bytes) != header.index_checksum {
        return Err(Error::damaged(format!(
            "the checksum of the {which} index differs"
        )));
    }
    Ok(bytes)
}
