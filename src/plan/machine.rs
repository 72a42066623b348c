//! Which machine it is: rates of another say nothing of this one.

use serde::Deserialize;
use serde::Serialize;

use crate::plan::facts::Memory;
use crate::plan::facts::Processor;
use crate::plan::measured::Measured;

/// What rates depend on. Where one of these is another, all are measured anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineIdentity {
    /// The model of the processor.
    pub processor: String,
    /// Cores that the process may use.
    pub cores: u64,
    /// Threads that were used at most.
    pub threads: usize,
    /// The level of instructions.
    pub instructions: String,
    /// The set of kernels that was asked for by `BIGSMALL_SIMD`; empty if none was.
    pub asked_for: String,
    /// All of the machine's memory.
    pub memory_bytes: u64,
    /// The version of this program, and how it was built.
    pub version: String,
}

/// What this process brings along, whatever the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Its version, and how it was built.
    pub version: String,
    /// The level of instructions that it uses.
    pub instructions: String,
    /// The set of kernels that it was asked for; empty if none was.
    pub asked_for: String,
}

impl MachineIdentity {
    /// That of a machine; none if it cannot be told from others.
    pub fn new(
        processor: &Processor,
        memory: &Memory,
        threads: usize,
        build: Build,
    ) -> Measured<Self> {
        let name = processor.name.clone();
        let cores = processor.cores.clone();
        let total = memory.total.clone();
        name.and_then(|name| {
            cores.and_then(|cores| {
                total.map(|total| Self {
                    processor: name.0,
                    cores: cores.0,
                    threads,
                    instructions: build.instructions,
                    asked_for: build.asked_for,
                    memory_bytes: total.0,
                    version: build.version,
                })
            })
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::plan::facts::Caches;
    use crate::plan::facts::Instructions;
    use crate::plan::measured::Bytes;
    use crate::plan::measured::Cores;
    use crate::plan::measured::Name;

    pub(in crate::plan) fn identity() -> MachineIdentity {
        let found = MachineIdentity::new(&processor(), &memory(), 4, build());
        found.value().unwrap().clone()
    }

    fn build() -> Build {
        Build {
            version: "1.0".to_owned(),
            instructions: "avx2".to_owned(),
            asked_for: String::new(),
        }
    }

    fn memory() -> Memory {
        Memory {
            total: Measured::Value(Bytes(8 << 30)),
            available: Measured::not("nobody says"),
            limit: Measured::not("nobody says"),
        }
    }

    fn processor() -> Processor {
        let no_cache = || Measured::not("nobody says");
        Processor {
            name: Measured::Value(Name("a processor".to_owned())),
            cores: Measured::Value(Cores(4)),
            instructions: Instructions {
                available: vec!["scalar".to_owned(), "avx2".to_owned()],
                decode: "avx2".to_owned(),
                products: "avx2".to_owned(),
            },
            caches: Caches {
                l1_data: no_cache(),
                l2: no_cache(),
                l3: no_cache(),
                last_level_total: no_cache(),
            },
        }
    }

    #[test]
    fn a_machine_is_another_where_anything_is_that_rates_depend_on() {
        let this = identity();
        let other = |change: fn(&mut Processor, &mut Memory, &mut usize, &mut Build)| {
            let (mut processor, mut memory, mut threads, mut build) =
                (processor(), memory(), 4, build());
            change(&mut processor, &mut memory, &mut threads, &mut build);
            MachineIdentity::new(&processor, &memory, threads, build)
        };
        assert_eq!(other(|_, _, _, _| ()), Measured::Value(this.clone()));
        let changes: [fn(&mut Processor, &mut Memory, &mut usize, &mut Build); 7] = [
            |processor, _, _, _| processor.name = Measured::Value(Name("other".to_owned())),
            |processor, _, _, _| processor.cores = Measured::Value(Cores(2)),
            |_, memory, _, _| memory.total = Measured::Value(Bytes(4 << 30)),
            |_, _, threads, _| *threads = 2,
            |_, _, _, build| build.version = "1.1".to_owned(),
            |_, _, _, build| build.instructions = "scalar".to_owned(),
            |_, _, _, build| build.asked_for = "avx2-loads".to_owned(),
        ];
        for change in changes {
            let other = other(change);
            assert!(other.value().is_some());
            assert_ne!(other, Measured::Value(this.clone()));
        }
    }

    #[test]
    fn a_machine_of_which_something_is_not_known_is_no_machine_at_all() {
        let (mut processor, mut memory) = (processor(), memory());
        processor.name = Measured::not("no name");
        let none = MachineIdentity::new(&processor, &memory, 4, build());
        assert_eq!(none.why_not(), Some("no name"));
        processor.name = Measured::Value(Name("a processor".to_owned()));
        memory.total = Measured::not("no total");
        let none = MachineIdentity::new(&processor, &memory, 4, build());
        assert_eq!(none.why_not(), Some("no total"));
    }
}
