//! Matrices in twelve bits a weight: packed when they are read, and compared with what was read.

use parking_lot::Mutex;

use crate::archive::TensorRef;
use crate::base::Result;
use crate::exec::matmul::Each;
use crate::exec::matmul::Scratch;
use crate::exec::matmul::Workers;
use crate::exec::matrix;
use crate::exec::matrix::Matrix;
use crate::exec::packed_tiles::PackedTiles;
use crate::kernels::Kernels;
use crate::kernels::packed;

/// Tiles that are read at once: of a block that lies on the border, the rest is decoded in vain.
const TILES_AT_ONCE: usize = 4;

/// Bytes that packing takes of each thread, besides a tile.
pub(super) fn scratch_len() -> u64 {
    (TILES_AT_ONCE as u64 + 2) * matrix::TILE_LEN
}

/// Packs a matrix, on all threads; none if it takes more than [`matrix::packed_len`].
pub(super) fn pack(
    tensor: TensorRef<'_>,
    matrix: &Matrix,
    workers: &Workers,
    each: Each<'_>,
) -> Result<Option<PackedTiles>> {
    let row_len = matrix.row_len();
    let tile_len = matrix::tile_len(row_len, None);
    let count = matrix.len().div_ceil(tile_len) as usize;
    let room = matrix::packed_len(matrix.rows, matrix.columns);
    let packed = Mutex::new((PackedTiles::new(matrix::pages(room as usize)?, count), true));
    let parts = (0..count).step_by(TILES_AT_ONCE).collect();
    workers.try_each(parts, |first: usize| {
        if !packed.lock().1 {
            return Ok(());
        }
        let start = first as u64 * tile_len;
        let range = start..(start + TILES_AT_ONCE as u64 * tile_len).min(matrix.len());
        let len = range.end - range.start;
        let mut scratch = workers.scratch();
        let Scratch {
            tile: source,
            packed: tile,
            unpacked,
            ..
        } = &mut *scratch;
        source.resize(len as usize, 0);
        tensor.read(range, source)?;
        for (at, rows) in source.chunks(tile_len as usize).enumerate() {
            let is_packed = pack_tile(workers.kernels(), rows, row_len, tile, unpacked);
            let bytes = if is_packed { &tile[..] } else { rows };
            let mut packed = packed.lock();
            packed.1 &= packed.0.push(first + at, bytes, is_packed);
        }
        each(len)
    })?;
    let (packed, fits) = packed.into_inner();
    Ok(fits.then_some(packed))
}

/// Packs a tile, and looks whether it is the same again; false if packing does not pay.
fn pack_tile(
    kernels: Kernels,
    rows: &[u8],
    row_len: usize,
    tile: &mut Vec<u8>,
    unpacked: &mut Vec<u8>,
) -> bool {
    tile.resize(packed::packed_len(rows.len() / row_len, row_len / 2), 0);
    let Some(len) = kernels.pack_rows(rows, row_len, tile) else {
        return false;
    };
    tile.truncate(len);
    unpacked.resize(rows.len(), 0);
    kernels.unpack_rows(tile, row_len, unpacked);
    assert!(unpacked == rows, "what is packed is what was read");
    true
}
