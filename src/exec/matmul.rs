//! Rows of weights times vectors, on all threads: they take tiles in order, decode each into a
//! buffer of their own and multiply it there.
//!
//! ```text
//! tile      |---- 0 ----|---- 1 ----|---- 2 --      whole blocks of the codec
//! row       |-- 0 --|-- 1 --|-- 2 --|-- 3 --        a row may lie across a border:
//!                    ^^^^^^^                        whoever comes second puts it together
//! ```
//! Each output is computed from one whole row, so that neither tiles nor threads change its bits.

use std::ops::Range;

use parking_lot::Mutex;
use parking_lot::MutexGuard;

use crate::archive::ReadScratch;
use crate::base::Error;
use crate::base::Result;
use crate::exec::matrix::Matrix;
use crate::exec::matrix::Store;
use crate::exec::packed_tiles::TileBytes;
use crate::exec::stream::Loaded;
use crate::exec::stream::Stream;
use crate::kernels::Kernels;
use crate::kernels::padded;
use crate::kernels::scaled;

/// Who hears of bytes that were read, and may end it.
pub(super) type Each<'a> = &'a (dyn Fn(u64) -> Result<()> + Sync);

/// What a thread has of its own.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) tile: Vec<u8>,
    panel: Vec<f32>,
    read: ReadScratch,
    /// A tile that is being packed, and unpacked again.
    pub(super) packed: Vec<u8>,
    pub(super) unpacked: Vec<u8>,
}

/// The threads that compute.
#[derive(Debug)]
pub(super) struct Workers {
    pool: rayon::ThreadPool,
    threads: usize,
    scratch: Vec<Mutex<Scratch>>,
    kernels: Kernels,
}

/// Vectors that matrices are multiplied with.
#[derive(Debug, Default)]
pub(super) struct Vectors {
    count: usize,
    columns: usize,
    /// `[vector][padded column]`.
    values: Vec<f32>,
    packed: Vec<f32>,
}

impl Vectors {
    /// Makes room for `count` vectors of `columns` values, all zero.
    pub(super) fn reset(&mut self, count: usize, columns: usize) {
        (self.count, self.columns) = (count, columns);
        self.values.clear();
        self.values.resize(count * padded(columns), 0.0);
    }

    /// The values of each vector, without padding.
    pub(super) fn rows_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        let columns = self.columns;
        let rows = self.values.chunks_exact_mut(padded(columns));
        rows.map(move |row| &mut row[..columns])
    }

    /// Bytes that `count` vectors of `columns` values take.
    pub(super) fn bytes(count: usize, columns: usize) -> usize {
        let values = if count > 1 { 2 } else { 1 };
        values * count * padded(columns) * size_of::<f32>()
    }
}

/// A row that lies in several tiles.
#[derive(Debug)]
struct Border<'a> {
    bytes: Vec<u8>,
    filled: usize,
    out: &'a mut [f32],
}

/// A tile, and what comes of it.
#[derive(Debug)]
struct Work<'a> {
    matrix: &'a Matrix,
    number: usize,
    /// Where its first whole row begins in it.
    start: usize,
    out: &'a mut [f32],
    /// The row that it begins in the midst of, and the one that it ends in the midst of.
    head: Option<usize>,
    tail: Option<usize>,
}

