//! Delta blocks: a float tensor as its differences from a base of the same dtype and length
//! (docs/format.md, section 9).

use crate::base::ByteReader;
use crate::base::CodecId;
use crate::base::Result;
use crate::codec::frequency_table;
use crate::codec::frequency_table::Freqs;
use crate::codec::simple;
use crate::entropy::context;
use crate::entropy::context::ContextBlock;
use crate::entropy::context::ContextChoice;
use crate::entropy::context::ContextCoded;
use crate::entropy::context::ContextEncodeTable;
use crate::entropy::context::ContextTables;
use crate::entropy::difference;
use crate::entropy::difference::CONTEXTS;
use crate::entropy::difference::FloatLayout;
use crate::entropy::frequency;
use crate::entropy::r32;
use crate::entropy::simd::dispatch;

/// log2 of the sum of a table's frequencies in what this build writes.
const TABLE_BITS: u32 = 11;

/// The codec for differences of a dtype; none if it is no float that has one.
pub fn codec_of(dtype: &str) -> Option<CodecId> {
    Some(match dtype {
        "BF16" => CodecId::DELTA_BF16,
        "F16" => CodecId::DELTA_F16,
        "F32" | "C64" => CodecId::DELTA_F32,
        "F8_E4M3" | "F8_E4M3FNUZ" => CodecId::DELTA_F8_E4M3,
        "F8_E5M2" | "F8_E5M2FNUZ" => CodecId::DELTA_F8_E5M2,
        _ => return None,
    })
}

/// The layout of the floats of a delta codec.
pub(crate) fn layout_of(codec: CodecId) -> Option<FloatLayout> {
    Some(match codec {
        CodecId::DELTA_BF16 => FloatLayout::BF16,
        CodecId::DELTA_F16 => FloatLayout::F16,
        CodecId::DELTA_F32 => FloatLayout::F32,
        CodecId::DELTA_F8_E4M3 => FloatLayout::F8_E4M3,
        CodecId::DELTA_F8_E5M2 => FloatLayout::F8_E5M2,
        _ => return None,
    })
}

/// The table of each context.
type TableOf = [u8; CONTEXTS];

/// The tables of a span, ready to decode.
#[derive(Debug)]
pub struct DeltaTables(ContextTables);

impl DeltaTables {
    /// Reads what follows the codec.
    pub(super) fn read(layout: FloatLayout, reader: &mut ByteReader<'_>) -> Result<Self> {
        let (count, bits, highest) = (reader.u8()?, reader.u8()?, reader.u8()?);
        let count_fits = (1..=context::TABLES_MAX).contains(&usize::from(count));
        if !count_fits || !(8..=12).contains(&bits) {
            return Err(frequency_table::wrong(&format!(
                "{count} tables of {bits} bits"
            )));
        }
        let mut table_of = [0; CONTEXTS];
        for (pair, byte) in table_of
            .as_chunks_mut::<2>()
            .0
            .iter_mut()
            .zip(reader.take(CONTEXTS / 2)?)
        {
            *pair = [byte & 15, byte >> 4];
        }
        if table_of.iter().any(|&table| table >= count) {
            return Err(frequency_table::wrong("a context without a table"));
        }
        let freqs: Vec<Freqs> = (0..count)
            .map(|_| frequency_table::read(reader, u32::from(bits)))
            .collect::<Result<_>>()?;
        let choice = ContextChoice {
            layout,
            highest,
            table_of,
        };
        let tables = ContextTables::new(&freqs, u32::from(bits), choice);
        Ok(Self(tables))
    }

    /// Bytes of memory that they take.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.0.memory_bytes()
    }
}

/// Buffers that a thread keeps from block to block.
#[derive(Debug, Default)]
pub struct DeltaScratch {
    contexts: Vec<u8>,
    differences: Vec<u32>,
    coded: ContextCoded,
}

impl DeltaScratch {
    /// Finds the table of each element.
    fn look(&mut self, layout: FloatLayout, highest: u8, table_of: &TableOf, base: &[u8]) {
        layout.exponents(base, &mut self.contexts);
        difference::contexts(&mut self.contexts, highest);
        for context in &mut self.contexts {
            *context = table_of[usize::from(*context & 15)];
        }
    }
}

/// Decodes a block against its base; false if it is not well formed, or the base not as long.
pub(crate) fn decode(
    codec: CodecId,
    coded: &[u8],
    tables: Option<&DeltaTables>,
    base: &[u8],
    out: &mut [u8],
) -> bool {
    Parts::parse(codec, coded, tables, base)
        .is_some_and(|parts| (dispatch::kernels().context_decode)(&parts.block(), out))
}

