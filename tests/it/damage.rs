//! Damage is told, never served: every byte of an image flipped in turn, and every length that it
//! can be cut to.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bigsmall::archive::Archive;
use bigsmall::archive::Bases;
use bigsmall::archive::BlockCache;
use bigsmall::archive::BoundImage;
use bigsmall::archive::VirtualFile;
use bigsmall::base::CodecId;
use bigsmall::base::ErrorKind;
use bigsmall::base::ReadAt;
use bigsmall::base::Result;
use bigsmall::base::progress::Silent;
use bigsmall::codec::Profile;
use bigsmall::ops::CompressOptions;
use bigsmall::ops::compress;
use bigsmall::ops::verify_image;

use crate::models;
use crate::roundtrip::image_of;
use crate::roundtrip::options;
use crate::roundtrip::put;

fn read_whole(image: Vec<u8>) -> Result<Vec<u8>> {
    let image = BoundImage::from_source(Arc::new(image), Path::new("m.bs"))?;
    let file = VirtualFile::new(Arc::new(image), 0, BlockCache::new(1 << 20))?;
    let mut bytes = vec![0; file.len() as usize];
    file.read_exact_at(0, &mut bytes)?;
    Ok(bytes)
}

/// Whether `verify` finds anything; opening may fail, which is a finding too.
fn is_found(image: Vec<u8>) -> bool {
    match Archive::from_source(Arc::new(image), Path::new("m.bs")) {
        Ok(archive) => !verify_image(&archive, None, 1, &Silent).unwrap().ok,
        Err(_) => true,
    }
}

/// The ranges of an image that mean nothing: padding, which no checksum covers.
fn padding(image: &[u8]) -> Vec<Range<u64>> {
    let archive = Archive::from_source(Arc::new(image.to_vec()), Path::new("m.bs")).unwrap();
    let header = archive.header().clone();
    let index = archive.index();
    let mut used = vec![(0, 128 + header.index_len)];
    for span in index.spans.iter().filter(|span| span.span.len > 0) {
        used.push((span.tables_offset, u64::from(span.tables_len)));
    }
    used.extend(
        index
            .blocks
            .iter()
            .map(|b| (b.offset, u64::from(b.coded_len))),
    );
    used.push((header.tail_index_offset, header.index_len + 128));
    used.sort_unstable();
    let mut gaps = Vec::new();
    let mut end = 0;
    for (start, len) in used {
        gaps.push(end..start.max(end));
        end = end.max(start + len);
    }
    gaps
}

/// The ranges of blocks that are zstd frames.
fn zstd_frames(image: &[u8]) -> Vec<Range<u64>> {
    let archive = Archive::from_source(Arc::new(image.to_vec()), Path::new("m.bs")).unwrap();
    let blocks = archive
        .index()
        .blocks
        .iter()
        .filter(|block| block.codec == CodecId::ZSTD);
    blocks
        .map(|block| block.offset..block.offset + u64::from(block.coded_len))
        .collect()
}

#[test]
fn every_flipped_byte_is_found_and_no_wrong_byte_is_served() {
    let original = models::small_file();
    let folder = tempfile::tempdir().unwrap();
    for (name, profile) in Profile::ALL {
        let image = image_of(folder.path(), &original, profile, 1);
        let (gaps, frames) = (padding(&image), zstd_frames(&image));
        let (mut refused, mut mended) = (0, 0);
        for at in 0..image.len() {
            let mut damaged = image.clone();
            damaged[at] ^= 1 << (at % 8);
            match read_whole(damaged.clone()) {
                // header and index are there twice: one copy may be gone
                Ok(bytes) => {
                    assert!(
                        bytes == original,
                        "{name}: wrong bytes after a flip at {at}"
                    );
                    mended += 1;
                }
                Err(error) => {
                    let kind = error.kind();
                    assert!(
                        matches!(
                            kind,
                            ErrorKind::Damaged | ErrorKind::Unsupported | ErrorKind::OverLimit
                        ),
                        "{name}: flip at {at}: {error}"
                    );
                    refused += 1;
                }
            }
            let is_in = |ranges: &[Range<u64>]| ranges.iter().any(|r| r.contains(&(at as u64)));
            // a zstd frame has bits that mean nothing; whatever they are, the bytes were right
            if !is_in(&frames) {
                assert_eq!(is_found(damaged), !is_in(&gaps), "{name}: flip at {at}");
            }
        }
        assert!(refused > 0 && mended > 0);
    }
}

