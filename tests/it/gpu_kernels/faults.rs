//! Blocks that are damaged: by chance, or with exactly one fault, which the others of its kind
//! would hide.

use std::sync::Arc;

use bigsmall::base::CodecId;
use bigsmall::codec::SpanTables;
use bigsmall::codec::Transform;
use bigsmall::codec::tables;
use bigsmall::codec::tables::PlaneFreqs;
use bigsmall::entropy::planes::Word;

use crate::gpu_kernels::blocks::elements;
use crate::gpu_kernels::blocks::r16_block;
use crate::gpu_kernels::blocks::r32_block;
use crate::gpu_kernels::cases::Block;
use crate::gpu_kernels::forge::R16Parts;
use crate::gpu_kernels::forge::R32Form;
use crate::gpu_kernels::forge::R32Parts;
use crate::models::Random;

/// Changes a block in one of many ways; `other` is another one, whose parts it may get.
pub(crate) fn damage(random: &mut Random, block: &mut Block, other: &Block) {
    let len = block.coded.len() as u64;
    match random.below(12) {
        0..=2 => {
            for _ in 0..=random.below(3) {
                block.coded[random.below(len) as usize] ^= 1 << random.below(8);
            }
        }
        3 | 4 => block.coded[random.below(len.min(64)) as usize] ^= 1 << random.below(8),
        5 => {
            block.coded[random.below(len.min(330)) as usize] =
                [0, 1, 0x7f, 0xff][random.below(4) as usize];
        }
        6 => block.coded.truncate(random.below(len + 1) as usize),
        7 => {
            let more = random.below(70) as usize;
            block.coded.extend(random.bytes(more));
        }
        8 => {
            let (from, count) = (random.below(len) as usize, random.below(len) as usize);
            for byte in block.coded.iter_mut().skip(from).take(count) {
                *byte = random.next() as u8;
            }
        }
        9 => {
            let step = [1, 2, 4, 64, 128, 1024][random.below(6) as usize];
            let longer = random.below(2) == 0;
            block.out_len = if longer {
                block.out_len + step
            } else {
                block.out_len.saturating_sub(step)
            };
        }
        10 => match random.below(5) {
            0 => block.codec = CodecId(random.below(6) as u8),
            1 => block.version = random.below(4) as u8,
            2 => block.lanes_shift = 5,
            3 => block.tables = None,
            _ => block.tables.clone_from(&other.tables),
        },
        _ => {
            block.codec = other.codec;
            block.version = other.version;
            block.tables.clone_from(&other.tables);
        }
    }
}

