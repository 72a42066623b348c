//! Functions for inner loops that give the same bits everywhere: sums, products and fused
//! multiply-adds only, and no branch. Those for tables are in [`base::math`](crate::base::math).

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
    }
}