#[test]
fn every_cut_is_refused() {
    let original = models::small_file();
    let folder = tempfile::tempdir().unwrap();
    let image = image_of(folder.path(), &original, Profile::Balanced, 1);
    for len in 0..image.len() {
        let error = read_whole(image[..len].to_vec()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "cut to {len}: {error}");
    }
    let longer = [&image[..], b"x"].concat();
    assert_eq!(read_whole(longer).unwrap_err().kind(), ErrorKind::Damaged);
}

#[test]
fn many_bytes_wrong_at_once_are_no_panic_and_no_wrong_byte() {
    let original = models::small_file();
    let folder = tempfile::tempdir().unwrap();
    let image = image_of(folder.path(), &original, Profile::Balanced, 1);
    let mut random = models::Random::new(11);
    for _ in 0..3000 {
        let mut damaged = image.clone();
        for _ in 0..=random.below(40) {
            let at = random.below(image.len() as u64) as usize;
            damaged[at] = random.next() as u8;
        }
        if let Ok(bytes) = read_whole(damaged) {
            assert!(bytes == original);
        }
    }
}

/// An index whose own checksum is right, but which lies: this is what a hostile file looks like.
#[test]
fn an_index_that_lies_is_refused_or_fails_at_the_block() {
    let original = models::small_file();
    let folder = tempfile::tempdir().unwrap();
    let image = image_of(folder.path(), &original, Profile::Balanced, 1);
    let header = Archive::from_source(Arc::new(image.clone()), Path::new("m.bs"))
        .unwrap()
        .header()
        .clone();
    let index_len = header.index_len as usize;
    let mut random = models::Random::new(13);
    for _ in 0..4000 {
        let mut lying = image.clone();
        for _ in 0..=random.below(3) {
            let at = 128 + random.below(index_len as u64) as usize;
            lying[at] = [0, 1, 0x7f, 0x80, 0xff, random.next() as u8][random.below(6) as usize];
        }
        let mut header = header.clone();
        header.index_checksum = bigsmall::base::digest::xxh3(&lying[128..128 + index_len]);
        lying[..128].copy_from_slice(&header.encode());
        if let Ok(bytes) = read_whole(lying) {
            // names and receipts may lie without harm to the bytes
            assert!(bytes == original);
        }
    }
}

/// An image, what it holds, and the base that it needs.
struct Sample {
    name: String,
    image: Vec<u8>,
    contents: Vec<Vec<u8>>,
    base: Option<PathBuf>,
}

