//! From counts to frequencies that sum to a power of two, and what coding with them costs. Integers
//! only, so that every machine finds the same.

use std::cmp::Ordering;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

/// Bits of a number, behind its highest, that its logarithm takes into account.
const LOG2_BITS: u32 = 10;

/// The fraction of log2(1 + i / 1024), in 1/65536 bit.
static LOG2: [u16; 1 << LOG2_BITS] = {
    let mut table = [0; 1 << LOG2_BITS];
    let mut i = 0;
    while i < table.len() {
        // mantissa in [1, 2) with 31 fractional bits, squared for each bit of the result
        let mut mantissa = ((1 << LOG2_BITS) + i as u64) << (31 - LOG2_BITS);
        let mut bit = 16;
        while bit > 0 {
            bit -= 1;
            mantissa = (mantissa * mantissa) >> 31;
            if mantissa >= 1 << 32 {
                mantissa >>= 1;
                table[i] |= 1 << bit;
            }
        }
        i += 1;
    }
    table
};

/// log2(x) in 1/65536 bit, for x >= 1, of its 11 highest bits.
pub fn log2_q16(x: u64) -> u64 {
    assert!(x > 0, "the logarithm of nothing was asked for");
    let whole = x.ilog2();
    let fraction = if whole >= LOG2_BITS {
        x >> (whole - LOG2_BITS)
    } else {
        x << (LOG2_BITS - whole)
    };
    u64::from(whole) << 16 | u64::from(LOG2[fraction as usize & (LOG2.len() - 1)])
}

/// Frequencies for `counts` with sum `2^bits`: at least 1 for each symbol that occurs, 0 for the
/// others, as near to the least cost as single steps reach. At least two symbols get a frequency (a
/// lone one is joined by its successor), so that none has all of it. There must be a count above 0.
pub fn normalise(counts: &[u64; 256], bits: u32) -> [u16; 256] {
    let total: u64 = counts.iter().sum();
    assert!(total > 0, "no symbol occurs");
    let target = 1_usize << bits;
    let mut freqs = [0_u16; 256];
    let mut sum = 0;
    for (f, &count) in freqs.iter_mut().zip(counts) {
        if count > 0 {
            let share = match count.checked_mul(1 << bits) {
                Some(scaled) => scaled / total,
                None => (u128::from(count) * (1 << bits) / u128::from(total)) as u64,
            };
            *f = (share as u16).max(1);
            sum += usize::from(*f);
        }
    }
    if freqs.iter().filter(|&&f| f > 0).count() == 1 {
        let lone = freqs.iter().position(|&f| f > 0).unwrap_or(0);
        freqs[lone] = ((1_u32 << bits) - 1) as u16;
        freqs[(lone + 1) & 255] = 1;
        return freqs;
    }
    let used = (0..=255).filter(|&symbol| counts[usize::from(symbol)] > 0);
    if sum < target {
        grow(counts, used, target - sum, &mut freqs);
    } else {
        shrink(counts, used, sum - target, &mut freqs);
    }
    freqs
}

/// What a step of a symbol's frequency changes: about `count / (f + 1/2)` from f to f + 1.
#[derive(Debug, Clone, Copy)]
struct Change {
    count: u64,
    /// Twice the place of the middle of the step.
    middle: u64,
}

impl Ord for Change {
    fn cmp(&self, other: &Self) -> Ordering {
        let product = |a: u64, b: u64| u128::from(a) * u128::from(b);
        product(self.count, other.middle).cmp(&product(other.count, self.middle))
    }
}

