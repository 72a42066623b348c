//! The two entropy coders of the package, which are those of the library `constriction`: words of
//! 32 bits, states of 64, probabilities of 24. The probabilities are computed in floating point
//! from counts, so a reader has to repeat that to the bit.

#![deny(clippy::indexing_slicing, reason = "hostile bytes")]

use constriction::stream::model::ContiguousCategoricalEntropyModel;
use constriction::stream::model::IterableEntropyModel;

use crate::base::Error;
use crate::base::Result;

/// Bits of a probability.
const PRECISION: u32 = 24;
const TOTAL: u32 = 1 << PRECISION;
/// Bits of a quantile by which its symbol is looked up; the rest is found by steps. A table of so
/// many entries stays in the first cache.
const LOOKUP_BITS: u32 = 10;
/// Added to every count.
const PRIOR: f64 = 0.01;

pub(super) fn damaged(what: &str) -> Error {
    Error::damaged(what)
}

/// How the words of a stream are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coder {
    Ans,
    Range,
}

/// How the library has them.
type Categorical = ContiguousCategoricalEntropyModel<u32, Vec<u32>, 24>;

/// The probabilities of symbols 0 to below the size of the alphabet.
#[derive(Debug)]
pub(super) struct Model {
    /// Where each symbol begins among the quantiles, and at the end how many there are.
    lefts: Vec<u32>,
    /// What each step of quantiles begins with.
    lookup: Vec<Interval>,
}

/// The quantiles of a symbol: where they begin, and how many there are.
#[derive(Debug, Clone, Copy, Default)]
struct Interval {
    left: u32,
    width: u32,
    symbol: u16,
}

/// The sum of numpy: pairwise, in eight at once.
fn numpy_sum(values: &[f64]) -> f64 {
    if values.len() < 8 {
        return values.iter().sum();
    }
    if values.len() <= 128 {
        let (groups, rest) = values.as_chunks::<8>();
        let mut sums = [0.0; 8];
        if let Some((first, others)) = groups.split_first() {
            sums = *first;
            for group in others {
                for (sum, value) in sums.iter_mut().zip(group) {
                    *sum += value;
                }
            }
        }
        let pairs = sums.as_chunks::<2>().0.iter().map(|[a, b]| a + b);
        let pairs: Vec<f64> = pairs.collect();
        let fours: f64 = pairs.as_chunks::<2>().0.iter().map(|[a, b]| a + b).sum();
        return rest.iter().fold(fours, |sum, value| sum + value);
    }
    let half = values.len() / 2;
    let (first, second) = values.split_at(half - half % 8);
    numpy_sum(first) + numpy_sum(second)
}

impl Model {
    /// Of the counts of some symbols of an alphabet; the others have none.
    pub(super) fn of_counts(alphabet: usize, counts: &[(u16, u32)]) -> Result<Self> {
        let mut weights = vec![PRIOR; alphabet];
        for &(symbol, count) in counts {
            let weight = weights.get_mut(usize::from(symbol));
            let weight = weight.ok_or_else(|| damaged("a symbol that is not in the alphabet"))?;
            *weight = f64::from(count) + PRIOR;
        }
        let sum = numpy_sum(&weights);
        for weight in &mut weights {
            *weight /= sum;
        }
        let model = Categorical::from_floating_point_probabilities_perfect(&weights);
        let model = model.map_err(|()| damaged("counts of which no probabilities can be made"))?;
        let mut lefts: Vec<u32> = model.symbol_table().map(|(_, left, _)| left).collect();
        lefts.push(TOTAL);
        let mut lookup = vec![Interval::default(); 1 << LOOKUP_BITS];
        let mut intervals = (0_u16..).zip(lefts.iter().zip(lefts.iter().skip(1)));
        let mut interval = Interval::default();
        for (step, entry) in (0_u32..).zip(lookup.iter_mut()) {
            while interval.left + interval.width <= step << (PRECISION - LOOKUP_BITS)
                && let Some((symbol, (left, next))) = intervals.next()
            {
                interval = Interval {
                    left: *left,
                    width: next - left,
                    symbol,
                };
            }
            *entry = interval;
        }
        Ok(Self { lefts, lookup })
    }

    /// The symbol at a quantile, which is below 2^24.
    #[inline]
    fn at(&self, quantile: u32) -> Interval {
        let step = (quantile >> (PRECISION - LOOKUP_BITS)) as usize;
        let found = self.lookup.get(step).copied().unwrap_or_default();
        if quantile - found.left < found.width {
            return found;
        }
        self.behind(found, quantile)
    }

