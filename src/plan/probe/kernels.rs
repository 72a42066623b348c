//! Rates of memory, and of the kernels that run a model: the same calls on as many bytes at once.

use crate::archive;
use crate::base::Progress;
use crate::base::Result;
use crate::base::units;
use crate::codec::Scratch;
use crate::kernels::Element;
use crate::kernels::Kernels;
use crate::kernels::kernels;
use crate::plan::facts;
use crate::plan::facts::ByThreads;
use crate::plan::facts::Caches;
use crate::plan::facts::Memory;
use crate::plan::facts::Rates;
use crate::plan::facts::WithThreads;
use crate::plan::measured::BytesPerSecond;
use crate::plan::measured::FlopPerSecond;
use crate::plan::measured::Measured;
use crate::plan::measured::Percent;
use crate::plan::measured::Quantity;
use crate::plan::probe::arena;
use crate::plan::probe::arena::Arena;
use crate::plan::probe::pace;
use crate::plan::probe::pace::Crew;
use crate::plan::probe::pace::Pace;
use crate::plan::probe::weights;
use crate::plan::probe::weights::COLUMNS;
use crate::plan::probe::weights::Coded;
use crate::plan::probe::weights::Packed;
use crate::plan::probe::weights::ROW_LEN;
use crate::plan::probe::weights::TILE_LEN;
use crate::plan::probe::weights::TILES;

/// Rows of a tile.
const ROWS: usize = TILE_LEN / ROW_LEN;
/// Why a rate is not there that nobody came to measure.
const NOT_TRIED: &str = "it was not tried";

/// Measures all rates, with up to so many threads, and which share of their time the threads had:
/// where others are at work, rates are lower than they could be.
pub fn rates(
    caches: &Caches,
    memory: &Memory,
    (threads, pace): (usize, &Pace),
    progress: &dyn Progress,
) -> Result<(Rates, Measured<Percent>)> {
    let len = match pace.memory_len {
        Some(len) => Measured::Value(len),
        None => arena::len(caches, memory),
    };
    let counts = facts::thread_counts(threads);
    let crews: Result<Vec<Crew>, String> = counts.iter().map(|&count| Crew::new(count)).collect();
    let made = match len {
        Measured::Value(len) => crews.and_then(|crews| Ok((crews, Arena::new(len)?))),
        Measured::Not(reason) => Err(reason),
    };
    match made {
        Ok((crews, arena)) => Bench {
            crews,
            arena,
            plain: weights::plain(),
            pace: *pace,
            kernels: kernels(),
            progress,
        }
        .rates(threads),
        Err(reason) => Ok((Rates::not(threads, &reason), Measured::not(reason))),
    }
}

/// What is measured with.
struct Bench<'a> {
    crews: Vec<Crew>,
    arena: Arena,
    plain: Vec<u8>,
    pace: Pace,
    kernels: Kernels,
    progress: &'a dyn Progress,
}

/// What a thread that decodes has of its own.
#[derive(Default)]
struct Decoding {
    tile: Vec<u8>,
    scratch: Scratch,
    out: Vec<f32>,
}

