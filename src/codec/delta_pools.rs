//! Which spans share the tables of their differences. Tables cost a light fine-tune as much as a
//! fifth of its differences, so spans are put together, the best two groups first, as long as one
//! table less saves more than the common one loses.

use crate::base::CodecId;
use crate::codec::delta::Counts256;
use crate::codec::delta::DeltaCoder;
use crate::codec::delta::DeltaCounts;
use crate::entropy::frequency;

/// Most groups that are held open for more spans. With twice as many, images were between 0.17 %
/// smaller and 0.03 % larger.
const OPEN_MAX: usize = 16;

/// Spans that share tables.
#[derive(Debug)]
pub(crate) struct DeltaPool {
    /// Their numbers.
    pub spans: Vec<usize>,
    /// Encodes their blocks.
    pub coder: DeltaCoder,
}

#[derive(Debug)]
struct Group {
    spans: Vec<usize>,
    counts: DeltaCounts,
    /// For each exponent of the base that occurs the bits that its symbols hold.
    held: Vec<u64>,
    /// About how many bits its tables take.
    tables_bits: u64,
    /// For each group before this one among those open: the bits saved if the two were one.
    savings: Vec<i64>,
}

impl Group {
    fn new(spans: Vec<usize>, counts: DeltaCounts) -> Self {
        let held = counts.rows().map(|(_, counts)| frequency::entropy(counts));
        Self {
            spans,
            held: held.collect(),
            tables_bits: counts.tables_bits(),
            counts,
            savings: Vec::new(),
        }
    }

    fn joined(mut self, other: Self) -> Self {
        self.spans.extend(other.spans);
        self.counts.add(other.counts);
        Self::new(self.spans, self.counts)
    }

    fn rows(&self) -> impl Iterator<Item = (usize, &Counts256, u64)> {
        let rows = self.counts.rows().zip(&self.held);
        rows.map(|((exponent, counts), held)| (exponent, counts, *held))
    }

    /// Bits saved if the two were one; if nothing is, only that.
    fn saving(&self, other: &Self) -> i64 {
        let mut saving = self.tables_bits.min(other.tables_bits).cast_signed();
        let mut others = other.rows().peekable();
        for (exponent, counts, held) in self.rows() {
            while others.next_if(|other| other.0 < exponent).is_some() {}
            if let Some((_, more, held_there)) = others.next_if(|other| other.0 == exponent) {
                let sum = std::array::from_fn(|symbol| counts[symbol] + more[symbol]);
                saving -=
                    frequency::entropy(&sum).cast_signed() - (held + held_there).cast_signed();
            }
            // most groups are not alike, which is soon seen
            if saving <= 0 {
                break;
            }
        }
        saving
    }
}

/// Takes spans of one codec and finds the pools among them; they depend on the order of the spans.
#[derive(Debug)]
pub(crate) struct PoolFinder {
    codec: CodecId,
    open: Vec<Group>,
    closed: Vec<DeltaPool>,
}

impl PoolFinder {
    /// For spans of this codec.
    pub(crate) fn new(codec: CodecId) -> Self {
        Self {
            codec,
            open: Vec::new(),
            closed: Vec::new(),
        }
    }

    /// The codec of the spans.
    pub(crate) fn codec(&self) -> CodecId {
        self.codec
    }

    /// Takes one more span, known by a number.
    pub(crate) fn add(&mut self, span: usize, counts: DeltaCounts) {
        self.put(Group::new(vec![span], counts), self.open.len());
        if self.open.len() > OPEN_MAX && !self.join_two() {
            let eldest = self.take(0);
            self.close(eldest);
        }
    }

    /// The pools.
    pub(crate) fn finish(mut self) -> Vec<DeltaPool> {
        while self.join_two() {}
        for group in std::mem::take(&mut self.open) {
            self.close(group);
        }
        self.closed
    }

    fn close(&mut self, group: Group) {
        let coder = DeltaCoder::new(self.codec, &group.counts);
        let spans = group.spans;
        self.closed
            .extend(coder.map(|coder| DeltaPool { spans, coder }));
    }

    /// Joins the two groups of which that saves most; false if none saves anything.
    fn join_two(&mut self) -> bool {
        let mut best: Option<(i64, usize, usize)> = None;
        for (b, group) in self.open.iter().enumerate() {
            for (a, &saving) in group.savings.iter().enumerate() {
                if saving > 0 && best.is_none_or(|best| saving > best.0) {
                    best = Some((saving, a, b));
                }
            }
        }
        let Some((_, a, b)) = best else {
            return false;
        };
        let (second, first) = (self.take(b), self.take(a));
        self.put(first.joined(second), a);
        true
    }

    fn take(&mut self, at: usize) -> Group {
        let group = self.open.remove(at);
        for after in &mut self.open[at..] {
            after.savings.remove(at);
        }
        group
    }

    fn put(&mut self, mut group: Group, at: usize) {
        let (before, after) = self.open.split_at_mut(at);
        group.savings = before.iter().map(|other| group.saving(other)).collect();
        for other in after {
            other.savings.insert(at, other.saving(&group));
        }
        self.open.insert(at, group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::delta::DeltaScratch;

    #[test]
    fn spans_alike_are_put_together_and_others_are_not() {
        let mut seed = 7_u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as u32
        };
        let mut finder = PoolFinder::new(CodecId::DELTA_BF16);
        let spread = |number: usize| if number.is_multiple_of(3) { 2 } else { 50 };
        for number in 0..40 {
            let base: Vec<u8> = (0..8000)
                .flat_map(|_| (0x3c00 + random() as u16 % 0x300).to_le_bytes())
                .collect();
            let tuned: Vec<u8> = base
                .as_chunks::<2>()
                .0
                .iter()
                .flat_map(|word| {
                    let moved = (random() % spread(number)) as u16;
                    (u16::from_le_bytes(*word) + moved).to_le_bytes()
                })
                .collect();
            let mut counts = DeltaCounts::default();
            let scratch = &mut DeltaScratch::default();
            counts.count(CodecId::DELTA_BF16, &tuned, &base, scratch);
            finder.add(number, counts);
        }
        let pools = finder.finish();
        assert_eq!(pools.len(), 2);
        for pool in &pools {
            let first = spread(pool.spans[0]);
            assert!(pool.spans.iter().all(|&span| spread(span) == first));
        }
        assert_eq!(pools.iter().map(|pool| pool.spans.len()).sum::<usize>(), 40);
    }
}