impl PartialOrd for Change {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Change {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Change {}

/// Takes so many steps up, each with the symbol that gains most; the first of those that gain as
/// much.
fn grow(counts: &[u64; 256], used: impl Iterator<Item = u8>, steps: usize, freqs: &mut [u16; 256]) {
    let step_up = |symbol: u8| {
        let (count, f) = (counts[usize::from(symbol)], freqs[usize::from(symbol)]);
        let middle = 2 * u64::from(f) + 1;
        (Change { count, middle }, Reverse(symbol))
    };
    let mut next: BinaryHeap<_> = used.map(step_up).collect();
    for _ in 0..steps {
        let Some(mut best) = next.peek_mut() else {
            return;
        };
        let (change, Reverse(symbol)) = &mut *best;
        freqs[usize::from(*symbol)] += 1;
        change.middle += 2;
    }
}

/// Takes so many steps down, each with the symbol that loses least; the first of those that lose
/// as little. None goes below 1.
fn shrink(
    counts: &[u64; 256],
    used: impl Iterator<Item = u8>,
    steps: usize,
    freqs: &mut [u16; 256],
) {
    let step_down = |symbol: u8| {
        let (count, f) = (counts[usize::from(symbol)], freqs[usize::from(symbol)]);
        let middle = 2 * u64::from(f) - 1;
        (f > 1).then_some(Reverse((Change { count, middle }, symbol)))
    };
    let mut next: BinaryHeap<_> = used.filter_map(step_down).collect();
    for _ in 0..steps {
        let Some(mut best) = next.peek_mut() else {
            return;
        };
        let Reverse((change, symbol)) = &mut *best;
        let f = &mut freqs[usize::from(*symbol)];
        *f -= 1;
        change.middle -= 2;
        if *f == 1 {
            PeekMut::pop(best);
        }
    }
}

/// Bits (in 1/65536) that `counts` cost when coded by `freqs` of sum `2^bits`.
pub fn cost_q16(counts: &[u64; 256], freqs: &[u16; 256], bits: u32) -> u128 {
    let mut cost = 0;
    for (&count, &f) in counts.iter().zip(freqs) {
        if count > 0 && f > 0 {
            let symbol = (u64::from(bits) << 16) - log2_q16(u64::from(f));
            cost += u128::from(count) * u128::from(symbol);
        }
    }
    cost
}

/// Bits that symbols counted so hold, by their own shares.
pub fn entropy(counts: &[u64; 256]) -> u64 {
    let total: u64 = counts.iter().sum();
    let all = log2_q16(total.max(1));
    let used = counts.iter().filter(|&&count| count > 0);
    used.map(|&count| (count * (all - log2_q16(count))) >> 16)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms() {
        assert_eq!(log2_q16(1), 0);
        assert_eq!(log2_q16(4096), 12 << 16);
        assert_eq!(log2_q16(3), 103_872); // 1.584963 * 65536
        assert_eq!(log2_q16(u64::MAX) >> 16, 63);
    }

    /// Step after step, each found among all symbols.
    fn normalise_plainly(counts: &[u64; 256], bits: u32) -> [u16; 256] {
        let total: u128 = counts.iter().map(|&count| u128::from(count)).sum();
        let used: Vec<usize> = (0..256).filter(|&s| counts[s] > 0).collect();
        let mut freqs = [0; 256];
        for &s in &used {
            freqs[s] = (((u128::from(counts[s]) << bits) / total) as u16).max(1);
        }
        if let [lone] = used[..] {
            freqs[lone] = (1 << bits) - 1;
            freqs[(lone + 1) % 256] = 1;
            return freqs;
        }
        let sum = |freqs: &[u16; 256]| freqs.iter().map(|&f| u32::from(f)).sum::<u32>();
        // by what comes first, as `max_by` would give the last
        let is_more = |a: (u64, u16), b: (u64, u16)| {
            u128::from(a.0) * u128::from(b.1) > u128::from(b.0) * u128::from(a.1)
        };
        while sum(&freqs) < 1 << bits {
            let step = |s: usize| (counts[s], 2 * freqs[s] + 1);
            let first = used.iter().copied();
            let best = first.reduce(|a, b| if is_more(step(b), step(a)) { b } else { a });
            freqs[best.unwrap()] += 1;
        }
        while sum(&freqs) > 1 << bits {
            let step = |s: usize| (counts[s], 2 * freqs[s] - 1);
            let first = used.iter().copied().filter(|&s| freqs[s] > 1);
            let best = first.reduce(|a, b| if is_more(step(a), step(b)) { b } else { a });
            freqs[best.unwrap()] -= 1;
        }
        freqs
    }

    #[test]
    fn steps_are_those_that_a_search_among_all_symbols_finds() {
        let mut state = 1_u64;
        for round in 0..600 {
            let mut counts = [0_u64; 256];
            let used = [256, 256, 60, 3][round % 4];
            for count in &mut counts[..used] {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                // few different counts, many, and counts so high that products need 128 bits
                *count = match round % 5 {
                    0 => state >> 63,
                    1 => (state >> 60) + 1,
                    2 => (state >> 40) >> (state % 23),
                    3 => 1 << (state >> 60),
                    _ => state >> 9 >> (state % 50),
                };
            }
            counts[round % 256] += 1;
            for bits in [8, 12] {
                let plain = normalise_plainly(&counts, bits);
                assert_eq!(normalise(&counts, bits), plain, "round {round}");
            }
        }
    }

    #[test]
    fn sums_are_exact_and_nothing_that_occurs_is_lost() {
        let mut state = 1_u64;
        for round in 0..200 {
            let mut counts = [0_u64; 256];
            for count in &mut counts {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                *count = (state >> 40) >> (state % 23) >> (round % 9);
            }
            counts[round % 256] += 1;
            for bits in 8..=12 {
                let freqs = normalise(&counts, bits);
                assert_eq!(freqs.iter().map(|&f| u32::from(f)).sum::<u32>(), 1 << bits);
                assert!(counts.iter().zip(&freqs).all(|(&c, &f)| c == 0 || f > 0));
                assert!(freqs.iter().all(|&f| u32::from(f) < 1 << bits));
            }
        }
    }
}
