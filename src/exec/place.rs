//! Where the weights of each matrix will be, within a budget of bytes.

use crate::archive::Model;
use crate::base::Result;
use crate::exec::matrix;
use crate::exec::program::Linear;
use crate::exec::program::Program;
use crate::kernels::Element;

/// A matrix that is not placed yet.
#[derive(Debug, Clone)]
pub(super) struct Unplaced {
    pub(super) linear: Linear,
    pub(super) element: Element,
    /// Bytes of a tile of what is as it is stored.
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
    /// In memory, in twelve bits each.
    Packed,
    /// In memory, as they are coded in the image.
    Coded,
    /// On the disk.
    Streamed,
}

/// How weights are kept that may be kept in any way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// As they are.
    Plain,
    /// In twelve bits each, where they can be.
    Packed,
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

impl Unplaced {
    /// Whether it can be kept in twelve bits a weight. What lies input-major is turned round once,
    /// and kept as it is.
    pub(super) fn is_packable(&self) -> bool {
        // rows of few columns are mostly padding
        let pays = self.held_len(Home::Packed) <= self.plain_len / 16 * 15;
        self.element == Element::Bf16 && !self.linear.is_transposed && pays
    }

    /// Bytes in memory at `home`, at most.
    pub(super) fn held_len(&self, home: Home) -> u64 {
        match home {
            Home::Plain => self.plain_len,
            Home::Packed => matrix::packed_len(self.linear.rows, self.linear.columns),
            // with what the index says of its blocks
            Home::Coded => {
                let tiles = self.plain_len.div_ceil(self.tile_len);
                self.stored_len + tiles * 512 + self.plain_len / 1024
            }
            Home::Streamed => 0,
        }
    }

    /// Its ways to be in memory, the smallest first.
    fn ways(&self, may_pack: bool) -> Vec<Home> {
        let mut ways = vec![Home::Plain];
        if may_pack && self.is_packable() {
            ways.push(Home::Packed);
        }
        if self.is_coded && !self.linear.is_transposed {
            ways.push(Home::Coded);
        }
        ways.sort_by_key(|home| self.held_len(*home));
        ways
    }
}

/// Decides where each matrix goes, within `budget` bytes. In the order in which they are used: all
/// as `preferred` (without which nothing is packed), if they fit; else as small as they can be, as
/// far as they fit, the others from the disk; what is then left makes the first ones better again,
/// a step for all at a time.
pub(super) fn place(
    matrices: &[Unplaced],
    budget: u64,
    is_streamed: bool,
    preferred: Option<Layout>,
) -> Vec<Home> {
    // what is computed fastest, so that everybody who has the room goes there
    let best = |matrix: &Unplaced| match preferred {
        Some(Layout::Packed) if matrix.is_packable() => Home::Packed,
        _ => Home::Plain,
    };
    let wanted = matrices.iter().map(|matrix| matrix.held_len(best(matrix)));
    if !is_streamed && wanted.sum::<u64>() <= budget {
        return matrices.iter().map(best).collect();
    }
    let may_pack = preferred.is_some();
    let mut left = budget;
    let mut homes = Vec::with_capacity(matrices.len());
    for matrix in matrices {
        let smallest = matrix.ways(may_pack)[0];
        let is_kept = matrix.linear.is_transposed;
        let fits = !is_streamed && matrix.held_len(smallest) <= left;
        let home = if is_kept || fits {
            smallest
        } else {
            Home::Streamed
        };
        left = left.saturating_sub(matrix.held_len(home));
        homes.push(home);
    }
    for better in [Home::Packed, Home::Plain] {
        for (matrix, home) in matrices.iter().zip(&mut homes) {
            let (now, then) = (matrix.held_len(*home), matrix.held_len(better));
            let is_better = *home != Home::Streamed
                && *home != best(matrix)
                && matrix.ways(may_pack).contains(&better)
                && then > now;
            if is_better && then - now <= left {
                left -= then - now;
                *home = better;
            }
        }
    }
    homes
}
