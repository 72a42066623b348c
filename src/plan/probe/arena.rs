//! Memory that no cache holds, filled with the same pattern again and again.

use memmap2::Advice;
use memmap2::MmapMut;
use rayon::iter::IndexedParallelIterator;
use rayon::iter::ParallelIterator;
use rayon::slice::ParallelSliceMut;

use crate::base::units;
use crate::plan::facts::Caches;
use crate::plan::facts::Memory;
use crate::plan::measured::Measured;
use crate::plan::probe::pace::Crew;

/// The part of what is available that is taken at most.
const SHARE: u64 = 8;
/// What is taken where nobody says how large the caches are, and at least where somebody does.
const LEN_UNKNOWN: u64 = 1 << 30;
const LEN_MIN: u64 = 256 << 20;
/// Four times what the caches hold is taken up to this, and always twice as much.
const LEN_USUAL_MAX: u64 = 1 << 30;

/// Bytes to go through, so that a cache holds a small part at most; not measured where that would
/// take too much of the memory.
pub(super) fn len(caches: &Caches, memory: &Memory) -> Measured<u64> {
    let (least, wanted) = match caches.last_level_total.value() {
        Some(cache) => {
            let twice = cache.0.saturating_mul(2);
            let four_times = twice.saturating_mul(2).clamp(LEN_MIN, LEN_USUAL_MAX);
            (twice, four_times.max(twice))
        }
        None => (LEN_UNKNOWN, LEN_UNKNOWN),
    };
    memory.available.clone().and_then(|available| {
        let most = available.0 / SHARE;
        if most < least.max(1 << 20) {
            return Measured::not(format!(
                "{} of memory would be needed, so that no cache holds it, and an eighth of what \
                 is available is {}",
                units::human_bytes(least),
                units::human_bytes(most)
            ));
        }
        Measured::Value(wanted.min(most))
    })
}

/// Memory in large pages, where the system has them.
#[derive(Debug)]
pub(super) struct Arena {
    pages: MmapMut,
    /// What it is filled with is so long, and as often in it.
    pattern_len: usize,
}

impl Arena {
    /// Of `len` bytes, or why there is none.
    pub(super) fn new(len: u64) -> Result<Self, String> {
        let failed = |error| format!("{len} bytes of memory cannot be had: {error}");
        let pages = MmapMut::map_anon(len as usize).map_err(failed)?;
        // as memory for weights; where there are none it is slower, and no fault
        if let Err(error) = pages.advise(Advice::HugePage) {
            tracing::debug!("no large pages: {error}");
        }
        Ok(Self {
            pages,
            pattern_len: len as usize,
        })
    }

    /// Fills it with whole patterns, as many as there is room for; at least one is needed.
    pub(super) fn fill(&mut self, pattern: &[u8], crew: &Crew) -> Result<(), String> {
        if pattern.is_empty() || pattern.len() > self.pages.len() {
            return Err("there is too little memory for the weights of the test".to_owned());
        }
        self.pattern_len = pattern.len();
        let copies = self.pages.par_chunks_exact_mut(pattern.len());
        crew.install(|| {
            copies
                .with_min_len(1)
                .for_each(|copy| copy.copy_from_slice(pattern));
        });
        Ok(())
    }

    /// How often the pattern is in it.
    pub(super) fn copies(&self) -> usize {
        self.pages.len() / self.pattern_len
    }

    /// The pattern once more: that at `number`, from the first again behind the last.
    pub(super) fn copy(&self, number: usize) -> &[u8] {
        let start = number % self.copies() * self.pattern_len;
        &self.pages[start..start + self.pattern_len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::measured::Bytes;

    fn caches(total: Measured<Bytes>) -> Caches {
        let none = || Measured::not("nobody says");
        Caches {
            l1_data: none(),
            l2: none(),
            l3: none(),
            last_level_total: total,
        }
    }

    fn memory(available: Measured<Bytes>) -> Memory {
        let none = || Measured::not("nobody says");
        Memory {
            total: none(),
            available,
            limit: none(),
        }
    }

    #[test]
    fn the_memory_is_larger_than_the_caches_and_an_eighth_of_what_there_is() {
        let len = |cache: u64, available: u64| {
            let caches = caches(Measured::Value(Bytes(cache << 20)));
            let len = len(&caches, &memory(Measured::Value(Bytes(available << 20))));
            len.value().map(|len| len >> 20)
        };
        assert_eq!(len(32, 20_000), Some(256));
        assert_eq!(len(128, 20_000), Some(512));
        assert_eq!(len(400, 20_000), Some(1024));
        assert_eq!(len(1152, 200_000), Some(2304));
        // less, where there is less
        assert_eq!(len(32, 1024), Some(128));
        assert_eq!(len(32, 512), Some(64));
        assert_eq!(len(32, 511), None);
        assert_eq!(len(0, 7), None);
    }

    #[test]
    fn without_known_caches_more_is_read_and_without_known_memory_nothing() {
        let unknown = caches(Measured::not("no /sys"));
        let much = memory(Measured::Value(Bytes(8 << 30)));
        assert_eq!(len(&unknown, &much), Measured::Value(1 << 30));
        let little = memory(Measured::Value(Bytes(4 << 30)));
        assert!(len(&unknown, &little).why_not().is_some());
        let none = memory(Measured::not("no /proc"));
        assert_eq!(len(&unknown, &none), Measured::not("no /proc"));
    }

    #[test]
    fn an_arena_has_the_pattern_as_often_as_it_fits() {
        let crew = Crew::new(2).unwrap();
        let mut arena = Arena::new(10_000).unwrap();
        arena.fill(&[7; 3_000], &crew).unwrap();
        assert_eq!(arena.copies(), 3);
        arena.fill(&[8; 4_999], &crew).unwrap();
        assert_eq!(arena.copies(), 2);
        for number in 0..5 {
            assert_eq!(arena.copy(number), [8; 4_999]);
        }
        assert!(arena.fill(&[9; 10_001], &crew).is_err());
        assert!(arena.fill(&[], &crew).is_err());
    }
}
