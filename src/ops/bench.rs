//! Bench: how small a model becomes and how fast it is coded and decoded on this machine, in
//! memory, by profile and by set of kernels. Rates are original bytes a second, medians of several
//! runs, the checksum of every block included.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Instant;

use nix::time::ClockId;
use nix::time::clock_gettime;
use serde::Serialize;

use crate::archive::Archive;
use crate::archive::BlockCache;
use crate::archive::ReadScratch;
use crate::archive::VirtualFile;
use crate::base::Error;
use crate::base::FileSource;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest;
use crate::base::parallel;
use crate::codec::Profile;
use crate::codec::encode::EncodeScratch;
use crate::codec::span;
use crate::entropy::simd::dispatch;
use crate::ops::compress;
use crate::ops::compress::CompressOptions;
use crate::ops::report;
use crate::tensor::Layout;
use crate::tensor::Span;

/// Random reads of 4 KiB.
const RANDOM_READS: usize = 400;
/// Room for the tables of many tensors, as in a mount.
const TABLES_BYTES: u64 = 64 << 20;
/// A model is held in memory several times: larger ones are refused.
const LEN_MAX: u64 = 4 << 30;

/// What is measured.
#[derive(Debug, Clone)]
pub(crate) struct BenchOptions {
    /// The larger of the two numbers of threads measured; the other is 1.
    pub threads: usize,
    /// These profiles; none stands for all.
    pub profiles: Vec<Profile>,
    /// These sets of kernels, `auto` being the one in use; none stands for all that this processor
    /// can run.
    pub simd: Vec<String>,
    /// Runs of each measurement; the median counts.
    pub runs: usize,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self {
            threads: parallel::default_threads(),
            profiles: Vec::new(),
            simd: Vec::new(),
            runs: 5,
        }
    }
}

/// One profile with one set of kernels and one number of threads.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct BenchResult {
    /// The profile.
    pub profile: &'static str,
    /// The set of kernels.
    pub simd: &'static str,
    /// Threads that code and decode.
    pub threads: usize,
    /// Bytes of the image for each original byte.
    pub ratio: f64,
    /// Coding, from memory to memory, tables chosen, without md5 and sha256.
    pub encode_gbps: f64,
    /// Processor seconds of all threads for a GB coded.
    pub encode_cpu_s_per_gb: f64,
    /// Decoding into a buffer of two blocks that is used again.
    pub decode_window_gbps: f64,
    /// Processor seconds of all threads for a GB decoded so.
    pub decode_window_cpu_s_per_gb: f64,
    /// Decoding into memory of the model's size that was used before.
    pub decode_resident_gbps: f64,
    /// Decoding into memory that is new from the system.
    pub decode_fresh_gbps: f64,
    /// Copying the original into the memory of `decode_resident_gbps`.
    pub memcpy_gbps: f64,
    /// The median time of reading 4 KiB at a random place, nothing decoded before.
    pub random_4k_p50_us: f64,
}

/// All results for one model.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct BenchReport {
    /// The model.
    #[serde(serialize_with = "report::path")]
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// One for each profile, set of kernels and number of threads.
    pub results: Vec<BenchResult>,
}

/// Measures the model at `path`.
pub(crate) fn bench(
    path: &Path,
    options: &BenchOptions,
    progress: &dyn Progress,
) -> Result<BenchReport> {
    let sets = sets_of_kernels(&options.simd)?;
    let source = FileSource::open(path)?;
    let len = source.len();
    if len > LEN_MAX {
        return Err(
            Error::over_limit(format!("{len} bytes are too many to measure in memory"))
                .file(path)
                .hint("take one shard, or a smaller model of the same kind"),
        );
    }
    let layout = Layout::of_safetensors(&source).map_err(|error| {
        error
            .file(path)
            .hint("name a safetensors file; `bigsmall decompress` gives that of an image")
    })?;
    let mut original = vec![0; len as usize];
    source.read_exact_at(0, &mut original)?;
    let mut counts = vec![1, options.threads.max(1)];
    counts.dedup();
    let wanted = &options.profiles;
    let profiles = Profile::ALL.map(|(_, profile)| profile).into_iter();
    let profiles: Vec<Profile> = profiles
        .filter(|profile| wanted.is_empty() || wanted.contains(profile))
        .collect();
    let chosen = dispatch::kernels().name;
    let mut results = Vec::new();
    progress.begin(
        "measuring",
        len * (profiles.len() * sets.len() * counts.len()) as u64,
    );
    for profile in profiles {
        let image = image_of(path, profile, options.threads)?;
        for &simd in &sets {
            dispatch::choose(simd);
            for &threads in &counts {
                progress.check()?;
                let case = Case {
                    original: &original,
                    layout: &layout,
                    image: &image,
                    profile,
                    runs: options.runs.max(1),
                };
                results.push(case.measure(simd, threads)?);
                progress.advance(len);
            }
        }
        dispatch::choose(chosen);
    }
    progress.end();
    Ok(BenchReport {
        path: path.to_owned(),
        bytes: len,
        results,
    })
}

