//! Images from any bytes: refused, or every file gives its bytes or an error, and the same bytes
//! whichever way it is read. The checksums are mended first, as a hostile file would have them
//! right.

use std::path::Path;
use std::sync::Arc;

use bigsmall::archive::Archive;
use bigsmall::archive::BlockCache;
use bigsmall::archive::BoundImage;
use bigsmall::archive::VirtualFile;
use bigsmall::base::Error;
use bigsmall::base::ErrorKind;
use bigsmall::base::ReadAt;
use bigsmall::base::digest;
use bigsmall::format::HEADER_LEN;
use bigsmall::format::Header;
use bigsmall::format::header::MAGIC;
use bigsmall::format::header::TAIL_PADDING;

use super::written_index;

const CACHE_BYTES: u64 = 1 << 20;
/// Files that are read, and bytes of a file that is read whole: a small image may claim a gigabyte
/// of zeros.
const FILES_READ: usize = 8;
const WHOLE_LEN_MAX: u64 = 1 << 20;
/// How far a mended image may reach beyond the bytes that there are.
const GROWTH_MAX: usize = 64 << 10;

pub(crate) fn run(data: &[u8]) {
    if let Some(archive) = open(data.to_vec()) {
        read(archive.image());
    }
    let Some(image) = mended(data) else { return };
    let Some(archive) = open(image.clone()) else {
        return;
    };
    let faults = archive.check_copies();
    assert!(faults.is_empty(), "damage where there is none: {faults:?}");
    written_index::comes_back(archive.index(), archive.header().kind);
    one_copy_is_enough(image, &archive);
    read(archive.image());
}

fn is_expected(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Damaged | ErrorKind::Unsupported | ErrorKind::OverLimit
    )
}

fn open(image: Vec<u8>) -> Option<Archive> {
    match Archive::from_source(Arc::new(image), Path::new("m.bs")) {
        Ok(archive) => Some(archive),
        Err(error) => {
            assert!(is_expected(&error), "{error}");
            None
        }
    }
}

/// Header, index and data as they are; magic, lengths and checksums as they should be, and the
/// copies at the end. The header says where the tail begins, so that the fuzzer can find the place
/// that follows from the index.
fn mended(data: &[u8]) -> Option<Vec<u8>> {
    let mut header: [u8; HEADER_LEN] = *data.first_chunk()?;
    let field = |at: usize| header[at..].first_chunk().copied().map(u64::from_le_bytes);
    let index_len = field(64)?.min((data.len() - HEADER_LEN) as u64);
    let index = &data[HEADER_LEN..][..index_len as usize];
    let least = Header::data_offset(index_len) + TAIL_PADDING;
    let tail_offset = field(72)?.clamp(least, least + (data.len() + GROWTH_MAX) as u64);
    let mut put = |at: usize, value: u64| header[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(48, tail_offset + index_len + HEADER_LEN as u64);
    put(64, index_len);
    put(72, tail_offset);
    put(80, digest::xxh3(index));
    header[..MAGIC.len()].copy_from_slice(&MAGIC);
    let checksum = digest::xxh3(&header[..120]);
    header[120..].copy_from_slice(&checksum.to_le_bytes());
    let mut image = data.to_vec();
    image.resize(tail_offset as usize, 0);
    image.extend_from_slice(index);
    image.extend_from_slice(&header);
    image[..HEADER_LEN].copy_from_slice(&header);
    Some(image)
}

fn one_copy_is_enough(mut image: Vec<u8>, whole: &Archive) {
    // of the front header its checksum, of the front index the first byte, if it has one
    for at in [120, HEADER_LEN] {
        image[at] ^= 1;
    }
    let archive = open(image).expect("trailer and tail index are whole");
    assert_eq!(archive.header(), whole.header());
    assert!(archive.index() == whole.index());
    assert!(!archive.faults().is_empty());
}

fn read(image: &Arc<BoundImage>) {
    let cache = BlockCache::new(CACHE_BYTES);
    for number in 0..image.files().len().min(FILES_READ) {
        let file = VirtualFile::new(Arc::clone(image), number, Arc::clone(&cache))
            .expect("the image has the file");
        let whole = (file.len() <= WHOLE_LEN_MAX)
            .then(|| bytes(&file, 0, file.len()))
            .flatten();
        for start in [0, file.len() / 2, file.len().saturating_sub(1)] {
            let len = (file.len() - start).min(5000);
            let part = bytes(&file, start, len);
            if let Some(whole) = &whole {
                let range = start as usize..(start + len) as usize;
                assert_eq!(part.as_deref(), Some(&whole[range]));
            }
        }
        let beyond = file.read_exact_at(file.len(), &mut [0]).unwrap_err();
        assert_eq!(beyond.kind(), ErrorKind::Invalid);
        assert!(cache.bytes() <= CACHE_BYTES);
    }
}

fn bytes(file: &VirtualFile, start: u64, len: u64) -> Option<Vec<u8>> {
    let mut out = vec![0; len as usize];
    match file.read_exact_at(start, &mut out) {
        Ok(()) => Some(out),
        Err(error) => {
            assert!(is_expected(&error), "{error}");
            None
        }
    }
}
