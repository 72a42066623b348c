//! Chooses the kernels, in one place, among those of the level to use.

use std::sync::LazyLock;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::base::level;
use crate::base::level::Level;
use crate::entropy::planes;
use crate::entropy::r32;
use crate::entropy::r32::R32Plane;
use crate::entropy::simd::kernels::Kernels;
use crate::entropy::simd::scalar;

const SCALAR: Kernels = Kernels {
    level: Level::Scalar,
    name: "scalar",
    r16_decode: scalar::r16_decode,
    r16_decode_two: None,
    r32_decode: scalar::r32_decode,
    r32_encode: r32::encode::<64>,
    context_decode: scalar::context_decode,
    context_decode_two: None,
    merge_top: planes::merge_top,
    split_top: planes::split_top,
    merge_rotated: planes::merge_rotated,
    merge_quads: planes::merge_quads,
};

/// All sets that this processor can run, the definition first and the widest last.
pub fn available() -> Vec<Kernels> {
    #[cfg(target_arch = "x86_64")]
    let faster = [super::avx2::kernels(), super::avx512::kernels()];
    #[cfg(target_arch = "aarch64")]
    let faster = [super::neon::kernels()];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let faster: [Option<[Kernels; 1]>; 0] = [];
    let mut sets = vec![SCALAR];
    sets.extend(faster.into_iter().flatten().flatten());
    sets
}

/// The sets of this processor, and which of them is in use.
struct Choice {
    sets: Vec<Kernels>,
    used: AtomicUsize,
}

static CHOICE: LazyLock<Choice> = LazyLock::new(|| {
    let sets = available();
    let named = sets.iter().position(|set| set.name == level::wanted());
    let used = named.unwrap_or_else(|| {
        let level = level::chosen();
        let first = sets.iter().take_while(|set| set.level != level).count();
        first + fastest(&sets[first..])
    });
    Choice {
        sets,
        used: AtomicUsize::new(used),
    }
});

/// The set in use: the one that `BIGSMALL_SIMD` or [`choose`] names, else one of the widest level.
/// Where that has more than one, they differ in how R32 looks its entries up, and the one that is
/// faster here is used.
pub fn kernels() -> &'static Kernels {
    &CHOICE.sets[CHOICE.used.load(Ordering::Relaxed)]
}

/// What `BIGSMALL_SIMD` names, if this processor has no such set: then it is as if nothing were
/// named.
pub fn unknown_name() -> Option<&'static str> {
    let wanted = level::wanted();
    let is_known = CHOICE.sets.iter().any(|set| set.name == wanted);
    (!is_known && !wanted.is_empty()).then_some(wanted)
}

/// Uses the set of this name from now on, in the whole process; for measuring. False if this
/// processor has none.
pub fn choose(name: &str) -> bool {
    let place = CHOICE.sets.iter().position(|set| set.name == name);
    place
        .inspect(|&place| CHOICE.used.store(place, Ordering::Relaxed))
        .is_some()
}

