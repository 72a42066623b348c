//! Damage is told, never served: every byte of an image flipped in turn, and every length that it can be cut to.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bigsmall::archive::Archive;
use bigsmall::archive::BlockCache;
use bigsmall::archive::VirtualFile;
use bigsmall::base::CodecId;
use bigsmall::base::ErrorKind;
use bigsmall::base::ReadAt;
use bigsmall::base::Result;
use bigsmall::base::progress::Silent;
use bigsmall::codec::Profile;
use bigsmall::ops::verify;

use crate::models;
use crate::roundtrip::image_of;

fn read_whole(image: Vec<u8>) -> Result<Vec<u8>> {
    let archive = Archive::from_source(Arc::new(image), Path::new("m.bs"))?;
    let file = VirtualFile::new(Arc::new(archive), 0, BlockCache::new(1 << 20))?;
    let mut bytes = vec![0; file.len() as usize];
    file.read_exact_at(0, &mut bytes)?;
    Ok(bytes)
}

/// Whether `verify` finds anything; opening may fail, which is a finding too.
fn is_found(image: Vec<u8>) -> bool {
    match Archive::from_source(Arc::new(image), Path::new("m.bs")) {
        Ok(archive) => !verify::verify_image(&archive, None, 1, &Silent).unwrap().ok,
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
