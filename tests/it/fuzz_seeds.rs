//! The seeds of the fuzz targets: small, and one for every way through the decoders.

use std::fs;
use std::path::Path;

use bigsmall::base::CodecId;
use bigsmall::base::progress::Silent;
use bigsmall::codec;
use bigsmall::codec::Profile;
use bigsmall::codec::Scratch;
use bigsmall::codec::SpanCoder;
use bigsmall::codec::SpanTables;
use bigsmall::codec::Transform;
use bigsmall::codec::delta;
use bigsmall::codec::delta::DeltaCoder;
use bigsmall::codec::delta::DeltaCounts;
use bigsmall::codec::delta::DeltaScratch;
use bigsmall::codec::encode::EncodeScratch;
use bigsmall::codec::frequency_table::Freqs;
use bigsmall::codec::tables::PlaneFreqs;
use bigsmall::entropy::planes;
use bigsmall::entropy::r32;
use bigsmall::entropy::r32::EncodeTable;
use bigsmall::ops::ProtectOptions;
use bigsmall::ops::compress;
use bigsmall::ops::parity_path;
use bigsmall::ops::protect;
use bigsmall::tensor::Family;

use crate::fuzz_corpus;
use crate::models;
use crate::roundtrip;

/// Writes the seeds that are no former failures anew: `cargo test --test it write_the_seeds --
/// --ignored`.
#[test]
#[ignore = "writes into the sources"]
fn write_the_seeds() {
    write_blocks();
    write_deltas();
    write_tables();
    write_images();
    write_headers();
    write_parity();
}

/// Files with their parity: whole, with a part lost, and with bytes put in.
fn write_parity() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let mut random = models::Random::new(53);
    let whole = models::bf16_weights(&mut random, 1500);
    roundtrip::put(&path, &whole);
    let options = ProtectOptions {
        percent: 20,
        force: false,
        threads: 1,
    };
    protect(std::slice::from_ref(&path), &options, &Silent).unwrap();
    let parity = fs::read(parity_path(&path)).unwrap();
    let mut lost = whole.clone();
    lost[600..900].fill(0);
    let mut longer = whole.clone();
    longer.splice(700..700, [1, 2, 3]);
    let mut spoiled = parity.clone();
    spoiled[300..2000].fill(9);
    for (name, file, parity) in [
        ("whole", &whole, &parity),
        ("lost", &lost, &parity),
        ("longer", &longer, &parity),
        ("both", &lost, &spoiled),
    ] {
        let len = (file.len() as u16).to_le_bytes();
        put("parity", name, &[&len[..], file, parity].concat());
    }
}

fn put(target: &str, name: &str, bytes: &[u8]) {
    let folder = fuzz_corpus::folder(target);
    fs::create_dir_all(&folder).unwrap();
    roundtrip::put(&folder.join(name), bytes);
}

/// A seed for `decode_block` (what its bytes are stands there) of a block that is well formed.
fn block_seed(
    (codec, version): (CodecId, u8),
    lanes: usize,
    len: usize,
    tables: &[u8],
    coded: &[u8],
) -> Vec<u8> {
    let parsed = SpanTables::parse(tables).ok();
    let (out, scratch) = (&mut vec![0; len], &mut Scratch::default());
    let block = codec::CodedBlock {
        codec,
        version,
        bytes: coded,
        lanes,
        base: &[],
    };
    codec::decode_block(&block, parsed.as_ref(), out, scratch).unwrap();
    let mut seed = vec![0, codec.0, version, u8::from(lanes == 32)];
    seed.extend_from_slice(&(len as u16).to_le_bytes());
    seed.extend_from_slice(&(tables.len() as u16).to_le_bytes());
    [&seed, tables, coded].concat()
}

/// Delta blocks, each behind its base and with its tables in front.
fn write_deltas() {
    let mut random = models::Random::new(47);
    for codec in (13..=17).map(CodecId) {
        let base = models::bf16_weights(&mut random, 300);
        let mut block = base.clone();
        for byte in block.iter_mut().step_by(5) {
            *byte ^= 3;
        }
        let (scratch, mut coded) = (&mut DeltaScratch::default(), Vec::new());
        let mut counts = DeltaCounts::default();
        counts.count(codec, &block, &base, scratch);
        let coder = DeltaCoder::new(codec, &counts).unwrap();
        let found = delta::encode_block(Some(&coder), &block, &base, scratch, &mut coded);
        assert_eq!(found, codec);
        put("tables", &format!("delta-{}", codec.0), coder.tables());
        let tables = SpanTables::parse(coder.tables()).ok();
        let (out, scratch) = (&mut vec![0; block.len()], &mut Scratch::default());
        let coded_block = codec::CodedBlock {
            codec,
            version: 1,
            bytes: &coded,
            lanes: 64,
            base: &base,
        };
        codec::decode_block(&coded_block, tables.as_ref(), out, scratch).unwrap();
        let mut seed = vec![0, codec.0, 1, 0];
        seed.extend_from_slice(&(block.len() as u16).to_le_bytes());
        seed.extend_from_slice(&(coder.tables().len() as u16).to_le_bytes());
        let seed = [&seed, coder.tables(), &base, &coded].concat();
        put("decode_block", &format!("delta-{}", codec.0), &seed);
    }
}

