//! The exponential function by integer and exact floating-point operations only, so that every
//! machine samples the same token: the platform's own differs from one C library to the next.

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
pub(crate) fn exp(x: f64) -> f64 {
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
}
