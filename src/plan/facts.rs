//! What is known of a machine. All of it is plain data, which a test fills by hand.

use serde::Deserialize;
use serde::Serialize;

use crate::plan::measured::Bytes;
use crate::plan::measured::BytesPerSecond;
use crate::plan::measured::Cores;
use crate::plan::measured::Devices;
use crate::plan::measured::FlopPerSecond;
use crate::plan::measured::Measured;
use crate::plan::measured::Name;
use crate::plan::measured::Names;
use crate::plan::measured::Percent;
use crate::plan::measured::Quantity;

/// Everything that a forecast may rest on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What computes.
    pub processor: Processor,
    /// How much memory there is.
    pub memory: Memory,
    /// How fast it computes.
    pub rates: Rates,
    /// The disk that a model is on.
    pub disk: Disk,
    /// What else could compute.
    pub gpu: Gpu,
}

/// The processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Processor {
    /// Its model.
    pub name: Measured<Name>,
    /// Cores that this process may use.
    pub cores: Measured<Cores>,
    /// What our kernels use of it.
    pub instructions: Instructions,
    /// Its caches.
    pub caches: Caches,
}

/// Sets of kernels, by the names that `BIGSMALL_SIMD` takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Instructions {
    /// Those that this processor can run.
    pub available: Vec<String>,
    /// That with which blocks are decoded.
    pub decode: String,
    /// That with which weights are multiplied.
    pub products: String,
}

/// Caches of data. Those of one level may be several: one for each core, or for some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Caches {
    /// One of the first level.
    pub l1_data: Measured<Bytes>,
    /// One of the second.
    pub l2: Measured<Bytes>,
    /// One of the third.
    pub l3: Measured<Bytes>,
    /// All of the last level together.
    pub last_level_total: Measured<Bytes>,
}

/// The memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// All that the machine has.
    pub total: Measured<Bytes>,
    /// What this process can take now without pushing anybody out.
    pub available: Measured<Bytes>,
    /// The tightest limit of the control groups that it is in.
    pub limit: Measured<Bytes>,
}

/// One rate by numbers of threads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent, bound = "T: Quantity")]
pub struct ByThreads<T: Quantity>(pub Vec<WithThreads<T>>);

/// A rate with some threads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound = "T: Quantity")]
pub struct WithThreads<T: Quantity> {
    /// How many.
    pub threads: usize,
    /// Of all of them together.
    pub rate: Measured<T>,
}

impl<T: Quantity + Clone> ByThreads<T> {
    /// Not measured, with each of these numbers of threads, as `reason` says.
    pub fn not(counts: &[usize], reason: &str) -> Self {
        let one = |&threads| WithThreads {
            threads,
            rate: Measured::not(reason),
        };
        Self(counts.iter().map(one).collect())
    }

    /// The rate with so many threads. None is made up between two others.
    pub fn with(&self, threads: usize) -> Measured<T> {
        let found = self.0.iter().find(|rate| rate.threads == threads);
        let reason = || Measured::not(format!("it was not measured with {threads} threads"));
        found.map_or_else(reason, |rate| rate.rate.clone())
    }

    /// The numbers of threads.
    fn counts(&self) -> Vec<usize> {
        self.0.iter().map(|rate| rate.threads).collect()
    }

    fn is_whole(&self) -> bool {
        self.0.iter().all(|rate| rate.rate.value().is_some())
    }
}

/// Declares [`Rates`] and what is done with all of them alike.
macro_rules! rates {
    ($($(#[$doc:meta])* $name:ident: $quantity:ty, with $counts:ident;)*) => {
        /// How fast weights of BF16 are read from memory, decoded and multiplied, by numbers of
        /// threads. Bytes are those of weights as they are when they are not coded.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        pub struct Rates {$(
            $(#[$doc])*
            pub $name: ByThreads<$quantity>,
        )*}

        impl Rates {
            /// None, as `reason` says; with up to so many threads.
            pub fn not(threads: usize, reason: &str) -> Self {
                Self {$(
                    $name: ByThreads::not(&$counts(threads), reason),
                )*}
            }

            /// Whether every rate is measured.
            pub fn is_whole(&self) -> bool {
                let mut is_whole = true;
                $(is_whole &= self.$name.is_whole();)*
                is_whole
            }

            /// Whether all are there, measured or not, with up to so many threads.
            pub fn are_with(&self, threads: usize) -> bool {
                let mut are = true;
                $(are &= self.$name.counts() == $counts(threads);)*
                are
            }
        }
    };
}

rates! {
    /// Reading memory from end to end.
    memory_read: BytesPerSecond, with thread_counts;
    /// Decoding blocks of R16 from memory into a buffer that stays in the cache.
    decode_r16: BytesPerSecond, with one_and_all;
    /// The same of R32.
    decode_r32: BytesPerSecond, with one_and_all;
    /// Weights in memory, as they are, times one vector.
    gemv_bf16: BytesPerSecond, with one_and_all;
    /// Weights in memory, coded by R16, decoded tile by tile, times one vector.
    gemv_r16: BytesPerSecond, with one_and_all;
    /// The same of R32.
    gemv_r32: BytesPerSecond, with one_and_all;
    /// Weights in memory, packed in twelve bits, widened in the registers that multiply them, times
    /// one vector.
    gemv_packed: BytesPerSecond, with one_and_all;
    /// Weights in memory, as they are, times 8 vectors.
    gemm_bf16_8: FlopPerSecond, with one_and_all;
    /// The same times 64 vectors.
    gemm_bf16_64: FlopPerSecond, with one_and_all;
}

/// 1, 2, 4 and so on, and `threads`.
pub fn thread_counts(threads: usize) -> Vec<usize> {
    let powers = std::iter::successors(Some(1_usize), |count| count.checked_mul(2));
    let mut counts: Vec<usize> = powers.take_while(|count| *count < threads).collect();
    counts.push(threads.max(1));
    counts
}

/// 1 and `threads`.
pub fn one_and_all(threads: usize) -> Vec<usize> {
    let mut counts = vec![1, threads.max(1)];
    counts.dedup();
    counts
}

/// The disk, or whatever else a file system reads from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its number among the devices, `MAJOR:MINOR`.
    pub device: Measured<Name>,
    /// The type of the file system.
    pub file_system: Measured<Name>,
    /// How it was read: past the page cache, or after what was there had been dropped.
    pub read_by: Measured<Name>,
    /// Reading files from end to end, several requests at once.
    pub read: Measured<BytesPerSecond>,
}

