//! Profiles: what the writer prefers, size or latency.

use std::str::FromStr;

use crate::base::Error;
use crate::tensor::Family;

/// How a model is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// R16 for bf16: the shortest way to a block.
    Inference,
    /// R32 with up to four tables for each plane.
    #[default]
    Balanced,
    /// The same with larger blocks and up to eight tables.
    Storage,
}

impl Profile {
    /// All profiles by name.
    pub const ALL: [(&'static str, Self); 3] = [
        ("balanced", Self::Balanced),
        ("inference", Self::Inference),
        ("storage", Self::Storage),
    ];

    /// log2 of the original bytes of a block. 128 KiB keeps a random page fault through a mount
    /// near that of the disk.
    pub fn block_shift(self) -> u8 {
        match self {
            Self::Inference | Self::Balanced => 17,
            Self::Storage => 20,
        }
    }

    /// Most tables for a plane.
    pub fn tables_max(self) -> usize {
        match self {
            Self::Inference | Self::Balanced => 4,
            Self::Storage => 8,
        }
    }

    /// Why it makes nothing of these tensors (family and bytes) that the default would not; none if
    /// it does.
    pub fn brings_nothing(self, tensors: &[(Family, u64)]) -> Option<&'static str> {
        let any =
            |is_coded: fn(Family, u64) -> bool| tensors.iter().any(|&(f, len)| is_coded(f, len));
        let bf16 = any(|family, _| family == Family::Bf16);
        let long = any(|_, len| len > 1 << 17);
        match self {
            Self::Inference if !bf16 => Some("only BF16 tensors have a code of their own in it"),
            Self::Storage if !long => Some("no tensor is longer than a block of the default"),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, profile)| *profile == self)
            .map_or("", |(name, _)| name)
    }
}

impl FromStr for Profile {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, profile)| *profile)
            .ok_or_else(|| {
                Error::invalid(format!("`{text}` is no profile"))
                    .hint("choose balanced, inference or storage")
            })
    }
}
