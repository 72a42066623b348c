//! The table of a parity file: what each shard is known by. It stands there twice, in chunks that
//! are checked one by one, so that damage to both copies loses only what lies in it
//! (docs/parity.md, section 3).

#![deny(clippy::indexing_slicing, reason = "hostile bytes")]

use crate::base::digest;
use crate::parity::Layout;

/// Bytes of a data shard's record, and of a parity shard's.
const RECORD_LEN: usize = 16;
const HASH_LEN: usize = 8;
/// Bytes of a chunk without its checksum: a whole number of records of both kinds.
const CHUNK_LEN: usize = 4080;
/// In place of a key's place: the shard has no bytes that would find it.
const NO_KEY: u16 = u16::MAX;
/// Keys are looked for at every eighth byte.
pub(super) const KEY_STEP: usize = 8;

/// What a data shard is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardRecord {
    /// XXH3 of its bytes, without what fills up the last one.
    pub hash: u64,
    /// Where in it eight bytes are that hardly any other place has, and a hash of them; none if it
    /// is all alike.
    pub key: Option<(u32, u32)>,
}

/// A hash of eight bytes.
pub(super) fn key_of(window: [u8; 8]) -> u32 {
    // the odd part of the golden ratio: the upper half depends on all bits
    (u64::from_le_bytes(window).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

impl ShardRecord {
    /// That of a shard.
    pub fn of(shard: &[u8]) -> Self {
        let (windows, _) = shard.as_chunks::<KEY_STEP>();
        let before = std::iter::once(None).chain(windows.iter().map(Some));
        let mut candidates = windows.iter().zip(before).enumerate();
        // a run of one byte, or what repeats itself, is found everywhere
        let is_rare = |window: &[u8; 8], before: Option<&[u8; 8]>| {
            window.iter().any(|byte| Some(byte) != window.first()) && before != Some(window)
        };
        let found = candidates.find(|(_, (window, before))| is_rare(window, *before));
        Self {
            hash: digest::xxh3(shard),
            key: found.and_then(|(step, (window, _))| {
                (step < usize::from(NO_KEY)).then_some((step as u32, key_of(*window)))
            }),
        }
    }

    /// Where in the shard its key begins.
    pub(super) fn key_offset(step: u32) -> u64 {
        u64::from(step) * KEY_STEP as u64
    }

    fn encode(&self) -> [u8; RECORD_LEN] {
        let (step, key) = self
            .key
            .map_or((NO_KEY, 0), |(step, key)| (step as u16, key));
        let mut bytes = [0; RECORD_LEN];
        let parts = self.hash.to_le_bytes().into_iter();
        let parts = parts.chain(key.to_le_bytes()).chain(step.to_le_bytes());
        for (byte, part) in bytes.iter_mut().zip(parts) {
            *byte = part;
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (hash, rest) = bytes.split_first_chunk()?;
        let (key, rest) = rest.split_first_chunk()?;
        let (step, _) = rest.split_first_chunk()?;
        let step = u16::from_le_bytes(*step);
        Some(Self {
            hash: u64::from_le_bytes(*hash),
            key: (step != NO_KEY).then_some((u32::from(step), u32::from_le_bytes(*key))),
        })
    }
}

/// All that is known of the shards; none for one whose chunk is lost in both copies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// Of the data shards.
    pub records: Vec<Option<ShardRecord>>,
    /// XXH3 of the parity shards.
    pub parity: Vec<Option<u64>>,
}

fn plain_len(layout: &Layout) -> usize {
    layout.shards() * RECORD_LEN + layout.parity_shards() * HASH_LEN
}

/// Bytes of one copy.
pub(super) fn table_len(layout: &Layout) -> usize {
    let plain = plain_len(layout);
    plain + plain.div_ceil(CHUNK_LEN) * HASH_LEN
}

/// The table as it is written; nothing in it may be lost.
pub(super) fn encode(records: &[ShardRecord], parity: &[u64]) -> Vec<u8> {
    let mut plain: Vec<u8> = records.iter().flat_map(ShardRecord::encode).collect();
    plain.extend(parity.iter().flat_map(|hash| hash.to_le_bytes()));
    let checked = plain.chunks(CHUNK_LEN);
    checked
        .flat_map(|chunk| [chunk, &digest::xxh3(chunk).to_le_bytes()].concat())
        .collect()
}

/// The table of both copies, as far as they can be read: each chunk from whichever has it. `read`
/// gives bytes of a copy, from a place within it. With it how many chunks of both are damaged.
pub(super) fn decode(
    layout: &Layout,
    mut read: impl FnMut(usize, u64, usize) -> Option<Vec<u8>>,
) -> (Table, usize) {
    let whole = plain_len(layout);
    let mut table = Table {
        records: Vec::with_capacity(layout.shards()),
        parity: Vec::with_capacity(layout.parity_shards()),
    };
    let (mut damaged, mut done, mut start) = (0, 0, 0);
    while done < whole {
        let len = CHUNK_LEN.min(whole - done);
        let mut checked = |copy: usize| {
            let bytes = read(copy, start, len + HASH_LEN)?;
            let (chunk, checksum) = bytes.split_at_checked(len)?;
            let checksum = u64::from_le_bytes(*checksum.first_chunk()?);
            (digest::xxh3(chunk) == checksum).then(|| chunk.to_vec())
        };
        let chunks = [checked(0), checked(1)];
        damaged += chunks.iter().filter(|chunk| chunk.is_none()).count();
        let chunk = chunks.into_iter().flatten().next();
        let chunk = chunk.as_deref();
        let mut at = 0;
        while at < len {
            if table.records.len() < layout.shards() {
                let record = chunk.and_then(|chunk| chunk.get(at..at + RECORD_LEN));
                table.records.push(record.and_then(ShardRecord::decode));
                at += RECORD_LEN;
            } else {
                let hash = chunk.and_then(|chunk| chunk.get(at..)?.first_chunk());
                table
                    .parity
                    .push(hash.map(|hash| u64::from_le_bytes(*hash)));
                at += HASH_LEN;
            }
        }
        done += len;
        start += (len + HASH_LEN) as u64;
    }
    (table, damaged)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "no hostile bytes here")]
    use super::*;

    #[test]
    fn a_chunk_is_lost_only_if_both_copies_are() {
        let layout = Layout {
            data_len: 1_000_000,
            shard_len: 512,
            set_count: 2,
            parity_count: 50,
            percent: 0,
        };
        let shard = |n: usize| {
            ShardRecord::of(&[&[0; 100][..], &(n as u64).to_le_bytes(), b"and more"].concat())
        };
        let records: Vec<ShardRecord> = (0..layout.shards()).map(shard).collect();
        let parity: Vec<u64> = (0..layout.parity_shards() as u64).collect();
        let whole = encode(&records, &parity);
        assert_eq!(whole.len(), table_len(&layout));
        let both = |copies: [&[u8]; 2]| {
            decode(&layout, |copy, start, len| {
                copies[copy]
                    .get(start as usize..)?
                    .get(..len)
                    .map(<[u8]>::to_vec)
            })
        };
        let (table, damaged) = both([&whole, &whole]);
        assert_eq!(damaged, 0);
        assert!(
            table
                .records
                .iter()
                .zip(&records)
                .all(|(a, b)| *a == Some(*b))
        );
        assert!(
            table
                .parity
                .iter()
                .zip(&parity)
                .all(|(a, b)| *a == Some(*b))
        );
        let (mut one, mut other) = (whole.clone(), whole.clone());
        one[10] ^= 1;
        other[5000] ^= 1;
        let (again, damaged) = both([&one, &other]);
        assert_eq!((&again, damaged), (&table, 2));
        other[20] ^= 1;
        let (less, damaged) = both([&one, &other]);
        assert_eq!(damaged, 3);
        let lost = less
            .records
            .iter()
            .filter(|record| record.is_none())
            .count();
        assert_eq!(lost, CHUNK_LEN / RECORD_LEN);
        // nothing at all is nothing known
        let (nothing, _) = both([&[], &[]]);
        assert!(nothing.records.iter().all(Option::is_none));
    }

    #[test]
    fn a_key_is_where_the_shard_is_no_run() {
        let shard = [&[7; 24][..], b"abcdefgh", &[0; 32]].concat();
        let (step, key) = ShardRecord::of(&shard).key.unwrap();
        assert_eq!((step, key), (3, key_of(*b"abcdefgh")));
        assert_eq!(ShardRecord::of(&[0; 512]).key, None);
        assert_eq!(ShardRecord::of(b"abc").key, None);
    }
}
