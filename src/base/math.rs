//! Functions of f64 by exact operations only, so that every machine computes the same tables and
//! samples the same token: the platform's own differ from one C library to the next.

use std::f64::consts::FRAC_PI_2;
use std::f64::consts::LN_2;

/// ln 2 in two parts: the first ends in zeros enough that its product with an exponent is exact.
const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
/// Adding this to a number below 2^51 and taking it off again rounds to the nearest integer.
const ROUNDING: f64 = 6_755_399_441_055_744.0;
/// Below this the result is less than the smallest normal number, and 0 is given.
const LOWEST: f64 = -708.0;
/// Above this it would not be finite.
const HIGHEST: f64 = 709.0;

/// e^x, wrong by at most 3 parts in 10^16: 0 below -708, infinite above 709. NaN gives NaN.
pub fn exp(x: f64) -> f64 {
    if x < LOWEST {
        return 0.0;
    }
    if x > HIGHEST {
        return f64::INFINITY;
    }
    if x.is_nan() {
        return x;
    }
    let n = (x * std::f64::consts::LOG2_E + ROUNDING) - ROUNDING;
    // exact but for the last product: |r| <= ln 2 / 2
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    // from -1021 to 1023: a normal number
    let power = f64::from_bits(u64::try_from(n as i64 + 1023).unwrap_or(0) << 52);
    power_series(r) * power
}

/// The Taylor series to r^13 / 13!: what is left out is at most 0.347^14 / 14! = 4e-18.
fn power_series(r: f64) -> f64 {
    const INVERSE_FACTORIALS: [f64; 14] = [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ];
    // no fused multiply-add: without the instruction it is a call, and slow
    let mut sum = 0.0;
    for factor in INVERSE_FACTORIALS {
        sum = sum * r + factor;
    }
    sum
}

/// The natural logarithm of a positive, normal f64, to some 1e-15.
pub fn ln(x: f64) -> f64 {
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
pub fn pow(x: f64, y: f64) -> f64 {
    exp(y * ln(x))
}

/// Sine and cosine, to some 1e-15, of angles below 2^20.
pub fn sin_cos(angle: f64) -> (f64, f64) {
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
    fn as_exact_as_the_platforms() {
        let mut worst = 0.0_f64;
        for n in -70_800_000..7_090_000 {
            if n % 97 != 0 {
                continue;
            }
            let x = f64::from(n) / 100_000.0;
            let expected = x.exp();
            worst = worst.max((exp(x) - expected).abs() / expected);
        }
        assert!(worst < 4.5e-16, "wrong by {worst:e}");
    }

    #[test]
    fn the_ends() {
        assert_eq!(exp(0.0).to_bits(), 1.0_f64.to_bits());
        assert_eq!(exp(f64::NEG_INFINITY).to_bits(), 0);
        assert_eq!(exp(-1e300).to_bits(), 0);
        assert_eq!(exp(f64::INFINITY).to_bits(), f64::INFINITY.to_bits());
        assert_eq!(exp(710.0).to_bits(), f64::INFINITY.to_bits());
        assert!(exp(f64::NAN).is_nan());
        assert!(exp(-708.0) > 0.0 && exp(709.0).is_finite());
    }

    /// Whoever changes the arithmetic changes what every seed gives.
    #[test]
    fn the_bits_are_these_everywhere() {
        let bits = [-0.5, -1.0, -10.25, -333.3, 1.0].map(|x| exp(x).to_bits());
        // the same steps in Python
        let expected = [
            0x3fe3_68b2_fc6f_960a,
            0x3fd7_8b56_362c_ef38,
            0x3f02_899a_7a83_5446,
            0x21e1_bffc_932f_fe0d,
            0x4005_bf0a_8b14_576a,
        ];
        assert_eq!(bits, expected);
    }

    #[test]
    fn the_others_agree_with_the_platform() {
        for step in -20_000..20_000_i32 {
            let x = f64::from(step) * 0.0044;
            let (sin, cos) = sin_cos(x * 1000.0);
            assert!((sin - (x * 1000.0).sin()).abs() < 1e-14, "sin {x}");
            assert!((cos - (x * 1000.0).cos()).abs() < 1e-14, "cos {x}");
            if x > 0.0 {
                assert!((ln(x) - x.ln()).abs() < 1e-14, "ln {x}");
                assert!((pow(x, -0.7) / x.powf(-0.7) - 1.0).abs() < 1e-13, "{x}");
            }
        }
        assert!(ln(-1.0).is_nan());
        assert!(ln(0.0).is_infinite());
    }
}