fn write_blocks() {
    for (number, (name, transform)) in R32.into_iter().enumerate() {
        let lanes = [64, 32][number % 2];
        let tables = tables_of(transform);
        let len = ELEMENTS * transform.width();
        for version in [1, 2] {
            let coded = r32_block(transform, version, lanes);
            let codec = (transform.codec(), version);
            let seed = block_seed(codec, lanes, len, &tables, &coded);
            put("decode_block", &format!("{name}-{version}"), &seed);
        }
    }
    let mut random = models::Random::new(41);
    let weights = models::bf16_weights(&mut random, 512);
    let scratch = &mut EncodeScratch::default();
    let mut coded = Vec::new();
    let codec =
        SpanCoder::unanalysed(Family::Bf16, 1 << 20).encode(&weights, 0, scratch, &mut coded);
    assert_eq!(codec, CodecId::R16);
    put(
        "decode_block",
        "r16",
        &block_seed((codec, 1), 64, 1024, &[], &coded),
    );
    let frame = zstd::bulk::compress(b"ababababcd", 3).unwrap();
    for (name, codec, len, coded) in [
        ("raw", CodecId::RAW, 2, &[7, 8][..]),
        ("const", CodecId::CONST, 9, &[7, 8]),
        ("zstd", CodecId::ZSTD, 10, &frame),
    ] {
        put(
            "decode_block",
            name,
            &block_seed((codec, 1), 64, len, &[], coded),
        );
    }
    for number in 0..8 {
        // family, profile; length, doubled or not, random seed; kinds of eight bytes; pool; turn;
        // block length
        let seed = [
            &[1, number, number % 3, 0, 0x30, number & 1, number, 1][..],
            &[2, 1, 2, 5, 2, 1, 0x3e, 1, 3, 60, 61, 62, 188],
            &[0xff, 0x1f, 2, 0, 1, 0, 1, 4],
        ];
        put("decode_block", &format!("encoded-{number}"), &seed.concat());
    }
}

/// Two strips, the second with a rest.
const ELEMENTS: usize = 530;

const R32: [(&str, Transform); 7] = [
    ("r32-bf16", Transform::Bf16),
    ("r32-f16", Transform::F16),
    ("r32-f32", Transform::F32),
    ("r32-bytes-1", Transform::Bytes(1)),
    ("r32-bytes-2", Transform::Bytes(2)),
    ("r32-bytes-4", Transform::Bytes(4)),
    ("r32-bytes-8", Transform::Bytes(8)),
];

/// The symbols of table `number`, and how often they come.
fn freqs(number: usize) -> Freqs {
    let mut freqs = [0; 256];
    for (symbol, f) in [3000, 1000, 90, 5, 1].into_iter().enumerate() {
        freqs[symbol * 37 + number] = f;
    }
    freqs
}

fn plane_freqs(count: usize, base: u8) -> PlaneFreqs {
    PlaneFreqs {
        tables: (0..count).map(freqs).collect(),
        base,
    }
}

/// Three tables for every fourth plane.
fn tables_of(transform: Transform) -> Vec<u8> {
    let planes: Vec<_> = (0..transform.plane_count())
        .map(|plane| {
            let is_top = plane == 0 && transform.has_top();
            plane_freqs([3, 0, 0, 0][plane % 4], if is_top { 100 } else { 0 })
        })
        .collect();
    codec::tables::write(transform, &planes)
}

/// A block put together by hand: planes in turn rans, const, raw, const. What an encoder makes of
/// so few elements is R16 or zstd.
fn r32_block(transform: Transform, version: u8, lanes: usize) -> Vec<u8> {
    let count = transform.plane_count();
    let align = if version == 1 { 16 } else { 4 };
    let mut out = vec![0; (8 * count).next_multiple_of(align)];
    for plane in 0..count {
        let (coding, value) = match plane % 4 {
            0 => (2, rans_plane(version, lanes, &mut out)),
            2 => {
                out.extend((0..ELEMENTS).map(|i| i as u8));
                (0, 0)
            }
            _ => (1, 7),
        };
        out.resize(out.len().next_multiple_of(align), 0);
        out[8 * plane] = coding;
        out[8 * plane + 4..][..4].copy_from_slice(&value.to_le_bytes());
    }
    if transform.has_top() {
        // the end is carried by the one plane of rans
        let carried_len = if version == 1 { 0 } else { 2 * lanes };
        out.resize(out.len() + planes::packed_len(ELEMENTS) - carried_len, 0);
    }
    out
}

