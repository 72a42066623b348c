//! Profiles: what the writer prefers, size or latency.

use std::str::FromStr;

use crate::base::Error;

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

    /// log2 of the original bytes of a block. 128 KiB keeps a random page fault through a mount near that of the disk.
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