/// Decodes two blocks of one span at once, where the kernels can: codec, coded bytes and base of
/// each.
pub(crate) fn decode_two(
    blocks: [(CodecId, &[u8], &[u8]); 2],
    tables: Option<&DeltaTables>,
    outs: [&mut [u8]; 2],
) -> [bool; 2] {
    let parts = blocks.map(|(codec, coded, base)| Parts::parse(codec, coded, tables, base));
    if let (Some(two), [Some(a), Some(b)]) = (dispatch::kernels().context_decode_two, &parts) {
        return two([&a.block(), &b.block()], outs);
    }
    let [a, b] = blocks;
    let [out_a, out_b] = outs;
    [(a, out_a), (b, out_b)]
        .map(|((codec, coded, base), out)| decode(codec, coded, tables, base, out))
}

/// The parts of a coded block.
struct Parts<'a> {
    states: [u8; 4 * context::LANES],
    words: &'a [u8],
    base: &'a [u8],
    tables: &'a ContextTables,
}

impl<'a> Parts<'a> {
    fn parse(
        codec: CodecId,
        coded: &'a [u8],
        tables: Option<&'a DeltaTables>,
        base: &'a [u8],
    ) -> Option<Self> {
        let DeltaTables(tables) = tables?;
        if layout_of(codec) != Some(tables.choice().layout) {
            return None;
        }
        let mut reader = ByteReader::new(coded, "block");
        let words_len = (reader.u32().ok()? as usize).checked_mul(2)?;
        let (states, states_len) = r32::read_states(reader.rest(), context::LANES)?;
        reader.take(states_len).ok()?;
        let words = reader.rest();
        (words.len() == words_len).then_some(Self {
            states,
            words,
            base,
            tables,
        })
    }

    fn block(&self) -> ContextBlock<'_> {
        ContextBlock {
            states: &self.states,
            words: self.words,
            base: self.base,
            tables: self.tables,
        }
    }
}

/// How often each symbol occurs.
pub(super) type Counts256 = [u64; 256];

/// Exponents that a base may have.
const EXPONENTS: usize = 256;
/// About how many bytes the head and the states of a block take beyond what they hold of the
/// differences.
const STATES_LEN: u64 = 160;

/// How often each symbol occurs below each exponent of the base, in blocks that need tables.
#[derive(Debug, Clone, Default)]
pub struct DeltaCounts {
    /// Of each exponent, from 0 on; those that do not occur have none.
    by_exponent: Vec<Option<Box<Counts256>>>,
    blocks: u64,
}

impl DeltaCounts {
    /// Counts the differences of a block of this codec, unless it is coded without tables.
    pub fn count(&mut self, codec: CodecId, block: &[u8], base: &[u8], scratch: &mut DeltaScratch) {
        let Some(layout) = layout_of(codec) else {
            return;
        };
        if block == base || simple::pattern(block).is_some() {
            return;
        }
        self.blocks += 1;
        self.by_exponent.resize(EXPONENTS, None);
        layout.exponents(base, &mut scratch.contexts);
        layout.differences(block, base, &mut scratch.differences);
        for (&exponent, &z) in scratch.contexts.iter().zip(&scratch.differences) {
            let (symbol, _) = difference::bucket(z);
            let counts = &mut self.by_exponent[usize::from(exponent)];
            counts.get_or_insert_with(|| Box::new([0; 256]))[usize::from(symbol)] += 1;
        }
    }

    /// Adds other counts.
    pub fn add(&mut self, other: Self) {
        self.blocks += other.blocks;
        if self.by_exponent.is_empty() {
            self.by_exponent = other.by_exponent;
            return;
        }
        for (counts, more) in self.by_exponent.iter_mut().zip(other.by_exponent) {
            match (counts, more) {
                (Some(counts), Some(more)) => {
                    let sums = counts.iter_mut().zip(more.iter());
                    sums.for_each(|(sum, count)| *sum += count);
                }
                (counts @ None, more) => *counts = more,
                (Some(_), None) => {}
            }
        }
    }

    /// Whether no block needs tables.
    pub fn is_empty(&self) -> bool {
        self.blocks == 0
    }

    /// The exponents that occur, in ascending order, with their counts.
    pub(super) fn rows(&self) -> impl DoubleEndedIterator<Item = (usize, &Counts256)> {
        let rows = self.by_exponent.iter().enumerate();
        rows.filter_map(|(exponent, counts)| Some((exponent, &**counts.as_ref()?)))
    }

