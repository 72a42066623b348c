//! The CUDA kernels in `src/gpu/kernels`, run on the CPU by the shim in `tests/gpu`: they give the
//! bytes and the verdicts that the library gives, and read and write nothing outside a block. What
//! a test feeds them stays as a case file in `target/tmp/gpu`, for a run on a GPU.

mod blocks;
mod cases;
mod faults;
mod forge;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bigsmall::archive::Archive;
use bigsmall::archive::ReadScratch;
use bigsmall::base::CodecId;
use bigsmall::codec::Profile;
use bigsmall::tensor::Family;

use crate::gpu_kernels::blocks::KINDS;
use crate::gpu_kernels::blocks::elements;
use crate::gpu_kernels::blocks::encoded;
use crate::gpu_kernels::blocks::forged;
use crate::gpu_kernels::cases::Block;
use crate::gpu_kernels::cases::Cases;
use crate::gpu_kernels::cases::DAMAGED;
use crate::gpu_kernels::cases::WELL_FORMED;
use crate::gpu_kernels::cases::emulator;
use crate::gpu_kernels::cases::folder;
use crate::gpu_kernels::faults::damage;
use crate::gpu_kernels::faults::faulty;
use crate::models::Random;
use crate::roundtrip::image_of;

#[test]
#[ignore = "needs a C++ compiler: scripts/test runs it"]
fn kernels_decode_what_the_encoder_writes() {
    let mut cases = Cases::default();
    let mut codecs = [0; 256];
    for kind in 0..KINDS {
        for count in [1, 63, 64, 65, 2047, 32_768, 65_535, 65_536 + 32_767] {
            let bytes = elements(kind, count);
            for profile in [Profile::Inference, Profile::Balanced] {
                for (block, original) in encoded(&bytes, profile, 1 << 17) {
                    codecs[usize::from(block.codec.0)] += 1;
                    if block.is_for_kernels() {
                        cases.add_good(&block, &original);
                    } else {
                        cases.add(&block);
                    }
                }
            }
        }
    }
    let zeros = vec![0; 1 << 17];
    for (block, original) in encoded(&zeros, Profile::Balanced, 1 << 17) {
        codecs[usize::from(block.codec.0)] += 1;
        cases.add_good(&block, &original);
    }
    for codec in [
        CodecId::RAW,
        CodecId::CONST,
        CodecId::R16,
        CodecId::R32_BF16,
    ] {
        assert!(
            codecs[usize::from(codec.0)] > 0,
            "no block of codec {}",
            codec.0
        );
    }
    cases.run("encoded.cases");
}

#[test]
#[ignore = "needs a C++ compiler: scripts/test runs it"]
fn kernels_decode_blocks_of_any_length_and_form() {
    let mut cases = Cases::default();
    for kind in 0..KINDS {
        for count in [
            1, 2, 63, 64, 65, 127, 128, 129, 191, 192, 193, 511, 512, 513, 1025, 8200,
        ] {
            let bytes = elements(kind, count);
            for block in forged(&bytes) {
                cases.add_good(&block, &bytes);
            }
        }
    }
    // a plane whose symbols are all the same, and one whose symbols are all escapes
    for word in [0x3f80_u16, 0xff80] {
        for count in [1, 65, 700] {
            let bytes: Vec<u8> = (0..count)
                .flat_map(|i| (word | (i % 32)).to_le_bytes())
                .collect();
            for block in forged(&bytes) {
                cases.add_good(&block, &bytes);
            }
        }
    }
    cases.run("forged.cases");
}

/// All bf16 tensors of an image.
fn add_image(cases: &mut Cases, image: &[u8]) {
    let archive = Archive::from_source(Arc::new(image.to_vec()), Path::new("m.bs")).unwrap();
    let index = archive.index();
    for span in index
        .spans
        .iter()
        .filter(|span| span.span.family() == Family::Bf16)
    {
        let tables = archive.read_tables(span).unwrap().map(Arc::new);
        for (number, record) in (0..).zip(&index.blocks[span.blocks.clone()]) {
            let range = span.block_range(number);
            let mut original = vec![0; (range.end - range.start) as usize];
            archive
                .decode_block(
                    span,
                    number,
                    tables.as_deref(),
                    &mut original,
                    &mut ReadScratch::default(),
                )
                .unwrap();
            let block = Block {
                codec: record.codec,
                version: record.codec_version,
                lanes_shift: span.lanes_shift,
                coded: image[record.offset as usize..][..record.coded_len as usize].to_vec(),
                out_len: original.len(),
                tables: tables.clone(),
            };
            if block.is_for_kernels() {
                cases.add_good(&block, &original);
            }
        }
    }
}