/// Appends a plane whose strips use tables 2 and 0, and gives the number of its words.
fn rans_plane(version: u8, lanes: usize, out: &mut Vec<u8>) -> u32 {
    let ids = [2, 0];
    let encode: Vec<EncodeTable> = (0..3)
        .map(|table| EncodeTable::new(&freqs(table)))
        .collect();
    let symbols: Vec<u8> = (0..ELEMENTS)
        .map(|i| 37 * (i % 7 % 5) as u8 + ids[i / 512])
        .collect();
    let (carried, coded) = ([0; 2 * r32::LANES_MAX], &mut r32::R32Coded::default());
    let encode_plane = if lanes == 64 {
        r32::encode::<64>
    } else {
        r32::encode::<32>
    };
    assert!(encode_plane(&symbols, &ids, &encode, &carried, coded));
    if version == 1 {
        out.extend(coded.states.iter().flat_map(|state| state.to_le_bytes()));
    } else {
        r32::write_states(&coded.states, out);
    }
    out.extend(coded.words().iter().flat_map(|word| word.to_le_bytes()));
    out.push(ids[0] | ids[1] << 2);
    coded.words().len() as u32
}

fn write_tables() {
    for (name, transform) in R32 {
        put("tables", name, &tables_of(transform));
    }
    let planes = [(5, 0), (0, 0), (16, 0), (3, 0)].map(|(count, base)| plane_freqs(count, base));
    let many = codec::tables::write(Transform::Bytes(4), &planes);
    put("tables", "many", &many);
}

/// Images without what follows from the rest.
fn write_images() {
    let front = |image: &[u8]| {
        let tail = u64::from_le_bytes(*image[72..].first_chunk().unwrap());
        image[..tail as usize].to_vec()
    };
    let folder = tempfile::tempdir().unwrap();
    let mut random = models::Random::new(43);
    let weights = |random: &mut models::Random, dtype: &'static str, width| {
        let data = models::data(random, width, (5 << 10) / width, 3);
        models::Tensor {
            name: dtype.to_lowercase(),
            dtype,
            shape: vec![(data.len() / width) as u64],
            data,
        }
    };
    let tensors =
        [("BF16", 2), ("F8_E4M3", 1)].map(|(name, width)| weights(&mut random, name, width));
    let file = models::file(&tensors, 0, "");
    for (name, profile) in Profile::ALL {
        let image = roundtrip::image_of(folder.path(), &file, profile, 1);
        put("image", name, &front(&image));
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    put(
        "image",
        "opaque",
        &front(&fs::read(golden.join("v1-opaque.bs")).unwrap()),
    );
    let source = folder.path().join("models");
    fs::create_dir_all(source.join("a")).unwrap();
    roundtrip::put(
        &source.join("a/x.safetensors"),
        &models::file(&tensors[..0], 0, "v"),
    );
    roundtrip::put(&source.join("config.json"), b"{}");
    roundtrip::put(&source.join("zeros"), &[0; 1000]);
    let image = folder.path().join("models.bs");
    let options = roundtrip::options(&image, Profile::Balanced, 1);
    compress(&source, &options, &Silent).unwrap();
    put("image", "folder", &front(&fs::read(image).unwrap()));
    // a folder with all kinds of members
    std::os::unix::fs::symlink("a/x.safetensors", source.join("link")).unwrap();
    fs::hard_link(source.join("zeros"), source.join("a/zeros")).unwrap();
    let image = folder.path().join("members.bs");
    let options = roundtrip::options(&image, Profile::Balanced, 1);
    compress(&source, &options, &Silent).unwrap();
    put("image", "members", &front(&fs::read(image).unwrap()));
}

fn write_headers() {
    let one = |dtype: &str, shape: &str, end: u64| {
        format!("{{\"t\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[0,{end}]}}}}")
    };
    for (name, json) in [
        ("bf16", one("BF16", "[2,3]", 12)),
        ("scalar", one("F64", "[]", 8)),
        ("four-bits", one("F4", "[2]", 1)),
        ("empty", one("I64", "[0,7]", 0)),
        ("nothing", "{}".to_owned()),
        (
            "metadata",
            "{\"__metadata__\":{\"k\":\"\\u00e4\\n\"}}".to_owned(),
        ),
        (
            "unordered",
            "{\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[4,5]},\
             \"e\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[4,4]},\
             \"a\":{\"dtype\":\"C64\",\"shape\":[0],\"data_offsets\":[0,0]},\
             \"c\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}"
                .to_owned(),
        ),
    ] {
        put("safetensors_header", name, json.as_bytes());
    }
    let tensor = models::Tensor {
        name: "t".into(),
        dtype: "F8_E5M2",
        shape: vec![3],
        data: vec![1, 2, 3],
    };
    let file = models::file(&[tensor], 2, "v");
    put("safetensors_header", "whole-file", &file);
}
