//! How far two tensors are apart: in bytes where they have one dtype, and in values, each made
//! wider exactly, where their elements are numbers.

use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::parallel;
use crate::tensor::Span;
use crate::tensor::values;
use crate::tensor::values::Values;

/// Elements that are compared in one piece of work.
const PIECE_ELEMENTS: u64 = 256 << 10;

/// Sums over some elements.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Sums {
    /// Bytes that differ; of tensors of one dtype alone.
    pub(super) bytes: u64,
    /// Elements that differ: in their bits, or in their values if these are in other dtypes.
    pub(super) elements: u64,
    max: f64,
    squares: f64,
    value_squares: f64,
    finite: u64,
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.elements += other.elements;
        self.max = self.max.max(other.max);
        self.squares += other.squares;
        self.value_squares += other.value_squares;
        self.finite += other.finite;
    }

    fn take(&mut self, a: f64, b: f64) {
        if a.is_finite() && b.is_finite() {
            let difference = (b - a).abs();
            self.finite += 1;
            self.max = self.max.max(difference);
            self.squares += difference * difference;
            self.value_squares += a * a;
        }
    }

    /// The largest difference, and the roots of the mean squares of the differences and of the
    /// first tensor's values.
    #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
    pub(super) fn distance(&self) -> (f64, f64, f64) {
        let finite = self.finite.max(1) as f64;
        let rms = |squares: f64| (squares / finite).sqrt();
        (self.max, rms(self.squares), rms(self.value_squares))
    }
}

/// How the elements of two tensors become numbers; none if they are not the same number of them.
pub(super) fn values_of(a: &Span, b: &Span) -> Option<(Values, Values)> {
    let (of_a, of_b) = (values::of(&a.dtype)?, values::of(&b.dtype)?);
    let elements = |span: &Span, values: Values| span.len / values.width as u64;
    let is_alike = a.shape == b.shape && elements(a, of_a) == elements(b, of_b);
    is_alike.then_some((of_a, of_b))
}

/// Compares two tensors of one dtype and shape.
pub(super) fn compare(
    (span, a): (&Span, &dyn ReadAt),
    b: &dyn ReadAt,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Sums> {
    let values = values::of(&span.dtype);
    // elements of no whole bytes are compared byte by byte
    let width = values.map_or(1, |values| values.width);
    let compare = |a: &[u8], b: &[u8]| {
        let differing = a.iter().zip(b).filter(|(a, b)| a != b).count();
        let mut sums = Sums {
            bytes: differing as u64,
            ..Sums::default()
        };
        if let Some(Values { value, .. }) = values {
            for (a, b) in a.chunks_exact(width).zip(b.chunks_exact(width)) {
                sums.elements += u64::from(a != b);
                sums.take(value(a), value(b));
            }
        }
        sums
    };
    in_pieces(
        (a, width),
        (b, width),
        span.len / width as u64,
        threads,
        progress,
        compare,
    )
}

/// Compares the values of two tensors of as many elements, whatever their dtypes.
pub(super) fn compare_values(
    (a, of_a): (&dyn ReadAt, Values),
    (b, of_b): (&dyn ReadAt, Values),
    threads: usize,
    progress: &dyn Progress,
) -> Result<Sums> {
    let compare = |a: &[u8], b: &[u8]| {
        let mut sums = Sums::default();
        for (a, b) in a.chunks_exact(of_a.width).zip(b.chunks_exact(of_b.width)) {
            let (a, b) = ((of_a.value)(a), (of_b.value)(b));
            let is_same = a.total_cmp(&b).is_eq() || (a.is_nan() && b.is_nan());
            sums.elements += u64::from(!is_same);
            sums.take(a, b);
        }
        sums
    };
    let elements = a.len() / of_a.width as u64;
    in_pieces(
        (a, of_a.width),
        (b, of_b.width),
        elements,
        threads,
        progress,
        compare,
    )
}

fn in_pieces(
    (a, width_a): (&dyn ReadAt, usize),
    (b, width_b): (&dyn ReadAt, usize),
    elements: u64,
    threads: usize,
    progress: &dyn Progress,
    compare: impl Fn(&[u8], &[u8]) -> Sums + Sync,
) -> Result<Sums> {
    let mut sums = Sums::default();
    parallel::ordered(
        threads,
        elements.div_ceil(PIECE_ELEMENTS) as usize,
        || (),
        |(), number| {
            progress.check()?;
            let start = number as u64 * PIECE_ELEMENTS;
            let count = PIECE_ELEMENTS.min(elements - start);
            let read = |bytes: &dyn ReadAt, width: usize| -> Result<Vec<u8>> {
                let width = width as u64;
                let mut piece = vec![0; (count * width) as usize];
                bytes.read_exact_at(start * width, &mut piece)?;
                Ok(piece)
            };
            let piece = compare(&read(a, width_a)?, &read(b, width_b)?);
            Ok((piece, count * width_a as u64))
        },
        |_, (piece, len)| {
            sums.add(&piece);
            progress.advance(len);
            Ok(())
        },
    )?;
    Ok(sums)
}