/// What is wrong, and how it is made so.
type Fault<T> = (&'static str, fn(&mut T));

fn shorten<T>(items: &mut Vec<T>) {
    items.pop();
}

/// What is wrong with an R16 block, and nothing else is.
const R16_FAULTS: [Fault<R16Parts>; 14] = [
    ("a byte of the stream too many", |parts| {
        parts.stream.push(0);
    }),
    ("a byte of the stream too few", |parts| {
        shorten(&mut parts.stream);
    }),
    ("a literal too many", |parts| parts.lits.push(0)),
    ("a literal too few", |parts| shorten(&mut parts.lits)),
    ("padding", |parts| parts.padding = 1),
    ("a reserved byte", |parts| parts.head[2] = 1),
    ("a flag that is not defined", |parts| {
        parts.head[1] = 2;
        parts.symbols.pop();
    }),
    ("both flags", |parts| parts.head[1] = 3),
    ("more symbols than there may be", |parts| parts.head[0] = 17),
    ("a frequency behind the last symbol", |parts| {
        parts.head[0] -= 1;
        parts.symbols.pop();
    }),
    ("a frequency of 0", |parts| {
        let at = parts.symbols.len();
        parts.head[0] += 1;
        parts.symbols.push(255);
        parts.freqs.insert(at, 0);
    }),
    ("a sum that is not 256", |parts| parts.freqs[0] += 1),
    ("symbols that do not ascend", |parts| {
        parts.symbols.swap(0, 1);
    }),
    ("an element too few in the plane", |parts| {
        shorten(&mut parts.plane);
    }),
];

/// What is wrong with an R32 block of three tables, and nothing else is.
const R32_FAULTS: [Fault<R32Parts>; 11] = [
    ("a word too many", |parts| parts.words.push(0)),
    ("a word too few", |parts| shorten(&mut parts.words)),
    ("a literal too many", |parts| parts.lits.push(0)),
    ("a literal too few", |parts| shorten(&mut parts.lits)),
    ("a table that is not there", |parts| parts.ids[0] |= 3),
    ("bits behind the last id", |parts| parts.ids[0] |= 0xc0),
    ("padding", |parts| parts.padding = 1),
    ("a packed group cut", |parts| shorten(&mut parts.packed)),
    ("four bytes behind the end", |parts| {
        parts.packed.extend([0; 4]);
    }),
    ("bits behind the states", |parts| {
        *parts.states.last_mut().unwrap() |= 0x80;
    }),
    ("another coding", |parts| parts.coding = 3),
];

/// Blocks with one fault each.
pub(crate) fn faulty() -> Vec<(String, Block)> {
    let mut blocks = Vec::new();
    // three strips, so that two bits of the byte of ids are not used; lengths that need padding;
    // with escapes and without
    for (kind, count) in [(1, 1100), (1, 1101), (0, 1103)] {
        let bytes = elements(kind, count);
        let words: &[Word] = bytes.as_chunks().0;
        let r16 = R16Parts::of(words);
        for (name, spoil) in R16_FAULTS {
            let mut parts = r16.clone();
            spoil(&mut parts);
            blocks.push((format!("r16: {name}"), r16_block(&parts, bytes.len())));
        }
        for version in [1, 2] {
            let form = R32Form {
                version,
                bits: 12,
                tables: 3,
                rans: true,
            };
            let (tables, good) = R32Parts::of(words, form);
            let tables = Arc::new(tables);
            for (name, spoil) in R32_FAULTS {
                let mut parts = good.clone();
                spoil(&mut parts);
                blocks.push((
                    format!("r32: {name}"),
                    r32_block(&parts, &tables, bytes.len()),
                ));
            }
            let none = tables::write(Transform::Bf16, &[PlaneFreqs::default()]);
            let none = Arc::new(SpanTables::parse(&none).unwrap());
            blocks.push(("r32: no table".into(), r32_block(&good, &none, bytes.len())));
            let (tables, _) = R32Parts::of(words, form);
            let others = SpanTables {
                codec: CodecId::R32_F16,
                ..tables
            };
            blocks.push((
                "r32: tables of another codec".into(),
                r32_block(&good, &Arc::new(others), bytes.len()),
            ));
            blocks.push(("r32: no elements".into(), r32_block(&good, &none, 0)));
            blocks.extend(
                faulty_plain(version)
                    .into_iter()
                    .map(|(name, block)| (name.to_owned(), block)),
            );
        }
    }
    blocks
}

/// Blocks with a raw or const plane and one fault each.
fn faulty_plain(version: u8) -> Vec<(&'static str, Block)> {
    let form = R32Form {
        version,
        bits: 12,
        tables: 1,
        rans: false,
    };
    let mut blocks = Vec::new();
    for (name, bytes, value) in [
        ("r32: a value of a raw plane", elements(0, 100), 1),
        (
            "r32: a byte of more than 8 bits",
            0x3f80_u16.to_le_bytes().repeat(100),
            256,
        ),
    ] {
        let (tables, mut parts) = R32Parts::of(bytes.as_chunks().0, form);
        parts.value += value;
        blocks.push((name, r32_block(&parts, &Arc::new(tables), bytes.len())));
    }
    let (tables, parts) = R32Parts::of(elements(0, 64).as_chunks().0, form);
    let mut packed = R32Parts {
        symbols: Vec::new(),
        packed: Vec::new(),
        ..parts
    };
    blocks.push((
        "r32: raw and no elements",
        r32_block(&packed, &Arc::new(tables), 0),
    ));
    let (tables, _) = R32Parts::of(elements(0, 64).as_chunks().0, form);
    (packed.coding, packed.value) = (1, 5);
    blocks.push((
        "r32: const and no elements",
        r32_block(&packed, &Arc::new(tables), 0),
    ));
    blocks
}
