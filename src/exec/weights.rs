//! The weights of a model, each where it was placed; small ones are read at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use memmap2::MmapMut;

use crate::archive::CodedTensor;
use crate::archive::Model;
use crate::archive::TensorRef;
use crate::base::Error;
use crate::base::Result;
use crate::exec::matmul::Each;
use crate::exec::matmul::Workers;
use crate::exec::matrix;
use crate::exec::matrix::Matrix;
use crate::exec::matrix::Scales;
use crate::exec::matrix::Store;
use crate::exec::pack;
use crate::exec::place::Home;
use crate::exec::place::Unplaced;
use crate::exec::program;
use crate::exec::program::Linear;
use crate::exec::program::Program;
use crate::exec::stream::StreamedTile;
use crate::kernels::Element;
use crate::kernels::Kernels;

/// The largest tensor that is read as f32 at once: norms and biases are far below.
const SMALL_LEN_MAX: u64 = 64 << 20;

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
    /// Reads what is kept in memory, on all threads; `each` hears of every step's bytes.
    pub(super) fn load(
        model: &Model,
        program: &Program,
        unplaced: &[Unplaced],
        homes: &[Home],
        workers: &Workers,
        each: Each<'_>,
    ) -> Result<Self> {
        let mut streamed = Vec::new();
        let mut matrices = Vec::with_capacity(unplaced.len());
        let mut streamed_before_head = 0;
        for (unplaced, home) in unplaced.iter().zip(homes) {
            streamed_before_head = streamed.len();
            let linear = &unplaced.linear;
            let scales = linear
                .scales
                .as_ref()
                .map(|scales| scales_of(model, linear, scales));
            let home = (*home, scales.transpose()?);
            let tensor = model.tensor(&linear.tensor)?;
            matrices.push(load(tensor, unplaced, home, &mut streamed, workers, each)?);
        }
        workers.forget_scratch();
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

    /// Bytes of norms, biases and scales in memory.
    pub(super) fn small_len(program: &Program) -> u64 {
        let norms = program
            .norms()
            .map(|norm| norm.len * if norm.bias.is_some() { 2 } else { 1 });
        let biases = program.matrices().filter(|linear| linear.bias.is_some());
        let scales = program.matrices().filter_map(|linear| {
            let scales = linear.scales.as_ref()?;
            Some(scales.count(linear.rows, linear.columns))
        });
        let biases = biases.map(|linear| linear.rows);
        let values: usize = norms.chain(biases).chain(scales).sum();
        (values * size_of::<f32>()) as u64
    }
}

fn load(
    tensor: TensorRef<'_>,
    unplaced: &Unplaced,
    (home, scales): (Home, Option<Scales>),
    streamed: &mut Vec<StreamedTile>,
    workers: &Workers,
    each: Each<'_>,
) -> Result<Matrix> {
    let linear = &unplaced.linear;
    let mut matrix = Matrix {
        tensor: linear.tensor.clone(),
        rows: linear.rows,
        columns: linear.columns,
        element: unplaced.element,
        tile_len: unplaced.tile_len,
        store: Store::Streamed(streamed.len()),
        scales,
    };
    match home {
        Home::Plain => {
            let mut bytes = plain(tensor, &matrix, workers, each)?;
            if linear.is_transposed {
                bytes = transposed(&bytes, linear.columns, linear.rows, matrix.element.size())?;
            }
            // whole rows a tile, as there are no blocks any more
            matrix.tile_len = matrix::tile_len(matrix.row_len(), None);
            matrix.store = Store::Plain(bytes);
        }
        Home::Packed => match pack::pack(tensor, &matrix, workers, each)? {
            Some(store) => {
                matrix.tile_len = matrix::tile_len(matrix.row_len(), None);
                matrix.store = Store::Packed(store);
            }
            // its exponents are not those of weights: the next smaller way is what fits
            None if unplaced.is_coded => {
                matrix.store = Store::Coded(coded(tensor, &matrix, workers, each)?);
            }
            None => stream(tensor, &matrix, streamed)?,
        },
        Home::Coded => matrix.store = Store::Coded(coded(tensor, &matrix, workers, each)?),
        Home::Streamed => stream(tensor, &matrix, streamed)?,
    }
    Ok(matrix)
}

/// All bytes of a matrix, as they are.
fn plain(
    tensor: TensorRef<'_>,
    matrix: &Matrix,
    workers: &Workers,
    each: Each<'_>,
) -> Result<MmapMut> {
    let mut bytes = matrix::pages(matrix.len() as usize)?;
    let parts = bytes.chunks_mut(matrix.tile_len as usize).enumerate();
    workers.try_each(parts.collect(), |(number, part)| {
        tensor.read(matrix.tile(number), part)?;
        each(part.len() as u64)
    })?;
    Ok(bytes)
}

/// The coded tiles of a matrix.
fn coded(
    tensor: TensorRef<'_>,
    matrix: &Matrix,
    workers: &Workers,
    each: Each<'_>,
) -> Result<Vec<CodedTensor>> {
    let mut tiles: Vec<_> = (0..matrix.tile_count()).map(|_| None).collect();
    workers.try_each(tiles.iter_mut().enumerate().collect(), |(number, tile)| {
        let range = matrix.tile(number);
        let len = range.end - range.start;
        *tile = tensor.coded(range, Vec::new())?;
        each(len)
    })?;
    let tiles: Option<Vec<CodedTensor>> = tiles.into_iter().collect();
    let what = "an image without coded bytes of a tensor";
    tiles.ok_or_else(|| Error::damaged(what).tensor(&matrix.tensor))
}

/// Notes the tiles of a matrix that comes from the disk.
fn stream(tensor: TensorRef<'_>, matrix: &Matrix, streamed: &mut Vec<StreamedTile>) -> Result<()> {
    let name: Arc<str> = matrix.tensor.as_str().into();
    for range in (0..matrix.tile_count()).map(|number| matrix.tile(number)) {
        streamed.push(StreamedTile {
            tensor: Arc::clone(&name),
            stored_len: tensor.stored_len(range.clone())?,
            range,
        });
    }
    Ok(())
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

/// The scales of a matrix.
fn scales_of(model: &Model, linear: &Linear, scales: &program::Scales) -> Result<Scales> {
    let count = scales.count(linear.rows, linear.columns);
    Ok(Scales {
        values: values(model.tensor(&scales.tensor)?, count)?,
        block: scales.block,
    })
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
