//! Norms and activations: one value of a row after another. They are written once, as plain loops,
//! and compiled for each set of instructions.

#![expect(
    clippy::cast_precision_loss,
    reason = "numbers of values, layers and positions are small"
)]

use crate::kernels::LANES;
use crate::kernels::math;
use crate::kernels::simd::Kernel;
use crate::kernels::simd::Simd;
use crate::kernels::tree;

/// What stands between the two halves of a multi-layer perceptron.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// GELU by its approximation with tanh.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

impl Activation {
    #[inline(always)]
    fn of(self, x: f32) -> f32 {
        match self {
            Self::Silu => x / (1.0 + math::exp(-x)),
            Self::GeluTanh => {
                let inner = x * x * x * 0.044_715 + x;
                0.5 * x * (1.0 + math::tanh(inner * 0.797_884_6))
            }
            Self::Relu => x.max(0.0),
        }
    }
}

/// `x = act(x)`.
pub(super) struct Activate<'a> {
    pub(super) activation: Activation,
    pub(super) x: &'a mut [f32],
}

impl Kernel for Activate<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        // a loop of its own for each, without a branch inside
        match self.activation {
            Activation::Silu => self.x.iter_mut().for_each(|x| *x = Activation::Silu.of(*x)),
            Activation::GeluTanh => {
                let each = |x: &mut f32| *x = Activation::GeluTanh.of(*x);
                self.x.iter_mut().for_each(each);
            }
            Activation::Relu => self.x.iter_mut().for_each(|x| *x = Activation::Relu.of(*x)),
        }
    }
}

/// `x = act(x) * up`.
pub(super) struct Gated<'a> {
    pub(super) activation: Activation,
    pub(super) x: &'a mut [f32],
    pub(super) up: &'a [f32],
}

impl Kernel for Gated<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (activation, x) = (self.activation, &mut *self.x);
        Activate { activation, x }.run(simd);
        for (x, up) in self.x.iter_mut().zip(self.up) {
            *x *= up;
        }
    }
}

/// A sum over a row by 64 lanes.
#[inline(always)]
pub(super) fn lane_sum(values: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (groups, rest) = values.as_chunks::<LANES>();
    for group in groups {
        for (lane, value) in lanes.iter_mut().zip(group) {
            *lane = term(*value, *lane);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane = term(*value, *lane);
    }
    tree(lanes)
}

/// `out = x / sqrt(mean(x^2) + epsilon) * (weight + offset)`.
pub(super) struct RmsNorm<'a> {
    pub(super) x: &'a [f32],
    /// None: all are one.
    pub(super) weight: Option<&'a [f32]>,
    /// Added to every weight.
    pub(super) offset: f32,
    pub(super) epsilon: f32,
    pub(super) out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let squares = lane_sum(self.x, |x, sum| x.mul_add(x, sum));
        let scale = 1.0 / (squares / self.x.len() as f32 + self.epsilon).sqrt();
        for (out, x) in self.out.iter_mut().zip(self.x) {
            *out = x * scale;
        }
        for (out, weight) in self.out.iter_mut().zip(self.weight.into_iter().flatten()) {
            *out *= weight + self.offset;
        }
    }
}

/// `out = (x - mean) / sqrt(variance + epsilon) * weight + bias`.
pub(super) struct LayerNorm<'a> {
    pub(super) x: &'a [f32],
    pub(super) weight: &'a [f32],
    pub(super) bias: &'a [f32],
    pub(super) epsilon: f32,
    pub(super) out: &'a mut [f32],
}

impl Kernel for LayerNorm<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let count = self.x.len() as f32;
        let mean = lane_sum(self.x, |x, sum| x + sum) / count;
        let squares = lane_sum(self.x, |x, sum| (x - mean).mul_add(x - mean, sum));
        let scale = 1.0 / (squares / count + self.epsilon).sqrt();
        for (out, x) in self.out.iter_mut().zip(self.x) {
            *out = (x - mean) * scale;
        }
        for ((out, weight), bias) in self.out.iter_mut().zip(self.weight).zip(self.bias) {
            *out = *out * weight + bias;
        }
    }
}

/// `x = cap * tanh(x / cap)`.
pub(super) struct SoftCap<'a> {
    pub(super) x: &'a mut [f32],
    pub(super) cap: f32,
}

impl Kernel for SoftCap<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for x in self.x.iter_mut() {
            *x = self.cap * math::tanh(*x / self.cap);
        }
    }
}