impl Bench<'_> {
    fn rates(mut self, threads: usize) -> Result<(Rates, Measured<Percent>)> {
        let counts = facts::one_and_all(threads);
        let mut rates = Rates::not(threads, NOT_TRIED);
        self.progress.begin("making weights to measure with", 0);
        let plain = std::mem::take(&mut self.plain);
        if let Err(reason) = self.fill(&plain) {
            return Ok((Rates::not(threads, &reason), Measured::not(reason)));
        }
        rates.memory_read = self.memory_read()?;
        rates.gemv_bf16 = self.gemv()?;
        rates.gemm_bf16_8 = self.gemm(8)?;
        rates.gemm_bf16_64 = self.gemm(64)?;
        rates.gemv_packed = self.gemv_packed(&plain)?;
        let coded = [
            (
                Coded::r16(&plain),
                &mut rates.decode_r16,
                &mut rates.gemv_r16,
                "R16",
            ),
            (
                Coded::r32(&plain),
                &mut rates.decode_r32,
                &mut rates.gemv_r32,
                "R32",
            ),
        ];
        for (coded, decode, gemv, name) in coded {
            let filled = coded.and_then(|coded| {
                self.fill(&coded.bytes)?;
                Ok(coded)
            });
            match filled {
                Ok(coded) => {
                    *decode = self.decode(&coded, name)?;
                    *gemv = self.decode_and_gemv(&coded, name)?;
                }
                Err(reason) => {
                    *decode = ByThreads::not(&counts, &reason);
                    *gemv = ByThreads::not(&counts, &reason);
                }
            }
        }
        self.progress.end();
        Ok((rates, pace::share(&self.crews)))
    }

    /// Fills all memory with whole copies of this.
    fn fill(&mut self, pattern: &[u8]) -> Result<(), String> {
        match self.crews.last() {
            Some(crew) => self.arena.fill(pattern, crew),
            None => Err("there are no threads".to_owned()),
        }
    }

    /// A tile of plain weights.
    fn tile(&self, number: usize) -> &[u8] {
        let copy = self.arena.copy(number / TILES);
        let start = number % TILES * TILE_LEN;
        &copy[start..start + TILE_LEN]
    }

    /// A rate with each of these numbers of threads.
    fn by_threads<T: Quantity, S: Send>(
        &self,
        (what, quantity): (&str, fn(u64) -> T),
        crews: &[&Crew],
        state: impl Fn() -> S,
        work: impl Fn(&mut S, usize) -> Result<u64, String> + Sync,
    ) -> Result<ByThreads<T>> {
        let mut rates = Vec::with_capacity(crews.len());
        for crew in crews {
            let threads = crew.threads();
            let with = units::counted(threads as u64, "thread");
            self.progress
                .begin(&format!("measuring: {what}, {with}"), 0);
            let rate = crew.rate(&self.pace, self.progress, &state, &work)?;
            let rate = rate.map(quantity);
            rates.push(WithThreads { threads, rate });
        }
        Ok(ByThreads(rates))
    }

    /// One thread, and all of them.
    fn one_and_all(&self) -> Vec<&Crew> {
        let last = self.crews.len().saturating_sub(1);
        let ends = self.crews.iter().enumerate();
        let ends = ends.filter(|(number, _)| *number == 0 || *number == last);
        ends.map(|(_, crew)| crew).collect()
    }

    fn memory_read(&self) -> Result<ByThreads<BytesPerSecond>> {
        let read = |(): &mut (), number| {
            std::hint::black_box(sum(self.tile(number)));
            Ok(TILE_LEN as u64)
        };
        let what = ("memory", BytesPerSecond as fn(u64) -> _);
        let all: Vec<&Crew> = self.crews.iter().collect();
        self.by_threads(what, &all, || (), read)
    }

    fn gemv(&self) -> Result<ByThreads<BytesPerSecond>> {
        let x = weights::vectors(1);
        let work = |out: &mut Vec<f32>, number| {
            self.kernels.gemv(Element::Bf16, self.tile(number), &x, out);
            std::hint::black_box(&out);
            Ok(TILE_LEN as u64)
        };
        let what = ("products with a vector", BytesPerSecond as fn(u64) -> _);
        self.by_threads(what, &self.one_and_all(), || vec![0.0; ROWS], work)
    }

    fn gemv_packed(&mut self, plain: &[u8]) -> Result<ByThreads<BytesPerSecond>> {
        let made = Packed::new(plain, self.kernels).and_then(|packed| {
            self.fill(&packed.bytes)?;
            Ok(packed)
        });
        let packed = match made {
            Ok(packed) => packed,
            Err(reason) => {
                let crews = self.one_and_all();
                let counts: Vec<usize> = crews.iter().map(|crew| crew.threads()).collect();
                return Ok(ByThreads::not(&counts, &reason));
            }
        };
        let x = weights::vectors(1);
        let work = |out: &mut Vec<f32>, number| {
            let tile = packed.tile(number, self.arena.copy(number / TILES));
            self.kernels.packed_gemv(tile, &x, out);
            std::hint::black_box(&out);
            Ok(TILE_LEN as u64)
        };
        let what = (
            "products of packed weights with a vector",
            BytesPerSecond as fn(u64) -> _,
        );
        self.by_threads(what, &self.one_and_all(), || vec![0.0; ROWS], work)
    }

    fn gemm(&self, count: usize) -> Result<ByThreads<FlopPerSecond>> {
        let vectors = weights::vectors(count);
        let mut packed = vec![0.0; vectors.len()];
        self.kernels.pack(&vectors, COLUMNS, &mut packed);
        let state = || {
            let panel = vec![0.0; self.kernels.panel_len(COLUMNS)];
            (panel, vec![0.0; ROWS * count])
        };
        let work = |(panel, out): &mut (Vec<f32>, Vec<f32>), number| {
            let rows = (self.tile(number), ROW_LEN);
            self.kernels
                .gemm(Element::Bf16, rows, (&packed, COLUMNS), panel, out);
            std::hint::black_box(&out);
            Ok((2 * ROWS * COLUMNS * count) as u64)
        };
        let what = format!("products with {count} vectors");
        let what = (what.as_str(), FlopPerSecond as fn(u64) -> _);
        self.by_threads(what, &self.one_and_all(), state, work)
    }

    fn decode(&self, coded: &Coded, name: &str) -> Result<ByThreads<BytesPerSecond>> {
        let work = |of: &mut Decoding, number| self.decode_tile(coded, number, of);
        let what = format!("decoding {name}");
        let what = (what.as_str(), BytesPerSecond as fn(u64) -> _);
        self.by_threads(what, &self.one_and_all(), Decoding::default, work)
    }

    fn decode_and_gemv(&self, coded: &Coded, name: &str) -> Result<ByThreads<BytesPerSecond>> {
        let x = weights::vectors(1);
        let work = |of: &mut Decoding, number| {
            let done = self.decode_tile(coded, number, of)?;
            of.out.resize(ROWS, 0.0);
            self.kernels.gemv(Element::Bf16, &of.tile, &x, &mut of.out);
            std::hint::black_box(&of.out);
            Ok(done)
        };
        let what = format!("decoding {name} and products with a vector");
        let what = (what.as_str(), BytesPerSecond as fn(u64) -> _);
        self.by_threads(what, &self.one_and_all(), Decoding::default, work)
    }

    /// Decodes a tile, whose blocks are compared with their checksums, and gives its length.
    fn decode_tile(&self, coded: &Coded, number: usize, of: &mut Decoding) -> Result<u64, String> {
        of.tile.resize(TILE_LEN, 0);
        let run = coded.tile(number, self.arena.copy(number / TILES));
        let tables = coded.tables.as_ref();
        archive::decode_run(&run, tables, &[], &mut of.tile, &mut of.scratch)
            .map_err(|error| error.what())?;
        Ok(TILE_LEN as u64)
    }
}

