//! Finds the shards of a file that was damaged: where they should be, as far from its end as they
//! should be, and if bytes were put in or taken out, wherever they are.

#![deny(clippy::indexing_slicing, reason = "hostile bytes")]

use std::collections::BTreeMap;
use std::ops::Range;

use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest;
use crate::parity::Layout;
use crate::parity::Sidecar;
use crate::parity::table::ShardRecord;
use crate::parity::table::key_of;

/// How often a shard may be seen where it is not, before nobody looks for it any more: what repeats
/// itself is seen everywhere.
const FALSE_FINDS_MAX: u32 = 64;
/// And all of them together: a table that names one key for all would have everything compared with
/// everything.
const FALSE_FINDS_IN_ALL_MAX: usize = 1 << 17;
/// Bytes looked through at once.
const WINDOW_LEN: usize = 1 << 20;

/// Where the shards of a file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The offset of each data shard in the damaged file; none if it is lost.
    pub offsets: Vec<Option<u64>>,
    /// Parity shards that are lost.
    pub parity_lost: usize,
    /// Whether each set has parity enough for what it lost.
    pub is_repairable: bool,
    /// Shards that are missing beyond the parity, over all sets.
    pub short_by: usize,
}

impl Located {
    /// Data shards that are lost.
    pub fn lost(&self) -> usize {
        self.offsets
            .iter()
            .filter(|offset| offset.is_none())
            .count()
    }

    /// Data shards that are elsewhere.
    pub fn moved(&self, layout: &Layout) -> usize {
        let offsets = self.offsets.iter().enumerate();
        let is_moved = |(number, offset): &(usize, &Option<u64>)| {
            offset.is_some_and(|offset| offset != layout.shard(*number).start)
        };
        offsets.filter(is_moved).count()
    }
}

/// Finds what is there of the file that `sidecar` protects.
pub fn locate(file: &dyn ReadAt, sidecar: &Sidecar, progress: &dyn Progress) -> Result<Located> {
    let layout = &sidecar.header.layout;
    let mut search = Search {
        file,
        layout,
        records: &sidecar.table.records,
        offsets: vec![None; layout.shards()],
        buffer: Vec::new(),
        progress,
    };
    search.where_they_should_be()?;
    if search.offsets.iter().any(Option::is_none) {
        search.everywhere()?;
    }
    let offsets = search.offsets;
    let mut buffer = Vec::new();
    let parity: Vec<bool> = (0..layout.parity_shards())
        .map(|number| sidecar.find_parity(number, &mut buffer).is_some())
        .collect();
    let mut short_by = 0;
    for set in 0..layout.set_count as usize {
        let is_lost = |shard: &usize| offsets.get(*shard).is_none_or(Option::is_none);
        let lost = layout.set(set).filter(is_lost).count();
        let is_there = |row: &usize| parity.get(layout.parity_shard(set, *row)) == Some(&true);
        let there = (0..layout.parity_count as usize).filter(is_there).count();
        short_by += lost.saturating_sub(there);
    }
    Ok(Located {
        offsets,
        parity_lost: parity.iter().filter(|is_there| !**is_there).count(),
        is_repairable: short_by == 0,
        short_by,
    })
}

struct Search<'a> {
    file: &'a dyn ReadAt,
    layout: &'a Layout,
    records: &'a [Option<ShardRecord>],
    offsets: Vec<Option<u64>>,
    buffer: Vec<u8>,
    progress: &'a dyn Progress,
}

