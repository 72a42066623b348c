//! Which weights are kept in memory, and as what; small ones are read at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use memmap2::MmapMut;

use crate::archive::Model;
use crate::archive::TensorRef;
use crate::base::Error;
use crate::base::Result;
use crate::exec::matrix;
use crate::exec::matrix::Matrix;
use crate::exec::matrix::Store;
use crate::exec::program::Linear;
use crate::exec::program::Program;
use crate::exec::stream::StreamedTile;
use crate::kernels::Element;
use crate::kernels::Kernels;

/// The largest tensor that is read as f32 at once: norms and biases are far below.
const SMALL_LEN_MAX: u64 = 64 << 20;

/// A matrix that is not placed yet.
#[derive(Debug, Clone)]
pub(super) struct Unplaced {
    pub(super) linear: Linear,
    pub(super) element: Element,
    pub(super) tile_len: u64,
    /// Bytes as they are.
    pub(super) plain_len: u64,
    /// Bytes as they are stored.
    pub(super) stored_len: u64,
    /// Whether it is in an image, without a base.
    pub(super) is_coded: bool,
}

/// Where a matrix's weights will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    /// In memory, as they are.
    Plain,
    /// In memory, coded.
    Coded,
    /// On the disk.
    Streamed,
}

/// Looks at all matrices; nothing of them is read.
pub(super) fn survey(model: &Model, program: &Program) -> Result<Vec<Unplaced>> {
    let look = |linear: &Linear| {
        let tensor = model.tensor(&linear.tensor)?;
        let element = matrix::element_of(linear, tensor)?;
        let row_len = linear.columns * element.size();
        let len = tensor.info().len;
        Ok(Unplaced {
            linear: linear.clone(),
            element,
            tile_len: matrix::tile_len(row_len, tensor.block_len()),
            plain_len: len,
            stored_len: tensor.stored_len(0..len)?,
            is_coded: tensor.block_len().is_some(),
        })
    };
    program.matrices().map(look).collect()
}

/// Decides where each matrix goes, within `budget` bytes. In the order in which they are used: all
/// as they are, if they fit; else coded, as far as they fit, the others from the disk; what is then
/// left makes the first ones plain again.
pub(super) fn place(matrices: &[Unplaced], budget: u64, is_streamed: bool) -> Vec<Home> {
    let mut left = budget;
    let mut homes = Vec::with_capacity(matrices.len());
    let plain: u64 = matrices.iter().map(|matrix| matrix.plain_len).sum();
    for matrix in matrices {
        // what lies input-major is turned round once
        let is_kept = matrix.linear.is_transposed;
        let home = if is_kept || (!is_streamed && plain <= budget) {
            Home::Plain
        } else if !is_streamed && coded_len(matrix) <= left {
            Home::Coded
        } else {
            Home::Streamed
        };
        let len = held_len(matrix, home);
        left = left.saturating_sub(len);
        homes.push(home);
    }
    for (matrix, home) in matrices.iter().zip(&mut homes) {
        let more = matrix.plain_len.saturating_sub(coded_len(matrix));
        if *home == Home::Coded && (more <= left || !matrix.is_coded) {
            *home = Home::Plain;
            left = left.saturating_sub(more);
        }
    }
    homes
}

/// Bytes in memory of a matrix that is kept coded, with what the index says of its blocks.
fn coded_len(matrix: &Unplaced) -> u64 {
    if !matrix.is_coded {
        return matrix.plain_len;
    }
    let tiles = matrix.plain_len.div_ceil(matrix.tile_len);
    matrix.stored_len + tiles * 512 + matrix.plain_len / 1024
}

/// Bytes in memory of a matrix.
pub(super) fn held_len(matrix: &Unplaced, home: Home) -> u64 {
    match home {
        Home::Plain => matrix.plain_len,
        Home::Coded => coded_len(matrix),
        Home::Streamed => 0,
    }
}

/// All weights of a model, placed.
#[derive(Debug)]
pub(super) struct Weights {
    /// In the order of [`Program::matrices`].
    pub(super) matrices: Vec<Matrix>,
    /// Tiles that come from the disk, in the order in which they are used.
    pub(super) streamed: Vec<StreamedTile>,
    /// How many of these come before the head.
    pub(super) streamed_before_head: usize,
    /// Norms and biases.
    small: BTreeMap<String, Vec<f32>>,
}

