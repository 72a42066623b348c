//! Dtypes by their safetensors names: how wide they are and how their bits behave.

/// How the bits of a dtype are laid out, as far as coding is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// 1 sign, 8 exponent, 7 mantissa bits.
    Bf16,
    /// 1 sign, 5 exponent, 10 mantissa bits.
    F16,
    /// 1 sign, 8 exponent, 23 mantissa bits; complex numbers are two of them.
    F32,
    /// Small floats whose whole byte is the symbol.
    Float8,
    /// Anything else, in elements of 1, 2, 4 or 8 bytes.
    Bytes(u8),
}

/// Every dtype of safetensors 0.8, in the order in which it has them, with its bits per element and
/// its family.
const DTYPES: [(&str, u64, Family); 22] = [
    ("BOOL", 8, Family::Bytes(1)),
    ("F4", 4, Family::Bytes(1)),
    ("F6_E2M3", 6, Family::Bytes(1)),
    ("F6_E3M2", 6, Family::Bytes(1)),
    ("U8", 8, Family::Bytes(1)),
    ("I8", 8, Family::Bytes(1)),
    ("F8_E5M2", 8, Family::Float8),
    ("F8_E4M3", 8, Family::Float8),
    ("F8_E8M0", 8, Family::Bytes(1)),
    ("F8_E4M3FNUZ", 8, Family::Float8),
    ("F8_E5M2FNUZ", 8, Family::Float8),
    ("I16", 16, Family::Bytes(2)),
    ("U16", 16, Family::Bytes(2)),
    ("F16", 16, Family::F16),
    ("BF16", 16, Family::Bf16),
    ("I32", 32, Family::Bytes(4)),
    ("U32", 32, Family::Bytes(4)),
    ("F32", 32, Family::F32),
    ("C64", 64, Family::F32),
    ("F64", 64, Family::Bytes(8)),
    ("I64", 64, Family::Bytes(8)),
    ("U64", 64, Family::Bytes(8)),
];

/// Bits of one element; `None` for a dtype that this build does not know.
pub fn bits(dtype: &str) -> Option<u64> {
    DTYPES
        .iter()
        .find(|(name, ..)| *name == dtype)
        .map(|(_, bits, _)| *bits)
}

/// Its place among the dtypes, from the narrowest to the widest; none for a dtype that this build
/// does not know.
pub fn rank(dtype: &str) -> Option<usize> {
    DTYPES.iter().position(|(name, ..)| *name == dtype)
}

/// The family of a dtype; plain bytes for one that this build does not know.
pub fn family(dtype: &str) -> Family {
    DTYPES
        .iter()
        .find(|(name, ..)| *name == dtype)
        .map_or(Family::Bytes(1), |(.., family)| *family)
}

/// Bytes of a tensor; `None` if the dtype is unknown, the product overflows, or the bits fill no
/// whole bytes.
pub fn byte_len(dtype: &str, shape: &[u64]) -> Option<u64> {
    let elements = shape
        .iter()
        .try_fold(1_u64, |product, &dim| product.checked_mul(dim))?;
    let bits = elements.checked_mul(bits(dtype)?)?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked() {
        assert_eq!(byte_len("BF16", &[3, 5]), Some(30));
        assert_eq!(byte_len("F64", &[]), Some(8));
        assert_eq!(byte_len("F4", &[3]), None);
        assert_eq!(byte_len("BF16", &[1 << 32, 1 << 32]), None);
        assert_eq!(byte_len("BF17", &[1]), None);
    }

    #[test]
    fn the_table_agrees_with_the_safetensors_library() {
        let mut before = None;
        for (name, bits, _) in DTYPES {
            let dtype: safetensors::Dtype = serde_json::from_str(&format!("\"{name}\"")).unwrap();
            assert_eq!(dtype.bitsize() as u64, bits, "{name}");
            assert!(before.replace(dtype) < Some(dtype), "{name}");
        }
    }
}