impl Disk {
    /// Nothing is known of it, as `reason` says.
    pub fn not(reason: &str) -> Self {
        Self {
            device: Measured::not(reason),
            file_system: Measured::not(reason),
            read_by: Measured::not(reason),
            read: Measured::not(reason),
        }
    }

    /// Whether both are certainly the same disk with the same file system.
    pub fn is_same(&self, other: &Self) -> bool {
        let place = |disk: &Self| {
            let (device, file_system) = (disk.device.value(), disk.file_system.value());
            device.cloned().zip(file_system.cloned())
        };
        place(self).is_some_and(|here| place(other) == Some(here))
    }
}

/// GPUs of NVIDIA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// Where the library of the driver is. It is not loaded.
    pub driver_library: Measured<Name>,
    /// The version of the driver in the kernel.
    pub driver_version: Measured<Name>,
    /// How many GPUs there are.
    pub devices: Measured<Devices>,
    /// Their models.
    pub names: Measured<Names>,
    /// Free memory of all of them.
    pub memory_available: Measured<Bytes>,
    /// How busy the busiest is.
    pub busy: Measured<Percent>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_threads_double_up_to_the_last() {
        let counts = [0, 1, 2, 3, 4, 6, 32].map(thread_counts);
        let expected: [&[usize]; 7] = [
            &[1],
            &[1],
            &[1, 2],
            &[1, 2, 3],
            &[1, 2, 4],
            &[1, 2, 4, 6],
            &[1, 2, 4, 8, 16, 32],
        ];
        assert_eq!(
            counts.map(|it| it.into_iter().collect::<Vec<_>>()),
            expected.map(<[_]>::to_vec)
        );
    }

    #[test]
    fn a_rate_is_that_of_its_threads_and_of_no_others() {
        let rates = ByThreads(vec![
            WithThreads {
                threads: 1,
                rate: Measured::Value(BytesPerSecond(5)),
            },
            WithThreads {
                threads: 4,
                rate: Measured::Value(BytesPerSecond(9)),
            },
        ]);
        assert_eq!(rates.with(4), Measured::Value(BytesPerSecond(9)));
        assert!(rates.with(2).why_not().unwrap().contains("2 threads"));
    }

    #[test]
    fn rates_are_whole_once_all_are_measured() {
        let mut rates = Rates::not(2, "tired");
        assert!(!rates.is_whole());
        assert!(rates.are_with(2));
        assert!(!rates.are_with(1));
        let many = Rates::not(8, "tired");
        assert_eq!(many.memory_read.counts(), [1, 2, 4, 8]);
        assert_eq!(many.gemv_bf16.counts(), [1, 8]);
        let bytes = ByThreads(vec![WithThreads {
            threads: 1,
            rate: Measured::Value(BytesPerSecond(5)),
        }]);
        let flop = ByThreads(vec![WithThreads {
            threads: 1,
            rate: Measured::Value(FlopPerSecond(5)),
        }]);
        rates.memory_read = bytes.clone();
        rates.decode_r16 = bytes.clone();
        rates.decode_r32 = bytes.clone();
        rates.gemv_bf16 = bytes.clone();
        rates.gemv_r16 = bytes.clone();
        rates.gemv_r32 = bytes.clone();
        rates.gemv_packed = bytes;
        rates.gemm_bf16_8 = flop.clone();
        assert!(!rates.is_whole());
        rates.gemm_bf16_64 = flop;
        assert!(rates.is_whole());
        rates.gemm_bf16_64 = ByThreads::not(&[1], "tired");
        assert!(!rates.is_whole());
    }

    #[test]
    fn disks_are_the_same_only_where_both_are_known() {
        let disk = |device: &str, file_system: &str| Disk {
            device: Measured::Value(Name(device.to_owned())),
            file_system: Measured::Value(Name(file_system.to_owned())),
            ..Disk::not("later")
        };
        assert!(disk("8:1", "ext4").is_same(&disk("8:1", "ext4")));
        assert!(!disk("8:1", "ext4").is_same(&disk("8:1", "xfs")));
        assert!(!disk("8:1", "ext4").is_same(&disk("8:2", "ext4")));
        assert!(!Disk::not("why").is_same(&Disk::not("why")));
    }
}
