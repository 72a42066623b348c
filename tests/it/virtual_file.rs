//! The virtual file is the original file: any sequence of ranges, by many readers, with a cache of any size.

use std::path::Path;
use std::sync::Arc;

use bigsmall::archive::BlockCache;
use bigsmall::archive::Image;
use bigsmall::archive::VirtualFile;
use bigsmall::base::ReadAt;
use bigsmall::codec::Profile;

use crate::models;
use crate::roundtrip::image_of;

fn open(image: Vec<u8>, cache_bytes: u64) -> VirtualFile {
    let image = Image::from_source(Arc::new(image), Path::new("m.bs")).unwrap();
    VirtualFile::new(Arc::new(image), 0, BlockCache::new(cache_bytes)).unwrap()
}

#[test]
fn any_sequence_of_ranges_is_right() {
    for seed in 0..12 {
        let original = models::random_file(seed);
        let folder = tempfile::tempdir().unwrap();
        let image = image_of(
            folder.path(),
            &original,
            Profile::ALL[seed as usize % 3].1,
            2,
        );
        for cache_bytes in [0, 300_000, 32 << 20] {
            let file = open(image.clone(), cache_bytes);
            assert_eq!(file.len(), original.len() as u64);
            std::thread::scope(|scope| {
                for reader in 0..4 {
                    let (file, original) = (&file, &original);
                    scope.spawn(move || read_about(file, original, seed * 31 + reader));
                }
            });
        }
    }
}

fn read_about(file: &VirtualFile, original: &[u8], seed: u64) {
    let mut random = models::Random::new(seed);
    for _ in 0..60 {
        let start = random.below(original.len() as u64 + 1);
        let near = [0, 1, 4096, 131_072, 1 << 20][random.below(5) as usize] + random.below(3);
        let len = near.min(original.len() as u64 - start) as usize;
        let mut bytes = vec![0xaa; len];
        file.read_exact_at(start, &mut bytes).unwrap();
        assert!(
            bytes == original[start as usize..][..len],
            "{len} bytes at {start}"
        );
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