/// The names of the sets of kernels that are wanted, in the order of [`dispatch::available`].
fn sets_of_kernels(wanted: &[String]) -> Result<Vec<&'static str>> {
    let mut sets: Vec<&'static str> = dispatch::available().iter().map(|set| set.name).collect();
    let is_auto = |name: &String| name == "auto";
    if let Some(name) = wanted
        .iter()
        .find(|name| !is_auto(name) && !sets.contains(&name.as_str()))
    {
        let text = format!("`{name}` is no set of kernels that this processor can run");
        return Err(Error::invalid(text).hint(format!("choose auto, {}", sets.join(", "))));
    }
    let auto = wanted.iter().any(is_auto).then(|| dispatch::kernels().name);
    sets.retain(|set| {
        wanted.is_empty() || auto == Some(*set) || wanted.iter().any(|name| name == set)
    });
    Ok(sets)
}

/// The image of the model, in memory.
fn image_of(path: &Path, profile: Profile, threads: usize) -> Result<Arc<Archive>> {
    let target = std::env::temp_dir().join(format!("bigsmall-bench-{}.bs", std::process::id()));
    let options = CompressOptions {
        force: true,
        ..CompressOptions::new(&target, profile, threads)
    };
    compress::compress(path, &options, &crate::base::progress::Silent)?;
    let read = FileSource::open(&target).and_then(|source| {
        let mut bytes = vec![0; source.len() as usize];
        source.read_exact_at(0, &mut bytes).map(|()| bytes)
    });
    std::fs::remove_file(&target).map_err(|e| Error::io("cannot remove", &target, e))?;
    Archive::from_source(Arc::new(read?), path).map(Arc::new)
}

struct Case<'a> {
    original: &'a [u8],
    layout: &'a Layout,
    image: &'a Arc<Archive>,
    profile: Profile,
    runs: usize,
}

/// What one measurement gave.
struct Rate {
    gbps: f64,
    cpu_s_per_gb: f64,
}

