//! Parts of a model that stand for all of it. Tensors that look alike, of one dtype and about one
//! length, are a stratum; of each some are looked at, and of these some blocks.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::Error;
use crate::base::ReadAt;
use crate::base::Result;
use crate::format::Index;
use crate::tensor::Layout;
use crate::tensor::Span;
use crate::tensor::SpanKind;
use crate::tensor::dtype;
use crate::writer::Source;

/// A model of at most this many bytes is looked at as a whole, and about as much of any other.
const SAMPLE_LEN: u64 = 16 << 20;
/// Of each stratum at least so many tensors, and of each of them so many blocks, are looked at.
const MEMBERS_MIN: u64 = 3;
const BLOCKS_MIN: u64 = 4;
/// How much of a tensor is read at its beginning and in its middle to see what it looks like.
const GLANCE_LEN: u64 = 4 << 10;
/// In how many steps the entropy of that is told.
const ENTROPY_STEPS: f64 = 16.0;

/// What the tensors of a stratum have in common: dtype, length (its bits), entropy.
type Key = (String, u32, u8);

/// A span of which parts were chosen.
#[derive(Debug)]
struct SampledSpan {
    /// Its number in the model.
    number: usize,
    stratum: usize,
}

/// Parts of a model.
#[derive(Debug)]
pub(super) struct StratifiedSample {
    /// The parts, as if they were a model.
    pub(super) source: Source,
    /// How long the spans are of which they are parts.
    pub(super) lens: Vec<u64>,
    chosen: Vec<SampledSpan>,
    /// The spans of each stratum, and their lengths.
    strata: Vec<Vec<(usize, u64)>>,
}

/// Bytes of F32 whose numbers a narrower dtype can hold.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Narrow {
    pub(super) bf16: u64,
    pub(super) f16: u64,
}

impl StratifiedSample {
    /// Chooses parts of what is not repeated.
    pub(super) fn choose(
        source: &Source,
        repeats: &[Option<usize>],
        block_len: u64,
    ) -> Result<Self> {
        let spans = &source.layout.spans;
        let own = |number: &usize| repeats[*number].is_none();
        let own_len: u64 = (0..spans.len()).filter(own).map(|n| spans[n].len).sum();
        let is_whole = own_len <= SAMPLE_LEN;
        let mut strata: BTreeMap<Key, Vec<(usize, u64)>> = BTreeMap::new();
        for number in (0..spans.len()).filter(own) {
            let span = &spans[number];
            let key = if is_whole || span.kind != SpanKind::Tensor {
                // each by itself
                (String::new(), 0, 0)
            } else {
                key(source, span)?
            };
            strata.entry(key).or_default().push((number, span.len));
        }
        let mut pieces = Pieces {
            whole: Arc::clone(&source.bytes),
            begins: Vec::new(),
            len: 0,
        };
        // with the number of blocks that are looked at
        let mut picked: Vec<(SampledSpan, u64)> = Vec::new();
        let share_of = |bytes: u64| {
            let share = u128::from(SAMPLE_LEN) * u128::from(bytes) / u128::from(own_len.max(1));
            share as u64
        };
        for (stratum, (key, members)) in strata.iter().enumerate() {
            let is_each = key.0.is_empty();
            let bytes: u64 = members.iter().map(|(_, len)| len).sum();
            let (count, blocks) = if is_each {
                (members.len() as u64, u64::MAX)
            } else {
                effort(share_of(bytes), bytes, members.len() as u64, block_len)
            };
            for member in 0..count {
                let (number, _) = members[(member * members.len() as u64 / count) as usize];
                picked.push((SampledSpan { number, stratum }, blocks));
            }
        }
        picked.sort_by_key(|(chosen, _)| chosen.number);
        let (mut lens, mut part_spans, mut all) = (Vec::new(), Vec::new(), Vec::new());
        for (chosen, blocks) in picked {
            let whole = &spans[chosen.number];
            let mut span = whole.clone();
            span.start = pieces.len;
            pieces.take(whole, blocks, block_len);
            span.len = pieces.len - span.start;
            lens.push(whole.len);
            part_spans.push(span);
            all.push(chosen);
        }
        Ok(Self {
            source: Source {
                path: String::new(),
                layout: Arc::new(Layout {
                    len: pieces.len,
                    spans: part_spans,
                    is_safetensors: true,
                }),
                bytes: Arc::new(pieces),
                bases: Vec::new(),
            },
            lens,
            chosen: all,
            strata: strata.into_values().collect(),
        })
    }