impl Search<'_> {
    /// Whether shard `number` stands at `offset`.
    fn is_at(&mut self, number: usize, offset: u64) -> bool {
        let Some(Some(record)) = self.records.get(number) else {
            return false;
        };
        let range = self.layout.shard(number);
        let len = range.end - range.start;
        let ends = offset.checked_add(len);
        if ends.is_none_or(|end| end > self.file.len()) {
            return false;
        }
        self.buffer.resize(len as usize, 0);
        // a sector that cannot be read is a shard that is lost
        self.file.read_exact_at(offset, &mut self.buffer).is_ok()
            && digest::xxh3(&self.buffer) == record.hash
    }

    fn set(&mut self, number: usize, offset: u64) {
        if let Some(known) = self.offsets.get_mut(number) {
            *known = Some(offset);
        }
    }

    fn is_missing(&self, number: usize) -> bool {
        self.offsets.get(number).is_some_and(Option::is_none)
    }

    /// Counted from the beginning of the file, and from its end.
    fn where_they_should_be(&mut self) -> Result<()> {
        let (len, should) = (self.file.len(), self.layout.data_len);
        for number in 0..self.layout.shards() {
            self.progress.check()?;
            let range = self.layout.shard(number);
            let from_end = (range.start + len).checked_sub(should);
            let candidates = [Some(range.start), from_end.filter(|_| len != should)];
            for offset in candidates.into_iter().flatten() {
                if self.is_missing(number) && self.is_at(number, offset) {
                    self.set(number, offset);
                }
            }
            self.progress.advance(range.end - range.start);
        }
        Ok(())
    }

    /// The parts of the file in which no shard was found, in order.
    fn unclaimed(&self) -> Vec<Range<u64>> {
        let shard_len = |number: usize| {
            let range = self.layout.shard(number);
            range.end - range.start
        };
        let found = self.offsets.iter().enumerate();
        let found = found.filter_map(|(number, offset)| Some(((*offset)?, shard_len(number))));
        let mut claimed: Vec<(u64, u64)> = found.collect();
        claimed.sort_unstable();
        let (mut free, mut at) = (Vec::new(), 0);
        for (offset, len) in claimed {
            if offset > at {
                free.push(at..offset);
            }
            at = at.max(offset + len);
        }
        if at < self.file.len() {
            free.push(at..self.file.len());
        }
        free
    }

    /// Looks through all that is no shard's yet for the keys of those that are missing.
    fn everywhere(&mut self) -> Result<()> {
        let mut missing = MissingShards::new(self.records, &self.offsets);
        for free in self.unclaimed() {
            let mut at = free.start;
            while at < free.end && !missing.is_empty() {
                self.progress.check()?;
                at = self.look(at, free.end, &mut missing);
            }
        }
        Ok(())
    }

    /// Looks at one window; where to go on.
    fn look(&mut self, at: u64, end: u64, missing: &mut MissingShards) -> u64 {
        let len = (end - at).min(WINDOW_LEN as u64) as usize;
        let mut window = vec![0; len];
        if self.file.read_exact_at(at, &mut window).is_err() {
            // the readable parts around a bad sector are looked at one by one
            return self.look_in_parts(at, at + len as u64, missing);
        }
        self.look_at(&window, at, missing).unwrap_or_else(|| {
            // a key may lie across the end of the window
            let next = at + (len as u64).saturating_sub(7).max(1);
            if at + len as u64 == end { end } else { next }
        })
    }

    fn look_in_parts(&mut self, mut at: u64, end: u64, missing: &mut MissingShards) -> u64 {
        const SECTOR_LEN: u64 = 4096;
        while at < end {
            let next = (at / SECTOR_LEN + 1) * SECTOR_LEN;
            let mut part = vec![0; (next.min(end) - at) as usize];
            if self.file.read_exact_at(at, &mut part).is_ok()
                && let Some(behind) = self.look_at(&part, at, missing)
            {
                return behind;
            }
            at = next;
        }
        end
    }

    /// The end of the run of shards that begins in these bytes, if one does.
    fn look_at(&mut self, bytes: &[u8], at: u64, missing: &mut MissingShards) -> Option<u64> {
        for (offset, window) in (at..).zip(bytes.windows(8)) {
            let key = key_of(*window.first_chunk()?);
            if !missing.may_hold(key) {
                continue;
            }
            for (number, step) in missing.with_key(key) {
                let Some(start) = offset.checked_sub(ShardRecord::key_offset(step)) else {
                    continue;
                };
                if !self.is_missing(number) {
                    continue;
                }
                if self.is_at(number, start) {
                    return Some(self.follow(number, start, missing));
                }
                missing.seen_in_vain(number);
                if missing.is_empty() || self.progress.interrupted() {
                    return None;
                }
            }
        }
        None
    }

    /// A shard was found: its neighbours are mostly beside it. The end of those behind it.
    fn follow(&mut self, number: usize, offset: u64, missing: &mut MissingShards) -> u64 {
        let shard_len = u64::from(self.layout.shard_len);
        self.set(number, offset);
        missing.found();
        let (mut before, mut start) = (number, offset);
        while let (Some(next), Some(at)) = (before.checked_sub(1), start.checked_sub(shard_len))
            && self.is_missing(next)
            && self.is_at(next, at)
        {
            self.set(next, at);
            missing.found();
            (before, start) = (next, at);
        }
        let (mut behind, mut end) = (number + 1, offset + self.len_of(number));
        while self.is_missing(behind) && self.is_at(behind, end) {
            self.set(behind, end);
            missing.found();
            end += self.len_of(behind);
            behind += 1;
        }
        end
    }

    fn len_of(&self, number: usize) -> u64 {
        let range = self.layout.shard(number);
        range.end - range.start
    }
}