/// The sum of all numbers of eight bytes: what reads memory and does next to nothing else.
fn sum(bytes: &[u8]) -> u64 {
    let mut sums = [0_u64; 8];
    for line in bytes.as_chunks::<64>().0 {
        for (sum, eight) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*eight));
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::progress::Silent;
    use crate::plan::measured::Bytes;
    use std::time::Duration;

    const SHORT: Pace = Pace {
        pass: Duration::ZERO,
        passes: 1,
        memory_len: Some(4 << 20),
        disk_len: 0,
        disk_time: Duration::ZERO,
    };

    fn unknown() -> (Caches, Memory) {
        let none = || Measured::<Bytes>::not("nobody says");
        let caches = Caches {
            l1_data: none(),
            l2: none(),
            l3: none(),
            last_level_total: none(),
        };
        let memory = Memory {
            total: none(),
            available: none(),
            limit: none(),
        };
        (caches, memory)
    }

    #[test]
    fn every_rate_that_there_is_a_probe_for_is_measured() {
        let (caches, memory) = unknown();
        let (rates, share) = rates(&caches, &memory, (2, &SHORT), &Silent).unwrap();
        assert!(share.value().is_some(), "{share}");
        assert!(rates.is_whole(), "{rates:?}");
    }

    #[test]
    fn only_memory_is_measured_with_numbers_of_threads_between() {
        let (caches, memory) = unknown();
        let (rates, _) = rates(&caches, &memory, (3, &SHORT), &Silent).unwrap();
        assert!(rates.memory_read.with(2).value().is_some());
        assert!(rates.decode_r16.with(2).value().is_none());
        assert!(rates.decode_r16.with(3).value().is_some());
    }

    #[test]
    fn with_too_little_memory_nothing_is_measured() {
        let (caches, memory) = unknown();
        let pace = Pace {
            memory_len: None,
            ..SHORT
        };
        let (none, _) = rates(&caches, &memory, (2, &pace), &Silent).unwrap();
        assert_eq!(none, Rates::not(2, "nobody says"));
        // too little for the weights
        let pace = Pace {
            memory_len: Some(4096),
            ..SHORT
        };
        let (none, _) = rates(&caches, &memory, (1, &pace), &Silent).unwrap();
        assert!(
            none.decode_r32
                .with(1)
                .why_not()
                .unwrap()
                .contains("too little memory")
        );
        // more than there can be
        let pace = Pace {
            memory_len: Some(1 << 60),
            ..SHORT
        };
        let (none, _) = rates(&caches, &memory, (1, &pace), &Silent).unwrap();
        assert!(
            none.memory_read
                .with(1)
                .why_not()
                .unwrap()
                .contains("cannot be had")
        );
    }

    #[test]
    fn every_byte_is_summed() {
        let mut bytes = vec![0; 256];
        bytes[8] = 5;
        bytes[255] = 1;
        assert_eq!(sum(&bytes), 5 + (1 << 56));
    }
}