    /// About how many bytes the blocks take, states included and tables apart, if tables serve
    /// nothing else.
    pub fn coded_len(&self) -> u64 {
        let raw = |counts: &Counts256| -> u64 {
            let bits = |symbol: u8| u64::from(difference::raw_bits(symbol));
            let counts = (0..=255).zip(counts);
            counts.map(|(symbol, count)| bits(symbol) * count).sum()
        };
        let bits = self
            .rows()
            .map(|(_, counts)| frequency::entropy(counts) + raw(counts));
        bits.sum::<u64>() / 8 + self.blocks * STATES_LEN
    }

    /// The counts of each context if context 0 is this exponent and all above.
    fn contexts(&self, highest: usize) -> Vec<Counts256> {
        let mut contexts = vec![[0; 256]; CONTEXTS];
        for (exponent, counts) in self.rows() {
            let context = highest.saturating_sub(exponent).min(CONTEXTS - 1);
            let sums = contexts[context].iter_mut().zip(counts);
            sums.for_each(|(sum, count)| *sum += count);
        }
        contexts
    }

    /// The exponent of context 0, and the contexts joined, that take least.
    fn best_contexts(&self) -> Option<(usize, Joined)> {
        let (lowest, _) = self.rows().next()?;
        let (top, _) = self.rows().next_back()?;
        let mut best = (top, join(&self.contexts(top)));
        // where there are more exponents than contexts the lowest may be worth more than the
        // highest
        let mut worse = 0;
        for highest in (lowest + CONTEXTS - 1..top).rev() {
            let joined = join(&self.contexts(highest));
            if joined.bits < best.1.bits {
                best = (highest, joined);
                worse = 0;
            } else if worse == 2 {
                break;
            } else {
                worse += 1;
            }
        }
        Some(best)
    }

    /// About how many bits the tables take.
    pub(super) fn tables_bits(&self) -> u64 {
        let top = self.rows().next_back().map_or(0, |(exponent, _)| exponent);
        let groups = join(&self.contexts(top)).groups;
        8 * 12 + groups.iter().map(table_bits).sum::<u64>()
    }
}

/// Encodes the blocks of one span, or of several alike, against their bases.
#[derive(Debug)]
pub struct DeltaCoder {
    codec: CodecId,
    layout: FloatLayout,
    highest: u8,
    table_of: TableOf,
    encode: Vec<ContextEncodeTable>,
    written: Vec<u8>,
}

impl DeltaCoder {
    /// The coder for blocks with these counts; none if there are none.
    pub fn new(codec: CodecId, counts: &DeltaCounts) -> Option<Self> {
        let layout = layout_of(codec)?;
        let (highest, joined) = counts.best_contexts()?;
        let freqs: Vec<Freqs> = joined
            .groups
            .iter()
            .map(|counts| frequency::normalise(counts, TABLE_BITS))
            .collect();
        let mut written = vec![codec.0, freqs.len() as u8, TABLE_BITS as u8, highest as u8];
        let pairs = joined.table_of.as_chunks::<2>().0;
        written.extend(pairs.iter().map(|[low, high]| low | high << 4));
        for freqs in &freqs {
            frequency_table::write(freqs, &mut written);
        }
        Some(Self {
            codec,
            layout,
            highest: highest as u8,
            table_of: joined.table_of,
            encode: freqs.iter().map(ContextEncodeTable::new).collect(),
            written,
        })
    }

    /// Its codec.
    pub fn codec(&self) -> CodecId {
        self.codec
    }

    /// The tables as they are written, before the blocks.
    pub fn tables(&self) -> &[u8] {
        &self.written
    }

    /// Appends the coded block; false, with nothing appended, if a symbol has no frequency, as the
    /// source changed.
    fn encode(
        &self,
        block: &[u8],
        base: &[u8],
        scratch: &mut DeltaScratch,
        out: &mut Vec<u8>,
    ) -> bool {
        scratch.look(self.layout, self.highest, &self.table_of, base);
        self.layout
            .differences(block, base, &mut scratch.differences);
        let DeltaScratch {
            contexts,
            differences,
            coded,
        } = scratch;
        if !context::encode(differences, contexts, &self.encode, TABLE_BITS, coded) {
            return false;
        }
        out.extend_from_slice(&(coded.words.len() as u32).to_le_bytes());
        r32::write_states(&coded.states, out);
        out.extend(coded.words.iter().rev().flat_map(|word| word.to_le_bytes()));
        true
    }
}

/// Appends the smallest coding of a block against its base to `out` and says which it is. Without a
/// coder that is one without tables.
pub fn encode_block(
    coder: Option<&DeltaCoder>,
    block: &[u8],
    base: &[u8],
    scratch: &mut DeltaScratch,
    out: &mut Vec<u8>,
) -> CodecId {
    if block == base {
        return CodecId::SAME;
    }
    if let Some(pattern) = simple::pattern(block) {
        out.extend_from_slice(pattern);
        return CodecId::CONST;
    }
    let before = out.len();
    if let Some(coder) = coder
        && coder.encode(block, base, scratch, out)
        && out.len() - before < block.len()
    {
        return coder.codec;
    }
    out.truncate(before);
    out.extend_from_slice(block);
    CodecId::RAW
}

