//! Tables of a span, from any bytes: refused, or tables that decode alike with every set of kernels
//! and hold what was encoded with them. What was read can be written, and reads the same.

use bigsmall::base::ErrorKind;
use bigsmall::codec::SpanTables;
use bigsmall::codec::Transform;
use bigsmall::codec::frequency_table::Freqs;
use bigsmall::codec::tables;
use bigsmall::codec::tables::PlaneFreqs;
use bigsmall::codec::tables::PlaneTables;
use bigsmall::entropy::cluster::STRIP_LEN;
use bigsmall::entropy::r32;
use bigsmall::entropy::r32::Carried;
use bigsmall::entropy::r32::DecodeTable;
use bigsmall::entropy::r32::EncodeTable;
use bigsmall::entropy::r32::R32Coded;
use bigsmall::entropy::r32::R32Plane;
use bigsmall::entropy::simd::dispatch;

use super::random::Random;

pub(crate) fn run(data: &[u8]) {
    let tables = match SpanTables::parse(data) {
        Ok(tables) => tables,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Damaged);
            return;
        }
    };
    // those of a delta have no planes; `decode_block` decodes with them
    if tables.delta.is_some() {
        assert!(tables.planes.is_empty());
        return;
    }
    let mut random = Random(data.iter().fold(7, |seed, &byte| {
        seed.wrapping_mul(31).wrapping_add(u64::from(byte))
    }));
    for plane in tables
        .planes
        .iter()
        .filter(|plane| !plane.tables.is_empty())
    {
        any_words(plane, &mut random);
        symbols_come_back(plane, &mut random);
    }
    written_tables_are_the_same(&tables);
}

/// The frequencies of a table, scaled to the sum with which this build encodes.
fn freqs(table: &DecodeTable, bits: u32) -> Freqs {
    let mut freqs = [0; 256];
    for entry in &table[..1 << bits] {
        freqs[(entry & 255) as usize] += 1_u16 << (r32::TABLE_BITS - bits);
    }
    freqs
}

/// Decodes with every set of kernels: the symbols and what the lanes carried; `None` if the plane
/// is refused.
fn decode(plane: &R32Plane<'_>, len: usize) -> Option<(Vec<u8>, Carried)> {
    let decoded = dispatch::available().into_iter().map(|set| {
        let mut out = vec![0; len];
        let carried = (set.r32_decode)(plane, &mut out);
        (set.name, carried.map(|carried| (out, carried)))
    });
    let decoded: Vec<_> = decoded.collect();
    for (name, other) in &decoded {
        assert!(*other == decoded[0].1, "{name} differs");
    }
    decoded.into_iter().next().and_then(|(_, out)| out)
}

fn any_words(plane: &PlaneTables, random: &mut Random) {
    let lanes = [32, 64][random.skewed(2)];
    let len = random.skewed(3000);
    let words_len = 2 * random.skewed(len + 50);
    let mut bytes = |len: usize| -> Vec<u8> { (0..len).map(|_| random.next() as u8).collect() };
    let parts = [4 * lanes, words_len, len / 1024 + 1].map(&mut bytes);
    let [states, words, ids] = &parts;
    decode(
        &R32Plane {
            states,
            words,
            ids,
            tables: &plane.tables,
            bits: plane.bits,
        },
        len,
    );
}

fn symbols_come_back(plane: &PlaneTables, random: &mut Random) {
    let freqs: Vec<Freqs> = plane.tables.iter().map(|t| freqs(t, plane.bits)).collect();
    let encode: Vec<EncodeTable> = freqs.iter().map(EncodeTable::new).collect();
    let decode_tables: Vec<DecodeTable> = freqs
        .iter()
        .map(|f| r32::decode_table(f, r32::TABLE_BITS))
        .collect();
    let len = 1 + random.skewed(STRIP_LEN * (freqs.len() + 2));
    let strips = len.div_ceil(STRIP_LEN);
    let ids: Vec<u8> = (0..strips)
        .map(|_| random.skewed(freqs.len()) as u8)
        .collect();
    let slots = 1 << plane.bits;
    let present: Vec<Vec<u8>> = freqs
        .iter()
        .map(|f| (0..=255).filter(|&s| f[usize::from(s)] > 0).collect())
        .collect();
    let symbols: Vec<u8> = (0..len)
        .map(|at| {
            let table = usize::from(ids[at / STRIP_LEN]);
            let random = random.next() as usize;
            // as often as the table says, and rare ones more often
            let expected = plane.tables[table][random % slots] as u8;
            [expected, present[table][random % present[table].len()]][at % 2]
        })
        .collect();
    let carried = std::array::from_fn(|_| random.next() as u8);
    let coded = encode_alike(&symbols, &ids, &encode, &carried);
    let bits = r32::id_bits(freqs.len());
    let pack = |group: &[u8]| group.iter().rev().fold(0, |byte, id| byte << bits | id);
    let packed: Vec<u8> = match 8_usize.checked_div(bits) {
        Some(per_byte) => ids.chunks(per_byte).map(pack).collect(),
        None => Vec::new(),
    };
    assert_eq!(packed.len(), r32::ids_len(len, freqs.len()));
    let mut written = Vec::new();
    r32::write_states(&coded.states, &mut written);
    let (states, _) = r32::read_states(&written, 64).expect("written states are whole");
    let words: Vec<u8> = coded.words().iter().flat_map(|w| w.to_le_bytes()).collect();
    let coded = R32Plane {
        states: &states,
        words: &words,
        ids: &packed,
        tables: &decode_tables,
        bits: r32::TABLE_BITS,
    };
    assert!(coded.ids_end_with_zeros(len));
    assert!(decode(&coded, len) == Some((symbols, carried)));
}

/// Encodes with every set of kernels, which must make the same of it.
fn encode_alike(symbols: &[u8], ids: &[u8], tables: &[EncodeTable], carried: &Carried) -> R32Coded {
    let mut coded = R32Coded::default();
    assert!(r32::encode::<64>(symbols, ids, tables, carried, &mut coded));
    for set in dispatch::available() {
        let mut same = R32Coded::default();
        assert!((set.r32_encode)(symbols, ids, tables, carried, &mut same));
        let equal = (same.words(), &same.states) == (coded.words(), &coded.states);
        assert!(equal, "{} encodes something else", set.name);
    }
    coded
}

fn written_tables_are_the_same(tables: &SpanTables) {
    let transform = Transform::of_codec(tables.codec).expect("tables of an R32 codec");
    let planes: Vec<PlaneFreqs> = tables
        .planes
        .iter()
        .map(|plane| PlaneFreqs {
            tables: plane.tables.iter().map(|t| freqs(t, plane.bits)).collect(),
            base: plane.base,
        })
        .collect();
    let written = tables::write(transform, &planes);
    let again = SpanTables::parse(&written).expect("written tables are well formed");
    assert_eq!(again.codec, tables.codec);
    assert_eq!(again.planes.len(), planes.len());
    for (again, plane) in again.planes.iter().zip(&planes) {
        assert_eq!(again.base, plane.base);
        let same = again.tables.iter().map(|t| freqs(t, again.bits));
        assert!(same.eq(plane.tables.iter().copied()));
    }
}
