//! A small fast generator: the same numbers for the same input, in every run.

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        // xorshift never leaves 0
        self.0 = self.0.max(1);
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`, small ones more often: what entropy coders are for.
    pub(crate) fn skewed(&mut self, bound: usize) -> usize {
        let x = self.next();
        ((x >> 8) as usize % bound.max(1)) >> (x & 7)
    }
}
