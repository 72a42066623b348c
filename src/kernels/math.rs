//! Functions that give the same bits everywhere: sums, products and fused multiply-adds only.
//!
//! Those of f32 are for inner loops, and take no branch; those of f64 are for tables that are made
//! once, whose values are then rounded to f32.

use std::f64::consts::FRAC_PI_2;
use std::f64::consts::LN_2;
use std::f64::consts::LOG2_E;

/// Added and taken away, it rounds a small f32 to the nearest whole number.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts; the first has zeros at its end.
const LN_2_HIGH: f32 = 0.693_145_75;
const LN_2_LOW: f32 = 1.428_606_8e-6;

/// e^x, to 1e-7 of its value; 0 below -104, infinity above 88.8, NaN of NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let clamped = x.clamp(-104.0, 89.0);
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, clamped));
    // the series, whose next term is below 2^-27 where |r| <= ln 2 / 2
    let mut p = 1.0 / 5040.0;
    for factor in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        p = r.mul_add(p, factor);
    }
    // 2^n in two factors, as n may be beyond what one can say
    let n = shifted
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .cast_signed();
    let half = n >> 1;
    p * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(n.wrapping_add(127).cast_unsigned() << 23)
}

/// tanh x, to 2e-7 of its value.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let magnitude = x.abs();
    let t = exp(-2.0 * magnitude);
    let far = ((1.0 - t) / (1.0 + t)).copysign(x);
    let square = x * x;
    let mut p = 62.0 / 2835.0;
    for factor in [-17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0, 1.0] {
        p = square.mul_add(p, factor);
    }
    if magnitude < 0.25 { x * p } else { far }
}

/// e^x of an f64, to some 1e-15 of its value; 0 and infinity where it leaves the normal range.
pub fn exp_f64(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x > 709.0 {
        return f64::INFINITY;
    }
    if x < -708.0 {
        return 0.0;
    }
    let n = (x * LOG2_E).round_ties_even();
    let r = n.mul_add(-2.319_046_813_846_299_6e-17, n.mul_add(-LN_2, x));
    let mut p = 1.0;
    for k in (1..=18).rev() {
        p = (r / f64::from(k)).mul_add(p, 1.0);
    }
    p * f64::from_bits(((n as i64) + 1023).cast_unsigned() << 52)
}

/// The natural logarithm of a positive, normal f64, to some 1e-15.
pub fn ln_f64(x: f64) -> f64 {
    if !x.is_normal() || x < 0.0 {
        return if x == 0.0 {
            f64::NEG_INFINITY
        } else {
            f64::NAN
        };
    }
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i32 - 1023;
    let mut m = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if m > std::f64::consts::SQRT_2 {
        m /= 2.0;
        exponent += 1;
    }
    // ln m = 2 artanh((m - 1) / (m + 1))
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let mut p = 0.0;
    for k in (0..=20).rev() {
        p = square.mul_add(p, 1.0 / f64::from(2 * k + 1));
    }
    f64::from(exponent).mul_add(LN_2, 2.0 * s * p)
}

/// x^y of a positive x.
pub fn pow_f64(x: f64, y: f64) -> f64 {
    exp_f64(y * ln_f64(x))
}

/// Sine and cosine, to some 1e-15, of angles below 2^20.
pub fn sin_cos_f64(angle: f64) -> (f64, f64) {
    let n = (angle / FRAC_PI_2).round_ties_even();
    // pi/2 in two parts
    let r = n.mul_add(-6.123_233_995_736_766e-17, n.mul_add(-FRAC_PI_2, angle));
    let square = r * r;
    let (mut sin, mut cos) = (1.0, 1.0);
    for k in (1..=10).rev() {
        let k = f64::from(k);
        sin = (-square / (2.0 * k * (2.0 * k + 1.0))).mul_add(sin, 1.0);
        cos = (-square / (2.0 * k * (2.0 * k - 1.0))).mul_add(cos, 1.0);
    }
    let sin = sin * r;
    match (n as i64).rem_euclid(4) {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_agree_with_the_platform_within_their_bounds() {
        for step in -20_000..20_000_i32 {
            let x = f64::from(step) * 0.004_4;
            let (ours, theirs) = (f64::from(exp(x as f32)), f64::from(x as f32).exp());
            let bound = if theirs < 1.2e-38 {
                1.5e-45
            } else {
                1.2e-7 * theirs
            };
            assert!((ours - theirs).abs() <= bound, "exp {x}: {ours} {theirs}");
            let (ours, theirs) = (f64::from(tanh(x as f32)), f64::from(x as f32).tanh());
            assert!((ours - theirs).abs() <= 2e-7 * theirs.abs(), "tanh {x}");
            assert!((exp_f64(x) / x.exp() - 1.0).abs() < 1e-14, "{x}");
            let (sin, cos) = sin_cos_f64(x * 1000.0);
            assert!((sin - (x * 1000.0).sin()).abs() < 1e-14, "sin {x}");
            assert!((cos - (x * 1000.0).cos()).abs() < 1e-14, "cos {x}");
            if x > 0.0 {
                assert!((ln_f64(x) - x.ln()).abs() < 1e-14, "ln {x}");
                assert!((pow_f64(x, -0.7) / x.powf(-0.7) - 1.0).abs() < 1e-13, "{x}");
            }
        }
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "these are exact")]
    fn the_ends_of_the_range_are_whole() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(-104.0), 0.0);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(tanh(f32::INFINITY), 1.0);
        assert_eq!(tanh(-100.0), -1.0);
        assert_eq!(tanh(0.0), 0.0);
        assert_eq!(exp_f64(-800.0), 0.0);
        assert_eq!(exp_f64(800.0), f64::INFINITY);
        assert!(ln_f64(-1.0).is_nan());
    }
}
