//! Which layout a file gets: the length of shards and the size of sets, by what parity costs and
//! what damage it bears (docs/parity.md, section 1).

use crate::parity::Layout;
use crate::parity::layout::SET_MAX;
use crate::parity::layout::SHARD_LEN_MAX;
use crate::parity::layout::SHARD_LEN_MIN;
use crate::parity::layout::SHARDS_MAX;
use crate::parity::sidecar::SidecarOffsets;

/// Shards are no longer than this unless there would be more than [`SHARDS_MAX`].
const SHARD_LEN_USUAL: u32 = 64 << 10;
/// Shards are made shorter for so many: one of which a byte is lost is lost whole, and scattered
/// damage hits as many as there are bytes of it. 5 % of so many bear 400.
const SHARDS_WANTED: usize = 8192;
/// But not if all that is written, with the table of so many, would be more than the percentage by
/// so much: 6 instead of 5.
const COST_WANTED: (u128, u128) = (120, 100);
/// Of a short file so many are worth more: 8.5 instead of 5.
const SHARDS_FEW: usize = 1024;
const COST_OF_FEW: (u128, u128) = (170, 100);
impl Layout {
    /// The layout of a file of `data_len` bytes that survives the loss of any run of `percent` of
    /// it. None of an empty file, or of one that is too long.
    pub fn choose(data_len: u64, percent: u32) -> Option<Self> {
        let lens =
            (SHARD_LEN_MIN.trailing_zeros()..=SHARD_LEN_MAX.trailing_zeros()).map(|b| 1_u32 << b);
        let all = lens.filter_map(|len| Self::with_shards(data_len, percent, len));
        let all: Vec<Self> = all.collect();
        let usual = || {
            let usual = all.iter().copied();
            usual.filter(|layout| layout.shard_len <= SHARD_LEN_USUAL)
        };
        let cost = |layout: &Self| u128::from(SidecarOffsets::of(layout).len);
        let wanted = u128::from(data_len) * u128::from(percent);
        let within =
            |layout: &Self, (more, than): (u128, u128)| cost(layout) * than * 100 <= wanted * more;
        let is_enough = |layout: &Self| layout.shards() >= SHARDS_WANTED;
        // no shorter than need be
        let first = usual().rfind(is_enough).or_else(|| usual().next());
        let Some(first) = first else {
            // too long even for the usual shards
            return all.first().copied();
        };
        let chosen = usual()
            .filter(|layout| layout.shard_len >= first.shard_len)
            .find(|layout| within(layout, COST_WANTED));
        if chosen.is_some_and(|layout| layout.shards() >= SHARDS_FEW) {
            return chosen;
        }
        let few: Vec<Self> = usual()
            .filter(|layout| within(layout, COST_OF_FEW))
            .collect();
        let longest = few.iter().rfind(|layout| layout.shards() >= SHARDS_FEW);
        // where header and table are most of it, that which is least
        longest
            .or(few.first())
            .copied()
            .or_else(|| usual().min_by_key(cost))
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
            percent,
        };
        layout.check().ok()?;
        Some(layout)
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
            (100_000, 10.0),
            (1_300_000, 8.5),
            (4_000_000, 6.8),
            (16 << 20, 5.9),
            (30_000_000, 5.9),
            (90_000_000, 5.5),
            (338_000_000, 5.2),
            (988_000_000, 5.1),
            (1 << 35, 5.1),
        ] {
            let layout = Layout::choose(data_len, 5).unwrap();
            let percent = units::percent(SidecarOffsets::of(&layout).len, data_len);
            assert!(percent <= most, "{percent} % of {data_len}: {layout:?}");
        }
    }

    /// At most 6 % of a file of 8 MB and more, 8.5 % of a shorter one, and of the shortest so many
    /// bytes more, for two headers.
    #[test]
    fn no_length_costs_more_than_is_said() {
        const HEADERS_AND_MORE: u64 = 3000;
        let mut state = 1_u64;
        let mut lens: Vec<u64> = (0..4000).collect();
        for bits in 12..41 {
            for _ in 0..200 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                lens.push((1 << bits) + (state >> 20) % (1 << bits));
            }
        }
        lens.extend([7_999_999, 8_000_000, 8_000_001]);
        for data_len in lens {
            let Some(layout) = Layout::choose(data_len, 5) else {
                assert_eq!(data_len, 0);
                continue;
            };
            layout.check().unwrap();
            let most = match data_len {
                8_000_000.. => data_len * 6 / 100,
                250_000.. => data_len * 85 / 1000,
                _ => data_len * 85 / 1000 + HEADERS_AND_MORE,
            };
            let cost = SidecarOffsets::of(&layout).len;
            assert!(cost <= most, "{cost} bytes of {data_len}: {layout:?}");
            assert_eq!(layout.percents().collect::<Vec<_>>(), [5]);
            let unsaid = Layout {
                percent: 0,
                ..layout
            };
            assert!(unsaid.percents().any(|percent| percent == 5));
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
