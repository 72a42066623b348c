//! An open image: its header read and checked, its index packed. Nothing decoded is held here.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::archive::cache::BlockCache;
use crate::archive::cache::Charge;
use crate::archive::cache::ImageId;
use crate::archive::packed::Packed;
use crate::archive::packed::Spans;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::FileSource;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest::Xxh3;
use crate::codec::SpanTables;
use crate::format::BaseRecord;
use crate::format::BlockRecord;
use crate::format::FileRecord;
use crate::format::HEADER_LEN;
use crate::format::Header;
use crate::format::Member;
use crate::format::SpanLocation;
use crate::format::header::MAGIC;
use crate::format::header::MAGIC_OF_PYTHON_PACKAGE;
use crate::format::parse;

/// Bytes of an index that are read at once to be checked.
const PIECE_LEN: usize = 64 << 10;

/// A base of an image: a tensor of another model that some of it is stored as differences from.
#[derive(Debug, Clone)]
pub struct Need {
    /// Its number in the image.
    pub number: usize,
    /// What it is, with its name.
    pub record: BaseRecord,
    /// Its bytes, and those of the tensors that are differences from it.
    pub len: u64,
    /// The first of these.
    pub tensor: String,
}

/// An open image, and the coded bytes in it. It holds of each span a few bytes, and reads the rest
/// of what its index says again where that is needed. Nothing is decoded here.
#[derive(Debug, Clone)]
pub struct Image {
    source: Arc<dyn ReadAt>,
    path: PathBuf,
    header: Header,
    files: Arc<[FileRecord]>,
    members: Arc<[Member]>,
    packed: Arc<Packed>,
    /// Where the index lies that was read.
    index: Range<u64>,
    base_path: String,
    /// By their number; none for one that no tensor has.
    needs: Arc<[Option<Need>]>,
    faults: Vec<Error>,
    id: ImageId,
    /// What it takes of a cache's bound.
    charge: Option<Arc<Charge>>,
}

/// The header of an image, from its beginning or, if that is damaged, from its end. Cheap: 128 or
/// 256 bytes are read.
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

/// Whether a file begins or ends as an image does, ours or one of the Python package, whatever its
/// state: other programs have files named `.bs`, too, and those are nobody's images.
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

impl Image {
    /// Opens an image from any byte source; `path` is for messages.
    pub fn from_source(source: Arc<dyn ReadAt>, path: &Path) -> Result<Self> {
        Self::read(source, path).map_err(|e| e.file(path))
    }