/// The place of the set that decodes a plane of noise fastest: the least of several runs, some tens
/// of microseconds in all. What it finds changes nothing but the speed.
fn fastest(sets: &[Kernels]) -> usize {
    const RUNS: usize = 6;
    if sets.len() < 2 {
        return 0;
    }
    let (freqs, mut out) = ([16_u16; 256], vec![0; 8 << 10]);
    let tables = [r32::decode_table(&freqs, r32::TABLE_BITS)];
    // any bytes will do: 8 bits a symbol are half a word, and noise never ends before its time
    let bytes: Vec<u8> = (0..12_u32 << 10)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let (states, words) = bytes.split_at(4 * 64);
    let plane = R32Plane {
        states,
        words,
        ids: &[],
        tables: &tables,
        bits: r32::TABLE_BITS,
    };
    let mut least = vec![Duration::MAX; sets.len()];
    for _ in 0..RUNS {
        for (set, least) in sets.iter().zip(&mut least) {
            let begun = Instant::now();
            std::hint::black_box((set.r32_decode)(&plane, &mut out));
            *least = begun.elapsed().min(*least);
        }
    }
    (0..sets.len())
        .min_by_key(|&place| least[place])
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::frequency;
    use crate::entropy::planes::Word;
    use crate::entropy::r16;
    use crate::entropy::r16::R16Block;
    use crate::entropy::r16::R16Coded;
    use crate::entropy::r16::R16Table;
    use crate::entropy::r32::Carried;
    use crate::entropy::r32::EncodeTable;
    use crate::entropy::r32::R32Coded;

    const SIZES: [usize; 15] = [
        0, 1, 31, 32, 63, 64, 65, 127, 511, 512, 513, 4096, 65_535, 65_536, 65_537,
    ];

    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        fn bytes(&mut self, len: usize) -> Vec<u8> {
            (0..len).map(|_| self.next() as u8).collect()
        }

        /// Symbols of a falling distribution over about `spread` values around `centre`; one in
        /// `rare` is any byte.
        fn symbols(&mut self, len: usize, centre: u8, spread: u32, rare: u64) -> Vec<u8> {
            (0..len)
                .map(|_| {
                    let x = self.next();
                    if x.is_multiple_of(rare) {
                        return (x >> 32) as u8;
                    }
                    let step =
                        (x >> 8).trailing_zeros() * spread / 4 + (x >> 40) as u32 % spread.max(1);
                    centre.wrapping_add(step as u8)
                })
                .collect()
        }
    }

    fn words(random: &mut Random, len: usize, spread: u32, rare: u64) -> Vec<Word> {
        let exponents = random.symbols(len, 110, spread, rare);
        let word = |e: u8| (u16::from(e) << 8 | (random.next() & 255) as u16).rotate_right(1);
        exponents
            .into_iter()
            .map(word)
            .map(u16::to_le_bytes)
            .collect()
    }

    /// The tests below go through whatever sets there are: this one holds that none is missing.
    #[test]
    fn every_level_of_the_processor_has_its_sets() {
        let sets = available();
        let mut found: Vec<&str> = sets.iter().map(|set| set.name).collect();
        found.sort_unstable();
        let mut expected: Vec<&str> = level::available().flat_map(Level::ways).copied().collect();
        expected.sort_unstable();
        assert_eq!(found, expected);
        assert!(sets.is_sorted_by_key(|set| set.level));
        for set in &sets {
            assert!(set.level.ways().contains(&set.name), "{}", set.name);
        }
    }

    #[test]
    fn r16_is_the_same_everywhere() {
        let mut random = Random(17);
        for (round, len) in (0..).zip(SIZES.into_iter().cycle().take(60)) {
            if len == 0 {
                continue;
            }
            let spread = [1, 2, 4, 8, 60][round % 5];
            let source = words(&mut random, len, spread, [3, 50, 100_000][round % 3]);
            let table = R16Table::of(&r16::count(&source));
            let mut coded = R16Coded::default();
            let lanes = if round % 7 == 0 {
                r16::encode::<32>(&source, &table, &mut coded);
                32
            } else {
                r16::encode::<64>(&source, &table, &mut coded);
                64
            };
            let plane: Vec<u8> = source
                .iter()
                .map(|w| u16::from_le_bytes(*w).rotate_left(1) as u8)
                .collect();
            assert_eq!(coded.states.len(), 2 * lanes);
            let block = R16Block {
                table: &table,
                states: &coded.states,
                stream: &coded.stream,
                lits: &coded.lits,
                plane: &plane,
            };
            for set in available() {
                let mut out = vec![[0; 2]; len];
                assert!(
                    (set.r16_decode)(&block, &mut out),
                    "{}, {len} elements",
                    set.name
                );
                assert!(out == source, "{}, {len} elements", set.name);
            }
        }
    }

    #[test]
    fn two_r16_blocks_at_once_are_as_one_by_one() {
        let mut random = Random(37);
        for round in 0..120 {
            let lens = [0, 1].map(|_| SIZES[1 + random.next() as usize % 14]);
            let model = words(&mut random, 3000, 1 + round % 9, 40);
            let table = R16Table::of(&r16::count(&model));
            let is_noise = round % 3 == 0;
            let parts = lens.map(|len| {
                if is_noise {
                    return [128, len, 200, len].map(|len| random.bytes(len));
                }
                let source = &model.repeat(len / model.len() + 1)[..len];
                let mut coded = R16Coded::default();
                r16::encode::<64>(source, &table, &mut coded);
                let low = |w: &Word| u16::from_le_bytes(*w).rotate_left(1) as u8;
                let plane = source.iter().map(low).collect();
                [coded.states, coded.stream, coded.lits, plane]
            });
            let [a, b] = parts
                .each_ref()
                .map(|[states, stream, lits, plane]| R16Block {
                    table: &table,
                    states,
                    stream,
                    lits,
                    plane,
                });
            let mut expected = lens.map(|len| vec![[0; 2]; len]);
            let [expected_a, expected_b] = &mut expected;
            let verdicts = [
                scalar::r16_decode(&a, expected_a),
                scalar::r16_decode(&b, expected_b),
            ];
            assert_eq!(verdicts == [true; 2], !is_noise);
            for set in available() {
                let Some(two) = set.r16_decode_two else {
                    continue;
                };
                let mut outs = lens.map(|len| vec![[0; 2]; len]);
                let [out_a, out_b] = &mut outs;
                assert_eq!(two([&a, &b], [out_a, out_b]), verdicts, "{}", set.name);
                assert!(is_noise || outs == expected, "{}", set.name);
            }
        }
    }

    #[test]
    fn r16_of_any_bytes_is_the_same_everywhere() {
        let mut random = Random(19);
        for round in 0..400 {
            let len = SIZES[1 + random.next() as usize % 11];
            let model = words(&mut random, 3000, 1 + round % 9, 40);
            let table = R16Table::of(&r16::count(&model));
            let stream_len = random.next() as usize % (len + 100);
            let lits_len = random.next() as usize % 300;
            let parts = [128, stream_len, lits_len, len].map(|len| random.bytes(len));
            let [states, stream, lits, plane] = &parts;
            let block = R16Block {
                table: &table,
                states,
                stream,
                lits,
                plane,
            };
            let mut expected = vec![[0; 2]; len];
            let verdict = scalar::r16_decode(&block, &mut expected);
            for set in available() {
                let mut out = vec![[0; 2]; len];
                assert_eq!((set.r16_decode)(&block, &mut out), verdict, "{}", set.name);
            }
        }
    }

    /// A plane coded by the definition; every set must make the same of it.
    fn coded_everywhere(
        lanes: usize,
        source: &[u8],
        ids: &[u8],
        tables: &[EncodeTable],
        carried: &Carried,
    ) -> R32Coded {
        let mut coded = R32Coded::default();
        if lanes == 32 {
            assert!(r32::encode::<32>(source, ids, tables, carried, &mut coded));
            return coded;
        }
        assert!(r32::encode::<64>(source, ids, tables, carried, &mut coded));
        for set in available() {
            let mut same = R32Coded::default();
            assert!((set.r32_encode)(source, ids, tables, carried, &mut same));
            let equal = (same.words(), &same.states) == (coded.words(), &coded.states);
            assert!(equal, "{}, {} elements", set.name, source.len());
        }
        coded
    }

    #[test]
    fn r32_is_the_same_everywhere() {
        let mut random = Random(23);
        for (round, len) in (0..).zip(SIZES.into_iter().cycle().take(75)) {
            let count = [1, 3, 4, 8, 16][round % 5];
            let source = random.symbols(len, 40, [1, 9, 40][round % 3], 30);
            let mut counts = [1; 256];
            for &s in &source {
                counts[usize::from(s)] += 900;
            }
            let freqs: Vec<_> = (0..count)
                .map(|table| {
                    counts[(table * 37) % 256] += 5000;
                    frequency::normalise(&counts, r32::TABLE_BITS)
                })
                .collect();
            let encode: Vec<EncodeTable> = freqs.iter().map(EncodeTable::new).collect();
            let decode: Vec<_> = freqs
                .iter()
                .map(|f| r32::decode_table(f, r32::TABLE_BITS))
                .collect();
            let ids: Vec<u8> = (0..len.div_ceil(512))
                .map(|_| (random.next() % count as u64) as u8)
                .collect();
            let lanes = if round % 7 == 0 { 32 } else { 64 };
            let mut carried = [0; 128];
            carried[..2 * lanes].copy_from_slice(&random.bytes(2 * lanes));
            let coded = coded_everywhere(lanes, &source, &ids, &encode, &carried);
            let mut states = Vec::new();
            r32::write_states(&coded.states, &mut states);
            let written = states.len();
            let (states, written_len) = r32::read_states(&states, lanes).unwrap();
            assert_eq!(written_len, written);
            let states = &states[..4 * lanes];
            let words: Vec<u8> = coded.words().iter().flat_map(|w| w.to_le_bytes()).collect();
            let bits = r32::id_bits(count);
            let pack = |group: &[u8]| group.iter().rev().fold(0, |byte, id| byte << bits | id);
            let per_byte = 8_usize.checked_div(bits);
            let packed: Vec<u8> = per_byte
                .map(|per_byte| ids.chunks(per_byte).map(pack).collect())
                .unwrap_or_default();
            let plane = R32Plane {
                states,
                words: &words,
                ids: &packed,
                tables: &decode,
                bits: 12,
            };
            for set in available() {
                let mut out = vec![0; len];
                assert_eq!(
                    (set.r32_decode)(&plane, &mut out),
                    Some(carried),
                    "{}, {len} elements",
                    set.name
                );
                assert!(out == source, "{}, {len} elements", set.name);
            }
        }
    }

    #[test]
    fn a_symbol_without_a_frequency_is_noticed_everywhere() {
        let mut counts = [0; 256];
        counts[7..9].fill(100);
        let tables = [EncodeTable::new(&frequency::normalise(&counts, 12))];
        let carried = [0; 128];
        for at in [0, 63, 64, 511, 599] {
            let mut source = vec![8; 600];
            source[at] = 9;
            for set in available() {
                let mut coded = R32Coded::default();
                let held = (set.r32_encode)(&source, &[0, 0], &tables, &carried, &mut coded);
                assert!(!held, "{}, at {at}", set.name);
            }
        }
    }

    #[test]
    fn r32_of_any_bytes_is_the_same_everywhere() {
        let mut random = Random(29);
        for round in 0..300 {
            let len = SIZES[random.next() as usize % 12];
            let bits = 8 + round % 5;
            let mut counts = [0; 256];
            for _ in 0..2 + random.next() % 120 {
                counts[(random.next() & 255) as usize] += random.next() % 1000 + 1;
            }
            let tables = vec![r32::decode_table(&frequency::normalise(&counts, bits), bits); 3];
            let words_len = 2 * (random.next() as usize % (len + 40));
            let parts = [256, words_len, len / 2048 + 1].map(|len| random.bytes(len));
            let [states, words, ids] = &parts;
            let plane = R32Plane {
                states,
                words,
                ids,
                tables: &tables,
                bits,
            };
            let mut expected = vec![0; len];
            let verdict = scalar::r32_decode(&plane, &mut expected);
            for set in available() {
                let mut out = vec![0; len];
                assert_eq!((set.r32_decode)(&plane, &mut out), verdict, "{}", set.name);
            }
        }
    }

    #[test]
    fn bytes_are_joined_alike_everywhere() {
        let mut random = Random(41);
        for len in SIZES {
            let upper: Vec<Word> = random.bytes(2 * len).as_chunks().0.to_vec();
            let (one, zero) = (random.bytes(len), random.bytes(len));
            let joined = |set: &Kernels| {
                let (mut words, mut quads) = (vec![[0; 2]; len], vec![[0; 4]; len]);
                (set.merge_rotated)(&one, &zero, &mut words);
                (set.merge_quads)(&upper, &one, &zero, &mut quads);
                (words, quads)
            };
            let expected = joined(&SCALAR);
            let as_defined = |at: usize| [zero[at], one[at], upper[at][0], upper[at][1]];
            assert!(
                expected
                    .1
                    .iter()
                    .enumerate()
                    .all(|(at, quad)| *quad == as_defined(at))
            );
            for set in available() {
                assert!(joined(&set) == expected, "{}, {len} elements", set.name);
            }
        }
    }

    #[test]
    fn planes_are_the_same_everywhere() {
        let mut random = Random(31);
        for (round, len) in (0..).zip(SIZES.into_iter().cycle().take(45)) {
            let source: Vec<Word> = if round % 2 == 0 {
                random.bytes(2 * len).as_chunks().0.to_vec()
            } else {
                words(&mut random, len, 8, 90)
            };
            let base = [0, 70, 193][round % 3];
            let split = |set: &Kernels| {
                let mut symbols = vec![0; len];
                let (mut lits, mut packed) = (Vec::new(), Vec::new());
                (set.split_top)(&source, base, &mut symbols, &mut lits, &mut packed);
                (symbols, lits, packed)
            };
            let expected = split(&SCALAR);
            for set in available() {
                let (symbols, lits, packed) = split(&set);
                assert!((&symbols, &lits, &packed) == (&expected.0, &expected.1, &expected.2));
                let mut back = vec![[0; 2]; len];
                let used = (set.merge_top)(&symbols, base, &lits, &packed, &mut back);
                assert_eq!(used, Some(lits.len()));
                assert!(back == source, "{}", set.name);
            }
        }
    }
}