#[expect(clippy::cast_precision_loss, reason = "rates and a ratio for people")]
impl Case<'_> {
    fn measure(&self, simd: &'static str, threads: usize) -> Result<BenchResult> {
        let len = self.original.len();
        let mut resident = vec![1_u8; len];
        let memcpy = self.rate(|| {
            resident.copy_from_slice(self.original);
            Ok(())
        })?;
        let encode = self.rate(|| {
            self.encode(threads);
            Ok(())
        })?;
        let window = self.rate(|| self.decode(threads, None))?;
        let into_resident = self.rate(|| self.decode(threads, Some(&mut resident)))?;
        if resident != self.original {
            return Err(
                Error::damaged("what was decoded is not the original").file(self.image.path())
            );
        }
        drop(resident);
        let fresh = self.rate(|| self.decode(threads, Some(&mut vec![0_u8; len])))?;
        Ok(BenchResult {
            profile: self.profile.name(),
            simd,
            threads,
            ratio: self.image.header().image_len as f64 / len as f64,
            encode_gbps: encode.gbps,
            encode_cpu_s_per_gb: encode.cpu_s_per_gb,
            decode_window_gbps: window.gbps,
            decode_window_cpu_s_per_gb: window.cpu_s_per_gb,
            decode_resident_gbps: into_resident.gbps,
            decode_fresh_gbps: fresh.gbps,
            memcpy_gbps: memcpy.gbps,
            random_4k_p50_us: self.random_reads()?,
        })
    }

    /// GB/s of the median of several runs, and processor seconds of their mean.
    fn rate(&self, mut run: impl FnMut() -> Result<()>) -> Result<Rate> {
        let gb = self.original.len() as f64 / 1e9;
        let (mut seconds, cpu_begun) = (Vec::new(), cpu_seconds());
        for _ in 0..self.runs {
            let begun = Instant::now();
            run()?;
            seconds.push(begun.elapsed().as_secs_f64());
        }
        let cpu = cpu_seconds() - cpu_begun;
        seconds.sort_by(f64::total_cmp);
        Ok(Rate {
            gbps: gb / seconds[self.runs / 2],
            cpu_s_per_gb: cpu / self.runs as f64 / gb,
        })
    }

    fn encode(&self, threads: usize) {
        let block_len = 1_usize << self.profile.block_shift();
        // the longest first, so that no thread is left alone with one at the end
        let mut spans: Vec<&Span> = self.layout.spans.iter().collect();
        spans.sort_by_key(|span| std::cmp::Reverse(span.len));
        let next = AtomicUsize::new(0);
        let work = || {
            let mut scratch = EncodeScratch::default();
            while let Some(span) = spans.get(next.fetch_add(1, Ordering::Relaxed)) {
                let bytes = &self.original[span.start as usize..][..span.len as usize];
                let blocks: Vec<&[u8]> = bytes.chunks(block_len).collect();
                std::hint::black_box(
                    blocks
                        .iter()
                        .fold(0, |sum, block| sum ^ digest::xxh3(block)),
                );
                let family = span.family();
                let coded = span::encode_span(family, self.profile, &blocks, &mut scratch);
                std::hint::black_box(coded.bytes.len());
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
    }

    /// Decodes all blocks: each into `out` where it belongs, or all into a window of their own.
    fn decode(&self, threads: usize, out: Option<&mut Vec<u8>>) -> Result<()> {
        let mut rest = out.map_or(&mut [][..], Vec::as_mut_slice);
        let into_window = rest.is_empty();
        // pieces of some blocks, so that threads have something to share
        let mut pieces = Vec::new();
        for (number, span) in self.image.index().spans.iter().enumerate() {
            let blocks = span.blocks.len() as u64;
            for first in (0..blocks).step_by(4) {
                let last = (first + 4).min(blocks);
                let len = span.block_range(last - 1).end - span.block_range(first).start;
                let cut = if into_window { 0 } else { len as usize };
                let (piece, after) = std::mem::take(&mut rest).split_at_mut(cut);
                rest = after;
                pieces.push((number, first..last, parking_lot::Mutex::new(piece)));
            }
        }
        let state = || (ReadScratch::default(), vec![0_u8; 2 << 20], None);
        parallel::ordered(
            threads,
            pieces.len(),
            state,
            |(scratch, window, tables), number| {
                let (span_number, blocks, piece) = &pieces[number];
                let span = &self.image.index().spans[*span_number];
                let owner = self.image.index().tables_owner(*span_number);
                if tables.as_ref().is_none_or(|(of, _)| *of != owner) {
                    *tables = Some((owner, self.image.read_tables(span)?));
                }
                let tables = tables.as_ref().and_then(|(_, tables)| tables.as_ref());
                let mut piece = piece.lock();
                let start = span.block_range(blocks.start).start;
                // two blocks, as kernels decode at most so many at once
                for first in blocks.clone().step_by(2) {
                    let last = (first + 1).min(blocks.end - 1);
                    let range = span.block_range(first).start..span.block_range(last).end;
                    let len = (range.end - range.start) as usize;
                    let out = if into_window {
                        &mut window[..len]
                    } else {
                        &mut piece[(range.start - start) as usize..][..len]
                    };
                    self.image
                        .decode_blocks(span, first, tables, out, scratch)?;
                }
                Ok(())
            },
            |_, ()| Ok(()),
        )
    }

    /// Microseconds, the median over places that follow from a fixed seed.
    fn random_reads(&self) -> Result<f64> {
        // room for tables and for no block: nothing that was decoded is met again
        let cache = BlockCache::with_bounds(0, TABLES_BYTES);
        let file = VirtualFile::new(Arc::clone(self.image.image()), 0, cache)?;
        let mut bytes = vec![0; 4096.min(self.original.len())];
        let starts = (self.original.len() - bytes.len() + 1) as u64;
        let (mut state, mut micros) = (1_u64, Vec::new());
        for _ in 0..RANDOM_READS {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let begun = Instant::now();
            file.read_exact_at((state >> 20) % starts, &mut bytes)?;
            micros.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        micros.sort_by(f64::total_cmp);
        Ok(micros[RANDOM_READS / 2])
    }
}

/// Processor seconds of all threads of this process so far; none where the system does not tell.
#[expect(clippy::cast_precision_loss, reason = "seconds for people")]
fn cpu_seconds() -> f64 {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)
        .map_or(0.0, |now| now.tv_sec() as f64 + now.tv_nsec() as f64 / 1e9)
}