impl Weights {
    /// Reads what is kept in memory.
    pub(super) fn load(
        model: &Model,
        program: &Program,
        unplaced: &[Unplaced],
        homes: &[Home],
        each: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Self> {
        let mut streamed = Vec::new();
        let mut matrices = Vec::with_capacity(unplaced.len());
        let mut streamed_before_head = 0;
        for (unplaced, home) in unplaced.iter().zip(homes) {
            streamed_before_head = streamed.len();
            let tensor = model.tensor(&unplaced.linear.tensor)?;
            matrices.push(load(tensor, unplaced, *home, &mut streamed, each)?);
        }
        Ok(Self {
            matrices,
            streamed,
            streamed_before_head,
            small: small(model, program)?,
        })
    }

    /// A norm's or bias's values.
    pub(super) fn small(&self, name: &str) -> &[f32] {
        &self.small[name]
    }

    /// Bytes of norms and biases in memory.
    pub(super) fn small_len(program: &Program) -> u64 {
        let norms = program
            .norms()
            .map(|norm| norm.len * if norm.bias.is_some() { 2 } else { 1 });
        let biases = program.matrices().filter(|linear| linear.bias.is_some());
        let values: usize = norms.chain(biases.map(|linear| linear.rows)).sum();
        (values * size_of::<f32>()) as u64
    }
}

fn load(
    tensor: TensorRef<'_>,
    unplaced: &Unplaced,
    home: Home,
    streamed: &mut Vec<StreamedTile>,
    each: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Matrix> {
    let linear = &unplaced.linear;
    let mut matrix = Matrix {
        tensor: linear.tensor.clone(),
        rows: linear.rows,
        columns: linear.columns,
        element: unplaced.element,
        tile_len: unplaced.tile_len,
        store: Store::Streamed(streamed.len()),
    };
    let tiles = (0..matrix.tile_count()).map(|number| matrix.tile(number));
    let tiles: Vec<_> = tiles.collect();
    match home {
        Home::Plain => {
            let mut bytes = matrix::pages(matrix.len() as usize)?;
            for range in tiles {
                let part = &mut bytes[range.start as usize..range.end as usize];
                tensor.read(range.clone(), part)?;
                each(range.end - range.start)?;
            }
            if linear.is_transposed {
                bytes = transposed(&bytes, linear.columns, linear.rows, matrix.element.size())?;
            }
            // whole rows a tile, as there are no blocks any more
            matrix.tile_len = matrix::tile_len(matrix.row_len(), None);
            matrix.store = Store::Plain(bytes);
        }
        Home::Coded => {
            let mut coded = Vec::with_capacity(tiles.len());
            for range in tiles {
                let len = range.end - range.start;
                let read = tensor.coded(range, Vec::new())?;
                coded.extend(read);
                each(len)?;
            }
            if coded.len() != matrix.tile_count() {
                let what = "an image without coded bytes of a tensor";
                return Err(Error::damaged(what).tensor(&linear.tensor));
            }
            matrix.store = Store::Coded(coded);
        }
        Home::Streamed => {
            let name: Arc<str> = linear.tensor.as_str().into();
            for range in tiles {
                streamed.push(StreamedTile {
                    tensor: Arc::clone(&name),
                    stored_len: tensor.stored_len(range.clone())?,
                    range,
                });
            }
        }
    }
    Ok(matrix)
}

/// `[rows, columns]` as `[columns, rows]`.
fn transposed(bytes: &[u8], rows: usize, columns: usize, size: usize) -> Result<MmapMut> {
    let mut turned = matrix::pages(bytes.len())?;
    for (row, values) in bytes.chunks_exact(columns * size).enumerate() {
        for (column, value) in values.chunks_exact(size).enumerate() {
            let at = (column * rows + row) * size;
            turned[at..at + size].copy_from_slice(value);
        }
    }
    Ok(turned)
}

/// All norms and biases, as f32.
fn small(model: &Model, program: &Program) -> Result<BTreeMap<String, Vec<f32>>> {
    let mut small = BTreeMap::new();
    let norms = program.norms().flat_map(|norm| {
        [
            Some((&norm.weight, norm.len)),
            norm.bias.as_ref().map(|bias| (bias, norm.len)),
        ]
    });
    let biases = program
        .matrices()
        .map(|linear| Some((linear.bias.as_ref()?, linear.rows)));
    for (name, len) in norms.chain(biases).flatten() {
        if !small.contains_key(name) {
            let tensor = model.tensor(name)?;
            small.insert(name.clone(), values(tensor, len)?);
        }
    }
    Ok(small)
}

/// A tensor of `len` values, as f32.
fn values(tensor: TensorRef<'_>, len: usize) -> Result<Vec<f32>> {
    let span = tensor.info();
    let located = |error: Error| error.tensor(&span.name).file(tensor.path());
    let element = Element::from_dtype(&span.dtype);
    let element = element.filter(|element| span.len == (len * element.size()) as u64);
    let element = element.ok_or_else(|| {
        let what = format!(
            "{len} values were expected of {} {:?}",
            span.dtype, span.shape
        );
        located(Error::invalid(what))
    })?;
    if span.len > SMALL_LEN_MAX {
        return Err(located(Error::over_limit(
            "a norm or bias this large is none",
        )));
    }
    let mut bytes = vec![0; span.len as usize];
    tensor.read(0..span.len, &mut bytes)?;
    let mut values = vec![0.0; len];
    Kernels::widen(element, &bytes, &mut values);
    Ok(values)
}
