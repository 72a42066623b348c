//! How a file is cut into shards, and the shards into sets (docs/parity.md, section 1).

#![deny(clippy::indexing_slicing, reason = "hostile bytes")]

use std::ops::Range;

use crate::base::Error;
use crate::base::Result;
use crate::parity::sidecar::Places;

/// Shortest shard in bytes.
pub const SHARD_LEN_MIN: u32 = 512;
/// Longest.
pub const SHARD_LEN_MAX: u32 = 4 << 20;
/// Shards are no longer than this unless there would be more than [`SHARDS_MAX`].
const SHARD_LEN_USUAL: u32 = 64 << 10;
/// Shards are made shorter for so many: one that is lost in part is lost whole, and of few that is much.
const SHARDS_WANTED: usize = 1280;
/// But not if all that is written would be more than the percentage by so much: 5.3 instead of 5.
const COST_WANTED: (u128, u128) = (106, 100);
/// Most shards of a file: each has 16 bytes in a table that is held in memory.
pub const SHARDS_MAX: u64 = 1 << 19;
/// Most shards of a set, its parity rounded up to a power of two counted with it.
const SET_MAX: u64 = 2048;

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
}

impl Layout {
    /// The layout of a file of `data_len` bytes that survives the loss of any run of `percent` of it. None of an empty file, or of one
    /// that is too long.
    pub fn choose(data_len: u64, percent: u32) -> Option<Self> {
        let lens =
            (SHARD_LEN_MIN.trailing_zeros()..=SHARD_LEN_MAX.trailing_zeros()).map(|b| 1_u32 << b);
        let layouts = lens.filter_map(|len| Self::with_shards(data_len, percent, len));
        let layouts: Vec<Self> = layouts.collect();
        let is_usual = |layout: &&Self| layout.shard_len <= SHARD_LEN_USUAL;
        let mut usual = layouts.iter().rev().filter(is_usual);
        let first = layouts
            .iter()
            .find(|layout| layout.shard_len > SHARD_LEN_USUAL);
        let enough = usual.find(|layout| layout.shards() >= SHARDS_WANTED);
        // what is too short for so many, and what is too long even for the usual shards
        let chosen = enough.or_else(|| layouts.first()).or(first)?;
        let cost = |layout: &Self| Places::of(layout).len;
        let wanted = u128::from(data_len) * u128::from(percent) / 100;
        if u128::from(cost(chosen)) * COST_WANTED.1 <= wanted * COST_WANTED.0 {
            return Some(*chosen);
        }
        // the table of so many short shards is long
        let longer = layouts
            .iter()
            .filter(|layout| layout.shard_len >= chosen.shard_len);
        longer
            .filter(is_usual)
            .min_by_key(|layout| cost(layout))
            .or(Some(chosen))
            .copied()
    }

    fn with_shards(data_len: u64, percent: u32, shard_len: u32) -> Option<Self> {
        let shards = data_len.div_ceil(u64::from(shard_len));
        if shards == 0 || shards > SHARDS_MAX {
            return None;
        }
        // a run that does not begin with a shard reaches into one more
        let lost = (shards * u64::from(percent.min(100))).div_ceil(100) + 1;
        // wider sets of less parity first: they bear scattered damage better
        let mut parity_max = 2;
        while parity_max < SET_MAX / 2 {
            let sets = shards.div_ceil(SET_MAX - parity_max);
            if lost.div_ceil(sets) <= parity_max {
                break;
            }
            parity_max *= 2;
        }
        let sets = shards.div_ceil(SET_MAX - parity_max);
        let layout = Self {
            data_len,
            shard_len,
            set_count: u32::try_from(sets).ok()?,
            parity_count: u32::try_from(lost.div_ceil(sets).min(parity_max)).ok()?,
        };
        layout.check().ok()?;
        Some(layout)
    }

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

    /// The data shards of a set, in order: neighbours in the file belong to different sets, so that a run of lost ones is shared
    /// among all.
    pub fn set(&self, number: usize) -> impl Iterator<Item = usize> + use<> {
        (number..self.shards()).step_by(self.set_count as usize)
    }

    /// The number of a set's parity shard among all: neighbours belong to different sets, too.
    pub fn parity_shard(&self, set: usize, row: usize) -> usize {
        row * self.set_count as usize + set
    }

    /// Bytes of all parity shards.
    pub fn parity_len(&self) -> u64 {
        self.parity_shards() as u64 * u64::from(self.shard_len)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "no hostile bytes here")]
    use super::*;
    use crate::base::units;

    #[test]
    fn any_run_of_the_percentage_can_be_lost() {
        for percent in [1, 2, 5, 10, 37, 50, 100] {
            for data_len in [
                1,
                511,
                513,
                100_000,
                1 << 20,
                21 << 20,
                30_000_001,
                84 << 20,
                988_000_000,
                9_300_000_000,
                70 << 30,
                1 << 40,
            ] {
                let layout = Layout::choose(data_len, percent).unwrap();
                let shards = layout.shards() as u64;
                let run = data_len * u64::from(percent) / 100;
                // at the worst place
                let lost = (run.div_ceil(u64::from(layout.shard_len)) + 1).min(shards);
                let of_a_set = lost.div_ceil(u64::from(layout.set_count));
                assert!(
                    of_a_set <= u64::from(layout.parity_count),
                    "{percent} % of {data_len}: {layout:?}"
                );
            }
        }
    }

    #[test]
    fn the_default_costs_little() {
        for (data_len, most) in [
            (100_000, 13.0),
            (1_300_000, 6.3),
            (16 << 20, 5.4),
            (22 << 20, 5.35),
            (30_000_000, 5.3),
            (60 << 20, 5.3),
            (90_000_000, 5.3),
            (988_000_000, 5.3),
            (1 << 35, 5.3),
        ] {
            let layout = Layout::choose(data_len, 5).unwrap();
            let percent = units::percent(Places::of(&layout).len, data_len);
            assert!(percent <= most, "{percent} % of {data_len}: {layout:?}");
        }
    }

    #[test]
    fn every_shard_is_in_one_set() {
        let layout = Layout::choose(200_000_000, 5).unwrap();
        let mut seen = vec![0; layout.shards()];
        for set in 0..layout.set_count as usize {
            for shard in layout.set(set) {
                seen[shard] += 1;
            }
        }
        assert!(seen.iter().all(|&times| times == 1));
        assert_eq!(layout.shard(layout.shards() - 1).end, 200_000_000);
    }

    #[test]
    fn a_file_without_bytes_needs_no_parity() {
        assert_eq!(Layout::choose(0, 5), None);
    }
}