    /// Writes down in `index`, of the whole model, about what becomes of each span.
    pub(super) fn fill(&self, coded: &Index, index: &mut Index) {
        let owners: BTreeSet<usize> = coded.spans.iter().filter_map(|s| s.tables_of).collect();
        let mut sums: Vec<Sum> = vec![Sum::default(); self.strata.len()];
        let mut known = BTreeSet::new();
        for (at, (record, chosen)) in coded.spans.iter().zip(&self.chosen).enumerate() {
            let blocks = &coded.blocks[record.blocks.clone()];
            let bytes = blocks.iter().map(|block| u64::from(block.coded_len)).sum();
            let own_tables = record.tables_of.map_or(record.tables_len, |_| 0);
            let sum = &mut sums[chosen.stratum];
            sum.original += record.span.len;
            sum.coded += bytes;
            sum.members += 1;
            // what others use, too, is there once
            if !owners.contains(&at) {
                sum.tables += u64::from(own_tables);
            }
            known.insert(chosen.number);
            put(index, chosen.number, own_tables, (bytes, record.span.len));
            let whole = index.spans[chosen.number].blocks.clone();
            if whole.len() == blocks.len() {
                index.blocks[whole].clone_from_slice(blocks);
            }
        }
        for (members, sum) in self.strata.iter().zip(&sums) {
            for (number, _) in members.iter().filter(|(number, _)| !known.contains(number)) {
                let tables = sum.tables / sum.members.max(1);
                put(index, *number, tables as u32, (sum.coded, sum.original));
            }
        }
    }

    /// About how many bytes of all tensors, the repeated ones included, narrower dtypes can hold.
    pub(super) fn narrow(&self, repeats: &[Option<usize>]) -> Result<Narrow> {
        let mut of_strata = vec![(Narrow::default(), 0); self.strata.len()];
        let mut of_span: BTreeMap<usize, (Narrow, u64)> = BTreeMap::new();
        for (span, chosen) in self.source.layout.spans.iter().zip(&self.chosen) {
            let mut narrow = Narrow::default();
            if span.dtype == "F32" {
                let mut bytes = vec![0; span.len as usize];
                self.source.bytes.read_exact_at(span.start, &mut bytes)?;
                match narrowest(&bytes) {
                    Some("BF16") => narrow.bf16 = span.len,
                    Some(_) => narrow.f16 = span.len,
                    None => {}
                }
            }
            of_span.insert(chosen.number, (narrow, span.len));
            let (sum, len) = &mut of_strata[chosen.stratum];
            (sum.bf16, sum.f16) = (sum.bf16 + narrow.bf16, sum.f16 + narrow.f16);
            *len += span.len;
        }
        let mut of_own: BTreeMap<usize, Narrow> = BTreeMap::new();
        for (members, of_stratum) in self.strata.iter().zip(&of_strata) {
            for &(number, len) in members {
                let (narrow, of) = of_span.get(&number).unwrap_or(of_stratum);
                let scaled = |part: u64| scale(len, (part, *of));
                let (bf16, f16) = (scaled(narrow.bf16), scaled(narrow.f16));
                of_own.insert(number, Narrow { bf16, f16 });
            }
        }
        let mut sum = Narrow::default();
        for (number, repeats) in repeats.iter().enumerate() {
            let own = of_own.get(&repeats.unwrap_or(number));
            let own = own.copied().unwrap_or_default();
            (sum.bf16, sum.f16) = (sum.bf16 + own.bf16, sum.f16 + own.f16);
        }
        Ok(sum)
    }
}

/// Sums over what was looked at of a stratum.
#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    original: u64,
    coded: u64,
    tables: u64,
    members: u64,
}

/// `len` as `part` is of `whole`.
fn scale(len: u64, (part, whole): (u64, u64)) -> u64 {
    let scaled = u128::from(len) * u128::from(part) / u128::from(whole.max(1));
    scaled as u64
}

/// Of how many members of a stratum how many blocks are looked at, if about `wanted` of its bytes
/// are.
fn effort(wanted: u64, bytes: u64, members: u64, block_len: u64) -> (u64, u64) {
    let each = (bytes / members).div_ceil(block_len).max(1);
    let least = each.min(BLOCKS_MIN);
    let of_one = (bytes / members).clamp(1, least * block_len);
    let count = (wanted / of_one).max(MEMBERS_MIN).min(members);
    let blocks = (wanted / count / block_len).clamp(least, each);
    (count, blocks)
}