    /// The same, where the step has more than one symbol.
    #[cold]
    #[inline(never)]
    fn behind(&self, first: Interval, quantile: u32) -> Interval {
        let mut symbol = usize::from(first.symbol);
        let left_of = |symbol: usize| self.lefts.get(symbol).copied().unwrap_or(u32::MAX);
        while left_of(symbol + 1) <= quantile {
            symbol += 1;
        }
        let left = left_of(symbol);
        Interval {
            left,
            width: left_of(symbol + 1).wrapping_sub(left),
            symbol: symbol as u16,
        }
    }
}

/// Words of a stream of this many bytes.
fn words_of(bytes: &[u8]) -> Result<&[[u8; 4]]> {
    let (words, rest) = bytes.as_chunks::<4>();
    if rest.is_empty() {
        Ok(words)
    } else {
        Err(damaged("a stream that is no row of words"))
    }
}

/// Decodes `count` symbols from little-endian words, handing each to `each`.
pub(super) fn decode(
    coder: Coder,
    words: &[u8],
    count: usize,
    model: &Model,
    mut each: impl FnMut(u16),
) -> Result<()> {
    match coder {
        Coder::Ans => {
            let mut ans = Ans::new(words_of(words)?, model);
            for _ in 0..count {
                each(ans.next());
            }
            Ok(())
        }
        Coder::Range => decode_range(words_of(words)?, count, model, each),
    }
}

/// A stream of the ANS coder being decoded; words are taken from its end.
#[derive(Debug, Clone, Copy)]
struct Ans<'a> {
    words: &'a [[u8; 4]],
    /// How many words are left.
    left: usize,
    state: u64,
    model: &'a Model,
}

impl<'a> Ans<'a> {
    fn new(words: &'a [[u8; 4]], model: &'a Model) -> Self {
        let mut ans = Self {
            words,
            left: words.len(),
            state: 0,
            model,
        };
        ans.refill(true);
        ans.refill(true);
        ans
    }

    /// Takes a word if one is wanted and there: without a branch, which nobody could foresee.
    #[inline]
    fn refill(&mut self, is_wanted: bool) {
        let last = self.words.get(self.left.wrapping_sub(1));
        let is_taken = is_wanted & last.is_some();
        let word = last.map_or(0, |word| u64::from(u32::from_le_bytes(*word)));
        let filled = self.state << 32 | word;
        self.state = std::hint::select_unpredictable(is_taken, filled, self.state);
        self.left -= usize::from(is_taken);
    }

    #[inline]
    fn next(&mut self) -> u16 {
        let quantile = (self.state & u64::from(TOTAL - 1)) as u32;
        let found = self.model.at(quantile);
        self.state =
            (self.state >> PRECISION) * u64::from(found.width) + u64::from(quantile - found.left);
        self.refill(self.state >> 32 == 0);
        found.symbol
    }
}

/// A stream, and where its symbols go.
#[derive(Debug)]
pub(super) struct Stream<'a> {
    ans: Ans<'a>,
    out: &'a mut [u16],
}

impl<'a> Stream<'a> {
    /// Of the ANS coder.
    pub(super) fn new(words: &'a [u8], model: &'a Model, out: &'a mut [u16]) -> Result<Self> {
        let ans = Ans::new(words_of(words)?, model);
        Ok(Self { ans, out })
    }

    /// The state, to be kept at hand while the next `count` symbols are decoded, and their places.
    fn begin(&mut self, count: usize) -> (Ans<'a>, &'a mut [u16]) {
        let (now, later) = std::mem::take(&mut self.out).split_at_mut(count);
        self.out = later;
        (self.ans, now)
    }
}

/// Decodes streams, three at once: a symbol's place in its table is known only when the one before
/// is, and meanwhile the others go on.
pub(super) fn decode_streams<'a>(streams: impl IntoIterator<Item = Stream<'a>>) {
    let mut streams = streams.into_iter().filter(|stream| !stream.out.is_empty());
    let mut lanes: Vec<Stream<'a>> = streams.by_ref().take(3).collect();
    while let [a, b, c] = lanes.as_mut_slice() {
        let count = a.out.len().min(b.out.len()).min(c.out.len());
        let ((mut of_a, out_a), (mut of_b, out_b), (mut of_c, out_c)) =
            (a.begin(count), b.begin(count), c.begin(count));
        for ((out_a, out_b), out_c) in out_a.iter_mut().zip(out_b).zip(out_c) {
            *out_a = of_a.next();
            *out_b = of_b.next();
            *out_c = of_c.next();
        }
        (a.ans, b.ans, c.ans) = (of_a, of_b, of_c);
        lanes.retain(|stream| !stream.out.is_empty());
        let free = 3 - lanes.len();
        lanes.extend(streams.by_ref().take(free));
    }
    if let [a, b] = lanes.as_mut_slice() {
        let count = a.out.len().min(b.out.len());
        let ((mut of_a, out_a), (mut of_b, out_b)) = (a.begin(count), b.begin(count));
        for (out_a, out_b) in out_a.iter_mut().zip(out_b) {
            *out_a = of_a.next();
            *out_b = of_b.next();
        }
        (a.ans, b.ans) = (of_a, of_b);
    }
    for Stream { mut ans, out } in lanes {
        for symbol in out {
            *symbol = ans.next();
        }
    }
}