impl Workers {
    pub(super) fn new(threads: usize, kernels: Kernels) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|number| format!("compute {number}"))
            .build();
        let pool = pool.map_err(|e| {
            Error::new(
                crate::base::ErrorKind::Io,
                format!("cannot start the threads that compute: {e}"),
            )
        })?;
        Ok(Self {
            pool,
            threads,
            scratch: (0..threads).map(|_| Mutex::default()).collect(),
            kernels,
        })
    }

    pub(super) fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// Runs `work` on one of the threads, which then has the others at hand.
    pub(super) fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.pool.install(work)
    }

    /// Does `work` with every item, on all threads, which take them in order.
    pub(super) fn each<T: Send>(&self, items: Vec<T>, work: impl Fn(T) + Sync) {
        let threads = self.threads.min(items.len());
        let items = Mutex::new(items.into_iter());
        let take_all = || {
            loop {
                let item = items.lock().next();
                match item {
                    Some(item) => work(item),
                    None => break,
                }
            }
        };
        if threads <= 1 {
            return take_all();
        }
        rayon::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|_| take_all());
            }
            take_all();
        });
    }

    /// The same of work that may fail: the first error ends it.
    pub(super) fn try_each<T: Send>(
        &self,
        items: Vec<T>,
        work: impl Fn(T) -> Result<()> + Sync,
    ) -> Result<()> {
        let fault = Mutex::new(None);
        self.install(|| {
            self.each(items, |item| {
                if fault.lock().is_some() {
                    return;
                }
                if let Err(error) = work(item) {
                    fault.lock().get_or_insert(error);
                }
            });
        });
        fault.into_inner().map_or(Ok(()), Err)
    }

    /// What the thread that asks has of its own.
    pub(super) fn scratch(&self) -> MutexGuard<'_, Scratch> {
        self.scratch[rayon::current_thread_index().unwrap_or(0)].lock()
    }

    /// Gives back what reading took.
    pub(super) fn forget_scratch(&self) {
        for scratch in &self.scratch {
            *scratch.lock() = Scratch::default();
        }
    }

    /// `out[row][vector]`, the rows of all matrices one behind another. `first` is what the stream
    /// calls the first tile of this pass.
    pub(super) fn multiply(
        &self,
        matrices: &[&Matrix],
        vectors: &mut Vectors,
        (stream, first): (&Stream, u64),
        out: &mut [f32],
    ) -> Result<()> {
        let count = vectors.count;
        if count > 1 {
            vectors.packed.resize(vectors.values.len(), 0.0);
            let columns = padded(vectors.columns);
            self.kernels
                .pack(&vectors.values, columns, &mut vectors.packed);
        }
        let (mut work, mut borders, mut rest) = (Vec::new(), Vec::new(), out);
        for matrix in matrices {
            assert_eq!(matrix.columns, vectors.columns, "{}", matrix.tensor);
            let (of_matrix, behind) = rest.split_at_mut(matrix.rows * count);
            cut(matrix, count, of_matrix, &mut work, &mut borders);
            rest = behind;
        }
        let borders: Vec<Mutex<Border<'_>>> = borders.into_iter().map(Mutex::new).collect();
        let vectors = &*vectors;
        self.try_each(work, |work| {
            self.tile(work, vectors, &borders, (stream, first))
        })
    }

    fn tile(
        &self,
        mut work: Work<'_>,
        vectors: &Vectors,
        borders: &[Mutex<Border<'_>>],
        (stream, first): (&Stream, u64),
    ) -> Result<()> {
        let mut scratch = self.scratch();
        let Scratch {
            tile, panel, read, ..
        } = &mut *scratch;
        let matrix = work.matrix;
        panel.resize(self.kernels.panel_len(padded(matrix.columns)), 0.0);
        match &matrix.store {
            Store::Plain(bytes) => {
                let Range { start, end } = matrix.tile(work.number);
                let bytes = &bytes[start as usize..end as usize];
                self.rows(&mut work, bytes, vectors, borders, panel);
            }
            Store::Packed(tiles) => match tiles.tile(work.number) {
                TileBytes::Plain(bytes) => self.rows(&mut work, bytes, vectors, borders, panel),
                TileBytes::Packed(bytes) => self.packed(matrix, bytes, vectors, panel, work.out),
            },
            Store::Coded(coded) => {
                let coded = &coded[work.number];
                tile.resize(coded.original_len(), 0);
                coded.decode(tile, read)?;
                self.rows(&mut work, tile, vectors, borders, panel);
            }
            Store::Streamed(at) => {
                let at = at + work.number;
                match stream.take(first + at as u64)? {
                    Loaded::Coded(coded) => {
                        tile.resize(coded.original_len(), 0);
                        coded.decode(tile, read)?;
                        stream.give_back(Loaded::Coded(coded));
                        self.rows(&mut work, tile, vectors, borders, panel);
                    }
                    Loaded::Plain(bytes) => {
                        self.rows(&mut work, &bytes, vectors, borders, panel);
                        stream.give_back(Loaded::Plain(bytes));
                    }
                }
            }
        }
        Ok(())
    }

    /// The rows of a tile whose bytes are there.
    fn rows(
        &self,
        work: &mut Work<'_>,
        bytes: &[u8],
        vectors: &Vectors,
        borders: &[Mutex<Border<'_>>],
        panel: &mut [f32],
    ) {
        let matrix = work.matrix;
        let len = work.out.len() / vectors.count * matrix.row_len();
        let rows = &bytes[work.start..work.start + len];
        let tile_start = matrix.tile(work.number).start;
        let row_of = |at: u64| (at / matrix.row_len() as u64) as usize;
        let first = row_of(tile_start + work.start as u64);
        self.product(matrix, (rows, first), vectors, panel, &mut *work.out);
        let behind = work.start + len;
        let parts = [(work.head, 0..work.start), (work.tail, behind..bytes.len())];
        for (border, part) in parts {
            let Some(border) = border.filter(|_| !part.is_empty()) else {
                continue;
            };
            let from = tile_start + part.start as u64;
            let part = &bytes[part];
            let mut border = borders[border].lock();
            let at = (from % matrix.row_len() as u64) as usize;
            border.bytes[at..at + part.len()].copy_from_slice(part);
            border.filled += part.len();
            if border.filled == border.bytes.len() {
                let Border { bytes, out, .. } = &mut *border;
                self.product(matrix, (bytes, row_of(from)), vectors, panel, out);
            }
        }
    }

    fn product(
        &self,
        matrix: &Matrix,
        (rows, first): (&[u8], usize),
        vectors: &Vectors,
        panel: &mut [f32],
        out: &mut [f32],
    ) {
        if let Some(scales) = &matrix.scales {
            let rows = scaled::Rows {
                rows,
                first,
                scales: scaled::Scales {
                    values: &scales.values,
                    columns: matrix.columns,
                    block: scales.block,
                },
            };
            return self.scaled(rows, vectors, panel, out);
        }
        if vectors.count == 1 {
            self.kernels
                .gemv(matrix.element, rows, &vectors.values, out);
        } else {
            let packed = (vectors.packed.as_slice(), padded(matrix.columns));
            self.kernels
                .gemm(matrix.element, (rows, matrix.row_len()), packed, panel, out);
        }
    }

    /// Rows of weights of eight bits.
    fn scaled(
        &self,
        rows: scaled::Rows<'_>,
        vectors: &Vectors,
        panel: &mut [f32],
        out: &mut [f32],
    ) {
        if vectors.count == 1 {
            self.kernels.scaled_gemv(rows, &vectors.values, out);
        } else {
            let packed = (vectors.packed.as_slice(), padded(vectors.columns));
            self.kernels.scaled_gemm(rows, packed, panel, out);
        }
    }

    /// The rows of a packed tile.
    fn packed(
        &self,
        matrix: &Matrix,
        tile: &[u8],
        vectors: &Vectors,
        panel: &mut [f32],
        out: &mut [f32],
    ) {
        if vectors.count == 1 {
            self.kernels.packed_gemv(tile, &vectors.values, out);
        } else {
            let packed = (vectors.packed.as_slice(), padded(matrix.columns));
            self.kernels.packed_gemm(tile, packed, panel, out);
        }
    }
}

/// Cuts the outputs of a matrix among its tiles, and those of rows that lie in several.
fn cut<'a>(
    matrix: &'a Matrix,
    count: usize,
    mut out: &'a mut [f32],
    work: &mut Vec<Work<'a>>,
    borders: &mut Vec<Border<'a>>,
) {
    let row_len = matrix.row_len() as u64;
    for number in 0..matrix.tile_count() {
        let Range { start, end } = matrix.tile(number);
        let head = (!start.is_multiple_of(row_len)).then(|| borders.len() - 1);
        let first = start.div_ceil(row_len).min(end.div_ceil(row_len));
        let whole = (end / row_len).saturating_sub(first);
        let (inside, behind) = std::mem::take(&mut out).split_at_mut(whole as usize * count);
        out = behind;
        // a row that ends in a later tile, and begins in this one
        let tail = (!end.is_multiple_of(row_len) && end / row_len * row_len >= start).then(|| {
            let (of_row, behind) = std::mem::take(&mut out).split_at_mut(count);
            out = behind;
            borders.push(Border {
                bytes: vec![0; row_len as usize],
                filled: 0,
                out: of_row,
            });
            borders.len() - 1
        });
        let start = if head.is_some() {
            ((first * row_len).min(end) - start) as usize
        } else {
            0
        };
        work.push(Work {
            matrix,
            number,
            start,
            out: inside,
            head,
            tail,
        });
    }
}