#[test]
#[ignore = "needs a C++ compiler: scripts/test runs it"]
fn kernels_decode_a_model() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let model = fs::read(root.join("tests/data/mini-llama/model.safetensors")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (name, profile) in Profile::ALL {
        let mut cases = Cases::default();
        add_image(&mut cases, &image_of(folder.path(), &model, profile, 2));
        assert!(
            cases.out.len() * 20 > model.len() * 19,
            "{name}: blocks are missing"
        );
        cases.run(&format!("mini-llama-{name}.cases"));
    }
}

#[test]
#[ignore = "needs a C++ compiler: scripts/test runs it"]
fn kernels_decode_golden_images() {
    let mut cases = Cases::default();
    for name in ["v1-balanced.bs", "v1-inference.bs", "v1-storage.bs"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(name);
        add_image(&mut cases, &fs::read(path).unwrap());
    }
    assert!(!cases.status.is_empty());
    cases.run("golden.cases");
}

#[test]
#[ignore = "needs a C++ compiler: scripts/test runs it"]
fn kernels_judge_damaged_blocks_as_the_library_does() {
    let mut pool = Vec::new();
    for (kind, count) in [(0, 700), (1, 130), (2, 600), (4, 65), (6, 1100), (1, 3)] {
        pool.extend(forged(&elements(kind, count)));
    }
    for profile in [Profile::Inference, Profile::Balanced] {
        pool.extend(
            encoded(&elements(1, 5000), profile, 1 << 17)
                .into_iter()
                .map(|(block, _)| block),
        );
    }
    pool.push(Block::new(
        CodecId::CONST,
        vec![1, 2, 3, 4, 5, 6, 7, 8],
        1003,
        None,
    ));
    pool.push(Block::new(
        CodecId::RAW,
        Random::new(1).bytes(999),
        999,
        None,
    ));
    let mut cases = Cases::default();
    let mut random = Random::new(17);
    let mut verdicts = [0; 3];
    for _ in 0..2500 {
        let mut block = pool[random.below(pool.len() as u64) as usize].clone();
        let other = &pool[random.below(pool.len() as u64) as usize];
        damage(&mut random, &mut block, other);
        if random.below(4) == 0 && !block.coded.is_empty() {
            damage(&mut random, &mut block, other);
        }
        verdicts[cases.add(&block) as usize] += 1;
    }
    // some damage is not to be seen before the checksum is compared
    assert!(verdicts.iter().all(|&count| count > 50), "{verdicts:?}");
    cases.run("damaged.cases");
}

#[test]
#[ignore = "needs a C++ compiler: scripts/test runs it"]
fn kernels_find_the_only_thing_that_is_wrong() {
    let mut cases = Cases::default();
    let mut found = BTreeMap::new();
    for (name, block) in faulty() {
        *found.entry(name).or_insert(false) |= cases.add(&block) == DAMAGED;
    }
    // unused bits and padding can only be wrong where there are some, which is not so in every
    // block
    assert!(found.values().all(|found| *found), "{found:?}");
    cases.run("faulty.cases");
}

#[test]
#[ignore = "needs a C++ compiler: scripts/test runs it"]
fn the_emulator_tells_a_wrong_byte_and_a_wrong_verdict() {
    let emulator = emulator();
    let bytes = elements(0, 700);
    for block in forged(&bytes).iter().step_by(3) {
        let mut wrong = bytes.clone();
        wrong[699] ^= 1;
        for (status, out, message) in [
            (WELL_FORMED, &wrong, "wrong bytes"),
            (DAMAGED, &bytes, "status 0, not 1"),
        ] {
            let mut cases = Cases::default();
            cases.add_with(block, status, out);
            let output = Command::new(emulator)
                .arg(cases.write("wrong.cases"))
                .output()
                .unwrap();
            assert!(!output.status.success());
            assert!(String::from_utf8_lossy(&output.stderr).contains(message));
        }
    }
    fs::remove_file(folder().join("wrong.cases")).unwrap();
}