fn decode_range(
    words: &[[u8; 4]],
    count: usize,
    model: &Model,
    mut each: impl FnMut(u16),
) -> Result<()> {
    let mut words = words
        .iter()
        .map(|word| u64::from(u32::from_le_bytes(*word)));
    // what is behind the end is zeros
    let mut next = || words.next().unwrap_or(0);
    let mut point = next() << 32 | next();
    let (mut lower, mut range) = (0_u64, u64::MAX);
    for _ in 0..count {
        let scale = range >> PRECISION;
        let quantile = point.wrapping_sub(lower) / scale;
        if quantile >= u64::from(TOTAL) {
            return Err(damaged("a range-coded stream that leads nowhere"));
        }
        let Interval {
            left,
            width,
            symbol,
        } = model.at(quantile as u32);
        lower = lower.wrapping_add(scale * u64::from(left));
        range = scale * u64::from(width);
        if range >> 32 == 0 {
            lower <<= 32;
            range <<= 32;
            point = point << 32 | next();
        }
        each(symbol);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "no hostile bytes here")]
    use super::*;
    use constriction::UnwrapInfallible;
    use constriction::stream::Encode;
    use constriction::stream::queue::DefaultRangeEncoder;
    use constriction::stream::stack::DefaultAnsCoder;

    fn model_of_crate(
        counts: &[(u16, u32)],
        alphabet: usize,
    ) -> ContiguousCategoricalEntropyModel<u32, Vec<u32>, 24> {
        let mut weights = vec![PRIOR; alphabet];
        for &(symbol, count) in counts {
            weights[usize::from(symbol)] = f64::from(count) + PRIOR;
        }
        let sum = numpy_sum(&weights);
        for weight in &mut weights {
            *weight /= sum;
        }
        ContiguousCategoricalEntropyModel::from_floating_point_probabilities_perfect(&weights)
            .unwrap()
    }

    #[test]
    fn what_the_crate_codes_is_decoded() {
        let counts = [(3, 5000), (4, 2000), (5, 900), (77, 3), (511, 100)];
        let mut symbols: Vec<usize> = Vec::new();
        for n in 0..8003_usize {
            let n = (n * 7919) % 8003;
            let mut below = n;
            for (symbol, count) in counts {
                if below < count as usize {
                    symbols.push(usize::from(symbol));
                    break;
                }
                below -= count as usize;
            }
        }
        let theirs = model_of_crate(&counts, 512);
        let ours = Model::of_counts(512, &counts).unwrap();
        let mut ans = DefaultAnsCoder::new();
        ans.encode_iid_symbols_reverse(&symbols, &theirs).unwrap();
        let mut range = DefaultRangeEncoder::new();
        range.encode_iid_symbols(&symbols, &theirs).unwrap();
        let ans = ans.into_compressed().unwrap_infallible();
        let range = range.into_compressed().unwrap();
        for (coder, words) in [(Coder::Ans, ans), (Coder::Range, range)] {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let mut decoded = Vec::new();
            let each = |symbol| decoded.push(usize::from(symbol));
            decode(coder, &bytes, symbols.len(), &ours, each).unwrap();
            assert!(decoded == symbols, "{coder:?}");
        }
    }

    #[test]
    fn any_bytes_end() {
        let model = Model::of_counts(64, &[(1, 1)]).unwrap();
        for coder in [Coder::Ans, Coder::Range] {
            let bytes: Vec<u8> = (0..400_u32).map(|n| (n * 97) as u8).collect();
            let _ = decode(coder, &bytes, 1000, &model, |_| {});
            let _ = decode(coder, &[], 1000, &model, |_| {});
            assert!(decode(coder, &bytes[..3], 1, &model, |_| {}).is_err());
        }
        assert!(Model::of_counts(64, &[(64, 1)]).is_err());
    }
}
