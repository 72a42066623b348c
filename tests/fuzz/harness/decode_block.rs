//! `decode_block`: no bytes make it panic, every set of kernels gives the same verdict and the same
//! bytes, and what was encoded comes back.
//!
//! | byte | |
//! |---|---|
//! | 0 | even: any bytes, as follows. Odd: see [`encoded`] |
//! | 1, 2 | codec, version |
//! | 3 | odd: 32 lanes |
//! | 4, 5 | bytes of the block |
//! | 6, 7 | bytes of the tables, which follow; the rest is the coded block |

use bigsmall::base::CodecId;
use bigsmall::base::ErrorKind;
use bigsmall::base::Limits;
use bigsmall::codec::CodedBlock;
use bigsmall::codec::Profile;
use bigsmall::codec::Scratch;
use bigsmall::codec::SpanTables;
use bigsmall::codec::decode_block;
use bigsmall::codec::encode::EncodeScratch;
use bigsmall::codec::encode_span;
use bigsmall::entropy::simd::dispatch;
use bigsmall::tensor::Family;

use super::choices::Choices;
use super::random::Random;

const FAMILIES: [Family; 8] = [
    Family::Bf16,
    Family::F16,
    Family::F32,
    Family::Float8,
    Family::Bytes(1),
    Family::Bytes(2),
    Family::Bytes(4),
    Family::Bytes(8),
];

pub(crate) fn run(data: &[u8]) {
    let mut choices = Choices(data);
    if choices.byte() & 1 == 0 {
        any_bytes(&mut choices);
    } else {
        encoded(&mut choices);
    }
}

struct Block<'a> {
    codec: CodecId,
    version: u8,
    coded: &'a [u8],
    tables: Option<&'a SpanTables>,
    lanes: usize,
    base: &'a [u8],
    len: usize,
}

fn any_bytes(choices: &mut Choices<'_>) {
    let (codec, version) = (CodecId(choices.byte()), choices.byte());
    let lanes = choices.of(&[64, 32]);
    let (len, tables_len) = (choices.u16(), choices.u16());
    let tables = SpanTables::parse(choices.take(usize::from(tables_len))).ok();
    // a delta block's base stands before it
    let base_len = if codec.needs_base() {
        usize::from(len)
    } else {
        0
    };
    let (base, coded) = choices.0.split_at(base_len.min(choices.0.len()));
    decode(&Block {
        codec,
        version,
        coded,
        tables: tables.as_ref(),
        lanes,
        base,
        len: usize::from(len),
    });
}

/// Decodes with every set of kernels that this processor has; `None` if the block is refused.
fn decode(block: &Block<'_>) -> Option<Vec<u8>> {
    let before = dispatch::kernels().name;
    let mut expected = None;
    for (number, set) in dispatch::available().iter().enumerate() {
        assert!(dispatch::choose(set.name));
        let mut out = vec![0xa5; block.len];
        let coded = CodedBlock {
            codec: block.codec,
            version: block.version,
            bytes: block.coded,
            lanes: block.lanes,
            base: block.base,
        };
        let result = decode_block(&coded, block.tables, &mut out, &mut Scratch::default());
        if let Err(error) = &result {
            let kinds = [ErrorKind::Damaged, ErrorKind::Unsupported];
            assert!(kinds.contains(&error.kind()), "{error}");
        }
        let decoded = result.ok().map(|()| out);
        if number == 0 {
            expected = decoded;
        } else {
            let verdicts = (expected.is_some(), decoded.is_some());
            assert!(decoded == expected, "{}: verdicts {verdicts:?}", set.name);
        }
        // the other codecs have no kernels
        if block.codec < CodecId::R16 {
            break;
        }
    }
    dispatch::choose(before);
    expected
}

/// An original of the fuzzer's choice is encoded and comes back; then bytes of the coded block and
/// of its tables are changed as the rest of the input says.
fn encoded(choices: &mut Choices<'_>) {
    let family = choices.of(&FAMILIES);
    let profile = choices.of(&Profile::ALL.map(|(_, profile)| profile));
    let original = original(choices);
    let block_len = 1 << (12 + choices.byte() % 6);
    let blocks: Vec<&[u8]> = original.chunks(block_len).collect();
    let span = encode_span(family, profile, &blocks, &mut EncodeScratch::default());
    let tables = parse(&span.tables);
    let chosen = usize::from(choices.byte()) % blocks.len().max(1);
    let changed_tables = parse(&changed(&span.tables, choices));
    let mut rest = &span.bytes[..];
    for (number, (block, (codec, coded_len))) in blocks.iter().zip(&span.blocks).enumerate() {
        let (coded, after) = rest.split_at(*coded_len as usize);
        rest = after;
        let most = block.len() + Limits::CODED_EXTRA_MAX as usize;
        assert!(coded.len() <= most, "longer than a reader allows");
        let coded = Block {
            codec: *codec,
            version: codec.version(),
            coded,
            tables: tables.as_ref(),
            lanes: 64,
            base: &[],
            len: block.len(),
        };
        let decoded = decode(&coded).expect("what was encoded is well formed");
        assert!(decoded == *block, "block {number} comes back");
        if number == chosen {
            decode(&Block {
                coded: &changed(coded.coded, choices),
                ..coded
            });
            decode(&Block {
                tables: changed_tables.as_ref(),
                ..coded
            });
        }
    }
    assert!(rest.is_empty());
}

fn parse(tables: &[u8]) -> Option<SpanTables> {
    SpanTables::parse(tables).ok()
}

/// Up to 128 KiB. Each byte of an element of eight is constant, a skewed choice from a few, noise,
/// or a counter.
fn original(choices: &mut Choices<'_>) -> Vec<u8> {
    let len = usize::from(choices.u16()) << (choices.byte() & 1);
    let mut random = Random(u64::from(choices.u16()));
    let kinds: Vec<u8> = (0..8).map(|_| choices.byte()).collect();
    let pool_len = choices.byte() & 63;
    let pool = choices.take(usize::from(pool_len) + 1);
    let turn = usize::from(choices.u16()) + 1;
    let mut out = vec![0; len];
    for (at, byte) in out.iter_mut().enumerate() {
        let kind = kinds[at % 8];
        // halves that differ give clusters that differ
        let shift = (at / turn) as u8;
        *byte = match kind & 3 {
            0 => kind,
            1 => {
                let chosen = pool.get(random.skewed(pool.len())).copied();
                chosen.unwrap_or_default().wrapping_add(shift & kind >> 2)
            }
            2 => random.next() as u8,
            _ => (at >> (kind >> 2 & 15)) as u8,
        };
    }
    out
}

/// A copy with up to eight bytes changed.
fn changed(bytes: &[u8], choices: &mut Choices<'_>) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=choices.byte() & 7 {
        let (at, flip) = (usize::from(choices.u16()), choices.byte());
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= flip;
        }
    }
    bytes
}
