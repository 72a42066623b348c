//! Levels of instructions: what this processor has, and what is asked for. Code with kernels for
//! some of them asks here which one to run.

#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;
use std::sync::LazyLock;

/// The variable of the environment that asks for a level, or for one way to use it.
const VARIABLE: &str = "BIGSMALL_SIMD";

/// A level of instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every processor has.
    Scalar,
    /// NEON, little-endian: every 64-bit ARM.
    Neon,
    /// AVX2 and POPCNT.
    Avx2,
    /// AVX-512 with VBMI2: Ice Lake, Zen 4 and newer.
    Avx512,
}

impl Level {
    /// All of them, a wider one behind a narrower.
    const ALL: [Self; 4] = [Self::Scalar, Self::Neon, Self::Avx2, Self::Avx512];

    /// Its name, and the ways to use it: with gathers, which some processors are slow at, or with
    /// loads in their place.
    pub fn ways(self) -> &'static [&'static str] {
        match self {
            Self::Scalar => &["scalar"],
            Self::Neon => &["neon"],
            Self::Avx2 => &["avx2", "avx2-loads"],
            Self::Avx512 => &["avx512", "avx512-loads"],
        }
    }

    /// Whether this processor has all of its instructions: what calls of functions that are
    /// compiled for the level rest upon.
    pub fn is_there(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vbmi")
                    && is_x86_feature_detected!("avx512vbmi2")
                    && is_x86_feature_detected!("popcnt")
            }
            // vectors are taken apart as numbers, whose first lane is the lowest
            #[cfg(target_arch = "aarch64")]
            Self::Neon => cfg!(target_endian = "little") && is_aarch64_feature_detected!("neon"),
            _ => false,
        }
    }
}

/// The levels of this processor, the widest last.
pub(crate) fn available() -> impl DoubleEndedIterator<Item = Level> {
    Level::ALL.into_iter().filter(|level| level.is_there())
}

/// The way that `BIGSMALL_SIMD` asks for; empty if it asks for none.
pub(crate) fn wanted() -> &'static str {
    static WANTED: LazyLock<String> = LazyLock::new(|| std::env::var(VARIABLE).unwrap_or_default());
    &WANTED
}

/// The level to use: that of the way that is asked for, if this processor has it; else the widest.
pub(crate) fn chosen() -> Level {
    of_way(wanted())
}

fn of_way(name: &str) -> Level {
    let named = available().find(|level| level.ways().contains(&name));
    named
        .or_else(|| available().next_back())
        .unwrap_or(Level::Scalar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_gives_its_level_and_what_is_not_there_the_widest() {
        let all: Vec<Level> = available().collect();
        assert_eq!(all[0], Level::Scalar);
        assert!(all.is_sorted());
        for level in &all {
            for way in level.ways() {
                assert_eq!(of_way(way), *level, "{way}");
            }
        }
        for name in ["", "sse2", "-", "avx", "scalar-loads"] {
            assert_eq!(of_way(name), all[all.len() - 1], "{name}");
        }
    }
}
