//! Delta blocks: a float tensor as its differences from a base of the same dtype and length (docs/format.md, section 9).

use crate::base::CodecId;
use crate::base::Result;
use crate::codec::simple;
use crate::codec::tables;
use crate::codec::tables::Freqs;
use crate::codec::tables::Reader;
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
use crate::entropy::frequency::log2_q16;
use crate::entropy::r32;
use crate::entropy::simd::dispatch;

/// log2 of the sum of a table's frequencies in what this build writes.
const TABLE_BITS: u32 = 11;
/// Bytes before the states of a block: the number of words.
const HEAD_LEN: usize = 4;

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
    pub(super) fn read(layout: FloatLayout, reader: &mut Reader<'_>) -> Result<Self> {
        let (count, bits, highest) = (reader.byte()?, reader.byte()?, reader.byte()?);
        let count_fits = (1..=context::TABLES_MAX).contains(&usize::from(count));
        if !count_fits || !(8..=12).contains(&bits) {
            return Err(tables::wrong(&format!("{count} tables of {bits} bits")));
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
            return Err(tables::wrong("a context without a table"));
        }
        let freqs: Vec<Freqs> = (0..count)
            .map(|_| tables::read_table(reader, u32::from(bits)))
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

/// Decodes two blocks of one span at once, where the kernels can: codec, coded bytes and base of each.
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
        let (head, mut rest) = coded.split_first_chunk::<HEAD_LEN>()?;
        let states = r32::read_states(&mut rest, context::LANES)?;
        let words_len = (u32::from_le_bytes(*head) as usize).checked_mul(2)?;
        (rest.len() == words_len).then_some(Self {
            states,
            words: rest,
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

/// How often each symbol occurs below each exponent of the base.
#[derive(Debug, Clone)]
pub struct DeltaCounts {
    by_exponent: Vec<[u64; 256]>,
}

impl Default for DeltaCounts {
    fn default() -> Self {
        Self {
            by_exponent: vec![[0; 256]; 256],
        }
    }
}

impl DeltaCounts {
    /// Counts the differences of a block of this codec.
    pub fn count(&mut self, codec: CodecId, block: &[u8], base: &[u8], scratch: &mut DeltaScratch) {
        let Some(layout) = layout_of(codec) else {
            return;
        };
        layout.exponents(base, &mut scratch.contexts);
        layout.differences(block, base, &mut scratch.differences);
        for (&exponent, &z) in scratch.contexts.iter().zip(&scratch.differences) {
            let (symbol, _) = difference::bucket(z);
            self.by_exponent[usize::from(exponent)][usize::from(symbol)] += 1;
        }
    }

    /// Adds other counts.
    pub fn add(&mut self, other: &Self) {
        let counts = self.by_exponent.as_flattened_mut().iter_mut();
        for (count, more) in counts.zip(other.by_exponent.as_flattened()) {
            *count += more;
        }
    }
}

/// Encodes the blocks of one span against a base.
#[derive(Debug)]
pub struct DeltaCoder {
    codec: CodecId,
    layout: FloatLayout,
    highest: u8,
    table_of: TableOf,
    encode: Vec<ContextEncodeTable>,
    written: Vec<u8>,
    /// About how many bytes the blocks take, tables included, states apart.
    coded_len: u64,
}

impl DeltaCoder {
    /// The coder for a span with these counts; none if there are none.
    pub fn new(codec: CodecId, counts: &DeltaCounts) -> Option<Self> {
        let layout = layout_of(codec)?;
        let occurs = |counts: &[u64; 256]| counts.iter().any(|&count| count > 0);
        let highest = counts.by_exponent.iter().rposition(occurs)?;
        let mut contexts = vec![[0_u64; 256]; CONTEXTS];
        for (exponent, counts) in counts.by_exponent.iter().enumerate().take(highest + 1) {
            let context = (highest - exponent).min(CONTEXTS - 1);
            for (sum, count) in contexts[context].iter_mut().zip(counts) {
                *sum += count;
            }
        }
        let (groups, table_of) = join(&contexts);
        let freqs: Vec<Freqs> = groups
            .iter()
            .map(|counts| frequency::normalise(counts, TABLE_BITS))
            .collect();
        let mut written = vec![codec.0, freqs.len() as u8, TABLE_BITS as u8, highest as u8];
        let pairs = table_of.as_chunks::<2>().0;
        written.extend(pairs.iter().map(|[low, high]| low | high << 4));
        for freqs in &freqs {
            tables::write_table(freqs, &mut written);
        }
        let bits: u128 = groups
            .iter()
            .zip(&freqs)
            .map(|(counts, freqs)| frequency::cost_q16(counts, freqs, TABLE_BITS) >> 16)
            .sum();
        let raw = |counts: &[u64; 256]| -> u64 {
            let bits = |symbol: u8| u64::from(difference::raw_bits(symbol));
            (0..=255)
                .zip(counts)
                .map(|(symbol, count)| bits(symbol) * count)
                .sum()
        };
        let raw: u64 = groups.iter().map(raw).sum();
        Some(Self {
            codec,
            layout,
            highest: highest as u8,
            table_of,
            encode: freqs.iter().map(ContextEncodeTable::new).collect(),
            coded_len: (bits as u64 + raw) / 8 + written.len() as u64,
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

    /// About how many bytes the span takes, tables included, states apart.
    pub fn coded_len(&self) -> u64 {
        self.coded_len
    }

    /// Appends the smallest coding of a block against its base to `out` and says which it is.
    pub fn encode_block(
        &self,
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
        if self.encode(block, base, scratch, out) && out.len() - before < block.len() {
            return self.codec;
        }
        out.truncate(before);
        out.extend_from_slice(block);
        CodecId::RAW
    }

    /// Appends the coded block; false, with nothing appended, if a symbol has no frequency, as the source changed.
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

/// Joins contexts that share a table for less than two would take: the counts of each table, and the table of each context.
fn join(contexts: &[[u64; 256]]) -> (Vec<[u64; 256]>, TableOf) {
    let mut groups: Vec<([u64; 256], u64)> = Vec::new();
    let mut table_of = [0_u8; CONTEXTS];
    for (context, counts) in contexts.iter().enumerate() {
        if counts.iter().any(|&count| count > 0) {
            table_of[context] = groups.len() as u8;
            groups.push((*counts, cost(counts)));
        }
    }
    loop {
        let mut best: Option<(u64, usize, usize, [u64; 256], u64)> = None;
        for a in 0..groups.len() {
            for b in a + 1..groups.len() {
                let sum = std::array::from_fn(|symbol| groups[a].0[symbol] + groups[b].0[symbol]);
                let (joint, apart) = (cost(&sum), groups[a].1 + groups[b].1);
                if joint < apart && best.is_none_or(|best| apart - joint > best.0) {
                    best = Some((apart - joint, a, b, sum, joint));
                }
            }
        }
        let Some((_, a, b, sum, joint)) = best else {
            break;
        };
        groups[a] = (sum, joint);
        groups.remove(b);
        for table in &mut table_of {
            if usize::from(*table) == b {
                *table = a as u8;
            } else if usize::from(*table) > b {
                *table -= 1;
            }
        }
    }
    (
        groups.into_iter().map(|(counts, _)| counts).collect(),
        table_of,
    )
}

/// Bits that symbols counted so take with a table of their own, the table included.
fn cost(counts: &[u64; 256]) -> u64 {
    let total: u64 = counts.iter().sum();
    let all = log2_q16(total.max(1));
    let used = counts.iter().filter(|&&count| count > 0);
    let bits = used
        .clone()
        .map(|&count| (count * (all - log2_q16(count))) >> 16);
    bits.sum::<u64>() + 8 * (32 + used.count() as u64 * 5 / 4)
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
            let estimated = coder.coded_len() - coder.tables().len() as u64;
            assert!(
                coded.len() as u64 - estimated < 400,
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
