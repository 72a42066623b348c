//! How much of a matrix lies in its strongest direction.

use crate::base::ReadAt;
use crate::base::Result;
use crate::ops::xray::measure::Layout;
use crate::ops::xray::measure::sides;
use crate::tensor::Span;
use crate::tensor::values;

/// Larger matrices are left out: as F32 they would take more memory than this many elements of four
/// bytes.
const ELEMENTS_MAX: u64 = 64 << 20;
/// Steps of the power iteration.
const STEPS: usize = 16;

/// The share of the sum of all squares that the largest singular value has: near 1 is a matrix of
/// rank one, that of random numbers is near (1/sqrt(rows) + 1/sqrt(columns))^2. None for what is no
/// matrix of numbers, or too large.
pub(crate) fn concentration(source: &dyn ReadAt, span: &Span) -> Result<Option<f64>> {
    let (rows, columns) = sides(&span.shape);
    let elements = rows * columns;
    if Layout::of(&span.dtype).is_none() || rows < 2 || columns < 2 || elements > ELEMENTS_MAX {
        return Ok(None);
    }
    let Some(values) = values::of(&span.dtype) else {
        return Ok(None);
    };
    let mut matrix = Vec::with_capacity(elements as usize);
    let mut piece = vec![0; (1 << 20) * values.width];
    let mut at = 0;
    while at < span.len {
        let len = (span.len - at).min(piece.len() as u64) as usize;
        source.read_exact_at(span.start + at, &mut piece[..len])?;
        let elements = piece[..len].chunks_exact(values.width);
        matrix.extend(elements.map(|element| (values.value)(element) as f32));
        at += len as u64;
    }
    Ok(of_matrix(&matrix, columns as usize))
}

fn of_matrix(matrix: &[f32], columns: usize) -> Option<f64> {
    let norm = |vector: &[f64]| vector.iter().map(|x| x * x).sum::<f64>();
    let total: f64 = matrix.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    if !total.is_finite() || total <= 0.0 {
        return None;
    }
    // no direction that a matrix would avoid
    let mut right: Vec<f64> = (0..columns)
        .map(|n| 1.0 + f64::from(((n * 37 + 11) % 101) as u8) / 101.0)
        .collect();
    let mut strongest = 0.0;
    for _ in 0..STEPS {
        let scale = norm(&right).sqrt();
        if scale <= 0.0 {
            return Some(0.0);
        }
        for x in &mut right {
            *x /= scale;
        }
        let mut next = vec![0.0; columns];
        strongest = 0.0;
        for row in matrix.chunks_exact(columns) {
            let along: f64 = row.iter().zip(&right).map(|(&a, b)| f64::from(a) * b).sum();
            strongest += along * along;
            for (sum, &a) in next.iter_mut().zip(row) {
                *sum += along * f64::from(a);
            }
        }
        right = next;
    }
    Some(strongest / total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_direction_is_all_and_many_are_few() {
        let one: Vec<f32> = (0..30 * 20)
            .map(|n: u16| (f32::from(n / 20) - 7.0) * (f32::from(n % 20) + 1.0))
            .collect();
        assert!((of_matrix(&one, 20).unwrap() - 1.0).abs() < 1e-6);
        let identity: Vec<f32> = (0..400)
            .map(|n| f32::from(u8::from(n / 20 == n % 20)))
            .collect();
        assert!((of_matrix(&identity, 20).unwrap() - 0.05).abs() < 1e-6);
        assert!(of_matrix(&[0.0; 4], 2).is_none());
    }
}
