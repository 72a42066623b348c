//! The processor: what the kernel says of it, and what our kernels use of it.

use std::collections::BTreeMap;
use std::path::Path;

use crate::base::level;
use crate::base::units;
use crate::entropy::simd::dispatch;
use crate::kernels::kernels;
use crate::plan::facts::Caches;
use crate::plan::facts::Instructions;
use crate::plan::facts::Processor;
use crate::plan::machine::Build;
use crate::plan::measured::Bytes;
use crate::plan::measured::Cores;
use crate::plan::measured::Measured;
use crate::plan::measured::Name;
use crate::plan::probe;
use crate::plan::probe::System;

const CPUS: &str = "sys/devices/system/cpu";

/// What is known of it.
pub fn processor(system: &System) -> Processor {
    let cores = std::thread::available_parallelism();
    Processor {
        name: name(system),
        cores: match cores {
            Ok(count) => Measured::Value(Cores(count.get() as u64)),
            Err(error) => Measured::not(format!("the system does not tell: {error}")),
        },
        instructions: instructions(),
        caches: caches(system),
    }
}

/// What this process brings along.
pub fn build() -> Build {
    let version = env!("CARGO_PKG_VERSION");
    let asked_for = if dispatch::unknown_name().is_some() {
        ""
    } else {
        level::wanted()
    };
    Build {
        version: if cfg!(debug_assertions) {
            format!("{version}, with debug assertions")
        } else {
            version.to_owned()
        },
        // not the way that decoding uses it: that may be another in the next process
        instructions: kernels().level().ways()[0].to_owned(),
        asked_for: asked_for.to_owned(),
    }
}

fn instructions() -> Instructions {
    let available = dispatch::available();
    Instructions {
        available: available.iter().map(|set| set.name.to_owned()).collect(),
        decode: dispatch::kernels().name.to_owned(),
        products: kernels().level().ways()[0].to_owned(),
    }
}

fn name(system: &System) -> Measured<Name> {
    const FILE: &str = "proc/cpuinfo";
    let Some(text) = system.text(FILE) else {
        return Measured::not("`/proc/cpuinfo` cannot be read");
    };
    Measured::or_not(
        name_in(&text).map(Name),
        "`/proc/cpuinfo` does not name the processor",
    )
}

/// The model of the first processor in /proc/cpuinfo; where it has only numbers, these.
fn name_in(cpuinfo: &str) -> Option<String> {
    let field = |name: &str| {
        let mut values = cpuinfo.lines().filter_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        });
        values.find(|value| !value.is_empty())
    };
    field("model name").or_else(|| {
        let (implementer, part) = (field("CPU implementer")?, field("CPU part")?);
        Some(format!("ARM implementer {implementer}, part {part}"))
    })
}

/// A cache as the kernel tells it: level, kind, and which processors share it.
type CacheKey = (u32, String, String);

fn caches(system: &System) -> Caches {
    let folder = system.path(CPUS);
    let all = all_caches(&folder);
    let none = || format!("`/{CPUS}` tells of no such cache");
    let one = |level: u32| {
        let found = all.iter().find(|((of, _, _), _)| *of == level);
        Measured::or_not(found.map(|(_, bytes)| Bytes(*bytes)), none())
    };
    let last = all.keys().map(|(level, _, _)| *level).max();
    let total = last.map(|last| {
        let of_last = all.iter().filter(|((level, _, _), _)| *level == last);
        Bytes(of_last.map(|(_, bytes)| *bytes).sum())
    });
    Caches {
        l1_data: one(1),
        l2: one(2),
        l3: one(3),
        last_level_total: Measured::or_not(total, none()),
    }
}

/// The caches that hold data, each once, with their bytes.
fn all_caches(folder: &Path) -> BTreeMap<CacheKey, u64> {
    let mut all = BTreeMap::new();
    let is_cpu = |name: &String| {
        let number = name.strip_prefix("cpu");
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    for cpu in probe::names_in(folder).into_iter().filter(is_cpu) {
        let caches = folder.join(&cpu).join("cache");
        for index in probe::names_in(&caches) {
            let text = |name: &str| {
                let text = probe::text_of(&caches.join(&index).join(name))?;
                Some(text.trim().to_owned())
            };
            let level = text("level").and_then(|level| level.parse().ok());
            let bytes = text("size").and_then(|size| units::parse_bytes(&size).ok());
            let kind = text("type").filter(|kind| kind != "Instruction");
            if let (Some(level), Some(bytes), Some(kind)) = (level, bytes, kind) {
                let shared = text("shared_cpu_list").unwrap_or_else(|| cpu.clone());
                all.insert((level, kind, shared), bytes);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::probe::put;

    #[test]
    fn a_processor_has_the_name_that_the_kernel_gives_it() {
        let intel = "processor\t: 0\nmodel\t\t: 143\nmodel name\t: Xeon 8481C\nflags\t: a\n";
        assert_eq!(name_in(intel).unwrap(), "Xeon 8481C");
        let arm = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\n";
        assert_eq!(name_in(arm).unwrap(), "ARM implementer 0x41, part 0xd4f");
        assert_eq!(name_in("processor\t: 0\nmodel name\t:\n"), None);
        assert_eq!(name_in(""), None);
    }

    #[test]
    fn caches_that_several_processors_share_count_once() {
        let root = tempfile::tempdir().unwrap();
        for cpu in 0..4 {
            let with = [
                (0, "1", "Data", "32K", format!("{cpu}")),
                (1, "1", "Instruction", "64K", format!("{cpu}")),
                (2, "2", "Unified", "1M", format!("{cpu}")),
                (
                    3,
                    "3",
                    "Unified",
                    "16M",
                    format!("{}-{}", cpu / 2 * 2, cpu / 2 * 2 + 1),
                ),
            ];
            for (index, level, kind, size, shared) in with {
                let put = |name: &str, text: &str| {
                    let path = format!("{CPUS}/cpu{cpu}/cache/index{index}/{name}");
                    put(root.path(), &path, format!("{text}\n"));
                };
                put("level", level);
                put("type", kind);
                put("size", size);
                put("shared_cpu_list", &shared);
            }
        }
        put(root.path(), &format!("{CPUS}/cpufreq/level"), "9\n");
        let caches = caches(&System::within(root.path()));
        assert_eq!(caches.l1_data, Measured::Value(Bytes(32 << 10)));
        assert_eq!(caches.l2, Measured::Value(Bytes(1 << 20)));
        assert_eq!(caches.l3, Measured::Value(Bytes(16 << 20)));
        assert_eq!(caches.last_level_total, Measured::Value(Bytes(32 << 20)));
    }

    #[test]
    fn without_the_kernels_files_nothing_is_known() {
        let root = tempfile::tempdir().unwrap();
        let processor = processor(&System::within(root.path()));
        assert!(processor.name.why_not().unwrap().contains("/proc/cpuinfo"));
        for cache in [
            &processor.caches.l1_data,
            &processor.caches.l3,
            &processor.caches.last_level_total,
        ] {
            assert!(cache.why_not().unwrap().contains("/sys/devices"), "{cache}");
        }
        let instructions = processor.instructions;
        assert!(instructions.available.contains(&instructions.decode));
    }
}