/// The shards that are looked for, by their keys.
struct MissingShards {
    /// Bits, most of which are 0: whether a key may be among them.
    filter: Vec<u64>,
    shift: u32,
    by_key: BTreeMap<u32, Vec<(usize, u32)>>,
    in_vain: BTreeMap<usize, u32>,
    in_vain_in_all: usize,
    left: usize,
}

impl MissingShards {
    fn new(records: &[Option<ShardRecord>], offsets: &[Option<u64>]) -> Self {
        let mut by_key: BTreeMap<u32, Vec<(usize, u32)>> = BTreeMap::new();
        let missing = records.iter().zip(offsets).enumerate();
        let missing = missing.filter(|(_, (_, offset))| offset.is_none());
        let mut left: usize = 0;
        for (number, (record, _)) in missing {
            if let Some((step, key)) = record.and_then(|record| record.key) {
                by_key.entry(key).or_default().push((number, step));
                left += 1;
            }
        }
        // 64 bits for each, at least 2^16 and at most 2^26
        let bits = (left * 64).next_power_of_two().clamp(1 << 16, 1 << 26);
        let mut missing = Self {
            filter: vec![0; bits / 64],
            shift: 32 - bits.trailing_zeros(),
            by_key,
            in_vain: BTreeMap::new(),
            in_vain_in_all: 0,
            left,
        };
        let keys: Vec<u32> = missing.by_key.keys().copied().collect();
        for key in keys {
            let bit = key >> missing.shift;
            if let Some(word) = missing.filter.get_mut(bit as usize / 64) {
                *word |= 1 << (bit % 64);
            }
        }
        missing
    }

    fn is_empty(&self) -> bool {
        self.left == 0 || self.in_vain_in_all > FALSE_FINDS_IN_ALL_MAX
    }

    fn may_hold(&self, key: u32) -> bool {
        let bit = key >> self.shift;
        let word = self.filter.get(bit as usize / 64);
        word.is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    fn with_key(&self, key: u32) -> Vec<(usize, u32)> {
        let all = self.by_key.get(&key).into_iter().flatten();
        let is_sought = |number: usize| {
            let times = self.in_vain.get(&number).copied().unwrap_or(0);
            times < FALSE_FINDS_MAX
        };
        all.filter(|(number, _)| is_sought(*number))
            .copied()
            .collect()
    }

    fn seen_in_vain(&mut self, number: usize) {
        self.in_vain_in_all += 1;
        *self.in_vain.entry(number).or_default() += 1;
    }

    fn found(&mut self) {
        self.left = self.left.saturating_sub(1);
    }
}
