//! How a file is cut into shards, and the shards into sets (docs/parity.md, section 1).

#![deny(clippy::indexing_slicing, reason = "hostile bytes")]

use std::ops::Range;

use crate::base::Error;
use crate::base::Result;

/// Shortest shard in bytes.
pub(crate) const SHARD_LEN_MIN: u32 = 512;
/// Longest.
pub(crate) const SHARD_LEN_MAX: u32 = 4 << 20;
/// Most shards of a file: each has 16 bytes in a table that is held in memory.
pub(crate) const SHARDS_MAX: u64 = 1 << 19;
/// Most shards of a set, its parity rounded up to a power of two counted with it.
pub(super) const SET_MAX: u64 = 2048;

/// How a file of this length is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of the file.
    pub data_len: u64,
    /// Bytes of a shard: a power of two. The last one is filled up with zeros.
    pub shard_len: u32,
    /// Number of sets.
    pub set_count: u32,
    /// Parity shards of each set.
    pub parity_count: u32,
    /// The percentage that it was chosen for; 0 if that is not known.
    pub percent: u32,
}

impl Layout {
    /// An error unless this is a layout that can be worked with.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::damaged(format!("the parity file's {what}")));
        if !self.shard_len.is_power_of_two()
            || !(SHARD_LEN_MIN..=SHARD_LEN_MAX).contains(&self.shard_len)
        {
            return wrong("shards have no length that there is");
        }
        let shards = self.data_len.div_ceil(u64::from(self.shard_len));
        if shards == 0 || shards > SHARDS_MAX {
            return wrong("data have no shards, or too many");
        }
        let sets = u64::from(self.set_count);
        if sets == 0 || sets > shards {
            return wrong("sets are none, or more than the shards");
        }
        let parity = u64::from(self.parity_count);
        let in_set = shards.div_ceil(sets);
        if parity * sets > 2 * SHARDS_MAX {
            return wrong("parity shards are too many");
        }
        if parity == 0 || parity > SET_MAX || in_set + parity.next_power_of_two() > SET_MAX {
            return wrong("sets are larger than sets may be");
        }
        Ok(())
    }

    /// Number of data shards.
    pub fn shards(&self) -> usize {
        self.data_len.div_ceil(u64::from(self.shard_len)) as usize
    }

    /// Number of parity shards, of all sets.
    pub fn parity_shards(&self) -> usize {
        self.set_count as usize * self.parity_count as usize
    }

    /// Where a data shard is in the file; the last one may be shorter than the others.
    pub fn shard(&self, number: usize) -> Range<u64> {
        let start = number as u64 * u64::from(self.shard_len);
        start..(start + u64::from(self.shard_len)).min(self.data_len)
    }

    /// The data shards of a set, in order: neighbours in the file belong to different sets, so that
    /// a run of lost ones is shared among all.
    pub fn set(&self, number: usize) -> impl Iterator<Item = usize> + use<> {
        (number..self.shards()).step_by(self.set_count as usize)
    }

    /// The number of a set's parity shard among all: neighbours belong to different sets, too.
    pub fn parity_shard(&self, set: usize, row: usize) -> usize {
        row * self.set_count as usize + set
    }

    /// The percentages that this may have been chosen for: each needs as many parity shards.
    pub fn percents(&self) -> impl Iterator<Item = u32> + use<> {
        let (shards, sets) = (self.shards() as u64, u64::from(self.set_count));
        let (parity, known) = (u64::from(self.parity_count), self.percent);
        let needs = move |percent: u32| {
            let lost = (shards * u64::from(percent)).div_ceil(100) + 1;
            lost.div_ceil(sets)
        };
        (1..=100).filter(move |&percent| match known {
            0 => needs(percent) == parity,
            known => percent == known,
        })
    }

    /// Bytes of all parity shards.
    pub fn parity_len(&self) -> u64 {
        self.parity_shards() as u64 * u64::from(self.shard_len)
    }
}
