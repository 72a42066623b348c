//! Strips of a plane sorted into a few clusters, each with a table of its own: k-means on coarse
//! histograms, where the distance of a strip from a cluster is what the strip costs by the
//! cluster's frequencies.

use crate::entropy::frequency::log2_q16;

/// Elements of a strip (docs/format.md, section 8).
pub const STRIP_LEN: usize = 512;
/// Bins of a coarse histogram: the upper six bits of a symbol. They hold the exponent, which is
/// what differs among strips.
pub const BINS: usize = 64;
/// Lloyd steps; the assignment rarely moves after ten.
const STEPS: usize = 12;

/// Clusters are settled when less than this share of the strips moves.
const SETTLED_SHARE: usize = 32;

/// How often each value of the upper six bits occurs in a strip.
pub type Coarse = [i16; BINS];

/// How often each symbol occurs in a strip.
pub type Histogram = [u16; 256];

/// Counts the symbols of a strip, by four counters, so that equal neighbours do not wait for each
/// other.
pub fn histogram(strip: &[u8]) -> Histogram {
    assert!(strip.len() <= STRIP_LEN, "no more than a strip");
    let mut counts = [[0; 256]; 4];
    let (fours, rest) = strip.as_chunks::<4>();
    for four in fours {
        for (symbol, counts) in four.iter().zip(&mut counts) {
            counts[usize::from(*symbol)] += 1;
        }
    }
    for symbol in rest {
        counts[0][usize::from(*symbol)] += 1;
    }
    let [mut sum, second, third, fourth] = counts;
    for symbol in 0..256 {
        sum[symbol] += second[symbol] + third[symbol] + fourth[symbol];
    }
    sum
}

/// The coarse histogram of a strip.
pub fn coarse(histogram: &Histogram) -> Coarse {
    let mut sums = [0; BINS];
    for (sum, four) in sums.iter_mut().zip(histogram.as_chunks::<4>().0) {
        *sum = (four[0] + four[1] + four[2] + four[3]).cast_signed();
    }
    sums
}

/// What each bin costs in each cluster, in 1/64 bit. Counts and costs are signed words, for which
/// processors have an instruction that multiplies and adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clusters {
    costs: Vec<[i16; BINS]>,
}

impl Clusters {
    /// Finds at most `count` clusters among the strips of a sample; one if there are too few
    /// strips.
    pub fn find(sample: &[Coarse], count: usize) -> Self {
        if count < 2 || sample.len() < 4 * count {
            return Self {
                costs: vec![[0; BINS]],
            };
        }
        let mut order: Vec<usize> = (0..sample.len()).collect();
        order.sort_by_cached_key(|&strip| (mean_bin(&sample[strip]), strip));
        let mut assigned = vec![0_usize; sample.len()];
        for (rank, &strip) in order.iter().enumerate() {
            assigned[strip] = rank * count / sample.len();
        }
        let mut clusters = Self::of(sample, &assigned, count);
        for _ in 0..STEPS {
            let mut moved = 0;
            for (strip, cluster) in sample.iter().zip(&mut assigned) {
                let nearest = clusters.nearest(strip);
                moved += usize::from(nearest != *cluster);
                *cluster = nearest;
            }
            if moved == 0 {
                break;
            }
            clusters = Self::of(sample, &assigned, count);
            // what still moves stands between two clusters and costs much the same in either
            if moved < sample.len() / SETTLED_SHARE {
                break;
            }
        }
        clusters
    }

    fn of(sample: &[Coarse], assigned: &[usize], count: usize) -> Self {
        let mut sums = vec![[1_u64; BINS]; count];
        for (strip, &cluster) in sample.iter().zip(assigned) {
            for (sum, &bin) in sums[cluster].iter_mut().zip(strip) {
                // 64 to the 1 of the start: an empty bin is dear, but not beyond all
                *sum += 64 * u64::from(bin.unsigned_abs());
            }
        }
        let costs = sums
            .iter()
            .map(|sums| {
                let total = log2_q16(sums.iter().sum());
                sums.map(|sum| ((total - log2_q16(sum)) >> 10) as i16)
            })
            .collect();
        Self { costs }
    }

    /// How many clusters there are.
    pub fn count(&self) -> usize {
        self.costs.len()
    }

    /// The cluster in which the strip costs least; the first of equals.
    pub fn nearest(&self, strip: &Coarse) -> usize {
        let mut best = (i32::MAX, 0);
        for (cluster, costs) in self.costs.iter().enumerate() {
            let cost = strip
                .iter()
                .zip(costs)
                .map(|(&n, &c)| i32::from(n) * i32::from(c))
                .sum();
            if cost < best.0 {
                best = (cost, cluster);
            }
        }
        best.1
    }
}

fn mean_bin(strip: &Coarse) -> u64 {
    let count: u64 = strip.iter().map(|&n| u64::from(n.unsigned_abs())).sum();
    let sum: u64 = strip
        .iter()
        .zip(0_u64..)
        .map(|(&n, bin)| u64::from(n.unsigned_abs()) * bin)
        .sum();
    (sum << 16) / count.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_kinds_of_strips_are_told_apart() {
        let strip = |centre: u8, shift: usize| {
            let symbols: Vec<u8> = (0..STRIP_LEN)
                .map(|i| centre + ((i + shift) % 7) as u8 * 4)
                .collect();
            coarse(&histogram(&symbols))
        };
        let sample: Vec<Coarse> = (0..64)
            .map(|i| strip(if i % 3 == 0 { 40 } else { 160 }, i))
            .collect();
        let clusters = Clusters::find(&sample, 2);
        for (i, strip) in sample.iter().enumerate() {
            assert_eq!(
                clusters.nearest(strip),
                usize::from(i % 3 != 0),
                "strip {i}"
            );
        }
    }
}