/// Contexts that share tables.
struct Joined {
    /// The counts of each table.
    groups: Vec<Counts256>,
    table_of: TableOf,
    /// About how many bits all take, tables included and raw bits apart.
    bits: u64,
}

/// Joins contexts that share a table for less than two would take.
fn join(contexts: &[Counts256]) -> Joined {
    let mut groups: Vec<(Counts256, u64)> = Vec::new();
    let mut table_of = [0_u8; CONTEXTS];
    for (context, counts) in contexts.iter().enumerate() {
        if counts.iter().any(|&count| count > 0) {
            table_of[context] = groups.len() as u8;
            groups.push((*counts, cost(counts)));
        }
    }
    let sum = |a: &Counts256, b: &Counts256| -> Counts256 { std::array::from_fn(|s| a[s] + b[s]) };
    // what each table and each before it take together
    let mut joint: Vec<Vec<u64>> = Vec::new();
    for (number, (counts, _)) in groups.iter().enumerate() {
        let before = groups[..number].iter();
        joint.push(before.map(|(other, _)| cost(&sum(counts, other))).collect());
    }
    loop {
        let mut best: Option<(u64, usize, usize)> = None;
        for b in 1..groups.len() {
            for a in 0..b {
                let (joint, apart) = (joint[b][a], groups[a].1 + groups[b].1);
                if joint < apart && best.is_none_or(|best| apart - joint > best.0) {
                    best = Some((apart - joint, a, b));
                }
            }
        }
        let Some((_, a, b)) = best else {
            break;
        };
        groups[a] = (sum(&groups[a].0, &groups[b].0), joint[b][a]);
        groups.remove(b);
        joint.remove(b);
        for after in &mut joint[b..] {
            after.remove(b);
        }
        for other in (0..groups.len()).filter(|&other| other != a) {
            let cost = cost(&sum(&groups[a].0, &groups[other].0));
            joint[a.max(other)][a.min(other)] = cost;
        }
        for table in &mut table_of {
            if usize::from(*table) == b {
                *table = a as u8;
            } else if usize::from(*table) > b {
                *table -= 1;
            }
        }
    }
    Joined {
        bits: groups.iter().map(|(_, cost)| cost).sum(),
        groups: groups.into_iter().map(|(counts, _)| counts).collect(),
        table_of,
    }
}

/// Bits that symbols counted so take with a table of their own, the table included.
fn cost(counts: &Counts256) -> u64 {
    frequency::entropy(counts) + table_bits(counts)
}

/// About how many bits a table for these counts takes.
fn table_bits(counts: &Counts256) -> u64 {
    let used = counts.iter().filter(|&&count| count > 0).count() as u64;
    8 * (32 + used * 5 / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tables::SpanTables;

    #[test]
    fn blocks_come_back_against_their_base_only() {
        let mut seed = 3_u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as u32
        };
        for codec in (13..=17).map(CodecId) {
            let base: Vec<u8> = (0..40_000).map(|_| random() as u8).collect();
            let mut block = base.clone();
            for byte in &mut block {
                if random().is_multiple_of(5) {
                    *byte = byte.wrapping_add((random() % 9) as u8);
                }
            }
            let mut scratch = DeltaScratch::default();
            let mut counts = DeltaCounts::default();
            counts.count(codec, &block, &base, &mut scratch);
            let coder = DeltaCoder::new(codec, &counts).unwrap();
            let mut coded = Vec::new();
            assert!(coder.encode(&block, &base, &mut scratch, &mut coded));
            let estimated = counts.coded_len();
            assert!(
                (coded.len() as u64).abs_diff(estimated) < estimated / 8,
                "{} {estimated}",
                coded.len()
            );
            let tables = SpanTables::parse(coder.tables()).unwrap();
            let mut back = vec![0; block.len()];
            let delta = tables.delta.as_ref();
            assert!(decode(codec, &coded, delta, &base, &mut back));
            assert!(back == block, "{}", codec.0);
            let mut other = base.clone();
            other[777] ^= 1;
            decode(codec, &coded, delta, &other, &mut back);
            assert!(back != block);
            for len in [0, 3, 100, coded.len() - 1] {
                assert!(!decode(codec, &coded[..len], delta, &base, &mut back));
            }
            for len in 0..coder.tables().len() {
                assert!(SpanTables::parse(&coder.tables()[..len]).is_err());
            }
        }
    }
}