/// Spreads the coded bytes of a part over the blocks of the whole span.
fn put(index: &mut Index, number: usize, tables_len: u32, part: (u64, u64)) {
    let record = &mut index.spans[number];
    record.tables_len = tables_len;
    let (blocks, len) = (record.blocks.clone(), record.span.len);
    let block_len = record.block_len();
    let mut before = 0;
    for (block_number, block) in index.blocks[blocks].iter_mut().enumerate() {
        let end = len.min((block_number as u64 + 1) * block_len);
        let coded = scale(end, part);
        block.coded_len = (coded - before) as u32;
        before = coded;
    }
}

/// What a tensor looks like.
fn key(source: &Source, span: &Span) -> Result<Key> {
    let bits = u64::BITS - span.len.leading_zeros();
    if span.len < GLANCE_LEN {
        return Ok((span.dtype.clone(), bits, 0));
    }
    let width = (dtype::bits(&span.dtype).unwrap_or(8) / 8).clamp(1, 8);
    let middle = (span.len - GLANCE_LEN) / 2 / width * width;
    let mut glance = vec![0; 2 * GLANCE_LEN as usize];
    let (first, second) = glance.split_at_mut(GLANCE_LEN as usize);
    source.bytes.read_exact_at(span.start, first)?;
    source.bytes.read_exact_at(span.start + middle, second)?;
    let entropy = entropy(&glance, width as usize);
    Ok((span.dtype.clone(), bits, entropy))
}

/// The entropy of the bytes of elements, each place for itself, in steps.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "of a few thousand bytes, and never negative"
)]
fn entropy(bytes: &[u8], width: usize) -> u8 {
    let mut bits = 0.0;
    for offset in 0..width {
        let mut counts = [0_u32; 256];
        for byte in bytes.iter().skip(offset).step_by(width) {
            counts[usize::from(*byte)] += 1;
        }
        let all = f64::from(counts.iter().sum::<u32>());
        let used = counts.iter().filter(|&&count| count > 0);
        let each = used.map(|&count| f64::from(count) / all);
        bits += each.map(|share| -share * share.log2()).sum::<f64>();
    }
    // a hair of anything is not nothing
    (bits / (8 * width) as f64 * ENTROPY_STEPS).ceil() as u8
}

/// The narrowest float that holds all of these F32, if there is one. Zeros alone say nothing.
fn narrowest(bytes: &[u8]) -> Option<&'static str> {
    let (elements, _) = bytes.as_chunks::<4>();
    let bits = || elements.iter().map(|element| u32::from_le_bytes(*element));
    if bits().all(|bits| bits << 1 == 0) {
        return None;
    }
    if bits().all(|bits| bits.trailing_zeros() >= 16) {
        return Some("BF16");
    }
    bits().all(is_half).then_some("F16")
}

/// Whether F16 holds the number of these bits of F32.
fn is_half(bits: u32) -> bool {
    let (exponent, mantissa) = (bits >> 23 & 255, bits & 0x7f_ffff);
    let zeros = mantissa.trailing_zeros();
    match exponent {
        0 => mantissa == 0,
        113..=142 | 255 => zeros >= 13,
        // subnormal in F16: 2^-24 is the least
        103..=112 => zeros >= 13 + 113 - exponent,
        _ => false,
    }
}

/// Pieces of something, one after another.
#[derive(Debug)]
struct Pieces {
    whole: Arc<dyn ReadAt>,
    /// Where each begins here and there.
    begins: Vec<(u64, u64)>,
    len: u64,
}

impl Pieces {
    /// Appends so many blocks of a span, spread over all of it.
    fn take(&mut self, span: &Span, blocks: u64, block_len: u64) {
        let all = span.len.div_ceil(block_len);
        let blocks = blocks.min(all);
        for number in 0..blocks {
            let start = number * all / blocks * block_len;
            self.begins.push((self.len, span.start + start));
            self.len += block_len.min(span.len - start);
        }
    }
}

impl ReadAt for Pieces {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let (mut at, mut out) = (offset, out);
        if at
            .checked_add(out.len() as u64)
            .is_none_or(|end| end > self.len)
        {
            return Err(Error::damaged("the parts end before that"));
        }
        while !out.is_empty() {
            let next = self.begins.partition_point(|(start, _)| *start <= at);
            let (here, there) = self.begins[next - 1];
            let end = self.begins.get(next).map_or(self.len, |(start, _)| *start);
            let len = (end - at).min(out.len() as u64) as usize;
            let (now, later) = out.split_at_mut(len);
            self.whole.read_exact_at(there + (at - here), now)?;
            at += len as u64;
            out = later;
        }
        Ok(())
    }
}
