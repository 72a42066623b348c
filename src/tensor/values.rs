//! Elements as the numbers that they stand for, for telling by how much two tensors differ. Never
//! for storing them.

/// How the elements of a dtype become numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Values {
    /// Bytes of an element.
    pub width: usize,
    /// The number of one element of `width` bytes; NaN where the bits say so.
    pub value: fn(&[u8]) -> f64,
}

/// The bits of up to eight bytes, little-endian.
fn bits(bytes: &[u8]) -> u64 {
    let fold = |bits: u64, &byte: &u8| bits << 8 | u64::from(byte);
    bytes.iter().rev().fold(0, fold)
}

/// The number of a small float: sign, exponent and mantissa, with subnormals. What stands for
/// infinity or NaN is the caller's.
fn small_float(bits: u64, mantissa_bits: u32, exponent_bits: u32, bias: i32) -> f64 {
    let mantissa = bits & ((1 << mantissa_bits) - 1);
    let exponent = (bits >> mantissa_bits & ((1 << exponent_bits) - 1)) as i32;
    let sign = if bits >> (mantissa_bits + exponent_bits) & 1 == 1 {
        -1.0
    } else {
        1.0
    };
    let implied = if exponent > 0 { 1 << mantissa_bits } else { 0 };
    let significand = f64::from((mantissa | implied) as u32);
    sign * significand * 2_f64.powi(exponent.max(1) - bias - mantissa_bits.cast_signed())
}

fn half(bytes: &[u8]) -> f64 {
    let bits = bits(bytes);
    match (bits >> 10 & 31, bits & 1023) {
        (31, 0) => f64::INFINITY.copysign(if bits >> 15 == 1 { -1.0 } else { 1.0 }),
        (31, _) => f64::NAN,
        _ => small_float(bits, 10, 5, 15),
    }
}

fn e4m3(bytes: &[u8]) -> f64 {
    let bits = bits(bytes);
    if bits & 0x7f == 0x7f {
        return f64::NAN;
    }
    small_float(bits, 3, 4, 7)
}

fn e5m2(bytes: &[u8]) -> f64 {
    half(&[0, bytes.first().copied().unwrap_or(0)])
}

/// The formats without infinities or a negative zero, whose bits stand for NaN.
fn fnuz(bits: u64, mantissa_bits: u32) -> f64 {
    if bits == 0x80 {
        return f64::NAN;
    }
    let exponent_bits = 7 - mantissa_bits;
    small_float(bits, mantissa_bits, exponent_bits, 1 << (exponent_bits - 1))
}

#[expect(clippy::cast_precision_loss, reason = "a difference for people")]
fn signed(bytes: &[u8]) -> f64 {
    let unused = 64 - 8 * bytes.len() as u32;
    (bits(bytes) << unused).cast_signed().wrapping_shr(unused) as f64
}

#[expect(clippy::cast_precision_loss, reason = "a difference for people")]
fn unsigned(bytes: &[u8]) -> f64 {
    bits(bytes) as f64
}

/// How the elements of `dtype` become numbers; none where one element is no single number in whole
/// bytes.
pub(crate) fn of(dtype: &str) -> Option<Values> {
    let new = |width, value| Some(Values { width, value });
    match dtype {
        "F64" => new(8, |b| f64::from_bits(bits(b))),
        "F32" | "C64" => new(4, |b| f64::from(f32::from_bits(bits(b) as u32))),
        "BF16" => new(2, |b| f64::from(f32::from_bits((bits(b) as u32) << 16))),
        "F16" => new(2, half),
        "F8_E4M3" => new(1, e4m3),
        "F8_E5M2" => new(1, e5m2),
        "F8_E4M3FNUZ" => new(1, |b| fnuz(bits(b), 3)),
        "F8_E5M2FNUZ" => new(1, |b| fnuz(bits(b), 2)),
        "I8" => new(1, signed),
        "I16" => new(2, signed),
        "I32" => new(4, signed),
        "I64" => new(8, signed),
        "U8" | "BOOL" => new(1, unsigned),
        "U16" => new(2, unsigned),
        "U32" => new(4, unsigned),
        "U64" => new(8, unsigned),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_the_numbers_that_they_stand_for() {
        for (dtype, bytes, expected) in [
            ("F64", &1.25_f64.to_le_bytes()[..], 1.25),
            ("F32", &(-3.5_f32).to_le_bytes(), -3.5),
            ("BF16", &[0xc0, 0x3f], 1.5),
            ("F16", &[0x00, 0xc0], -2.0),
            ("F16", &[0x01, 0x00], 2_f64.powi(-24)),
            ("F16", &[0x00, 0xfc], f64::NEG_INFINITY),
            ("F8_E4M3", &[0x7e], 448.0),
            ("F8_E4M3", &[0x01], 2_f64.powi(-9)),
            ("F8_E5M2", &[0x7b], 57_344.0),
            ("F8_E4M3FNUZ", &[0x7f], 240.0),
            ("F8_E5M2FNUZ", &[0x7f], 57_344.0),
            ("I8", &[0xff], -1.0),
            ("I16", &[0x00, 0x80], -32_768.0),
            ("U32", &[1, 0, 1, 0], 65_537.0),
            ("I64", &[0xfe, 255, 255, 255, 255, 255, 255, 255], -2.0),
            ("BOOL", &[1], 1.0),
        ] {
            let values = of(dtype).unwrap();
            assert_eq!(values.width, bytes.len(), "{dtype}");
            let value = (values.value)(bytes);
            assert!(value.to_bits() == f64::to_bits(expected), "{dtype} {value}");
        }
        for (dtype, byte) in [("F8_E4M3", 0xff), ("F8_E5M2", 0x7d), ("F8_E4M3FNUZ", 0x80)] {
            assert!((of(dtype).unwrap().value)(&[byte]).is_nan());
        }
        assert!(of("F4").is_none() && of("F6_E2M3").is_none());
    }
}
