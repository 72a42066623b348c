//! The virtual file is the original file: any sequence of ranges, by many readers, with a cache of
//! any size.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;

use bigsmall::archive::BlockCache;
use bigsmall::archive::BoundImage;
use bigsmall::archive::VirtualFile;
use bigsmall::base::ReadAt;
use bigsmall::base::Result;
use bigsmall::codec::Profile;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::models;
use crate::roundtrip::image_of;

fn open(image: Vec<u8>, cache_bytes: u64) -> VirtualFile {
    let image = BoundImage::from_source(Arc::new(image), Path::new("m.bs")).unwrap();
    VirtualFile::new(Arc::new(image), 0, BlockCache::new(cache_bytes)).unwrap()
}

/// A range of a file: where it begins in it, and how many bytes it has if there are as many.
fn any_range() -> impl Strategy<Value = (Index, usize)> {
    let len = prop_oneof![
        0..4_usize,
        4094..4099_usize,
        131_070..131_075_usize,
        0..1_100_000_usize
    ];
    (any::<Index>(), len)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_sequence_of_ranges_is_right(
        any in models::any_file(),
        profile in 0_usize..3,
        ranges in prop::collection::vec(any_range(), 1..240),
    ) {
        let original = any.bytes();
        let folder = tempfile::tempdir().unwrap();
        let image = image_of(folder.path(), &original, Profile::ALL[profile].1, 2);
        for cache_bytes in [0, 300_000, 32 << 20] {
            let file = open(image.clone(), cache_bytes);
            prop_assert_eq!(file.len(), original.len() as u64);
            // four readers at once
            std::thread::scope(|scope| {
                for ranges in ranges.chunks(ranges.len().div_ceil(4)) {
                    scope.spawn(|| read_ranges(&file, &original, ranges));
                }
            });
        }
    }
}

fn read_ranges(file: &VirtualFile, original: &[u8], ranges: &[(Index, usize)]) {
    for (start, len) in ranges {
        let start = start.index(original.len() + 1);
        let len = (*len).min(original.len() - start);
        let mut bytes = vec![0xaa; len];
        file.read_exact_at(start as u64, &mut bytes).unwrap();
        assert!(bytes == original[start..][..len], "{len} bytes at {start}");
    }
}

#[test]
fn what_is_beyond_the_end_is_an_error() {
    let original = models::small_file();
    let folder = tempfile::tempdir().unwrap();
    let file = open(
        image_of(folder.path(), &original, Profile::Balanced, 1),
        1 << 20,
    );
    for (start, len) in [
        (original.len() as u64, 1),
        (0, original.len() + 1),
        (u64::MAX, 2),
    ] {
        assert!(file.read_exact_at(start, &mut vec![0; len]).is_err());
    }
    file.read_exact_at(original.len() as u64, &mut []).unwrap();
}

/// Bytes that note what is said of them and what is read.
#[derive(Debug)]
struct Watched {
    bytes: Vec<u8>,
    hints: Mutex<Vec<Range<u64>>>,
    reads: Mutex<Vec<Range<u64>>>,
}

impl ReadAt for Watched {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let read = offset..offset + out.len() as u64;
        self.reads.lock().unwrap().push(read);
        self.bytes.read_exact_at(offset, out)
    }

    fn will_read(&self, ranges: &[Range<u64>]) {
        self.hints.lock().unwrap().extend(ranges.iter().cloned());
    }
}

#[test]
fn a_hint_names_the_coded_bytes_that_are_read_then() {
    let tensor = models::Tensor {
        name: "w".into(),
        dtype: "BF16",
        shape: vec![600, 1000],
        data: models::bf16_weights(&mut models::Random::new(4), 600_000),
    };
    let original = models::file(&[tensor], 0, "");
    let folder = tempfile::tempdir().unwrap();
    let watched = Arc::new(Watched {
        bytes: image_of(folder.path(), &original, Profile::Balanced, 2),
        hints: Mutex::default(),
        reads: Mutex::default(),
    });
    let image = BoundImage::from_source(Arc::clone(&watched) as _, Path::new("m.bs")).unwrap();
    let file = VirtualFile::new(Arc::new(image), 0, BlockCache::new(1 << 20)).unwrap();
    let wanted = 300_000..900_000;
    file.will_read(std::slice::from_ref(&wanted));
    let hint = watched.hints.lock().unwrap().pop().unwrap();
    assert!(hint.end - hint.start < 600_000, "{hint:?}");
    watched.reads.lock().unwrap().clear();
    let mut bytes = vec![0; 600_000];
    file.read_exact_at(wanted.start, &mut bytes).unwrap();
    assert!(bytes == original[300_000..900_000]);
    let reads = watched.reads.lock().unwrap();
    // tables of a tensor are short, and lie before its blocks
    let blocks = reads.iter().filter(|read| read.end - read.start > 16_384);
    let outside = blocks
        .clone()
        .filter(|r| r.start < hint.start || r.end > hint.end);
    assert_eq!(outside.count(), 0, "{hint:?} {reads:?}");
    assert!(blocks.count() >= 3, "{reads:?}");
}
