//! The tiles of a matrix in twelve bits a weight.

use std::ops::Range;

use memmap2::MmapMut;

/// A matrix in tiles of whole rows, each packed or, where that does not pay, as it is.
#[derive(Debug)]
pub(super) struct PackedTiles {
    bytes: MmapMut,
    tiles: Vec<PackedTile>,
    used: usize,
}

#[derive(Debug, Clone, Default)]
struct PackedTile {
    bytes: Range<usize>,
    is_packed: bool,
}

/// A tile's bytes.
#[derive(Debug, Clone, Copy)]
pub(super) enum TileBytes<'a> {
    Plain(&'a [u8]),
    Packed(&'a [u8]),
}

impl PackedTiles {
    /// `count` tiles, which have room in `bytes`.
    pub(super) fn new(bytes: MmapMut, count: usize) -> Self {
        Self {
            bytes,
            tiles: vec![PackedTile::default(); count],
            used: 0,
        }
    }

    pub(super) fn tile(&self, number: usize) -> TileBytes<'_> {
        let PackedTile { bytes, is_packed } = self.tiles[number].clone();
        let bytes = &self.bytes[bytes];
        if is_packed {
            TileBytes::Packed(bytes)
        } else {
            TileBytes::Plain(bytes)
        }
    }

    /// Puts a tile behind the others; false if there is no room.
    pub(super) fn push(&mut self, number: usize, tile: &[u8], is_packed: bool) -> bool {
        let bytes = self.used..self.used + tile.len();
        let Some(to) = self.bytes.get_mut(bytes.clone()) else {
            return false;
        };
        to.copy_from_slice(tile);
        self.used = bytes.end;
        self.tiles[number] = PackedTile { bytes, is_packed };
        true
    }
}
