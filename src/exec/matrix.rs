//! A matrix of weights as tiles: runs of bytes that are decoded and multiplied at once.

use std::ops::Range;

use memmap2::Advice;
use memmap2::MmapMut;

use crate::archive::CodedTensor;
use crate::archive::TensorRef;
use crate::base::Error;
use crate::base::Remedy;
use crate::base::Result;
use crate::exec::packed_tiles::PackedTiles;
use crate::exec::program::Linear;
use crate::kernels::Element;
use crate::kernels::packed;

/// Original bytes of a tile, about: it stays in a core's second cache while it is multiplied.
pub(super) const TILE_LEN: u64 = 256 << 10;

/// Where the weights of a matrix are.
#[derive(Debug)]
pub(super) enum Store {
    /// In memory, as they are.
    Plain(MmapMut),
    /// In memory, in twelve bits a weight.
    Packed(PackedTiles),
    /// In memory, coded: one for each tile.
    Coded(Vec<CodedTensor>),
    /// On the disk. The stream knows its first tile by this number.
    Streamed(usize),
}

/// Memory for weights, all zero, in large pages where the system has them: products read it from
/// end to end, a fifth faster so.
pub(super) fn pages(len: usize) -> Result<MmapMut> {
    let failed = |e| Error::io("cannot get memory for weights", "memory".as_ref(), e);
    let pages = MmapMut::map_anon(len.max(1)).map_err(failed)?;
    // where there are none it is slower, and no fault
    if let Err(error) = pages.advise(Advice::HugePage) {
        tracing::debug!("no large pages: {error}");
    }
    Ok(pages)
}

/// A matrix, and where its weights are.
#[derive(Debug)]
pub(super) struct Matrix {
    pub(super) tensor: String,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) element: Element,
    /// Bytes of a tile, the last one apart.
    pub(super) tile_len: u64,
    pub(super) store: Store,
    pub(super) scales: Option<Scales>,
}

/// Scales of blocks of weights.
#[derive(Debug, Clone)]
pub(super) struct Scales {
    pub(super) values: Vec<f32>,
    /// Rows and columns of a block.
    pub(super) block: (usize, usize),
}

/// Checks that a tensor is this matrix, and gives what its weights are.
pub(super) fn element_of(linear: &Linear, tensor: TensorRef<'_>) -> Result<Element> {
    let span = tensor.info();
    let located = |error: Error| error.tensor(&linear.tensor).file(tensor.path());
    let element = Element::from_dtype(&span.dtype).ok_or_else(|| {
        let what = format!("weights of {} cannot be multiplied yet", span.dtype);
        located(Error::unsupported(what).remedy(Remedy::Mount))
    })?;
    if (element == Element::F8) != linear.scales.is_some() {
        let what = match linear.scales {
            None => "weights of eight bits without scales that are known",
            Some(_) => "scales of weights that are not of eight bits",
        };
        return Err(located(Error::unsupported(what).remedy(Remedy::Mount)));
    }
    let (rows, columns) = (linear.rows as u64, linear.columns as u64);
    let shape = if linear.is_transposed {
        [columns, rows]
    } else {
        [rows, columns]
    };
    if span.shape != shape {
        let what = format!(
            "its shape is {:?}, where the configuration says {shape:?}",
            span.shape
        );
        return Err(located(Error::invalid(what)));
    }
    Ok(element)
}

impl Matrix {
    /// Bytes of a row.
    pub(super) fn row_len(&self) -> usize {
        self.columns * self.element.size()
    }

    /// Original bytes of all.
    pub(super) fn len(&self) -> u64 {
        (self.rows * self.row_len()) as u64
    }

    /// How many tiles there are.
    pub(super) fn tile_count(&self) -> usize {
        self.len().div_ceil(self.tile_len) as usize
    }

    /// The bytes of a tile.
    pub(super) fn tile(&self, number: usize) -> Range<u64> {
        let start = number as u64 * self.tile_len;
        start..(start + self.tile_len).min(self.len())
    }
}

/// Bytes of the tiles of a tensor: whole blocks, or whole rows where there are no blocks.
pub(super) fn tile_len(row_len: usize, block_len: Option<u64>) -> u64 {
    let unit = block_len.unwrap_or(row_len as u64).max(1);
    unit * (TILE_LEN / unit).max(1)
}

/// Bytes of a matrix of so many rows and columns in twelve bits a weight, at most.
pub(super) fn packed_len(rows: usize, columns: usize) -> u64 {
    let tile_rows = tile_len(columns * 2, None) as usize / (columns * 2).max(1);
    let (tiles, rest) = (rows / tile_rows.max(1), rows % tile_rows.max(1));
    let len = |rows| packed::packed_len(rows, columns);
    (tiles * len(tile_rows) + if rest > 0 { len(rest) } else { 0 }) as u64
}
