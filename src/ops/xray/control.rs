//! What a tensor is compared with: fresh random numbers of the same scale, in the same dtype.
//! Nothing is drawn; each symbol has the mass that the distribution has there.

use crate::ops::xray::measure::Layout;
use crate::ops::xray::measure::Measure;

/// Distributions that tensors are filled with before training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Normal, with the tensor's deviation.
    Normal,
    /// Normal, cut off at two deviations.
    Truncated,
    /// Uniform, up to the tensor's largest number.
    Uniform,
}

/// Masses of exponents and mantissas.
#[derive(Debug)]
pub(crate) struct Control {
    /// Of each exponent.
    pub exponents: Vec<f64>,
    /// Of each mantissa.
    pub mantissas: Vec<f64>,
}

impl Control {
    /// Of this shape for what was measured; none for a tensor of zeros.
    #[expect(clippy::cast_precision_loss, reason = "statistics")]
    pub(crate) fn matched(measure: &Measure, shape: Shape) -> Option<Self> {
        /// Deviation of a normal distribution that is cut off at two, in its own.
        const TRUNCATED: f64 = 0.879_626;
        let deviation = (measure.sum_2 / measure.numbers() as f64).sqrt();
        let largest = measure.max.abs().max(measure.min.abs());
        if deviation.is_nan() || deviation <= 0.0 {
            return None;
        }
        let scale = deviation / TRUNCATED;
        let bell = |value: f64, scale: f64| (-0.5 * (value / scale).powi(2)).exp();
        let up_to = |cell: Cell, most: f64| (cell.end.min(most) - cell.start).max(0.0);
        let mass = |cell: Cell| match shape {
            Shape::Normal => bell(cell.value, deviation) * (cell.end - cell.start),
            Shape::Truncated => bell(cell.value, scale) * up_to(cell, 2.0 * scale),
            Shape::Uniform => up_to(cell, largest),
        };
        Some(Self::of(measure.layout, mass))
    }

    fn of(layout: Layout, mass: impl Fn(Cell) -> f64) -> Self {
        let mut control = Self {
            exponents: vec![0.0; layout.exponents()],
            mantissas: vec![0.0; 1 << layout.mantissa_bits],
        };
        let values = &layout.values()[..layout.symbols() / 2];
        let mut total = 0.0;
        for (symbol, window) in (1..).zip(values.windows(3)) {
            let &[before, value, after] = window else {
                continue;
            };
            let (_, exponent, mantissa) = layout.split(symbol);
            // the upper half of a wide float is cut off, what is narrow was rounded
            let cell = if layout.width == 4 {
                Cell {
                    start: value,
                    value,
                    end: after,
                }
            } else {
                Cell {
                    start: f64::midpoint(before, value),
                    value,
                    end: f64::midpoint(value, after),
                }
            };
            // infinity, and what is no number, has none
            if !(cell.end - cell.start).is_finite() {
                continue;
            }
            let mass = mass(cell);
            control.exponents[exponent] += mass;
            control.mantissas[mantissa] += mass;
            total += mass;
        }
        let all = control.exponents.iter_mut().chain(&mut control.mantissas);
        all.for_each(|mass| *mass /= total);
        control
    }
}

/// The numbers that become one symbol.
#[derive(Debug, Clone, Copy)]
struct Cell {
    start: f64,
    value: f64,
    end: f64,
}

/// Bits that a symbol needs on average, of counts or of masses.
pub(crate) fn entropy(masses: impl Iterator<Item = f64> + Clone) -> f64 {
    let total: f64 = masses.clone().sum();
    let of = |mass: f64| {
        if mass > 0.0 {
            -mass / total * (mass / total).log2()
        } else {
            0.0
        }
    };
    // a sum of nothing, or of zeros, would be negative zero
    masses.map(of).fold(0.0, |sum, bits| sum + bits)
}

/// The same of counts.
#[expect(clippy::cast_precision_loss, reason = "statistics")]
pub(crate) fn entropy_of(counts: &[u64]) -> f64 {
    entropy(counts.iter().map(|&count| count as f64))
}

/// Bits for each symbol that are lost by taking `masses` for what `counts` are (Kullback and
/// Leibler).
#[expect(clippy::cast_precision_loss, reason = "statistics")]
pub(crate) fn divergence(counts: &[u64], masses: &[f64]) -> f64 {
    /// A mass for what cannot be by the control: a stray number is no proof.
    const LEAST: f64 = 1e-9;
    let total: u64 = counts.iter().sum();
    let of = |(&count, &mass): (&u64, &f64)| {
        let share = count as f64 / total as f64;
        if count > 0 {
            share * (share / mass.max(LEAST)).log2()
        } else {
            0.0
        }
    };
    counts.iter().zip(masses).map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masses_are_those_of_the_distribution() {
        let layout = Layout::of("BF16").unwrap();
        let normal = Control::of(layout, |cell| {
            (-0.5 * cell.value * cell.value).exp() * (cell.end - cell.start)
        });
        let sum: f64 = normal.exponents.iter().sum();
        assert!((sum - 1.0).abs() < 1e-9);
        // between 1 and 2: 2 * (0.97725 - 0.84134)
        assert!((normal.exponents[127] - 0.271_81).abs() < 1e-3);
        let uniform = Control::of(layout, |cell| (cell.end.min(1.0) - cell.start).max(0.0));
        assert!((uniform.exponents[126] - 0.5).abs() < 2e-3);
        // rounded up to the bound
        assert!((uniform.exponents[127] - 0.001).abs() < 1e-3);
        assert!((entropy([1.0, 1.0, 2.0].into_iter()) - 1.5).abs() < 1e-12);
        assert!(divergence(&[1, 1], &[0.5, 0.5]).abs() < 1e-12);
        assert!((divergence(&[1, 0], &[0.5, 0.5]) - 1.0).abs() < 1e-12);
    }
}
