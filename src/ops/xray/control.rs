//! What a tensor is compared with: fresh random numbers of the same scale, in the same dtype. Nothing is drawn; each symbol has the mass
//! that the distribution has there.

use crate::ops::xray::measure::Layout;
use crate::ops::xray::measure::Measure;

/// Distributions that tensors are filled with before training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Normal, with the tensor's deviation.
    Normal,
    /// Normal, cut off at two deviations.
    Truncated,
    /// Uniform, up to the tensor's largest number.
    Uniform,
}

/// Masses of exponents and mantissas.
#[derive(Debug)]
pub struct Control {
    /// Of each exponent.
    pub exponents: Vec<f64>,
    /// Of each mantissa.
    pub mantissas: Vec<f64>,
}

impl Control {
    /// Of this shape for what was measured; none for a tensor of zeros.
    #[expect(clippy::cast_precision_loss, reason = "statistics")]
    pub fn matched(measure: &Measure, shape: Shape) -> Option<Self> {
        /// Deviation of a normal distribution that is cut off at two, in its own.
        const TRUNCATED: f64 = 0.879_626;
        let finite = (measure.elements() - measure.nans - measure.infinities) as f64;
        let deviation = (measure.sum_2 / finite).sqrt();
        let largest = measure.max.abs().max(measure.min.abs());
        if deviation.is_nan() || deviation <= 0.0 {
            return None;
        }
        let density = |value: f64| match shape {
            Shape::Normal => (-0.5 * (value / deviation).powi(2)).exp(),
            Shape::Truncated => {
                let scale = deviation / TRUNCATED;
                let inside = value <= 2.0 * scale;
                if inside {
                    (-0.5 * (value / scale).powi(2)).exp()
                } else {
                    0.0
                }
            }
            Shape::Uniform => f64::from(u8::from(value <= largest)),
        };
        Some(Self::of(measure.layout, density))
    }

    fn of(layout: Layout, density: impl Fn(f64) -> f64) -> Self {
        let mut control = Self {
            exponents: vec![0.0; layout.exponents()],
            mantissas: vec![0.0; 1 << layout.mantissa_bits],
        };
        let values = layout.values();
        let mut total = 0.0;
        for (symbol, pair) in values[..layout.symbols() / 2].windows(2).enumerate() {
            let width = pair[1] - pair[0];
            let (_, exponent, mantissa) = layout.split(symbol);
            // what does not count as infinite, or as no number, lies one symbol further on
            if !width.is_finite() || (exponent == 0 && mantissa == 0) {
                continue;
            }
            let mass = density(pair[0]) * width;
            control.exponents[exponent] += mass;
            control.mantissas[mantissa] += mass;
            total += mass;
        }
        let all = control.exponents.iter_mut().chain(&mut control.mantissas);
        all.for_each(|mass| *mass /= total);
        control
    }
}

/// Bits that a symbol needs on average, of counts or of masses.
pub fn entropy(masses: impl Iterator<Item = f64> + Clone) -> f64 {
    let total: f64 = masses.clone().sum();
    let of = |mass: f64| {
        if mass > 0.0 {
            -mass / total * (mass / total).log2()
        } else {
            0.0
        }
    };
    masses.map(of).sum()
}

/// The same of counts.
#[expect(clippy::cast_precision_loss, reason = "statistics")]
pub fn entropy_of(counts: &[u64]) -> f64 {
    entropy(counts.iter().map(|&count| count as f64))
}

/// Bits for each symbol that are lost by taking `masses` for what `counts` are (Kullback and Leibler).
#[expect(clippy::cast_precision_loss, reason = "statistics")]
pub fn divergence(counts: &[u64], masses: &[f64]) -> f64 {
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
        let normal = Control::of(layout, |value| (-0.5 * value * value).exp());
        let sum: f64 = normal.exponents.iter().sum();
        assert!((sum - 1.0).abs() < 1e-9);
        // between 1 and 2: 2 * (0.97725 - 0.84134)
        assert!((normal.exponents[127] - 0.271_81).abs() < 1e-3);
        let uniform = Control::of(layout, |value| f64::from(u8::from(value < 1.0)));
        assert!((uniform.exponents[126] - 0.5).abs() < 1e-3);
        assert!((entropy([1.0, 1.0, 2.0].into_iter()) - 1.5).abs() < 1e-12);
        assert!(divergence(&[1, 1], &[0.5, 0.5]).abs() < 1e-12);
        assert!((divergence(&[1, 0], &[0.5, 0.5]) - 1.0).abs() < 1e-12);
    }
}