    /// Opens the image at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_source(Arc::new(FileSource::open(path)?), path)
    }

    fn read(source: Arc<dyn ReadAt>, path: &Path) -> Result<Self> {
        let (header, fault) = read_headers(&*source)?;
        let mut faults = Vec::from_iter(fault);
        let mut index_at = Header::FRONT_INDEX_OFFSET;
        if let Err(error) = check_index(&*source, &header, index_at) {
            index_at = header.tail_index_offset;
            check_index(&*source, &header, index_at)?;
            faults.push(error);
        }
        let index = index_at..index_at + header.index_len;
        let mut users = BTreeMap::new();
        let mut look = |span: &crate::format::SpanRecord| {
            if let Some(base) = span.base {
                let user = || (span.span.name.clone(), span.span.len);
                users.entry(base).or_insert_with(user);
            }
        };
        let (packed, parsed) = Packed::read(&*source, index.clone(), &header, &mut look)?;
        let id = ImageId::of(&*source);
        Ok(Self {
            source,
            path: path.to_owned(),
            header,
            files: parsed.files.into(),
            members: parsed.members.into(),
            packed: Arc::new(packed),
            index,
            base_path: parsed.base_path,
            needs: needs(&parsed.bases, users),
            faults,
            id,
            charge: None,
        })
    }

    /// The same, whose memory counts as a part of what a cache may hold.
    #[must_use]
    pub fn charged_to(mut self, cache: &Arc<BlockCache>) -> Self {
        self.charge = Some(Arc::new(cache.charge(self.memory_bytes())));
        self
    }

    /// Bytes that it holds, about.
    pub fn memory_bytes(&self) -> u64 {
        let paths = self.files.iter().map(|file| file.path.len());
        let files = size_of_val(&*self.files) + paths.sum::<usize>();
        let paths = self.members.iter().map(|member| member.path.len());
        let members = size_of_val(&*self.members) + paths.sum::<usize>();
        let names = self.needs();
        let names = names.map(|need| need.record.name.len() + need.tensor.len());
        let needs = size_of_val(&*self.needs) + names.sum::<usize>();
        (files + members + self.packed.memory_bytes() + needs) as u64
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

    /// The original files.
    pub fn files(&self) -> &[FileRecord] {
        &self.files
    }

    /// What a folder holds beside the bytes of its files, by path; empty if that was not noted.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Where the base was when the image was made, as words for a person; empty if that is not
    /// known.
    pub fn base_path(&self) -> &str {
        &self.base_path
    }

    /// Whether some of it is stored as differences from other files.
    pub fn is_delta(&self) -> bool {
        self.needs().next().is_some()
    }

    /// The bases that it needs.
    pub fn needs(&self) -> impl Iterator<Item = &Need> {
        self.needs.iter().flatten()
    }

    /// How many numbers its bases have.
    pub(super) fn base_count(&self) -> usize {
        self.needs.len()
    }

    /// The base with this number, which a tensor has.
    pub(super) fn need(&self, number: usize) -> &Need {
        let need = self.needs.get(number).and_then(Option::as_ref);
        need.unwrap_or_else(|| unreachable!("a tensor's base is listed"))
    }

    /// Damage that did not stop the image from being opened: a copy of header or index that is not
    /// right.
    pub fn faults(&self) -> &[Error] {
        &self.faults
    }

    /// What tells it from other images in a cache.
    pub fn id(&self) -> ImageId {
        self.id
    }

    /// Where the index lies that was read.
    pub(super) fn index_range(&self) -> Range<u64> {
        self.index.clone()
    }

    /// Checks also the copies of header and index that opening did not need.
    pub fn check_copies(&self) -> Vec<Error> {
        let mut faults = self.faults.clone();
        let mut trailer = [0_u8; HEADER_LEN];
        let at = self.header.image_len - HEADER_LEN as u64;
        // by their fields, not by their bytes: what a later revision put where this build reserves
        // space is no damage
        let same = self.source.read_exact_at(at, &mut trailer).is_ok()
            && Header::parse(&trailer).is_ok_and(|trailer| trailer == self.header);
        if !same {
            faults.push(Error::damaged("the trailer is not the same as the header"));
        }
        if let Err(error) = check_index(&*self.source, &self.header, self.header.tail_index_offset)
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

    /// Blocks of a file by codec, such as `r32-bf16` and 120. All of their records are read.
    pub fn codecs(&self, file: &FileRecord) -> Result<BTreeMap<&'static str, u64>> {
        let mut counts = BTreeMap::new();
        let mut page = (usize::MAX, Vec::new());
        for number in file.spans.clone() {
            let location = self.packed.location(number);
            for block in 0..location.grid.block_count() {
                let wanted = Packed::page_of(location.first_block + block as usize);
                if page.0 != wanted {
                    page = (wanted, self.read_page(wanted)?);
                }
                let codec = self.packed.block(&location, block, &page.1)?.codec;
                *counts.entry(codec.name()).or_default() += 1;
            }
        }
        Ok(counts)
    }

    /// The spans from the one on that holds this byte of all files' bytes.
    pub(super) fn spans_from(&self, position: u64) -> Spans<'_> {
        self.packed.from(position)
    }

    /// What to call a span in messages. The index is read for it.
    pub(super) fn label(&self, number: usize) -> String {
        let span = parse::span(&*self.source, self.index_range(), number);
        span.map_or_else(
            |_| format!("number {number}"),
            |record| record.span.label().to_owned(),
        )
    }

    /// A page of the records of blocks.
    pub(super) fn read_page(&self, page: usize) -> Result<Vec<u8>> {
        self.packed.read_page(&*self.source, page)
    }

    /// The record of a span's block, from the page that it is in.
    pub(super) fn block_record(
        &self,
        location: &SpanLocation,
        number: u64,
        page: &[u8],
    ) -> Result<BlockRecord> {
        self.packed.block(location, number, page)
    }

    /// Where the coded bytes of these blocks of one span lie, the padding between them included.
    pub(super) fn coded_range(blocks: &[BlockRecord]) -> Range<u64> {
        let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else {
            return 0..0;
        };
        first.offset..last.offset + u64::from(last.coded_len)
    }

    /// Their coded bytes in one read, into `buffer` if they are not in memory.
    pub(super) fn coded<'a>(
        &'a self,
        blocks: &[BlockRecord],
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8]> {
        let range = Self::coded_range(blocks);
        let len = (range.end - range.start) as usize;
        if let Some(coded) = self.source.slice_at(range.start, len) {
            return Ok(coded);
        }
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        self.source.read_exact_at(range.start, &mut buffer[..len])?;
        Ok(&buffer[..len])
    }

    /// Reads and parses tables; `None` if there are none.
    pub(super) fn read_tables(&self, offset: u64, len: u32) -> Result<Option<SpanTables>> {
        if len == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; len as usize];
        self.source.read_exact_at(offset, &mut bytes)?;
        SpanTables::parse(&bytes).map(Some)
    }
}

/// Those bases, with name and length of the first tensor that has each.
fn needs(records: &[BaseRecord], mut users: BTreeMap<usize, (String, u64)>) -> Arc<[Option<Need>]> {
    let need = |(number, record): (usize, &BaseRecord)| {
        let (tensor, len) = users.remove(&number)?;
        Some(Need {
            number,
            record: record.named(&tensor),
            len,
            tensor,
        })
    };
    records.iter().enumerate().map(need).collect()
}

/// An error unless the index that lies there is what the header says it is.
fn check_index(source: &dyn ReadAt, header: &Header, offset: u64) -> Result<()> {
    let which = if offset == Header::FRONT_INDEX_OFFSET {
        "front"
    } else {
        "tail"
    };
    let mut hash = Xxh3::default();
    let mut piece = vec![0; PIECE_LEN.min(header.index_len as usize)];
    let mut at = 0;
    while at < header.index_len {
        let len = (header.index_len - at).min(PIECE_LEN as u64) as usize;
        source.read_exact_at(offset + at, &mut piece[..len])?;
        hash.update(&piece[..len]);
        at += len as u64;
    }
    if hash.finish() != header.index_checksum {
        return Err(Error::damaged(format!(
            "the checksum of the {which} index differs"
        )));
    }
    Ok(())
}
