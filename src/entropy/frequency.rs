//! From counts to frequencies that sum to a power of two, and what coding with them costs. Integers
//! only, so that every machine finds the same.

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
    let target = 1_i32 << bits;
    let mut freqs = [0_u16; 256];
    let mut sum = 0_i32;
    for (f, &count) in freqs.iter_mut().zip(counts) {
        if count > 0 {
            let share = u128::from(count) * (1_u128 << bits) / u128::from(total);
            *f = (share as u16).max(1);
            sum += i32::from(*f);
        }
    }
    if freqs.iter().filter(|&&f| f > 0).count() == 1 {
        let lone = freqs.iter().position(|&f| f > 0).unwrap_or(0);
        freqs[lone] = ((1_u32 << bits) - 1) as u16;
        freqs[(lone + 1) & 255] = 1;
        return freqs;
    }
    // the cost of a step from f to f+1 is about count / (f + 1/2): compared by cross-multiplication
    while sum < target {
        let best = (0..256)
            .filter(|&s| counts[s] > 0)
            .reduce(|best, s| {
                let gain = |s: usize| u128::from(counts[s]);
                let width = |s: usize| 2 * u128::from(freqs[s]) + 1;
                if gain(s) * width(best) > gain(best) * width(s) {
                    s
                } else {
                    best
                }
            })
            .unwrap_or(0);
        freqs[best] += 1;
        sum += 1;
    }
    while sum > target {
        let best = (0..256)
            .filter(|&s| freqs[s] > 1)
            .reduce(|best, s| {
                let loss = |s: usize| u128::from(counts[s]);
                let width = |s: usize| 2 * u128::from(freqs[s]) - 1;
                if loss(s) * width(best) < loss(best) * width(s) {
                    s
                } else {
                    best
                }
            })
            .unwrap_or(0);
        freqs[best] -= 1;
        sum -= 1;
    }
    freqs
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
