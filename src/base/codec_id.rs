//! The numbers of the codecs: what `format` writes and `codec` acts on (docs/format.md, section 6).

/// A codec number as it stands in an image. Unknown numbers are kept, and refused on decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CodecId(pub u8);

impl CodecId {
    /// The original bytes.
    pub const RAW: Self = Self(0);
    /// A repeated pattern of 1, 2, 4 or 8 bytes.
    pub const CONST: Self = Self(1);
    /// One zstd frame.
    pub const ZSTD: Self = Self(2);
    /// Exponents by 16-bit rANS (bf16).
    pub const R16: Self = Self(3);
    /// Exponent and two mantissa bits by 32-bit rANS (bf16).
    pub const R32_BF16: Self = Self(4);
    /// High and low byte by 32-bit rANS (f16).
    pub const R32_F16: Self = Self(5);
    /// Exponent and two mantissa bits, and the two low bytes, by 32-bit rANS (f32).
    pub const R32_F32: Self = Self(6);
    /// Byte planes of elements of 1 byte by 32-bit rANS.
    pub const R32_BYTES_1: Self = Self(7);
    /// Byte planes of elements of 2 bytes.
    pub const R32_BYTES_2: Self = Self(8);
    /// Byte planes of elements of 4 bytes.
    pub const R32_BYTES_4: Self = Self(9);
    /// Byte planes of elements of 8 bytes.
    pub const R32_BYTES_8: Self = Self(10);
    /// The bytes of the base.
    pub const SAME: Self = Self(12);
    /// Differences from a base, bf16.
    pub const DELTA_BF16: Self = Self(13);
    /// Differences from a base, f16.
    pub const DELTA_F16: Self = Self(14);
    /// Differences from a base, f32.
    pub const DELTA_F32: Self = Self(15);
    /// Differences from a base, floats of 8 bits with 3 of mantissa.
    pub const DELTA_F8_E4M3: Self = Self(16);
    /// Differences from a base, floats of 8 bits with 2 of mantissa.
    pub const DELTA_F8_E5M2: Self = Self(17);

    /// The version that this build writes; it reads this and all before it, from 1 on.
    pub fn version(self) -> u8 {
        match self {
            Self::R32_BF16
            | Self::R32_F16
            | Self::R32_F32
            | Self::R32_BYTES_1
            | Self::R32_BYTES_2
            | Self::R32_BYTES_4
            | Self::R32_BYTES_8 => 2,
            _ => 1,
        }
    }

    /// Whether a block of this codec needs the base's bytes.
    pub fn needs_base(self) -> bool {
        (Self::SAME..=Self::DELTA_F8_E5M2).contains(&self)
    }

    /// The name used in docs and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::RAW => "raw",
            Self::CONST => "const",
            Self::ZSTD => "zstd",
            Self::R16 => "r16",
            Self::R32_BF16 => "r32-bf16",
            Self::R32_F16 => "r32-f16",
            Self::R32_F32 => "r32-f32",
            Self::R32_BYTES_1 | Self::R32_BYTES_2 | Self::R32_BYTES_4 | Self::R32_BYTES_8 => {
                "r32-bytes"
            }
            Self::SAME => "same",
            Self::DELTA_BF16
            | Self::DELTA_F16
            | Self::DELTA_F32
            | Self::DELTA_F8_E4M3
            | Self::DELTA_F8_E5M2 => "delta",
            _ => "unknown",
        }
    }
}