/// Images of every kind.
fn images_of_every_kind(folder: &Path) -> Vec<Sample> {
    let mut images = Vec::new();
    let mut add = |name: &str, image, contents, base| {
        images.push(Sample {
            name: name.to_owned(),
            image,
            contents,
            base,
        });
    };
    let small = models::small_file();
    for (name, profile) in Profile::ALL {
        let image = image_of(folder, &small, profile, 1);
        add(name, image, vec![small.clone()], None);
    }
    let mut random = models::Random::new(61);
    let weights = |name: &str, count: usize, random: &mut models::Random| models::Tensor {
        name: name.into(),
        dtype: "BF16",
        shape: vec![count as u64],
        data: models::bf16_weights(random, count),
    };
    // two blocks and a half
    let base = weights("w", 160_000, &mut random);
    let mut tuned = base.clone();
    for element in tuned.data.chunks_mut(14) {
        element[0] = element[0].wrapping_add(1);
    }
    let paths = [
        "base.safetensors",
        "tuned.safetensors",
        "delta.bs",
        "whole.bs",
    ];
    let [base_path, tuned_path, delta, whole] = paths.map(|name| folder.join(name));
    let tuned = models::file(&[tuned], 0, "");
    put(&base_path, &models::file(&[base], 0, ""));
    put(&tuned_path, &tuned);
    let compress = |source: &Path, output: &Path, base: Option<&Path>| {
        let base = base.map(|base| Arc::new(Bases::open(base, None).unwrap()));
        let options = CompressOptions {
            base,
            ..options(output, Profile::Balanced, 1)
        };
        compress(source, &options, &Silent).unwrap();
        fs::read(output).unwrap()
    };
    let image = compress(&tuned_path, &delta, Some(&base_path));
    add("delta", image, vec![tuned], Some(base_path));
    let files = folder.join("files");
    fs::create_dir(&files).unwrap();
    let contents = [models::small_file(), b"{}".to_vec()];
    put(&files.join("a.safetensors"), &contents[0]);
    put(&files.join("b.json"), &contents[1]);
    let image = compress(&files, &whole, None);
    add("folder", image, contents.to_vec(), None);
    images
}

fn read_all(image: Vec<u8>, base: Option<&Path>) -> Result<Vec<Result<Vec<u8>>>> {
    let image = BoundImage::from_source(Arc::new(image), Path::new("m.bs"))?;
    let image = match base {
        Some(base) => image.rebound(Arc::new(Bases::open(base, None)?)),
        None => image,
    };
    let image = Arc::new(image);
    let cache = BlockCache::new(1 << 20);
    let read = |number: usize| {
        let file = VirtualFile::new(Arc::clone(&image), number, Arc::clone(&cache))?;
        let len = usize::try_from(file.len()).unwrap();
        // an index that was spoilt may claim anything; nobody reads that at once
        let mut bytes = vec![0; len.min(1 << 20)];
        file.read_exact_at(0, &mut bytes)?;
        Ok(bytes)
    };
    Ok((0..image.files().len()).map(read).collect())
}

/// Single bits anywhere: header, index, tables, payload, raw planes. `BIGSMALL_FLIPS` sets how
/// many, for long runs.
#[test]
fn no_flipped_bit_is_served() {
    let flips = std::env::var("BIGSMALL_FLIPS").ok();
    let flips: u64 = flips.and_then(|flips| flips.parse().ok()).unwrap_or(5000);
    let folder = tempfile::tempdir().unwrap();
    let images = images_of_every_kind(folder.path());
    let threads = std::thread::available_parallelism().unwrap().get() as u64;
    let served = |thread: u64| {
        let mut random = models::Random::new(71 + thread);
        let (mut right, mut refused) = (0_u64, 0_u64);
        for flip in (thread..flips).step_by(threads as usize) {
            let sample = &images[flip as usize % images.len()];
            let (name, image, contents) = (&sample.name, &sample.image, &sample.contents);
            let at = random.below(image.len() as u64 * 8);
            let mut damaged = image.clone();
            damaged[at as usize / 8] ^= 1 << (at % 8);
            let Ok(files) = read_all(damaged, sample.base.as_deref()) else {
                refused += 1;
                continue;
            };
            assert_eq!(files.len(), contents.len(), "{name}: bit {at}");
            for (file, content) in files.iter().zip(contents) {
                match file {
                    Ok(bytes) => assert!(bytes == content, "{name}: wrong bytes, bit {at}"),
                    Err(_) => refused += 1,
                }
            }
            right += u64::from(files.iter().all(Result::is_ok));
        }
        (right, refused)
    };
    let totals: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|n| scope.spawn(move || served(n)))
            .collect();
        workers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    let (right, refused) = totals.iter().fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    // `scripts/trust` reads this
    eprintln!("flips {flips} right {right} refused {refused} wrong 0");
    assert!(right > 0 && refused > 0);
}
